"""An open transaction for asyncio: the calls on rows, staged or read at one snapshot."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Unpack, overload

from vector_db_client import calls, wire
from vector_db_client.calls import DEFAULT_COLLECTION, Answer, Request
from vector_db_client.insert import Batches, pieces
from vector_db_client.progress import reporting
from vector_db_client.transaction_life import TransactionLife
from vector_db_client.values import (
    CountResult,
    Filter,
    IfVersion,
    IncludeInRows,
    Match,
    Metadata,
    Mode,
    Page,
    Progress,
    QueryPage,
    Row,
    RowBatch,
    SearchOptions,
    VectorLike,
    WriteResult,
)


class AsyncTransaction(TransactionLife):
    """One transaction, made by `AsyncVectorDatabaseClient.transaction`, for ``async with``.

    Its reads are of the snapshot at which it began, with what it has staged itself over it; its
    writes are staged at the server, seen by nobody else, and answer `commit_ts` 0. Leaving the
    block commits, an exception aborts. Calls from several tasks wait for each other.

    A statement that the server refuses (`NotFound`, `AlreadyExists`, `PreconditionFailed`, …)
    stages nothing, and the transaction goes on; after any other failure of a write, and of an
    insert of several batches of which some are staged, it can only be aborted.

    All calls raise `Conflict` when the transaction has lost against another one or against a new
    sequencer (begin again, as `run_transaction` does), `TransactionExpired` when it was open for
    too long, and another `TransactionEnded` after its end.
    """

    # -- writes

    async def insert_vectors(
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
    ) -> WriteResult:
        """Stage n rows; see the client's. They go batch by batch and become visible together.

        :raises AlreadyExists: mode ``"insert"`` and an id exists, or is staged already.
        """
        batch = wire.checked(RowBatch(ids, vectors, metadata, if_version))
        with reporting(progress, "inserting", len(batch.ids)) as advance:
            return await self._insert([batch], collection, mode, batch_size, advance)

    async def insert_stream(
        self,
        batches: Batches,
        *,
        collection: str = DEFAULT_COLLECTION,
        mode: Mode = "upsert",
        batch_size: int = 1000,
        progress: Progress = False,
        rows_total: int | None = None,
    ) -> WriteResult:
        """`insert_vectors` for rows that need not fit into memory: one batch is held.

        Where an id comes twice, the later row counts.
        """
        with reporting(progress, "inserting", rows_total) as advance:
            return await self._insert(batches, collection, mode, batch_size, advance)

    async def _insert(
        self,
        batches: Batches,
        collection: str,
        mode: Mode,
        batch_size: int,
        advance: Callable[[int], None],
    ) -> WriteResult:
        calls.check_insert(mode, batch_size)
        count = parts = 0
        try:
            async for batch in pieces(batches, batch_size):
                count += (await self._write(calls.insert(batch, collection, mode))).count
                parts += 1
                advance(len(batch.ids))
        except BaseException as error:
            if parts:
                self._doom(error)
            raise
        return WriteResult(count, 0)

    async def update_metadata(
        self,
        id: str,
        metadata: Metadata,
        *,
        collection: str = DEFAULT_COLLECTION,
        if_version: int | None = None,
    ) -> WriteResult:
        """Merge `metadata` into a row's, staged or stored; a None removes its key (RFC 7396).

        :raises NotFound: no such collection or row.
        :raises PreconditionFailed: the row has another version than `if_version`.
        """
        return await self._write(calls.patch(id, metadata, collection, if_version))

    async def delete(
        self,
        ids: Sequence[str] | None = None,
        *,
        filter: Filter | None = None,
        collection: str = DEFAULT_COLLECTION,
        if_version: IfVersion | None = None,
    ) -> WriteResult:
        """Delete rows by id, or all that match a filter; the count has those found alive.

        :param if_version: with `ids`: the versions that the rows must still have.
        :raises InvalidArgument: not exactly one of `ids` and `filter`.
        :raises PreconditionFailed: a row has another version, or is gone.
        """
        return await self._write(calls.delete(ids, filter, collection, if_version))

    # -- reads

    @overload
    async def query_similar(
        self,
        vector: VectorLike | None = ...,
        *,
        id: str | None = ...,
        vectors: None = ...,
        **options: Unpack[SearchOptions],
    ) -> list[Match]: ...
    @overload
    async def query_similar(
        self, *, vectors: VectorLike, **options: Unpack[SearchOptions]
    ) -> list[list[Match]]: ...
    async def query_similar(
        self,
        vector: VectorLike | None = None,
        *,
        vectors: VectorLike | None = None,
        id: str | None = None,
        **options: Unpack[SearchOptions],
    ) -> list[Match] | list[list[Match]]:
        """The `k` most similar rows of the snapshot and of those staged; see the client's."""
        answer = await self._query(vector, vectors, id, {}, options)
        return calls.matches(answer, vectors is not None)

    async def query_page(
        self,
        vector: VectorLike | None = None,
        *,
        id: str | None = None,
        after: str | None = None,
        **options: Unpack[SearchOptions],
    ) -> QueryPage:
        """Up to `k` hits and, when more follow, a cursor to them; see the client's.

        A cursor goes on in this transaction only, and shows what was staged at the first page.
        """
        return calls.query_page(
            await self._query(vector, None, id, calls.page_asked(after), options)
        )

    async def query_pages(
        self,
        vector: VectorLike | None = None,
        *,
        id: str | None = None,
        **options: Unpack[SearchOptions],
    ) -> AsyncIterator[QueryPage]:
        """All hits, best first, in pages of `k`, of the rows staged before the first page too."""
        cursor: str | None = None
        while True:
            page = await self.query_page(vector, id=id, after=cursor, **options)
            yield page
            cursor = page.cursor
            if cursor is None:
                return

    async def explain_query(
        self,
        vector: VectorLike | None = None,
        *,
        vectors: VectorLike | None = None,
        id: str | None = None,
        **options: Unpack[SearchOptions],
    ) -> dict[str, Any]:
        """How `query_similar` is carried out: plans, estimates and timings of every segment."""
        return calls.explanation(await self._query(vector, vectors, id, {"explain": True}, options))

    async def _query(
        self,
        vector: VectorLike | None,
        vectors: VectorLike | None,
        id: str | None,
        asked: dict[str, Any],
        options: SearchOptions,
    ) -> Answer:
        search: dict[str, Any] = {**options}
        request = calls.query(vector, vectors, id, {}, asked, **search)
        return await self._call(request, stages=False)

    async def fetch(
        self,
        ids: Sequence[str],
        *,
        collection: str = DEFAULT_COLLECTION,
        include: Sequence[IncludeInRows] = ("metadata", "dimensions"),
    ) -> list[Row]:
        """The rows of `ids` in their order, bit-exact; `version` is 0 for those staged."""
        wanted = wire.id_list(ids)
        if not wanted:
            self._check_open()
            return []
        answer = await self._call(calls.fetch(wanted, collection, include, {}), stages=False)
        return [wire.decode_row(row) for row in answer.body["vectors"]]

    async def count(
        self, filter: Filter | None = None, *, collection: str = DEFAULT_COLLECTION
    ) -> CountResult:
        """How many rows there are, or match a filter, those staged included."""
        return calls.count_result(
            await self._call(calls.count(filter, collection, {}), stages=False)
        )

    async def scroll(
        self,
        *,
        collection: str = DEFAULT_COLLECTION,
        filter: Filter | None = None,
        page_size: int = 1000,
        include: Sequence[IncludeInRows] = ("metadata", "dimensions"),
    ) -> AsyncIterator[Row]:
        """Every row, or every one that matches, those staged before each page included."""
        pages = self.scroll_pages(
            collection=collection, filter=filter, page_size=page_size, include=include
        )
        async for page in pages:
            for row in page.rows:
                yield row

    async def scroll_pages(
        self,
        *,
        collection: str = DEFAULT_COLLECTION,
        filter: Filter | None = None,
        page_size: int = 1000,
        include: Sequence[IncludeInRows] = ("metadata", "dimensions"),
    ) -> AsyncIterator[Page]:
        """`scroll` by pages of up to `page_size` rows."""
        cursor: str | None = None
        while True:
            request = calls.scroll(collection, filter, page_size, include, cursor, {})
            answer = await self._call(request, stages=False)
            rows = [wire.decode_row(row) for row in answer.body["vectors"]]
            yield Page(rows, answer.body["snapshot_ts"])
            cursor = answer.body["cursor"]
            if cursor is None:
                return

    async def _write(self, request: Request) -> WriteResult:
        answer = await self._call(request, stages=True)
        result = WriteResult(calls.write_result(answer).count, 0)
        self._staged += result.count
        return result
