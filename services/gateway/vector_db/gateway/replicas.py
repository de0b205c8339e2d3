"""Which replica is asked: the least busy one that answers, and another when it does not in time.

Owns two promises. A read fails only when every replica of its shards is unavailable, or for what
any of them would say. And second requests stay few: one is sent once the first took a quarter
longer than nineteen of twenty do, out of a budget, or after half a second in any case.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from vector_db.common.core.messages import AnyMessage
from vector_db.common.core.subjects import worker
from vector_db.common.model.errors import Internal, Unavailable
from vector_db.common.ports import Bus, BusTimeout, BusUnavailable, NoResponders

READ_TIMEOUTS_S = (5.0, 10.0, 15.0)
"""A read that is not answered is asked again: its worker may have been restarted meanwhile."""
LATE_S = 0.5
"""After so long another replica is asked, whatever the budget says, and this one is avoided."""
SHUNNED_S = 3.0
"""A replica that was late or away is asked last for so long."""
HEDGE_S_MIN = 0.005
LONGER = 1.25
"""Than nineteen of twenty answers take: then another replica is asked."""
HEDGES_SHARE = 0.1
HEDGES_MAX = 10.0
"""At most so many hedges at once, and a tenth of the requests in the long run."""
_LATENCIES = 256
_LATENCIES_MIN = 32

Reply = TypeVar("Reply")


class Replicas:
    """The workers that one gateway asks."""

    def __init__(self, bus: Bus, is_silent: Callable[[str], bool]) -> None:
        """`is_silent`: whether a worker's heartbeats are missing."""
        self._bus = bus
        self._is_silent = is_silent
        self._in_flight: Counter[str] = Counter()
        self._asked: Counter[str] = Counter()
        self._shunned_until_s: dict[str, float] = {}
        self._latencies = Latencies()
        self._hedges_left = HEDGES_MAX
        self.hedged = 0

    async def ask(
        self, workers: Sequence[str], message: AnyMessage, kind: type[Reply]
    ) -> tuple[str, Reply]:
        """(the worker that answered, its answer); all of `workers` could.

        :raises Unavailable: none of them answers.
        :raises VectorDBError: what the worker said.
        """
        if len(workers) == 1:
            return workers[0], await self._ask_one(workers[0], message, kind)
        self._hedges_left = min(HEDGES_MAX, self._hedges_left + HEDGES_SHARE)
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        race: _Race[Reply] = _Race(
            lambda one: self._ask_one(one, message, kind),
            self._ranked(workers, started_s),
            max(HEDGE_S_MIN, min(LATE_S, LONGER * self._latencies.p95_s)),
            self._may_hedge,
            self._count,
        )
        first = race.order[0]
        try:
            winner, reply = await race.run()
        finally:
            race.stop()
        took_s = loop.time() - started_s
        if winner != first and (took_s >= LATE_S or first in race.failed):
            self._shunned_until_s[first] = loop.time() + SHUNNED_S
        self._shunned_until_s.pop(winner, None)
        self._latencies.add(took_s)
        return winner, reply

    def _ranked(self, workers: Sequence[str], now_s: float) -> list[str]:
        def rank(one: str) -> tuple[bool, int, int, str]:
            shunned = self._is_silent(one) or self._shunned_until_s.get(one, 0.0) > now_s
            return shunned, self._in_flight[one], self._asked[one], one

        return sorted(workers, key=rank)

    def _count(self, one: str, requests: int) -> None:
        self._in_flight[one] += requests
        self._asked[one] += requests > 0

    def _may_hedge(self) -> bool:
        if self._hedges_left < 1:
            return False
        self._hedges_left -= 1
        self.hedged += 1
        return True

    async def _ask_one(self, replica: str, message: AnyMessage, kind: type[Reply]) -> Reply:
        for timeout_s in READ_TIMEOUTS_S:
            try:
                reply = await self._bus.request(worker(replica), message, timeout_s)
            except (NoResponders, BusUnavailable) as error:
                raise Unavailable(f"shard worker {replica} does not answer") from error
            except BusTimeout:
                if self._is_silent(replica):
                    break
                continue
            if not isinstance(reply, kind):
                raise Internal(f"shard worker {replica} answered {type(reply).__name__}")
            return reply
        raise Unavailable(f"shard worker {replica} does not answer")


class Latencies:
    """The last answers' times."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=_LATENCIES)
        self._since = 0
        self.p95_s = LATE_S
        """Until enough is known, the time after which an answer is late."""

    def add(self, seconds: float) -> None:
        """One more answer."""
        self._seconds.append(seconds)
        self._since += 1
        if self._since >= _LATENCIES_MIN:
            self._since = 0
            self.p95_s = sorted(self._seconds)[len(self._seconds) * 95 // 100]


class _Race(Generic[Reply]):
    """One request to several replicas, one after another, until the first answer."""

    def __init__(
        self,
        ask: Callable[[str], Awaitable[Reply]],
        order: list[str],
        hedge_s: float,
        may_hedge: Callable[[], bool],
        count: Callable[[str, int], None],
    ) -> None:
        """`count` is told of each request that begins (1) and ends (-1)."""
        self.order = order
        self.failed: set[str] = set()
        self._ask = ask
        self._hedge_s = hedge_s
        self._may_hedge = may_hedge
        self._count = count
        self._loop = asyncio.get_running_loop()
        self._started_s = self._loop.time()
        self._next = 0
        self._tasks: list[asyncio.Task[Reply]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._answer: asyncio.Future[tuple[str, Reply]] = self._loop.create_future()

    async def run(self) -> tuple[str, Reply]:
        """The first answer, and whose it is.

        :raises VectorDBError: what a replica answered; the last one's when none is available.
        """
        self._start()
        return await self._answer

    def stop(self) -> None:
        """Ask nobody any more."""
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()

    def _start(self) -> None:
        one = self.order[self._next]
        self._next += 1
        task = asyncio.ensure_future(self._ask(one))
        self._count(one, 1)
        self._tasks.append(task)
        task.add_done_callback(lambda done: self._ended(one, done))
        if self._next < len(self.order):
            self._timer = self._loop.call_later(self._hedge_s, self._is_slow)

    def _is_slow(self) -> None:
        late = self._loop.time() - self._started_s >= LATE_S
        if late or self._may_hedge():
            self._start()
        else:
            self._timer = self._loop.call_at(self._started_s + LATE_S, self._start)

    def _ended(self, one: str, task: asyncio.Task[Reply]) -> None:
        self._count(one, -1)
        if task.cancelled() or self._answer.done():
            if not task.cancelled():
                task.exception()  # another replica has answered
            return
        error = task.exception()
        if error is None:
            self._answer.set_result((one, task.result()))
            return
        self.failed.add(one)
        if not isinstance(error, Unavailable):
            self._answer.set_exception(error)
        elif self._next < len(self.order):
            if self._timer is not None:
                self._timer.cancel()
            self._start()
        elif len(self.failed) == len(self.order):
            self._answer.set_exception(error)
