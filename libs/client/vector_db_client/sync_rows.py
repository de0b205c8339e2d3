"""The calls on rows of the synchronous client: the asynchronous ones, run by its thread."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Unpack, overload

from vector_db_client.aio import AsyncVectorDatabaseClient
from vector_db_client.calls import DEFAULT_COLLECTION
from vector_db_client.loop_thread import LoopThread
from vector_db_client.values import (
    AsOf,
    Consistency,
    CountResult,
    Delete,
    Filter,
    IdempotencyKey,
    IfVersion,
    IncludeInRows,
    Match,
    Metadata,
    Mode,
    Page,
    Progress,
    QueryOptions,
    QueryPage,
    Row,
    RowBatch,
    Upsert,
    VectorLike,
    WriteResult,
)


class SyncRows:
    """Reads, and writes of their own transaction each.

    `idempotency_key` makes a write count once however often it is sent: a text of the caller, or
    ``"auto"`` for a new one. The client then repeats every write whose connection broke, and the
    server answers what it answered first. Without a key it repeats those that change nothing when
    they are applied twice.
    """

    def __init__(self, client: AsyncVectorDatabaseClient, thread: LoopThread) -> None:
        self._client = client
        self._thread = thread
        self._run = thread.run

    # -- writes

    def insert_vectors(
        self,
        ids: Sequence[str],
        vectors: VectorLike,
        metadata: Sequence[Mapping[str, Any] | None] | None = None,
        *,
        collection: str = DEFAULT_COLLECTION,
        mode: Mode = "upsert",
        if_version: IfVersion | None = None,
        batch_size: int = 1000,
        progress: Progress = False,
        idempotency_key: IdempotencyKey | None = None,
    ) -> WriteResult:
        """Write n rows: n ids, vectors [n, dimension] of any real dtype, n metadata objects.

        Everything is checked before anything is sent. More than `batch_size` rows (or 16 MiB of
        vectors) go as several batches, up to 8 in flight. Each batch is atomic, the whole is not;
        for one atomic write of any size use `transaction`.

        :param mode: ``"upsert"``; ``"insert"``: no id may exist; ``"update"``: every id must.
        :param if_version: the versions that the rows must still have, n of them or one for all.
        :param progress: True draws a bar; a function hears (rows done, rows in all), called in the
            client's thread.
        :param idempotency_key: of several batches each has its own, made of this one and its place.
        :raises InvalidArgument: shapes, values or ids do not fit, or an id comes twice.
        :raises AlreadyExists: mode ``"insert"`` and an id exists.
        :raises NotFound: no such collection, or mode ``"update"`` and an id is absent.
        :raises PreconditionFailed: a row has another version.
        :raises VectorDatabaseError: of the first batch that failed; its `committed` has the ranges
            of rows that are durable nevertheless.
        """
        return self._run(
            self._client.insert_vectors(
                ids,
                vectors,
                metadata,
                collection=collection,
                mode=mode,
                if_version=if_version,
                batch_size=batch_size,
                progress=progress,
                idempotency_key=idempotency_key,
            )
        )

    def insert_stream(
        self,
        batches: Iterable[RowBatch],
        *,
        collection: str = DEFAULT_COLLECTION,
        mode: Mode = "upsert",
        batch_size: int = 1000,
        progress: Progress = False,
        rows_total: int | None = None,
        idempotency_key: IdempotencyKey | None = None,
    ) -> WriteResult:
        """`insert_vectors` for rows that need not fit into memory: at most 8 batches are held.

        The caller sees to it that no id comes twice in the stream: of two batches in flight,
        either may win. `batches` is iterated in the client's thread and must not call the client.
        `rows_total` is for the bar only.
        """
        return self._run(
            self._client.insert_stream(
                batches,
                collection=collection,
                mode=mode,
                batch_size=batch_size,
                progress=progress,
                rows_total=rows_total,
                idempotency_key=idempotency_key,
            )
        )

    def update_metadata(
        self,
        id: str,
        metadata: Metadata,
        *,
        collection: str = DEFAULT_COLLECTION,
        if_version: int | None = None,
        idempotency_key: IdempotencyKey | None = None,
    ) -> WriteResult:
        """Merge `metadata` into a row's; a None removes its key (RFC 7396). The vector stays.

        :raises NotFound: no such collection or row.
        :raises PreconditionFailed: the row has another version than `if_version`.
        """
        return self._run(
            self._client.update_metadata(
                id,
                metadata,
                collection=collection,
                if_version=if_version,
                idempotency_key=idempotency_key,
            )
        )

    def delete(
        self,
        ids: Sequence[str] | None = None,
        *,
        filter: Filter | None = None,
        collection: str = DEFAULT_COLLECTION,
        if_version: IfVersion | None = None,
        idempotency_key: IdempotencyKey | None = None,
    ) -> WriteResult:
        """Delete rows by id, or all that match a filter, in one transaction.

        The count has the rows found alive; when a broken connection made the client repeat the
        call, rows that the first try deleted are not counted, unless it has an `idempotency_key`.

        :param if_version: with `ids`: the versions that the rows must still have.
        :raises InvalidArgument: not exactly one of `ids` and `filter`.
        :raises PreconditionFailed: a row has another version, or is gone.
        """
        return self._run(
            self._client.delete(
                ids,
                filter=filter,
                collection=collection,
                if_version=if_version,
                idempotency_key=idempotency_key,
            )
        )

    def commit(
        self,
        operations: Sequence[Upsert | Delete],
        *,
        idempotency_key: IdempotencyKey | None = None,
    ) -> WriteResult:
        """One atomic write over any collections: all of it at one commit timestamp, or nothing.

        :raises InvalidArgument: the operations do not fit together, or not their collections.
        :raises NotFound: no such collection.
        """
        return self._run(self._client.commit(operations, idempotency_key=idempotency_key))

    # -- reads

    @overload
    def query_similar(
        self,
        vector: VectorLike | None = ...,
        *,
        id: str | None = ...,
        vectors: None = ...,
        **options: Unpack[QueryOptions],
    ) -> list[Match]: ...
    @overload
    def query_similar(
        self, *, vectors: VectorLike, **options: Unpack[QueryOptions]
    ) -> list[list[Match]]: ...
    def query_similar(self, vector: VectorLike | None = None, **options: Any) -> Any:
        """The `k` most similar rows, best first; ties by id.

        :param vector: what to look for, [dimension].
        :param id: instead, a stored row; it is left out of its own neighbours.
        :param vectors: instead, a batch of queries [n, dimension]; gives n lists.
        :param options: see `QueryOptions`.
        :raises InvalidArgument: not exactly one of `vector`, `vectors` and `id`, or a bad one.
        :raises NotFound: no such collection, or no row `id`.
        :raises SnapshotTooOld: `as_of` lies before the retention window.
        """
        return self._run(self._client.query_similar(vector, **options))

    def query_page(
        self,
        vector: VectorLike | None = None,
        *,
        id: str | None = None,
        after: str | None = None,
        **options: Unpack[QueryOptions],
    ) -> QueryPage:
        """Up to `k` hits and, when more follow, a cursor to them.

        :param after: the cursor of the page before. It goes with the same collection, filter and
            vector or id, and keeps its snapshot.
        :raises InvalidArgument: it is of another query, or leads too deep.
        """
        return self._run(self._client.query_page(vector, id=id, after=after, **options))

    def query_pages(
        self,
        vector: VectorLike | None = None,
        *,
        id: str | None = None,
        **options: Unpack[QueryOptions],
    ) -> Iterator[QueryPage]:
        """All hits of one snapshot, best first, in pages of `k`; as many as a `radius` holds."""
        pages = self._client.query_pages(vector, id=id, **options)

        async def following() -> QueryPage | None:
            return await anext(pages, None)

        while (page := self._run(following())) is not None:
            yield page

    def explain_query(
        self,
        vector: VectorLike | None = None,
        *,
        vectors: VectorLike | None = None,
        id: str | None = None,
        **options: Unpack[QueryOptions],
    ) -> dict[str, Any]:
        """How `query_similar` is carried out: plans, estimates and timings of every segment."""
        return self._run(self._client.explain_query(vector, vectors=vectors, id=id, **options))

    def fetch(
        self,
        ids: Sequence[str],
        *,
        collection: str = DEFAULT_COLLECTION,
        include: Sequence[IncludeInRows] = ("metadata", "dimensions"),
        consistency: Consistency = "own_writes",
        as_of: AsOf | None = None,
    ) -> list[Row]:
        """The rows of `ids` in their order, bit-exact; absent ones are left out."""
        return self._run(
            self._client.fetch(
                ids,
                collection=collection,
                include=include,
                consistency=consistency,
                as_of=as_of,
            )
        )

    def count(
        self,
        filter: Filter | None = None,
        *,
        collection: str = DEFAULT_COLLECTION,
        consistency: Consistency = "own_writes",
        as_of: AsOf | None = None,
    ) -> CountResult:
        """How many rows there are, or match a filter."""
        return self._run(
            self._client.count(filter, collection=collection, consistency=consistency, as_of=as_of)
        )

    def scroll(
        self,
        *,
        collection: str = DEFAULT_COLLECTION,
        filter: Filter | None = None,
        page_size: int = 1000,
        include: Sequence[IncludeInRows] = ("metadata", "dimensions"),
        consistency: Consistency = "own_writes",
        as_of: AsOf | None = None,
    ) -> Iterator[Row]:
        """Every row, or every one that matches, of one snapshot: the one of the first page."""
        pages = self.scroll_pages(
            collection=collection,
            filter=filter,
            page_size=page_size,
            include=include,
            consistency=consistency,
            as_of=as_of,
        )
        for page in pages:
            yield from page.rows

    def scroll_pages(
        self,
        *,
        collection: str = DEFAULT_COLLECTION,
        filter: Filter | None = None,
        page_size: int = 1000,
        include: Sequence[IncludeInRows] = ("metadata", "dimensions"),
        consistency: Consistency = "own_writes",
        as_of: AsOf | None = None,
    ) -> Iterator[Page]:
        """`scroll` by pages of up to `page_size` rows, with their snapshot."""
        pages = self._client.scroll_pages(
            collection=collection,
            filter=filter,
            page_size=page_size,
            include=include,
            consistency=consistency,
            as_of=as_of,
        )

        async def following() -> Page | None:
            return await anext(pages, None)

        while (page := self._run(following())) is not None:
            yield page
