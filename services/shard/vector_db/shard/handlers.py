"""Answers read requests: waits for the snapshot, captures views, searches inline or in the pool.

Owns the invariant that an answer is of exactly the snapshot that was asked, and of exactly the
chunks that the reading transaction names above it: views are captured on the loop once both are
here, and are not touched by later writes. Snapshots older than the retention window are refused,
and those that another generation of the collection serves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import lru_cache
from time import perf_counter_ns
from typing import TypeAlias, TypeVar

import msgspec
import orjson

from vector_db.common.core.messages import AnyMessage
from vector_db.common.core.messages.catching_up import EnterRequest, PartRequest, TailRequest
from vector_db.common.core.messages.copies import (
    FollowRequest,
    SnapshotRead,
    SnapshotReply,
    SnapshotRequest,
)
from vector_db.common.core.messages.reads import (
    AsOfReply,
    AsOfRequest,
    ConfirmReply,
    ConfirmRequest,
    CountReply,
    CountRequest,
    FetchRequest,
    Overlay,
    RowsReply,
    ScrollRequest,
    SearchReply,
    SearchRequest,
    StagedRequest,
    StatsRequest,
)
from vector_db.common.core.messages.transactions import TxnStatusRequest
from vector_db.common.model.errors import (
    Conflict,
    InvalidArgument,
    Moved,
    SnapshotTooOld,
    Unavailable,
)
from vector_db.common.model.filters import Filter, parse_filter
from vector_db.common.model.limits import Limits
from vector_db.shard.core.participant import Participant
from vector_db.shard.search import executor
from vector_db.shard.search.explain import explain
from vector_db.shard.snapshots import Snapshots
from vector_db.shard.storage.overlays import GONE, Overlays
from vector_db.shard.storage.reads import Layers
from vector_db.shard.storage.store import NO_LAYERS, Store
from vector_db.shard.views import SegmentView
from vector_db.shard.worker import Worker

SNAPSHOT_TIMEOUT_S = 5.0
CHUNKS_TIMEOUT_S = 5.0
INLINE_MS_MAX = 1.0
"""Longer work goes to the pool: a hop costs 0.17 ms, and the loop must not stand still."""

T = TypeVar("T")
ReadRequest: TypeAlias = SearchRequest | FetchRequest | CountRequest | ScrollRequest


class Handlers:
    """The request handler of one worker."""

    def __init__(
        self,
        worker: Worker,
        participant: Participant,
        store: Store,
        executor_: Executor,
        limits: Limits,
        snapshots: Snapshots,
        on_read: Callable[[], None],
    ) -> None:
        """`on_read` is called for each search."""
        self._worker = worker
        self._participant = participant
        self._store = store
        self._pool = executor_
        self._limits = limits
        self._snapshots = snapshots
        self._on_read = on_read
        self._parse = lru_cache(maxsize=256)(self._parse_text)
        self._overlays = Overlays(participant, store)
        self._waiters: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []

    def noted(self) -> None:
        """A group of records and beats was applied; cheap."""
        self._overlays.sweep()
        for holds, future in self._waiters:
            if not future.done() and holds():
                future.set_result(None)
        self._waiters = [w for w in self._waiters if not w[1].done()]

    async def handle(self, message: AnyMessage) -> AnyMessage:
        """One request's answer.

        :raises VectorDBError: what the asker should know.
        """
        match message:
            case SearchRequest():
                return await self._search(message)
            case FetchRequest():
                return await self._fetch(message)
            case CountRequest():
                return await self._count(message)
            case ScrollRequest():
                return await self._scroll(message)
            case StatsRequest():
                self._refuse_if_elsewhere(message.shards)
                return self._store.stats(message)
            case ConfirmRequest():
                confirmed = self._participant.promised == message.term
                return ConfirmReply(self._participant.worker, confirmed)
            case StagedRequest():
                await self._await_chunks(message.overlay)
                return message
            case AsOfRequest():
                return await self._as_of(message)
            case PartRequest():
                return self._worker.part(message)
            case TailRequest():
                return self._worker.tail(message)
            case EnterRequest():
                return await self._worker.let_enter(message)
            case FollowRequest():
                return self._worker.follow(message)
            case SnapshotRequest():
                return await self._set_aside(message)
            case SnapshotRead():
                return await self._snapshots.read(message)
            case TxnStatusRequest():
                return self._participant.status(message.txn_id)
            case _:
                raise InvalidArgument(f"a shard does not answer {type(message).__name__}")

    async def _reach(self, snapshot_ts: int) -> None:
        if self._participant.cursor < snapshot_ts and not await self._worker.wait_for_cursor(
            snapshot_ts, SNAPSHOT_TIMEOUT_S
        ):
            raise Unavailable(
                f"the shard worker is at {self._participant.cursor}, asked for {snapshot_ts}"
            )

    def _parse_text(self, text: bytes) -> Filter:
        return parse_filter(orjson.loads(text), self._limits)

    def _filter(self, text: bytes) -> Filter | None:
        return self._parse(bytes(text)) if len(text) else None

    async def _run(self, cost_ms: float, work: Callable[[], T]) -> T:
        if cost_ms <= INLINE_MS_MAX:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def _refuse_if_too_old(self, snapshot_ts: int) -> None:
        oldest = self._participant.retention_floor_ts
        if snapshot_ts < oldest:
            raise SnapshotTooOld(
                f"snapshot {snapshot_ts} lies before the retention window (retention_s), "
                f"the oldest that can be read is {oldest}",
                oldest_ts=oldest,
            )

    def _refuse_if_elsewhere(self, shards: Sequence[int]) -> None:
        """A placement may be older or newer at the gateway than it is here."""
        for shard in shards:
            if not self._participant.votes_on(shard):
                raise Moved(f"shard {shard} is not at the shard worker {self._participant.worker}")

    def _refuse_other_generation(self, collection_id: int, snapshot_ts: int, filling: bool) -> None:
        """A generation that is being filled is read by whoever fills it, and nobody else.

        Asked once the cursor has reached the snapshot: no later switch changes the answer.
        """
        of = self._participant.state.collections.get(collection_id)
        if of is not None and not of.serves(snapshot_ts) and not (filling and of.replaces):
            raise Moved(f"another generation of {of.name!r} serves the snapshot {snapshot_ts}")

    async def _set_aside(self, request: SnapshotRequest) -> SnapshotReply:
        participant = self._participant
        if not await self._until(lambda: participant.stable_ts >= request.min_ts):
            raise Unavailable(
                f"the shard worker is stable up to {participant.stable_ts}, asked for a snapshot "
                f"past {request.min_ts}"
            )
        return await self._snapshots.take(request)

    async def _until(self, holds: Callable[[], bool]) -> bool:
        """Whether it does, waiting for it while groups are applied."""
        if holds():
            return True
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((holds, future))
        try:
            await asyncio.wait_for(future, SNAPSHOT_TIMEOUT_S)
        except TimeoutError:
            return holds()
        return True

    async def _await_chunks(self, overlay: Overlay) -> None:
        if not await self._worker.wait_for_chunks(overlay, CHUNKS_TIMEOUT_S):
            raise Conflict(GONE)

    async def _prepare(self, request: ReadRequest, payload: bool) -> Callable[[], Layers]:
        """Wait until all that the request names is here.

        What is returned gives the layers above the snapshot, as of when it is called.

        :param payload: vectors and metadata of staged rows are wanted in columns.
        """
        self._refuse_if_too_old(request.snapshot_ts)
        await self._reach(request.snapshot_ts)
        self._refuse_if_elsewhere(request.shards)
        filling = isinstance(request, FetchRequest | CountRequest) and request.filling
        self._refuse_other_generation(request.collection_id, request.snapshot_ts, filling)
        layers = await self._layers(request, payload)
        # While it waited, the window may have passed it, and a merge dropped rows that it shows.
        self._refuse_if_too_old(request.snapshot_ts)
        return layers

    async def _layers(self, request: ReadRequest, payload: bool) -> Callable[[], Layers]:
        if request.overlay is None:
            return lambda: NO_LAYERS
        named = request.overlay.chunks
        chunks = {shard: named[shard] for shard in request.shards if named.get(shard, 0) > 0}
        if not chunks:
            return lambda: NO_LAYERS
        overlay = Overlay(request.overlay.txn_id, request.overlay.term, chunks)
        await self._await_chunks(overlay)
        self._overlays.sweep()
        read = self._overlays.open(
            overlay, request.collection_id, request.shards, request.snapshot_ts
        )
        for _ in read.steps(payload):
            await asyncio.sleep(0)
        return lambda: read.layers(payload)

    async def _as_of(self, request: AsOfRequest) -> AsOfReply:
        participant, asked = self._participant, request.wall_ms

        def is_final() -> bool:
            if participant.wall_ms <= asked:
                return False
            # What is decided but not yet stable may lie before the time, too.
            newest = participant.stable_ts
            return participant.as_of(asked) < newest or newest >= participant.cursor

        if not await self._until(is_final):
            raise Unavailable(
                f"the shard worker knows decisions up to the time {participant.wall_ms} ms, "
                f"asked for {asked}"
            )
        ts = participant.as_of(asked)
        self._refuse_if_too_old(ts)
        return AsOfReply(ts)

    async def _search(self, request: SearchRequest) -> SearchReply:
        self._on_read()
        came_ns = perf_counter_ns() if request.explain else 0
        layers = await self._prepare(request, payload=True)
        collection = self._store.collection(request.collection_id)
        parsed = self._filter(request.filter)
        views = self._views(request, layers)
        queries = len(request.queries) // (4 * collection.dimension)
        metric, target = collection.metric, collection.recall_target
        width, wish = request.skip + request.k, executor.wish_of(request, target)
        cost_ms = executor.cost(views, queries, width, parsed, wish)
        if not request.explain:
            return await self._run(
                cost_ms,
                lambda: executor.search(
                    views, metric, collection.dimension, request, parsed, target
                ),
            )
        ready_ns = perf_counter_ns()
        reply, told = await self._run(
            cost_ms,
            lambda: explain(views, metric, collection.dimension, request, parsed, target),
        )
        told |= {
            "wait_us": (ready_ns - came_ns) / 1000,
            "estimate_us": cost_ms * 1000,
            "pool": cost_ms > INLINE_MS_MAX,
            "run_us": (perf_counter_ns() - ready_ns) / 1000,
        }
        return msgspec.structs.replace(reply, explain=orjson.dumps(told))

    def _views(self, request: ReadRequest, layers: Callable[[], Layers]) -> list[SegmentView]:
        return self._store.views(
            request.collection_id, request.shards, request.snapshot_ts, layers()
        )

    async def _fetch(self, request: FetchRequest) -> RowsReply:
        layers = await self._prepare(request, payload=False)
        return self._store.fetch(request, layers())

    async def _count(self, request: CountRequest) -> CountReply:
        parsed = self._filter(request.filter)
        layers = await self._prepare(request, payload=parsed is not None)
        if parsed is None:
            return CountReply(
                self._store.count_all(
                    request.collection_id, request.shards, request.snapshot_ts, layers()
                )
            )
        views = self._views(request, layers)
        cost_ms = executor.cost(views, 0, filter=parsed)
        return CountReply(await self._run(cost_ms, lambda: executor.count(views, parsed)))

    async def _scroll(self, request: ScrollRequest) -> RowsReply:
        parsed = self._filter(request.filter)
        layers = await self._prepare(request, payload=parsed is not None)
        if parsed is None:
            return self._store.scroll(request, None, layers())
        # The columns of the filter are made in the pool; the page itself is cheap.
        views = self._views(request, layers)
        cost_ms = executor.cost(views, 0, filter=parsed)
        await self._run(cost_ms, lambda: executor.count(views, parsed))
        self._refuse_if_too_old(request.snapshot_ts)
        return self._store.scroll(
            request, lambda view: view.columns.mask(parsed, view.rows), layers()
        )
