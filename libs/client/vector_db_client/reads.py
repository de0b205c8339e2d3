"""The reads of the asynchronous client: each of one snapshot, which the commit token bounds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Unpack, overload

from vector_db_client import calls, wire
from vector_db_client.calls import DEFAULT_COLLECTION, Answer
from vector_db_client.transport import Transport
from vector_db_client.values import (
    AsOf,
    Consistency,
    CountResult,
    Filter,
    IncludeInRows,
    Match,
    Page,
    QueryOptions,
    QueryPage,
    Row,
    VectorLike,
)


class AsyncReads:
    """Queries, fetches, counts and scrolls over a transport."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @overload
    async def query_similar(
        self,
        vector: VectorLike | None = ...,
        *,
        id: str | None = ...,
        vectors: None = ...,
        **options: Unpack[QueryOptions],
    ) -> list[Match]: ...
    @overload
    async def query_similar(
        self, *, vectors: VectorLike, **options: Unpack[QueryOptions]
    ) -> list[list[Match]]: ...
    async def query_similar(
        self,
        vector: VectorLike | None = None,
        *,
        vectors: VectorLike | None = None,
        id: str | None = None,
        **options: Unpack[QueryOptions],
    ) -> list[Match] | list[list[Match]]:
        """The `k` most similar rows, best first; ties by id.

        :param vector: what to look for, [dimension].
        :param id: instead, a stored row; it is left out of its own neighbours.
        :param vectors: instead, a batch of queries [n, dimension]; gives n lists.
        :param options: see `QueryOptions`.
        :raises InvalidArgument: not exactly one of `vector`, `vectors` and `id`, or a bad one.
        :raises NotFound: no such collection, or no row `id`.
        :raises SnapshotTooOld: `as_of` lies before the retention window.
        """
        answer = await self._query(vector, vectors, id, {}, options)
        return calls.matches(answer, vectors is not None)

    async def query_page(
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
        return calls.query_page(
            await self._query(vector, None, id, calls.page_asked(after), options)
        )

    async def query_pages(
        self,
        vector: VectorLike | None = None,
        *,
        id: str | None = None,
        **options: Unpack[QueryOptions],
    ) -> AsyncIterator[QueryPage]:
        """All hits of one snapshot, best first, in pages of `k`; as many as a `radius` holds."""
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
        **options: Unpack[QueryOptions],
    ) -> dict[str, Any]:
        """How `query_similar` is carried out: plans, estimates and timings of every segment."""
        return calls.explanation(await self._query(vector, vectors, id, {"explain": True}, options))

    async def _query(
        self,
        vector: VectorLike | None,
        vectors: VectorLike | None,
        id: str | None,
        asked: dict[str, Any],
        options: QueryOptions,
    ) -> Answer:
        search: dict[str, Any] = {**options}
        consistency = search.pop("consistency", "own_writes")
        at = calls.snapshot(consistency, search.pop("as_of", None), self._transport.token)
        return await self._transport.send(calls.query(vector, vectors, id, at, asked, **search))

    async def fetch(
        self,
        ids: Sequence[str],
        *,
        collection: str = DEFAULT_COLLECTION,
        include: Sequence[IncludeInRows] = ("metadata", "dimensions"),
        consistency: Consistency = "own_writes",
        as_of: AsOf | None = None,
    ) -> list[Row]:
        """The rows of `ids` in their order, bit-exact; absent ones are left out."""
        wanted = wire.id_list(ids)
        at = calls.snapshot(consistency, as_of, self._transport.token)
        if not wanted:
            return []
        answer = await self._transport.send(calls.fetch(wanted, collection, include, at))
        return [wire.decode_row(row) for row in answer.body["vectors"]]

    async def count(
        self,
        filter: Filter | None = None,
        *,
        collection: str = DEFAULT_COLLECTION,
        consistency: Consistency = "own_writes",
        as_of: AsOf | None = None,
    ) -> CountResult:
        """How many rows there are, or match a filter."""
        at = calls.snapshot(consistency, as_of, self._transport.token)
        return calls.count_result(await self._transport.send(calls.count(filter, collection, at)))

    async def scroll(
        self,
        *,
        collection: str = DEFAULT_COLLECTION,
        filter: Filter | None = None,
        page_size: int = 1000,
        include: Sequence[IncludeInRows] = ("metadata", "dimensions"),
        consistency: Consistency = "own_writes",
        as_of: AsOf | None = None,
    ) -> AsyncIterator[Row]:
        """Every row, or every one that matches, of one snapshot: the one of the first page."""
        pages = self.scroll_pages(
            collection=collection,
            filter=filter,
            page_size=page_size,
            include=include,
            consistency=consistency,
            as_of=as_of,
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
        consistency: Consistency = "own_writes",
        as_of: AsOf | None = None,
    ) -> AsyncIterator[Page]:
        """`scroll` by pages of up to `page_size` rows, with their snapshot."""
        at = calls.snapshot(consistency, as_of, self._transport.token)
        cursor: str | None = None
        while True:
            answer = await self._transport.send(
                calls.scroll(collection, filter, page_size, include, cursor, at)
            )
            rows = [wire.decode_row(row) for row in answer.body["vectors"]]
            yield Page(rows, answer.body["snapshot_ts"])
            cursor = answer.body["cursor"]
            if cursor is None:
                return
