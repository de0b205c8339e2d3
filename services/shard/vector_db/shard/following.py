"""Follows the ordered logs of the promised term: which streams to tail, from where, and gaps.

Owns the invariant that every record handed on comes after the worker's own position, in order; what
cannot be followed without a gap becomes a request for a takeover, since nothing else mends it; but
for a worker that holds nothing, which begins where its peers stand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog

from vector_db.common.core.messages.takeover import NeedTakeover
from vector_db.common.core.subjects import LogName, decision_log, shard_log, votes
from vector_db.common.ports import Bus, BusUnavailable, Subscription

_RETRY_S = 0.25

OnRecord = Callable[[int | None, int, int, bytes], None]
"""(shard or None for the decision log, term, sequence, framed bytes)."""


class Position(Protocol):
    """Where the worker stands: what was taken already."""

    promised: int
    positions: dict[int, int]
    decision_seq: int


class LogFollower:
    """Keeps one tail for the decision log and one a shard of this worker, in one term at a time."""

    def __init__(
        self,
        bus: Bus,
        worker: str,
        position: Position,
        on_record: OnRecord,
        enter: Callable[[int], Awaitable[bool]],
    ) -> None:
        """`enter`: stand where a peer does in the term, which a worker that holds nothing can."""
        self._bus = bus
        self._worker = worker
        self._position = position
        self._on_record = on_record
        self._enter = enter
        self._log = structlog.get_logger("vector_db.shard").bind(worker=worker)
        self._term = 0
        self._tails: dict[LogName, Subscription] = {}
        self._wanted: tuple[int, tuple[int, ...]] = (0, ())
        self._changed = asyncio.Event()
        self._gaps: dict[LogName, str] = {}

    def want(self, term: int, shards: tuple[int, ...]) -> None:
        """Follow these from now on; cheap when nothing changed."""
        if (term, shards) != self._wanted:
            self._wanted = (term, shards)
            self._changed.set()

    def ask_takeover(self, term: int, reason: str) -> None:
        """The decision log cannot be followed: begin again, and ask for a new term."""
        self._gaps[decision_log(term)] = reason
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled: make the tails what is wanted."""
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                try:
                    await self._adjust()
                except BusUnavailable:
                    # The broker is away: the tails of a connection come back with it, new ones
                    # wait.
                    await asyncio.sleep(_RETRY_S)
                    self._changed.set()
        finally:
            await self._close_all()

    async def _adjust(self) -> None:
        term, shards = self._wanted
        if term != self._term:
            await self._close_all()
            self._term = term
        if not term:
            return
        wanted: dict[LogName, int | None] = {decision_log(term): None}
        wanted.update({shard_log(term, shard): shard for shard in shards})
        for log in [log for log in self._tails if log not in wanted]:
            await self._tails.pop(log).close()
        if self._gaps and await self._enter(term):
            self._log.info("begins where its peers stand", reasons=list(self._gaps.values()))
            await self._close_all()
        for log, reason in list(self._gaps.items()):
            del self._gaps[log]
            tail = self._tails.pop(log, None)
            if tail is not None:
                await tail.close()
            await self._report(term, f"{log.stream}: {reason}")
        for log, shard in wanted.items():
            if log not in self._tails and self._wanted == (term, shards):
                self._tails[log] = await self._open(term, log, shard)

    async def _open(self, term: int, log: LogName, shard: int | None) -> Subscription:
        position = self._position
        after = position.decision_seq if shard is None else position.positions.get(shard, 0)

        def on_record(seq: int, data: bytes) -> None:
            self._on_record(shard, term, seq, data)

        def on_gap(reason: str) -> None:
            self._gaps[log] = reason
            self._changed.set()

        return await self._bus.tail(log, after, on_record, on_gap)

    async def _report(self, term: int, reason: str) -> None:
        self._log.warning("a log cannot be followed, asking for a takeover", reason=reason)
        await asyncio.sleep(_RETRY_S)
        if term == self._position.promised:
            await self._bus.publish(votes(), NeedTakeover(self._worker, term, reason))
            self._changed.set()

    async def _close_all(self) -> None:
        for tail in self._tails.values():
            await tail.close()
        self._tails.clear()
        self._gaps.clear()
