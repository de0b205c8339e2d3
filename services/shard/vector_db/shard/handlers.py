"""Answers read requests: waits for the snapshot, captures views, searches inline or in the pool.

Owns the invariant that an answer is of exactly the snapshot that was asked: views are captured on
the loop once the cursor has reached it, and are not touched by later writes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from functools import lru_cache
from typing import TypeVar

import orjson

from vector_db.common.core.messages import (
    AnyMessage,
    ConfirmReply,
    ConfirmRequest,
    CountReply,
    CountRequest,
    FetchRequest,
    ScrollRequest,
    SearchReply,
    SearchRequest,
    StatsRequest,
    TxnStatusRequest,
)
from vector_db.common.model.errors import InvalidArgument, Unavailable
from vector_db.common.model.filters import Filter, parse_filter
from vector_db.common.model.limits import Limits
from vector_db.shard.core.participant import Participant
from vector_db.shard.search import executor
from vector_db.shard.storage.store import Store
from vector_db.shard.worker import Worker

SNAPSHOT_TIMEOUT_S = 5.0
INLINE_MS_MAX = 1.0
"""Longer work goes to the pool: a hop costs 0.17 ms, and the loop must not stand still."""

T = TypeVar("T")


class Handlers:
    """The request handler of one worker."""

    def __init__(
        self,
        worker: Worker,
        participant: Participant,
        store: Store,
        executor_: Executor,
        limits: Limits,
    ) -> None:
        self._worker = worker
        self._participant = participant
        self._store = store
        self._pool = executor_
        self._limits = limits
        self._parse = lru_cache(maxsize=256)(self._parse_text)

    async def handle(self, message: AnyMessage) -> AnyMessage:
        """One request's answer.

        :raises VectorDBError: what the asker should know.
        """
        match message:
            case SearchRequest():
                return await self._search(message)
            case FetchRequest():
                await self._reach(message.snapshot_ts)
                return self._store.fetch(message)
            case CountRequest():
                return await self._count(message)
            case ScrollRequest():
                return await self._scroll(message)
            case StatsRequest():
                return self._store.stats(message)
            case ConfirmRequest():
                confirmed = self._participant.promised == message.term
                return ConfirmReply(self._participant.worker, confirmed)
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

    async def _search(self, request: SearchRequest) -> SearchReply:
        await self._reach(request.snapshot_ts)
        collection = self._store.collection(request.collection_id)
        parsed = self._filter(request.filter)
        views = self._store.views(request.collection_id, request.shards, request.snapshot_ts)
        queries = len(request.queries) // (4 * collection.dimension)
        metric = collection.metric
        cost_ms = executor.cost(views, queries, request.k, parsed is not None, metric)
        return await self._run(
            cost_ms,
            lambda: executor.search(views, metric, collection.dimension, request, parsed),
        )

    async def _count(self, request: CountRequest) -> CountReply:
        await self._reach(request.snapshot_ts)
        parsed = self._filter(request.filter)
        if parsed is None:
            return CountReply(
                self._store.count_all(request.collection_id, request.shards, request.snapshot_ts)
            )
        views = self._store.views(request.collection_id, request.shards, request.snapshot_ts)
        cost_ms = executor.cost(views, 0, filtered=True)
        return CountReply(await self._run(cost_ms, lambda: executor.count(views, parsed)))

    async def _scroll(self, request: ScrollRequest) -> AnyMessage:
        await self._reach(request.snapshot_ts)
        parsed = self._filter(request.filter)
        if parsed is None:
            return self._store.scroll(request, None)
        # The columns of the filter are made in the pool; the page itself is cheap.
        views = self._store.views(request.collection_id, request.shards, request.snapshot_ts)
        cost_ms = executor.cost(views, 0, filtered=True)
        await self._run(cost_ms, lambda: executor.count(views, parsed))
        return self._store.scroll(request, lambda view: view.columns.mask(parsed, view.rows))
