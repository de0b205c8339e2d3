"""A read goes to the replica that is least busy, and to another one when that is late or away."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.support.virtual_time import run
from vector_db.common.core.messages import AnyMessage
from vector_db.common.core.messages.reads import CountReply, CountRequest
from vector_db.common.core.subjects import worker
from vector_db.common.model.errors import InvalidArgument, Unavailable
from vector_db.common.ports import BusTimeout, NoResponders
from vector_db.gateway.replicas import HEDGES_MAX, LATE_S, SHUNNED_S, Replicas

ABC = ("a", "b", "c")
ASKED = CountRequest(1, (0,), 1, b"")
QUICK_S = 0.01


class Bus:
    """Workers that answer after some time; `inf`: never."""

    def __init__(self) -> None:
        self.after_s: defaultdict[str, float] = defaultdict(lambda: QUICK_S)
        self.errors: dict[str, Exception] = {}
        self.asked: Counter[str] = Counter()
        self.cancelled: Counter[str] = Counter()

    async def request(self, subject: str, message: AnyMessage, timeout_s: float) -> AnyMessage:
        name = next(one for one in ABC if worker(one) == subject)
        self.asked[name] += 1
        try:
            await asyncio.sleep(min(self.after_s[name], timeout_s))
        except asyncio.CancelledError:
            self.cancelled[name] += 1
            raise
        if self.after_s[name] > timeout_s:
            raise BusTimeout(name)
        if name in self.errors:
            raise self.errors[name]
        return CountReply(ord(name))


class Rig:
    def __init__(self) -> None:
        self.bus = Bus()
        self.silent: set[str] = set()
        bus: Any = self.bus
        self.replicas = Replicas(bus, self.silent.__contains__)

    async def ask(self, workers: tuple[str, ...] = ABC) -> str:
        """Who answers."""
        name, reply = await self.replicas.ask(workers, ASKED, CountReply)
        assert reply.count == ord(name)
        return name


def drive(scenario: Callable[[Rig], Awaitable[None]]) -> None:
    async def main() -> None:
        await scenario(Rig())

    run(main())


async def elapsed_s(work: Awaitable[object]) -> float:
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    await work
    return loop.time() - started_s


def test_reads_are_spread_over_the_replicas() -> None:
    async def scenario(rig: Rig) -> None:
        for _ in range(30):
            await rig.ask()
        assert rig.bus.asked == {"a": 10, "b": 10, "c": 10}
        await asyncio.gather(*(rig.ask() for _ in range(30)))
        assert rig.bus.asked == {"a": 20, "b": 20, "c": 20}
        assert rig.replicas.hedged == 0

    drive(scenario)


def test_a_busy_replica_is_asked_less() -> None:
    async def scenario(rig: Rig) -> None:
        rig.bus.after_s["a"] = 0.4
        waiting = [asyncio.ensure_future(rig.ask()) for _ in range(3)]
        await asyncio.sleep(0.1)
        for _ in range(10):
            assert await rig.ask() in "bc"
        assert sorted([await one for one in waiting]) == ["a", "b", "c"]

    drive(scenario)


@pytest.mark.parametrize("error", [NoResponders("gone"), Unavailable("behind")])
def test_a_replica_that_is_away_is_made_up_for_at_once(error: Exception) -> None:
    async def scenario(rig: Rig) -> None:
        rig.bus.errors["a"] = error
        names = [await rig.ask() for _ in range(20)]
        assert set(names) == {"b", "c"}
        assert rig.bus.asked["a"] == 1, "asked last from then on"
        await asyncio.sleep(SHUNNED_S)
        assert await elapsed_s(rig.ask()) <= 3 * QUICK_S
        assert rig.bus.asked["a"] == 2

    drive(scenario)


def test_a_late_replica_costs_half_a_second_once() -> None:
    async def scenario(rig: Rig) -> None:
        rig.bus.after_s["a"] = float("inf")
        assert LATE_S <= await elapsed_s(rig.ask()) <= LATE_S + 2 * QUICK_S
        await asyncio.sleep(0)
        assert rig.bus.cancelled["a"] == 1, "nobody waits for it any more"
        for _ in range(20):
            assert await elapsed_s(rig.ask()) <= QUICK_S + 1e-9

    drive(scenario)


def test_what_takes_longer_than_most_is_asked_of_another_one() -> None:
    async def scenario(rig: Rig) -> None:
        for _ in range(200):
            await rig.ask()
        rig.bus.after_s["a"] = 0.3
        slow = [await elapsed_s(rig.ask()) for _ in range(3)]
        assert max(slow) <= 3 * QUICK_S
        assert rig.replicas.hedged == 1

    drive(scenario)


def test_hedges_stay_within_their_budget() -> None:
    async def scenario(rig: Rig) -> None:
        for _ in range(200):
            await rig.ask()
        for name in ABC:
            rig.bus.after_s[name] = 0.3
        for _ in range(100):
            await rig.ask()
        assert HEDGES_MAX <= rig.replicas.hedged <= HEDGES_MAX + 0.1 * 100 + 1

    drive(scenario)


def test_without_a_budget_another_one_is_asked_after_half_a_second_and_not_later() -> None:
    async def scenario(rig: Rig) -> None:
        for _ in range(200):
            await rig.ask()
        for name in ABC:
            rig.bus.after_s[name] = 0.1
        while rig.replicas.hedged < HEDGES_MAX:
            await asyncio.gather(*(rig.ask() for _ in range(3)))
        rig.bus.after_s.clear()
        for name in ABC:
            rig.bus.after_s[name] = QUICK_S
        first = min(ABC, key=lambda name: rig.bus.asked[name])
        rig.bus.after_s[first] = float("inf")
        assert await elapsed_s(rig.ask()) <= LATE_S + QUICK_S + 1e-9

    drive(scenario)


def test_a_silent_replica_is_asked_last() -> None:
    async def scenario(rig: Rig) -> None:
        rig.silent.add("b")
        for _ in range(20):
            await rig.ask()
        assert rig.bus.asked["b"] == 0
        rig.bus.errors |= {"a": NoResponders("gone"), "c": NoResponders("gone")}
        assert await rig.ask() == "b"

    drive(scenario)


def test_it_fails_only_when_all_fail_and_with_what_a_worker_said() -> None:
    async def scenario(rig: Rig) -> None:
        rig.bus.errors = {name: NoResponders("gone") for name in ABC}
        with pytest.raises(Unavailable, match="does not answer"):
            await rig.ask()
        assert rig.bus.asked == {"a": 1, "b": 1, "c": 1}
        rig.bus.errors = {name: InvalidArgument("no such thing") for name in ABC}
        with pytest.raises(InvalidArgument, match="no such thing"):
            await rig.ask()
        assert rig.bus.asked.total() == 4, "another replica would say the same"

    drive(scenario)


def test_one_replica_is_asked_again_until_it_is_known_to_be_away() -> None:
    async def scenario(rig: Rig) -> None:
        rig.bus.after_s["a"] = 7.0
        assert await rig.ask(("a",)) == "a"
        assert rig.bus.asked["a"] == 2
        rig.silent.add("a")
        rig.bus.after_s["a"] = float("inf")
        with pytest.raises(Unavailable):
            await rig.ask(("a",))
        assert rig.bus.asked["a"] == 3

    drive(scenario)


def test_who_gives_up_leaves_nothing_behind() -> None:
    async def scenario(rig: Rig) -> None:
        for name in ABC:
            rig.bus.after_s[name] = float("inf")
        asking = asyncio.ensure_future(rig.ask())
        await asyncio.sleep(3 * LATE_S)
        assert rig.bus.asked == {"a": 1, "b": 1, "c": 1}
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await asyncio.sleep(0)
        assert rig.bus.cancelled == {"a": 1, "b": 1, "c": 1}

    drive(scenario)
