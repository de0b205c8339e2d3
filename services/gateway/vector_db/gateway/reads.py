"""Scatter-gather: one request for each set of replicas of a collection's shards, one merged answer.

Owns these invariants: every part of one read is read at the same snapshot; a shard that moves while
it is read is read where it is then; and a collection is read from the generation that serves the
snapshot, whichever one the caller holds.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias, TypeVar

import msgspec
import numpy as np

from vector_db.common.core.merge import merge_rows
from vector_db.common.core.messages import AnyMessage
from vector_db.common.core.messages.reads import (
    CountReply,
    CountRequest,
    FetchRequest,
    Overlay,
    RowsReply,
    ScrollRequest,
    SearchReply,
    SearchRequest,
    StatsReply,
    StatsRequest,
)
from vector_db.common.model.collection import Collection
from vector_db.common.model.errors import Moved, NotFound, Unavailable
from vector_db.common.model.rows import F32, Blob
from vector_db.common.ports import Bus
from vector_db.gateway.cluster import ClusterView
from vector_db.gateway.coalesce import Coalescer, Send, Shape
from vector_db.gateway.core.gathered import in_order, part_of
from vector_db.gateway.core.hits import hits_of, merge_hits
from vector_db.gateway.core.requests import Hits
from vector_db.gateway.core.stats import stats_sum
from vector_db.gateway.explaining import Notes, Stopwatch
from vector_db.gateway.replicas import Replicas

IN_FLIGHT_PER_WORKER = 2
COALESCED_QUERIES_MAX = 16
"""Two small batches in flight keep decoding and searching busy at once; one large batch would make
all clients wait for each other in step (measured at 64 clients: a third more queries a second)."""

REROUTED_S_MAX = 10.0
REROUTE_PAUSE_S = 0.05
"""A placement that is known here may be applied by its workers a moment later."""

T = TypeVar("T")
Reply = TypeVar("Reply", SearchReply, RowsReply, CountReply, StatsReply)
Routes: TypeAlias = dict[tuple[str, ...], tuple[int, ...]]


class Reader:
    """Reads of one gateway."""

    def __init__(self, bus: Bus, view: ClusterView) -> None:
        self._view = view
        self._replicas = Replicas(bus, view.is_silent)
        self._coalescers: dict[tuple[str, ...], Coalescer] = {}
        self._routed_by: dict[int, tuple[str, ...]] = {}
        self._known_routes: dict[int, Routes] = {}

    def _routes(self, collection: Collection) -> Routes:
        """Replicas → the shards of the collection that all of them hold.

        :raises Unavailable: a shard has no replica in the placement known here.
        """
        placement = self._view.replicas
        if placement is not self._routed_by:
            self._routed_by, self._known_routes = placement, {}
        known = self._known_routes.get(collection.id)
        if known is None:
            routes: dict[tuple[str, ...], list[int]] = {}
            for shard in collection.shards:
                replicas = placement.get(shard)
                if not replicas:
                    raise Unavailable(f"shard {shard} has no worker in the placement known here")
                routes.setdefault(tuple(sorted(replicas)), []).append(shard)
            known = {replicas: tuple(shards) for replicas, shards in routes.items()}
            self._known_routes[collection.id] = known
        return known

    async def _ask(
        self, replicas: tuple[str, ...], message: AnyMessage, kind: type[Reply]
    ) -> Reply:
        _, reply = await self._replicas.ask(replicas, message, kind)
        return reply

    async def _then(self, collection: Collection, snapshot_ts: int, filling: bool) -> Collection:
        """The generation that is read: the one that serves the snapshot, or this very one."""
        return collection if filling else await self._view.generation(collection, snapshot_ts)

    async def _rerouted(self, read: Callable[[], Awaitable[T]]) -> T:
        """A read; once more whenever nobody answers it by a placement that is not the newest, or
        it is of a generation that ended before that was known here.

        :raises Unavailable: nobody answers by the newest either.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + REROUTED_S_MAX
        while True:
            placement, catalog_ts = self._view.replicas, self._view.catalog_ts
            try:
                return await read()
            except NotFound:
                with contextlib.suppress(Unavailable):  # nobody leads who knows more
                    await self._view.refresh()
                if self._view.catalog_ts == catalog_ts:
                    raise
            except Unavailable as error:
                with contextlib.suppress(Unavailable):  # nobody leads who could have changed it
                    await self._view.refresh()
                if self._view.replicas == placement:
                    if not isinstance(error, Moved):
                        raise
                    await asyncio.sleep(REROUTE_PAUSE_S)
                if loop.time() >= until:
                    raise Unavailable(error.message) from error

    # --- search -----------------------------------------------------------------------------------

    async def search(
        self,
        collection: Collection,
        shape: Shape,
        vectors: F32,
        overlay: Overlay | None = None,
        notes: Notes | None = None,
    ) -> list[Hits]:
        """The hits of each query; `shape.collection_id` and `shape.shards` are filled in here.

        A read with an overlay is seen by nobody else, so it travels alone, and so does one that
        `notes` are to be made of.
        """
        return await self._rerouted(
            lambda: self._search(collection, shape, vectors, overlay, notes)
        )

    async def _search(
        self,
        collection: Collection,
        shape: Shape,
        vectors: F32,
        overlay: Overlay | None,
        notes: Notes | None,
    ) -> list[Hits]:
        if notes is not None:
            notes.scattering()
        collection = await self._view.generation(collection, shape.snapshot_ts)
        shape = shape._replace(collection_id=collection.id)
        routes = self._routes(collection)
        queries = np.ascontiguousarray(vectors, dtype="<f4").tobytes()
        if len(routes) == 1:
            ((replicas, shards),) = routes.items()
            shape = shape._replace(shards=shards)
            hits = await self._search_one(
                replicas, shape, queries, collection.dimension, overlay, notes
            )
            if notes is not None:
                notes.gathered()
            return hits
        # Payloads are fetched for the merged hits alone.
        lean = shape._replace(include_metadata=False, include_vectors=False)
        parts = await asyncio.gather(
            *(
                self._search_one(
                    replicas,
                    lean._replace(shards=shards),
                    queries,
                    collection.dimension,
                    overlay,
                    notes,
                )
                for replicas, shards in routes.items()
            )
        )
        merged = [merge_hits(found, shape.k) for found in zip(*parts, strict=True)]
        if notes is not None:
            notes.gathered()
        if shape.include_metadata or shape.include_vectors:
            merged = await self._with_payloads(collection, shape, merged, overlay)
            if notes is not None:
                notes.payloads_fetched()
        return merged

    async def _search_one(
        self,
        replicas: tuple[str, ...],
        shape: Shape,
        queries: bytes,
        dimension: int,
        overlay: Overlay | None,
        notes: Notes | None,
    ) -> list[Hits]:
        if overlay is not None or notes is not None:
            request = msgspec.structs.replace(
                shape.request(queries),
                overlay=part_of(overlay, shape.shards),
                explain=notes is not None,
            )
            if notes is None:
                return await self._sender(replicas)(request)
            watch = Stopwatch()
            replica, reply = await self._replicas.ask(replicas, request, SearchReply)
            notes.add_worker(replica, shape.shards, watch.lap_us(), reply)
            return hits_of(reply, len(queries) // len(reply.counts))
        coalescer = self._coalescers.get(replicas)
        if coalescer is None:
            in_flight_max = IN_FLIGHT_PER_WORKER * len(replicas)
            coalescer = Coalescer(self._sender(replicas), in_flight_max, COALESCED_QUERIES_MAX)
            self._coalescers[replicas] = coalescer
        if len(queries) == 4 * dimension:
            return [await coalescer.search(shape, queries)]
        return await self._sender(replicas)(shape.request(queries))

    def _sender(self, replicas: tuple[str, ...]) -> Send:
        async def send(request: SearchRequest) -> list[Hits]:
            reply = await self._ask(replicas, request, SearchReply)
            # Every query of a request has the same width, so the number of queries gives it.
            return hits_of(reply, len(request.queries) // len(reply.counts))

        return send

    async def _with_payloads(
        self,
        collection: Collection,
        shape: Shape,
        merged: list[Hits],
        overlay: Overlay | None,
    ) -> list[Hits]:
        """The merged hits with metadata and vectors."""
        distinct = list(dict.fromkeys(row_id for hits in merged for row_id in hits.ids))
        rows = await self.fetch(
            collection, distinct, shape.snapshot_ts, shape.include_vectors, overlay
        )
        place = {row_id: i for i, row_id in enumerate(rows.ids.unpack())}
        metadata = rows.metadata.unpack()
        table = np.frombuffer(rows.vectors, dtype="<f4").reshape(-1, collection.dimension)
        whole = []
        for hits in merged:
            order = [place[row_id] for row_id in hits.ids]
            whole.append(
                Hits(
                    hits.ids,
                    hits.similarities,
                    [metadata[i] for i in order] if shape.include_metadata else None,
                    table[order] if shape.include_vectors else None,
                )
            )
        return whole

    # --- rows -------------------------------------------------------------------------------------

    async def fetch(
        self,
        collection: Collection,
        ids: Sequence[bytes],
        snapshot_ts: int,
        include_vectors: bool,
        overlay: Overlay | None = None,
        filling: bool = False,
    ) -> RowsReply:
        """Rows in the order of `ids` (distinct), absent ones left out; `filling`: of this very
        generation, which is being filled."""

        async def fetch() -> RowsReply:
            then = await self._then(collection, snapshot_ts, filling)
            return await self._fetch(then, ids, snapshot_ts, include_vectors, overlay, filling)

        return await self._rerouted(fetch)

    async def _fetch(
        self,
        collection: Collection,
        ids: Sequence[bytes],
        snapshot_ts: int,
        include_vectors: bool,
        overlay: Overlay | None,
        filling: bool,
    ) -> RowsReply:
        packed = Blob.pack(ids)
        routes = self._routes(collection)
        replies = await asyncio.gather(
            *(
                self._ask(
                    replicas,
                    FetchRequest(
                        collection.id,
                        shards,
                        snapshot_ts,
                        packed,
                        include_vectors,
                        part_of(overlay, shards),
                        filling,
                    ),
                    RowsReply,
                )
                for replicas, shards in routes.items()
            )
        )
        if len(replies) == 1:
            return replies[0]
        return in_order(replies, ids, collection.dimension, include_vectors)

    async def count(
        self,
        collection: Collection,
        snapshot_ts: int,
        filter: bytes,
        overlay: Overlay | None = None,
        filling: bool = False,
    ) -> int:
        """Visible rows that match; `filling`: of this very generation, which is being filled."""

        async def count() -> int:
            then = await self._then(collection, snapshot_ts, filling)
            return await self._count(then, snapshot_ts, filter, overlay, filling)

        return await self._rerouted(count)

    async def _count(
        self,
        collection: Collection,
        snapshot_ts: int,
        filter: bytes,
        overlay: Overlay | None,
        filling: bool,
    ) -> int:
        replies = await asyncio.gather(
            *(
                self._ask(
                    replicas,
                    CountRequest(
                        collection.id,
                        shards,
                        snapshot_ts,
                        filter,
                        part_of(overlay, shards),
                        filling,
                    ),
                    CountReply,
                )
                for replicas, shards in self._routes(collection).items()
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
        overlay: Overlay | None = None,
    ) -> RowsReply:
        """The first `limit` visible rows with id > `after`, in id order."""

        async def scroll() -> RowsReply:
            then = await self._view.generation(collection, snapshot_ts)
            whole = ScrollRequest(
                then.id, (), snapshot_ts, limit, after, filter, include_vectors, overlay
            )
            return await self._scroll(then, whole)

        return await self._rerouted(scroll)

    async def _scroll(self, collection: Collection, whole: ScrollRequest) -> RowsReply:
        def part(shards: tuple[int, ...]) -> ScrollRequest:
            overlay = part_of(whole.overlay, shards)
            return msgspec.structs.replace(whole, shards=shards, overlay=overlay)

        replies = await asyncio.gather(
            *(
                self._ask(replicas, part(shards), RowsReply)
                for replicas, shards in self._routes(collection).items()
            )
        )
        return replies[0] if len(replies) == 1 else merge_rows(replies, whole.limit)

    async def stats(self, collection: Collection) -> StatsReply:
        """Sums over the workers, of the generation in force."""

        async def stats() -> StatsReply:
            return await self._stats(self._view.entries.current(collection) or collection)

        return await self._rerouted(stats)

    async def _stats(self, collection: Collection) -> StatsReply:
        replies = await asyncio.gather(
            *(
                self._ask(replicas, StatsRequest(collection.id, shards), StatsReply)
                for replicas, shards in self._routes(collection).items()
            )
        )
        return stats_sum(replies)
