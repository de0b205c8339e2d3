"""The synchronous client: the asynchronous one on an event loop of its own."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, overload

from vector_db_client.aio import DEFAULT_URL, AsyncVectorDatabaseClient
from vector_db_client.loop_thread import LoopThread
from vector_db_client.reads import DEFAULT_COLLECTION
from vector_db_client.values import (
    Collection,
    CollectionStats,
    Consistency,
    CountResult,
    Delete,
    Filter,
    Include,
    IncludeInRows,
    Match,
    Metadata,
    Metric,
    Mode,
    Page,
    Progress,
    Row,
    RowBatch,
    Upsert,
    VectorLike,
    WriteResult,
)


class VectorDatabaseClient:
    """A client of vector-db.

    Reads see at least everything that this client has written or read before, through any gateway:
    the client carries the highest commit timestamp it has met (`token`) and sends it along. All
    calls raise subclasses of `VectorDatabaseError`. Answers that the server calls retryable, and
    broken connections of calls that may be repeated, are retried with growing random pauses.

    Threads may share one client. Use it in a ``with`` statement, or call `close`.
    """

    def __init__(
        self,
        url: str | Sequence[str] = DEFAULT_URL,
        api_key: str | None = None,
        *,
        timeout_s: float = 30.0,
        connect_timeout_s: float = 5.0,
        retries: int = 5,
        backoff_s: float = 0.05,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """Nothing is sent yet.

        :param url: base URL of a gateway, or of several: the next is used when one fails.
        :param timeout_s: bound of one request with its retries; of each batch for inserts.
        :param backoff_s: upper bound of the first pause between retries; doubles, up to 2 s.
        """
        self._client = AsyncVectorDatabaseClient(
            url,
            api_key,
            timeout_s=timeout_s,
            connect_timeout_s=connect_timeout_s,
            retries=retries,
            backoff_s=backoff_s,
            ssl_context=ssl_context,
        )
        self._thread = LoopThread("vector-db-client")
        self._run = self._thread.run

    @classmethod
    def connect(
        cls, url: str | Sequence[str] = DEFAULT_URL, api_key: str | None = None, **options: Any
    ) -> Self:
        """A client whose server has answered once, so that a wrong address or key shows here.

        :param options: as for the constructor.
        :raises Unavailable: no gateway answers.
        :raises Unauthenticated: the key is missing or wrong.
        """
        client = cls(url, api_key, **options)
        try:
            client.list_collections()
        except BaseException:
            client.close()
            raise
        return client

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections and end the thread. May be called again."""
        self._thread.close(self._client.close)

    @property
    def token(self) -> int:
        """The highest commit or snapshot timestamp seen, 0 before the first."""
        return self._client.token

    def observe(self, commit_ts: int) -> None:
        """Let later reads see what was committed at `commit_ts`, say by another process."""
        self._client.observe(commit_ts)

    # -- collections

    def create_collection(
        self,
        name: str,
        dimension: int,
        metric: Metric = "cosine",
        *,
        shards: int | None = None,
        exist_ok: bool = False,
    ) -> Collection:
        """Make an empty collection; `shards` None lets the server choose.

        :param exist_ok: give the collection of this name if its dimension and metric are these.
        :raises AlreadyExists: the name is taken.
        """
        return self._run(
            self._client.create_collection(
                name, dimension, metric, shards=shards, exist_ok=exist_ok
            )
        )

    def list_collections(self) -> list[Collection]:
        """All collections, by name."""
        return self._run(self._client.list_collections())

    def get_collection(self, name: str) -> Collection:
        """:raises NotFound: there is none of this name."""
        return self._run(self._client.get_collection(name))

    def delete_collection(self, name: str) -> None:
        """Delete a collection and all its rows.

        :raises NotFound: there is none of this name.
        """
        self._run(self._client.delete_collection(name))

    def collection_stats(self, name: str) -> CollectionStats:
        """Rows, indexed rows and sizes.

        :raises NotFound: there is none of this name.
        """
        return self._run(self._client.collection_stats(name))

    # -- writes

    def insert_vectors(
        self,
        ids: Sequence[str],
        vectors: VectorLike,
        metadata: Sequence[Mapping[str, Any] | None] | None = None,
        *,
        collection: str = DEFAULT_COLLECTION,
        mode: Mode = "upsert",
        batch_size: int = 1000,
        progress: Progress = False,
    ) -> WriteResult:
        """Write n rows: n ids, vectors [n, dimension] of any real dtype, n metadata objects.

        Everything is checked before anything is sent. More than `batch_size` rows (or 16 MiB of
        vectors) go as several batches, up to 8 in flight. Each batch is atomic, the whole is not;
        for one atomic write use `commit`.

        :param mode: ``"upsert"``; ``"insert"``: no id may exist; ``"update"``: every id must.
        :param progress: True draws a bar; a function hears (rows done, rows in all), called in the
            client's thread.
        :raises InvalidArgument: shapes, values or ids do not fit, or an id comes twice.
        :raises AlreadyExists: mode ``"insert"`` and an id exists.
        :raises NotFound: no such collection, or mode ``"update"`` and an id is absent.
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
                batch_size=batch_size,
                progress=progress,
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
            )
        )

    def update_metadata(
        self, id: str, metadata: Metadata, *, collection: str = DEFAULT_COLLECTION
    ) -> WriteResult:
        """Merge `metadata` into a row's; a None removes its key (RFC 7396). The vector stays.

        :raises NotFound: no such collection or row.
        """
        return self._run(self._client.update_metadata(id, metadata, collection=collection))

    def delete(
        self,
        ids: Sequence[str] | None = None,
        *,
        filter: Filter | None = None,
        collection: str = DEFAULT_COLLECTION,
    ) -> WriteResult:
        """Delete rows by id, or all that match a filter, in one transaction.

        The count has the rows found alive; when a broken connection made the client repeat the
        call, rows that the first try deleted are not counted.

        :raises InvalidArgument: not exactly one of `ids` and `filter`.
        """
        return self._run(self._client.delete(ids, filter=filter, collection=collection))

    def commit(self, operations: Sequence[Upsert | Delete]) -> WriteResult:
        """One atomic write over any collections: all of it at one commit timestamp, or nothing.

        :raises InvalidArgument: the operations do not fit together, or not their collections.
        :raises NotFound: no such collection.
        """
        return self._run(self._client.commit(operations))

    # -- reads

    @overload
    def query_similar(
        self,
        vector: VectorLike | None = ...,
        *,
        id: str | None = ...,
        vectors: None = ...,
        k: int = ...,
        collection: str = ...,
        filter: Filter | None = ...,
        include: Sequence[Include] = ...,
        min_similarity: float | None = ...,
        consistency: Consistency = ...,
    ) -> list[Match]: ...
    @overload
    def query_similar(
        self,
        *,
        vectors: VectorLike,
        k: int = ...,
        collection: str = ...,
        filter: Filter | None = ...,
        include: Sequence[Include] = ...,
        min_similarity: float | None = ...,
        consistency: Consistency = ...,
    ) -> list[list[Match]]: ...
    def query_similar(self, vector: VectorLike | None = None, **options: Any) -> Any:
        """The `k` most similar rows, best first; ties by id.

        :param vector: what to look for, [dimension].
        :param id: instead, a stored row; it is left out of its own neighbours.
        :param vectors: instead, a batch of queries [n, dimension]; gives n lists.
        :param k: how many, 10 by default.
        :param filter: only rows whose metadata match.
        :param include: what a `Match` carries besides id and similarity: of ``"metadata"`` (the
            default), ``"dimensions"``, ``"distance"``.
        :param min_similarity: leave out what is less similar.
        :raises InvalidArgument: not exactly one of `vector`, `vectors` and `id`, or a bad one.
        :raises NotFound: no such collection, or no row `id`.
        """
        if vector is not None:
            options["vector"] = vector
        return self._run(self._client.query_similar(**options))

    def fetch(
        self,
        ids: Sequence[str],
        *,
        collection: str = DEFAULT_COLLECTION,
        include: Sequence[IncludeInRows] = ("metadata", "dimensions"),
        consistency: Consistency = "own_writes",
    ) -> list[Row]:
        """The rows of `ids` in their order, bit-exact; absent ones are left out."""
        return self._run(
            self._client.fetch(ids, collection=collection, include=include, consistency=consistency)
        )

    def count(
        self,
        filter: Filter | None = None,
        *,
        collection: str = DEFAULT_COLLECTION,
        consistency: Consistency = "own_writes",
    ) -> CountResult:
        """How many rows there are, or match a filter."""
        return self._run(self._client.count(filter, collection=collection, consistency=consistency))

    def scroll(
        self,
        *,
        collection: str = DEFAULT_COLLECTION,
        filter: Filter | None = None,
        page_size: int = 1000,
        include: Sequence[IncludeInRows] = ("metadata", "dimensions"),
        consistency: Consistency = "own_writes",
    ) -> Iterator[Row]:
        """Every row, or every one that matches, of one snapshot: the one of the first page."""
        pages = self.scroll_pages(
            collection=collection,
            filter=filter,
            page_size=page_size,
            include=include,
            consistency=consistency,
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
    ) -> Iterator[Page]:
        """`scroll` by pages of up to `page_size` rows, with their snapshot."""
        pages = self._client.scroll_pages(
            collection=collection,
            filter=filter,
            page_size=page_size,
            include=include,
            consistency=consistency,
        )

        async def following() -> Page | None:
            return await anext(pages, None)

        while (page := self._run(following())) is not None:
            yield page

    def cluster(self) -> dict[str, Any]:
        """Workers, placement and term, as the server shows them to operators."""
        return self._run(self._client.cluster())
