"""The reads of the asynchronous client: each of one snapshot, which the commit token bounds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import overload

from vector_db_client import calls, wire
from vector_db_client.calls import DEFAULT_COLLECTION
from vector_db_client.transport import Transport
from vector_db_client.values import (
    AsOf,
    Consistency,
    CountResult,
    Filter,
    Include,
    IncludeInRows,
    Match,
    Page,
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
        k: int = ...,
        collection: str = ...,
        filter: Filter | None = ...,
        include: Sequence[Include] = ...,
        min_similarity: float | None = ...,
        consistency: Consistency = ...,
        as_of: AsOf | None = ...,
    ) -> list[Match]: ...
    @overload
    async def query_similar(
        self,
        *,
        vectors: VectorLike,
        k: int = ...,
        collection: str = ...,
        filter: Filter | None = ...,
        include: Sequence[Include] = ...,
        min_similarity: float | None = ...,
        consistency: Consistency = ...,
        as_of: AsOf | None = ...,
    ) -> list[list[Match]]: ...
    async def query_similar(
        self,
        vector: VectorLike | None = None,
        *,
        vectors: VectorLike | None = None,
        id: str | None = None,
        k: int = 10,
        collection: str = DEFAULT_COLLECTION,
        filter: Filter | None = None,
        include: Sequence[Include] = ("metadata",),
        min_similarity: float | None = None,
        consistency: Consistency = "own_writes",
        as_of: AsOf | None = None,
    ) -> list[Match] | list[list[Match]]:
        """The `k` most similar rows, best first; ties by id.

        :param vector: what to look for, [dimension].
        :param id: instead, a stored row; it is left out of its own neighbours.
        :param vectors: instead, a batch of queries [n, dimension]; gives n lists.
        :param filter: only rows whose metadata match.
        :param include: what a `Match` carries besides id and similarity.
        :param min_similarity: leave out what is less similar.
        :param as_of: instead of a consistency, a snapshot of the past.
        :raises InvalidArgument: not exactly one of `vector`, `vectors` and `id`, or a bad one.
        :raises NotFound: no such collection, or no row `id`.
        :raises SnapshotTooOld: `as_of` lies before the retention window.
        """
        at = calls.snapshot(consistency, as_of, self._transport.token)
        request = calls.query(
            vector, vectors, id, k, collection, filter, include, min_similarity, at
        )
        return calls.matches(await self._transport.send(request), vectors is not None)

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
