"""What a gateway believes of the cluster: it only grows, and a stale catalog is not used."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.support.memory_bus import MemoryBus
from tests.support.virtual_time import LoopClock, run, turns
from vector_db.common.core.messages import AnyMessage
from vector_db.common.core.messages.catalog import CatalogReply, CatalogRequest
from vector_db.common.core.messages.reads import StrongReply, StrongRequest
from vector_db.common.core.messages.transactions import Beat, Outcome
from vector_db.common.core.subjects import beats, sequencer
from vector_db.common.model.collection import Collection, Metric
from vector_db.common.model.errors import NotFound, Unavailable
from vector_db.common.model.ids import make_ts
from vector_db.gateway.cluster import QUICK_TIMEOUTS_S, QUIET_S, ClusterView
from vector_db.gateway.core.requests import Consistency


def beat(
    stable_ts: int, term: int = 1, catalog_ts: int = 0, outcomes: tuple[Outcome, ...] = ()
) -> Beat:
    return Beat(term, "c", "cluster", stable_ts, catalog_ts, 5_000, 0, outcomes)


def collection(name: str, n: int) -> Collection:
    return Collection(make_ts(1, n), name, 4, Metric.COSINE, (0,))


class Leader:
    """The sequencer as the view sees it."""

    def __init__(self, bus: MemoryBus) -> None:
        self._bus = bus
        self.term = 1
        self.catalog_ts = 0
        self.stable_ts = make_ts(1, 0)
        self.collections: tuple[Collection, ...] = ()
        self.aliases: dict[str, int] = {}
        self.asked = 0

    async def serve(self) -> None:
        await self._bus.serve(sequencer(), self.answer)

    async def answer(self, message: AnyMessage) -> AnyMessage:
        if isinstance(message, StrongRequest):
            return StrongReply(self.term, self.stable_ts)
        assert isinstance(message, CatalogRequest)
        self.asked += 1
        replicas: dict[int, tuple[str, ...]] = {0: ("w1",)}
        return CatalogReply(
            self.term,
            self.catalog_ts,
            self.stable_ts,
            0,
            self.collections,
            replicas,
            (),
            self.aliases,
        )

    def create(self, name: str, n: int) -> None:
        self.collections += (collection(name, n),)
        self.catalog_ts = make_ts(1, n)

    async def beat(self, stable_ts: int = 0) -> None:
        self.stable_ts = max(self.stable_ts, stable_ts)
        await self._bus.publish(beats(), beat(self.stable_ts, self.term, self.catalog_ts))


Test = Callable[[ClusterView, Leader, MemoryBus], Awaitable[None]]


def with_view(test: Test) -> list[Outcome]:
    """Run `test` over a view that has started; returns the outcomes that the view handed on."""
    outcomes: list[Outcome] = []

    async def main() -> None:
        bus = MemoryBus()
        leader = Leader(bus)
        await leader.serve()
        view = ClusterView(bus, LoopClock(), outcomes.append)
        started = asyncio.create_task(view.start(5.0))
        await turns()
        await leader.beat()
        await started
        try:
            await test(view, leader, bus)
        finally:
            await view.stop()

    run(main())
    return outcomes


def test_it_starts_only_once_a_sequencer_leads() -> None:
    async def main() -> None:
        view = ClusterView(MemoryBus(), LoopClock(), lambda _: None)
        assert not view.ready()
        with pytest.raises(Unavailable):
            await view.start(3.0)
        assert asyncio.get_running_loop().time() == pytest.approx(3.0)
        await view.stop()

    run(main())


def test_stable_never_goes_back() -> None:
    async def test(view: ClusterView, leader: Leader, bus: MemoryBus) -> None:
        view.on_beat(beat(make_ts(1, 9)))
        view.on_beat(beat(make_ts(1, 4)))
        assert view.stable_ts == make_ts(1, 9)
        view.on_beat(beat(0, term=2))
        assert (view.term, view.stable_ts) == (2, make_ts(1, 9))

    with_view(test)


def test_the_beat_of_a_sequencer_that_was_replaced_is_ignored() -> None:
    async def test(view: ClusterView, leader: Leader, bus: MemoryBus) -> None:
        view.on_beat(beat(make_ts(2, 0), term=2))
        view.on_beat(beat(make_ts(2, 5), term=1, outcomes=(Outcome(b"old", 7),)))
        assert (view.term, view.stable_ts) == (2, make_ts(2, 0))

    assert with_view(test) == []


def test_the_outcomes_in_a_beat_are_handed_on_after_its_stable_ts_is_known() -> None:
    told = Outcome(b"t", make_ts(1, 3))

    async def test(view: ClusterView, leader: Leader, bus: MemoryBus) -> None:
        view.on_beat(beat(make_ts(1, 3), outcomes=(told,)))
        assert view.stable_ts == make_ts(1, 3)

    assert with_view(test) == [told]


def test_a_new_term_is_told_to_listeners_once() -> None:
    async def test(view: ClusterView, leader: Leader, bus: MemoryBus) -> None:
        heard: list[int] = []
        view.on_new_term.append(lambda: heard.append(view.term))
        for term in (1, 2, 2, 1, 4):
            view.on_beat(beat(1, term=term))
        assert heard == [2, 4]

    with_view(test)


def test_it_is_ready_only_while_a_sequencer_is_heard() -> None:
    async def test(view: ClusterView, leader: Leader, bus: MemoryBus) -> None:
        assert view.ready()
        await asyncio.sleep(QUIET_S + 0.1)
        assert not view.ready()
        await leader.beat()
        assert view.ready()

    with_view(test)


def test_the_sequencers_wall_time_goes_on_between_beats() -> None:
    async def test(view: ClusterView, leader: Leader, bus: MemoryBus) -> None:
        await leader.beat()
        await asyncio.sleep(1.5)
        assert view.wall_ms() == pytest.approx(6_500, abs=2)

    with_view(test)


# --- snapshots ------------------------------------------------------------------------------------


def test_a_read_waits_for_the_write_that_it_must_see_and_no_longer() -> None:
    async def test(view: ClusterView, leader: Leader, bus: MemoryBus) -> None:
        wanted = make_ts(1, 8)
        reads = [asyncio.create_task(view.snapshot(Consistency(at_least=wanted))) for _ in range(3)]
        await leader.beat(wanted - 1)
        await turns()
        assert not any(read.done() for read in reads)
        await leader.beat(wanted)
        await turns()
        assert [read.result() for read in reads] == [wanted] * 3

    with_view(test)


def test_a_snapshot_that_is_never_reached_is_said_to_be_unavailable() -> None:
    async def test(view: ClusterView, leader: Leader, bus: MemoryBus) -> None:
        with pytest.raises(Unavailable, match="is not reached"):
            await view.snapshot(Consistency(at_least=make_ts(1, 99)))

    with_view(test)


def test_a_read_that_is_given_up_leaves_no_waiter_that_a_later_beat_trips_over() -> None:
    async def test(view: ClusterView, leader: Leader, bus: MemoryBus) -> None:
        read = asyncio.create_task(view.snapshot(Consistency(at_least=make_ts(1, 8))))
        await turns()
        read.cancel()
        await turns()
        await leader.beat(make_ts(1, 8))
        assert await view.snapshot(Consistency()) == make_ts(1, 8)

    with_view(test)


def test_a_strong_read_asks_the_sequencer_and_waits_until_its_word_is_heard_here() -> None:
    async def test(view: ClusterView, leader: Leader, bus: MemoryBus) -> None:
        leader.stable_ts = make_ts(1, 6)
        read = asyncio.create_task(view.snapshot(Consistency(strong=True)))
        await turns()
        assert not read.done(), "this gateway has heard of an older snapshot only"
        await leader.beat()
        assert await read == make_ts(1, 6)

    with_view(test)


def test_a_sequencer_that_stands_still_is_not_asked_once_another_one_is_heard() -> None:
    """Both serve: the one that stands still does not know that its term is over."""

    async def test(view: ClusterView, leader: Leader, bus: MemoryBus) -> None:
        async def stand_still(message: AnyMessage) -> AnyMessage:
            await asyncio.Event().wait()
            raise AssertionError

        await bus.serve(sequencer(), stand_still)
        read = asyncio.create_task(view.snapshot(Consistency(strong=True)))
        await asyncio.sleep(0.5)
        leader.term = 2
        await bus.serve(sequencer(2), leader.answer)
        await leader.beat(make_ts(2, 0))
        await asyncio.sleep(QUICK_TIMEOUTS_S[0])
        assert read.done()
        assert await read == await view.snapshot(Consistency(strong=True)) == make_ts(2, 0)

    with_view(test)


def test_without_a_coordinator_a_strong_read_is_unavailable_and_a_default_one_is_not() -> None:
    async def test(view: ClusterView, leader: Leader, bus: MemoryBus) -> None:
        bus.up = False
        with pytest.raises(Unavailable):
            await view.snapshot(Consistency(strong=True))
        assert await view.snapshot(Consistency()) == view.stable_ts

    with_view(test)


# --- catalog --------------------------------------------------------------------------------------


def test_a_name_that_is_not_known_here_is_asked_for_before_it_is_said_to_be_absent() -> None:
    async def test(view: ClusterView, leader: Leader, bus: MemoryBus) -> None:
        leader.create("new", 1)
        assert await view.collection("new") == collection("new", 1)
        with pytest.raises(NotFound, match="'nothing'"):
            await view.collection("nothing")

    with_view(test)


def test_a_known_name_costs_no_request() -> None:
    async def test(view: ClusterView, leader: Leader, bus: MemoryBus) -> None:
        leader.create("c", 1)
        await view.collection("c")
        asked = leader.asked
        for _ in range(5):
            await leader.beat()
            await view.collection("c")
        assert leader.asked == asked

    with_view(test)


def test_a_catalog_older_than_the_announced_one_is_fetched_again_before_it_is_used() -> None:
    async def test(view: ClusterView, leader: Leader, bus: MemoryBus) -> None:
        leader.create("c", 1)
        await view.collection("c")
        # Dropped and made again: another collection of the same name.
        leader.collections = (collection("c", 3),)
        leader.catalog_ts = make_ts(1, 3)
        view.on_beat(beat(1, catalog_ts=make_ts(1, 3)))
        assert (await view.collection("c")).id == make_ts(1, 3)

    with_view(test)


def test_a_dropped_collection_is_gone_as_soon_as_the_drop_is_announced() -> None:
    async def test(view: ClusterView, leader: Leader, bus: MemoryBus) -> None:
        leader.create("c", 1)
        await view.collection("c")
        leader.collections = ()
        leader.catalog_ts = make_ts(1, 2)
        await leader.beat()
        await turns()
        assert view.collections() == []
        with pytest.raises(NotFound):
            await view.collection("c")

    with_view(test)


def test_an_older_catalog_never_replaces_a_newer_one() -> None:
    async def test(view: ClusterView, leader: Leader, bus: MemoryBus) -> None:
        old = await leader.answer(CatalogRequest())
        leader.create("c", 1)
        await view.refresh()
        view.take_catalog(old)
        assert [c.name for c in view.collections()] == ["c"]

    with_view(test)


def test_the_catalog_of_a_new_term_counts_even_where_a_takeover_undid_a_change() -> None:
    async def test(view: ClusterView, leader: Leader, bus: MemoryBus) -> None:
        leader.create("kept", 1)
        leader.create("undone", 2)
        await view.refresh()
        leader.term, leader.catalog_ts = 2, make_ts(1, 1)
        leader.collections = leader.collections[:1]
        await leader.beat(make_ts(2, 0))
        await view.refresh()
        assert [c.name for c in view.collections()] == ["kept"]

    with_view(test)


def test_after_a_takeover_undid_a_catalog_change_nobody_waits_for_that_change() -> None:
    """What was announced and then undone must not make every later use ask again."""

    async def test(view: ClusterView, leader: Leader, bus: MemoryBus) -> None:
        leader.create("kept", 1)
        leader.create("undone", 2)
        await view.refresh()
        leader.term, leader.catalog_ts = 2, make_ts(1, 1)
        leader.collections = leader.collections[:1]
        await leader.beat(make_ts(2, 0))
        await view.refresh()
        asked = leader.asked
        for _ in range(5):
            await leader.beat()
            await turns()
            await view.collection("kept")
        assert leader.asked == asked

    with_view(test)


def test_a_catalog_that_cannot_be_fetched_now_is_asked_for_again_at_the_next_beat() -> None:
    async def test(view: ClusterView, leader: Leader, bus: MemoryBus) -> None:
        leader.create("c", 1)
        announced = beat(1, catalog_ts=leader.catalog_ts)
        bus.up = False
        view.on_beat(announced)
        await turns()
        assert view.collections() == []
        bus.up = True
        view.on_beat(announced)
        await turns()
        assert [c.name for c in view.collections()] == ["c"]

    with_view(test)


# --- aliases --------------------------------------------------------------------------------------


def test_an_alias_is_followed_by_the_newest_catalog_announced_whoever_answers() -> None:
    async def test(view: ClusterView, leader: Leader, bus: MemoryBus) -> None:
        for n, name in ((1, "old"), (2, "new")):
            leader.create(name, n)
        old, new = leader.collections
        leader.aliases = {"now": old.id}
        leader.catalog_ts = make_ts(1, 3)
        await leader.beat(make_ts(1, 3))
        assert (await view.collection("now")).name == "old"
        # A switch is announced, and a coordinator that knows nothing of it answers.
        view.on_beat(beat(make_ts(1, 4), catalog_ts=make_ts(1, 4)))
        asked = asyncio.create_task(view.collection("now"))
        await turns()
        assert not asked.done()
        leader.aliases = {"now": new.id}
        leader.catalog_ts = make_ts(1, 4)
        await leader.beat(make_ts(1, 4))
        assert (await asked).name == "new"
        view.on_beat(beat(make_ts(1, 5), catalog_ts=make_ts(1, 5)))
        with pytest.raises(Unavailable, match="not here yet"):
            await view.collection("now")
        assert (await view.collection("new")).name == "new", "a name needs no newer catalog"

    with_view(test)


def test_an_answer_that_a_beat_overtook_does_not_hide_what_the_beat_announced() -> None:
    async def test(view: ClusterView, leader: Leader, bus: MemoryBus) -> None:
        leader.create("c", 1)
        overtaken = await leader.answer(CatalogRequest())
        view.on_beat(beat(make_ts(1, 2), catalog_ts=make_ts(1, 2)))
        view.take_catalog(overtaken)
        leader.create("d", 2)
        before = leader.asked
        await view.collection("c")
        assert leader.asked == before + 1, "the catalog that was announced is asked for"

    with_view(test)
