"""The reads of the asynchronous client: each of one snapshot, which the commit token bounds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, overload

from vector_db_client import wire
from vector_db_client.errors import InvalidArgument
from vector_db_client.transport import Transport, collection_path
from vector_db_client.values import (
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

DEFAULT_COLLECTION = "default"


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
    ) -> list[Match] | list[list[Match]]:
        """The `k` most similar rows, best first; ties by id.

        :param vector: what to look for, [dimension].
        :param id: instead, a stored row; it is left out of its own neighbours.
        :param vectors: instead, a batch of queries [n, dimension]; gives n lists.
        :param filter: only rows whose metadata match.
        :param include: what a `Match` carries besides id and similarity.
        :param min_similarity: leave out what is less similar.
        :raises InvalidArgument: not exactly one of `vector`, `vectors` and `id`, or a bad one.
        :raises NotFound: no such collection, or no row `id`.
        """
        if (vector is not None) + (vectors is not None) + (id is not None) != 1:
            raise InvalidArgument("query: needs exactly one of vector, vectors and id")
        body = self._read_body(consistency, filter)
        body |= {"k": k, "include": list(include)}
        if vector is not None:
            body["vector"] = wire.vector_json(wire.as_vector(vector))
        elif vectors is not None:
            body["vectors"] = [wire.vector_json(row) for row in wire.as_vectors(vectors)]
        else:
            body["id"] = id
        if min_similarity is not None:
            body["min_similarity"] = min_similarity
        answer = await self._transport.json("POST", collection_path(collection, "query"), body)
        if vectors is None:
            return [wire.decode_match(hit) for hit in answer["vectors"]]
        return [[wire.decode_match(h) for h in one["vectors"]] for one in answer["results"]]

    async def fetch(
        self,
        ids: Sequence[str],
        *,
        collection: str = DEFAULT_COLLECTION,
        include: Sequence[IncludeInRows] = ("metadata", "dimensions"),
        consistency: Consistency = "own_writes",
    ) -> list[Row]:
        """The rows of `ids` in their order, bit-exact; absent ones are left out."""
        wanted = wire.id_list(ids)
        if not wanted:
            return []
        body = self._read_body(consistency) | {"ids": wanted, "include": list(include)}
        answer = await self._transport.json(
            "POST", collection_path(collection, "vectors", "fetch"), body
        )
        return [wire.decode_row(row) for row in answer["vectors"]]

    async def count(
        self,
        filter: Filter | None = None,
        *,
        collection: str = DEFAULT_COLLECTION,
        consistency: Consistency = "own_writes",
    ) -> CountResult:
        """How many rows there are, or match a filter."""
        body = self._read_body(consistency, filter)
        answer = await self._transport.json("POST", collection_path(collection, "count"), body)
        return CountResult(answer["count"], answer["snapshot_ts"])

    async def scroll(
        self,
        *,
        collection: str = DEFAULT_COLLECTION,
        filter: Filter | None = None,
        page_size: int = 1000,
        include: Sequence[IncludeInRows] = ("metadata", "dimensions"),
        consistency: Consistency = "own_writes",
    ) -> AsyncIterator[Row]:
        """Every row, or every one that matches, of one snapshot: the one of the first page."""
        pages = self.scroll_pages(
            collection=collection,
            filter=filter,
            page_size=page_size,
            include=include,
            consistency=consistency,
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
    ) -> AsyncIterator[Page]:
        """`scroll` by pages of up to `page_size` rows, with their snapshot."""
        body = self._read_body(consistency, filter) | {"limit": page_size}
        body["include"] = list(include)
        while True:
            answer = await self._transport.json("POST", collection_path(collection, "scroll"), body)
            rows = [wire.decode_row(row) for row in answer["vectors"]]
            yield Page(rows, answer["snapshot_ts"])
            if answer["cursor"] is None:
                return
            body["cursor"] = answer["cursor"]

    def _read_body(self, consistency: Consistency, filter: Filter | None = None) -> dict[str, Any]:
        body: dict[str, Any] = {} if filter is None else {"filter": filter}
        if consistency == "strong":
            body["consistency"] = {"strong": True}
        elif consistency == "own_writes":
            if self._transport.token:
                body["consistency"] = {"at_least": self._transport.token}
        elif isinstance(consistency, int) and not isinstance(consistency, bool):
            body["consistency"] = {"at_least": consistency}
        elif consistency != "stable":
            raise InvalidArgument(
                f"consistency: own_writes, stable, strong or a commit timestamp, is {consistency!r}"
            )
        return body
