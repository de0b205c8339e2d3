"""Scatter-gather: one request to each worker that holds shards of a collection, one merged answer.

Owns the invariant that every part of one read is read at the same snapshot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from vector_db.common.core.merge import merge_hits, merge_rows
from vector_db.common.core.messages import (
    AnyMessage,
    CountReply,
    CountRequest,
    FetchRequest,
    RowsReply,
    ScrollRequest,
    SearchReply,
    SearchRequest,
    StatsReply,
    StatsRequest,
)
from vector_db.common.core.subjects import worker
from vector_db.common.model.collection import Collection
from vector_db.common.model.errors import Internal, Unavailable
from vector_db.common.model.rows import F32, Blob
from vector_db.common.ports import Bus, BusTimeout, BusUnavailable, NoResponders
from vector_db.gateway.cluster import ClusterView
from vector_db.gateway.coalesce import Coalescer, Shape

READ_TIMEOUT_S = 30.0
IN_FLIGHT_PER_WORKER = 1

Reply = TypeVar("Reply", SearchReply, RowsReply, CountReply, StatsReply)


class Reader:
    """Reads of one gateway."""

    def __init__(self, bus: Bus, view: ClusterView, queries_max: int) -> None:
        self._bus = bus
        self._view = view
        self._queries_max = queries_max
        self._coalescers: dict[str, Coalescer] = {}

    def _routes(self, collection: Collection) -> dict[str, tuple[int, ...]]:
        """Worker → the shards of the collection that it is asked for.

        :raises Unavailable: a shard has no replica in the placement known here.
        """
        routes: dict[str, list[int]] = {}
        for shard in collection.shards:
            replicas = self._view.replicas.get(shard)
            if not replicas:
                raise Unavailable(f"shard {shard} has no worker in the placement known here")
            routes.setdefault(replicas[0], []).append(shard)
        return {replica: tuple(shards) for replica, shards in routes.items()}

    async def _ask(self, replica: str, message: AnyMessage, kind: type[Reply]) -> Reply:
        try:
            reply = await self._bus.request(worker(replica), message, READ_TIMEOUT_S)
        except (NoResponders, BusTimeout, BusUnavailable) as error:
            raise Unavailable(f"shard worker {replica} does not answer") from error
        if not isinstance(reply, kind):
            raise Internal(f"shard worker {replica} answered {type(reply).__name__}")
        return reply

    # --- search -----------------------------------------------------------------------------------

    async def search(self, collection: Collection, shape: Shape, vectors: F32) -> SearchReply:
        """Merged hits of all queries; `shape.shards` is filled in here."""
        routes = self._routes(collection)
        alone = len(routes) == 1
        queries = np.ascontiguousarray(vectors, dtype="<f4").tobytes()
        if alone:
            replica, shards = next(iter(routes.items()))
            return await self._search_one(replica, _at(shape, shards), queries, len(vectors))
        lean = Shape(
            shape.collection_id,
            (),
            shape.snapshot_ts,
            shape.k,
            shape.filter,
            shape.min_similarity,
            False,
            False,
        )
        replies = await asyncio.gather(
            *(
                self._search_one(replica, _at(lean, shards), queries, len(vectors))
                for replica, shards in routes.items()
            )
        )
        merged = merge_hits(replies, len(vectors), shape.k)
        if not (shape.include_metadata or shape.include_vectors) or not len(merged.ids):
            return merged
        return await self._with_payloads(collection, shape, merged)

    async def _search_one(
        self, replica: str, shape: Shape, queries: bytes, count: int
    ) -> SearchReply:
        if count > 1:
            return await self._ask(replica, shape.request(queries), SearchReply)
        coalescer = self._coalescers.get(replica)
        if coalescer is None:

            async def send(request: SearchRequest) -> SearchReply:
                return await self._ask(replica, request, SearchReply)

            coalescer = Coalescer(send, IN_FLIGHT_PER_WORKER, self._queries_max)
            self._coalescers[replica] = coalescer
        return await coalescer.search(shape, queries)

    async def _with_payloads(
        self, collection: Collection, shape: Shape, merged: SearchReply
    ) -> SearchReply:
        """The merged hits with metadata and vectors, fetched for them alone."""
        ids = merged.ids.unpack()
        distinct = list(dict.fromkeys(ids))
        rows = await self.fetch(collection, distinct, shape.snapshot_ts, shape.include_vectors)
        place = {row_id: i for i, row_id in enumerate(rows.ids.unpack())}
        order = [place[row_id] for row_id in ids]
        vectors: bytes = b""
        if shape.include_vectors:
            table = np.frombuffer(rows.vectors, dtype="<f4").reshape(-1, collection.dimension)
            vectors = table[order].tobytes()
        return SearchReply(
            counts=merged.counts,
            ids=merged.ids,
            similarities=merged.similarities,
            metadata=rows.metadata.take(order) if shape.include_metadata else None,
            vectors=vectors,
        )

    # --- rows -------------------------------------------------------------------------------------

    async def fetch(
        self,
        collection: Collection,
        ids: Sequence[bytes],
        snapshot_ts: int,
        include_vectors: bool,
    ) -> RowsReply:
        """Rows in the order of `ids` (distinct), absent ones left out."""
        packed = Blob.pack(ids)
        routes = self._routes(collection)
        replies = await asyncio.gather(
            *(
                self._ask(
                    replica,
                    FetchRequest(collection.id, shards, snapshot_ts, packed, include_vectors),
                    RowsReply,
                )
                for replica, shards in routes.items()
            )
        )
        if len(replies) == 1:
            return replies[0]
        return _in_order(replies, ids, collection.dimension, include_vectors)

    async def count(self, collection: Collection, snapshot_ts: int, filter: bytes) -> int:
        """Visible rows that match."""
        replies = await asyncio.gather(
            *(
                self._ask(
                    replica, CountRequest(collection.id, shards, snapshot_ts, filter), CountReply
                )
                for replica, shards in self._routes(collection).items()
            )
        )
        return sum(reply.count for reply in replies)

    async def scroll(
        self,
        collection: Collection,
        snapshot_ts: int,
        limit: int,
        after: bytes,
        filter: bytes,
        include_vectors: bool,
    ) -> RowsReply:
        """The first `limit` visible rows with id > `after`, in id order."""
        replies = await asyncio.gather(
            *(
                self._ask(
                    replica,
                    ScrollRequest(
                        collection.id, shards, snapshot_ts, limit, after, filter, include_vectors
                    ),
                    RowsReply,
                )
                for replica, shards in self._routes(collection).items()
            )
        )
        return replies[0] if len(replies) == 1 else merge_rows(replies, limit)

    async def stats(self, collection: Collection) -> StatsReply:
        """Sums over the workers."""
        replies = await asyncio.gather(
            *(
                self._ask(replica, StatsRequest(collection.id, shards), StatsReply)
                for replica, shards in self._routes(collection).items()
            )
        )
        return StatsReply(
            rows=sum(r.rows for r in replies),
            rows_indexed=sum(r.rows_indexed for r in replies),
            segments=sum(r.segments for r in replies),
            bytes_memory=sum(r.bytes_memory for r in replies),
            bytes_disk=sum(r.bytes_disk for r in replies),
        )


def _at(shape: Shape, shards: tuple[int, ...]) -> Shape:
    return Shape(
        shape.collection_id,
        shards,
        shape.snapshot_ts,
        shape.k,
        shape.filter,
        shape.min_similarity,
        shape.include_metadata,
        shape.include_vectors,
    )


def _in_order(
    replies: Sequence[RowsReply], ids: Sequence[bytes], dimension: int, with_vectors: bool
) -> RowsReply:
    """Rows of several workers in the order of `ids`."""
    found = [row_id for reply in replies for row_id in reply.ids.unpack()]
    metadata = [text for reply in replies for text in reply.metadata.unpack()]
    versions = np.concatenate([np.frombuffer(r.versions, dtype="<i8") for r in replies])
    place = {row_id: i for i, row_id in enumerate(found)}
    order = [place[row_id] for row_id in ids if row_id in place]
    vectors = b""
    if with_vectors:
        parts = [np.frombuffer(r.vectors, dtype="<f4").reshape(-1, dimension) for r in replies]
        vectors = np.concatenate(parts)[order].tobytes()
    return RowsReply(
        ids=Blob.pack([found[i] for i in order]),
        versions=versions[order].tobytes(),
        metadata=Blob.pack([metadata[i] for i in order]),
        vectors=vectors,
    )
