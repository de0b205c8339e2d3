"""The spreader: pages asked of gateways, switches, and the end of what is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tests.support.memory_bus import MemoryBus
from tests.support.protocol import Replicas, collection, durable, takeover
from tests.support.virtual_time import run
from vector_db.common.core.messages import AnyMessage
from vector_db.common.core.messages.catalog import (
    CatalogReply,
    CopyReply,
    CopyRequest,
    DropCollectionRequest,
    Member,
    SpreadRequest,
)
from vector_db.common.core.subjects import gateways, shard_log
from vector_db.common.model.errors import (
    AlreadyExists,
    Conflict,
    Internal,
    NotFound,
    OutcomeUnknown,
    Unavailable,
    VectorDBError,
)
from vector_db.common.model.ids import make_ts
from vector_db.coordinator.core.sequencer import Sequencer
from vector_db.coordinator.requests import Requests
from vector_db.coordinator.spreading import KEPT_S, ROWS_MAX, TURN_S, Spreader
from vector_db.coordinator.term import Term

T = make_ts
PLACED: Replicas = {0: ("w1",)}
C = collection((0,), T(1, 2), "c")
D = collection((0,), T(1, 3), "d")
RETENTION_S = 100.0
SHARDS = 4

Page = CopyReply | VectorDBError | None


class Played:
    """One term with a spreader, whose workers are durable at once; pages as the test says."""

    def __init__(self, *pages: Page, placed: Replicas = PLACED) -> None:
        self.placed = placed
        self.bus = MemoryBus()
        self.wall_ms = 1_000
        self.asked: list[CopyRequest] = []
        self.copied = 0
        self.pages = list(pages)
        self.members = [Member("w1", 2, True, "", (0,), 0)]
        self.confirming = True

    def _begin(self) -> None:
        self.sequencer = Sequencer(
            2, takeover(2, T(1, 9), self.placed, collections=(C, D)), self.wall_ms
        )
        self.term = Term(self.bus, "c", self.sequencer, lambda: self.wall_ms)
        self.spreader = Spreader(
            self.bus, self.term, lambda: self.wall_ms, RETENTION_S, self._on_copied
        )
        self.requests = Requests(self.bus, self.term, SHARDS, 1, lambda: self.members)

    def _on_copied(self, rows: int) -> None:
        self.copied += rows

    async def answer(self, message: AnyMessage) -> AnyMessage:
        """A gateway."""
        assert isinstance(message, CopyRequest)
        self.asked.append(message)
        page = self.pages.pop(0) if self.pages else None
        if page is None:
            await asyncio.Event().wait()
        if isinstance(page, VectorDBError):
            raise page
        assert page is not None
        return page

    def confirm(self, ts: int | None = None) -> None:
        at = self.sequencer.last_ts if ts is None else ts
        for worker in sorted(self.sequencer.state.workers()):
            self.term.on_message(durable(worker, at, term=2))

    async def _workers(self) -> None:
        while True:
            if self.confirming:
                self.confirm()
            await asyncio.sleep(0.01)

    async def ask(self, message: AnyMessage) -> CatalogReply:
        reply = await self.requests.handle(message)
        assert isinstance(reply, CatalogReply)
        return reply

    async def lead(self, course: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """`course`, beside the term."""
        self._begin()
        serving = await self.bus.serve(gateways(), self.answer)
        leading = asyncio.create_task(self.term.lead(self._workers, self.spreader.run, self._heard))
        try:
            async with asyncio.timeout(1_000):
                await course()
        finally:
            leading.cancel()
            await asyncio.gather(leading, return_exceptions=True)
            await serving.close()

    async def _heard(self) -> None:
        while True:
            self.term.heard_itself()
            await asyncio.sleep(0.1)

    async def until(self, holds: Callable[[], bool]) -> None:
        for _ in range(2_000):
            if holds():
                return
            await asyncio.sleep(0.01)
        raise TimeoutError

    def shards(self, name: str = "c") -> int:
        found = self.sequencer.state.by_name(name)
        assert found is not None
        return len(found.shards)


def page(last: bytes, done: bool = False, read: int = 2, copied: int = 1) -> CopyReply:
    return CopyReply(last, done, read, copied)


def afters(played: Played) -> list[bytes]:
    return [request.after for request in played.asked]


# --- requests -------------------------------------------------------------------------------------


def test_a_request_makes_a_generation_on_other_shards_and_is_answered_once_that_is_durable() -> (
    None
):
    played = Played()

    async def course() -> None:
        reply = await played.ask(SpreadRequest("c", 3))
        assert reply.stable_ts >= reply.catalog_ts
        (filled,) = [c for c in reply.collections if c.replaces]
        assert (filled.name, filled.first_id, filled.replaces) == ("c", C.id, C.id)
        assert len(set(filled.shards)) == 3
        assert reply.replicas.keys() >= set(filled.shards)
        for shard in set(filled.shards) - {0}:
            assert shard_log(2, shard).stream in played.bus.logs, "its log is there before it"
        again = await played.ask(SpreadRequest("c", 3))
        assert again.collections == reply.collections
        with pytest.raises(AlreadyExists):
            await played.ask(SpreadRequest("c", 2))
        with pytest.raises(NotFound):
            await played.ask(SpreadRequest("nobody", 2))
        given_up = await played.ask(SpreadRequest("c", 1))
        assert set(given_up.collections) == {C, D}
        assert given_up.stable_ts >= given_up.catalog_ts

    run(played.lead(course))


def test_what_changes_nothing_is_answered_once_what_is_there_is_durable() -> None:
    played = Played(placed=dict.fromkeys(range(SHARDS), ("w1",)))

    async def course() -> None:
        await played.until(lambda: played.sequencer.placement_settled)
        played.confirming = False
        first = asyncio.create_task(played.ask(SpreadRequest("c", 2)))
        await played.until(lambda: played.sequencer.state.successor(C.id) is not None)
        with pytest.raises(Unavailable, match="decided, but not every shard worker"):
            await first
        second = asyncio.create_task(played.ask(SpreadRequest("c", 2)))
        await asyncio.sleep(1)
        assert not second.done()
        played.confirming = True
        reply = await second
        assert reply.stable_ts >= reply.catalog_ts

    run(played.lead(course))


def test_a_drop_by_name_ends_what_is_being_filled_too() -> None:
    played = Played()

    async def course() -> None:
        await played.ask(SpreadRequest("c", 2))
        reply = await played.ask(DropCollectionRequest("c"))
        assert reply.collections == (D,)

    run(played.lead(course))


# --- a pass ---------------------------------------------------------------------------------------


def test_a_pass_asks_for_one_page_after_the_other_and_then_switches() -> None:
    played = Played(page(b"b"), page(b"f", read=3, copied=3), page(b"k", done=True, copied=0))

    async def course() -> None:
        await played.ask(SpreadRequest("c", 2))
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        filled = played.sequencer.state.successor(C.id)
        assert filled is not None
        assert played.spreader.spreading() == 1
        await played.until(lambda: played.shards() == 2)
        assert played.asked == [
            CopyRequest(C.id, filled.id, after, ROWS_MAX) for after in (b"", b"b", b"f")
        ]
        assert loop.time() < begun_s + 2 * TURN_S, "pages follow each other without a pause"
        assert played.copied == 4
        await asyncio.sleep(2 * TURN_S)
        assert not played.spreader._passes
        assert played.spreader.spreading() == 0

    run(played.lead(course))


def test_no_page_is_asked_for_before_nothing_can_undo_the_generation() -> None:
    played = Played(page(b"b", done=True))

    async def course() -> None:
        await played.until(lambda: played.sequencer.placement_settled)
        played.confirming = False
        spreading = asyncio.create_task(played.ask(SpreadRequest("c", 2)))
        await played.until(lambda: played.sequencer.state.successor(C.id) is not None)
        await asyncio.sleep(4 * TURN_S)
        assert played.asked == []
        played.confirming = True
        await spreading
        await played.until(lambda: played.shards() == 2)

    run(played.lead(course))


@pytest.mark.parametrize(
    "failure", [Conflict("lost"), Unavailable("away"), OutcomeUnknown("sent"), None]
)
def test_a_page_that_failed_in_passing_is_asked_for_again_after_a_pause(failure: Page) -> None:
    played = Played(page(b"b"), failure, page(b"f", done=True))

    async def course() -> None:
        await played.ask(SpreadRequest("c", 2))
        await played.until(lambda: len(played.asked) == 2)
        await asyncio.sleep(TURN_S / 2)
        assert len(played.asked) == 2
        await played.until(lambda: played.shards() == 2)
        assert afters(played) == [b"", b"b", b"b"]

    run(played.lead(course))


@pytest.mark.parametrize(
    "failure", [Internal("3 rows here and 4 there"), CopyReply(b"b", False, 0, 0)]
)
def test_after_any_other_failure_the_pass_begins_anew(failure: Page) -> None:
    played = Played(page(b"b"), failure, page(b"f"), page(b"h", done=True))

    async def course() -> None:
        await played.ask(SpreadRequest("c", 2))
        await played.until(lambda: played.shards() == 2)
        assert afters(played) == [b"", b"b", b"", b"f"]

    run(played.lead(course))


def test_with_no_gateway_or_no_broker_it_waits() -> None:
    played = Played(page(b"b", done=True))

    async def course() -> None:
        nobody = await played.bus.serve(gateways(), played.answer)
        await nobody.close()
        await played.ask(SpreadRequest("c", 2))
        await asyncio.sleep(1)
        played.bus.up = False
        await asyncio.sleep(1)
        played.bus.up = True
        assert (played.shards(), played.asked) == (1, [])
        await played.bus.serve(gateways(), played.answer)
        await played.until(lambda: played.shards() == 2)

    run(played.lead(course))


def test_what_was_given_up_is_not_switched_to_and_another_spreading_begins_anew() -> None:
    played = Played(page(b"b"), None, page(b"f", done=True))

    async def course() -> None:
        await played.ask(SpreadRequest("c", 2))
        await played.until(lambda: len(played.asked) == 2)
        await played.ask(SpreadRequest("c", 1))
        await played.ask(SpreadRequest("c", 3))
        await played.until(lambda: played.shards() == 3)
        assert afters(played) == [b"", b"b", b""]
        assert played.asked[1].target != played.asked[2].target

    run(played.lead(course))


def test_a_generation_given_up_while_its_switch_waits_is_not_switched_to() -> None:
    played = Played(page(b"b"), page(b"f", done=True))

    async def course() -> None:
        await played.ask(SpreadRequest("c", 2))
        lock = played.term.changes._lock
        async with lock:
            giving_up = asyncio.create_task(played.ask(SpreadRequest("c", 1)))
            await played.until(lambda: len(played.asked) == 2)
            await asyncio.sleep(1)
        await giving_up
        await asyncio.sleep(1)
        assert played.sequencer.state.generations("c") == (C,)

    run(played.lead(course))


def test_a_switch_that_is_late_to_be_durable_is_decided_once() -> None:
    played = Played(page(b"b", done=True))

    async def course() -> None:
        await played.ask(SpreadRequest("c", 2))
        played.confirming = False
        await played.until(lambda: played.shards() == 2)
        decided_ts = played.sequencer.last_ts
        await asyncio.sleep(15)
        assert played.sequencer.last_ts == decided_ts
        played.confirming = True
        await played.until(lambda: played.sequencer.stable_ts == decided_ts)

    run(played.lead(course))


def test_two_collections_are_spread_though_one_does_not_get_on() -> None:
    played = Played()

    async def answer(message: AnyMessage) -> AnyMessage:
        assert isinstance(message, CopyRequest)
        if message.source == C.id:
            raise Unavailable("a shard is away")
        return page(b"z", done=True)

    async def course() -> None:
        await played.ask(SpreadRequest("c", 2))
        await played.ask(SpreadRequest("d", 2))
        await played.bus.serve(gateways(), answer)
        await played.until(lambda: played.shards("d") == 2)
        assert played.shards() == 1

    run(played.lead(course))


# --- what is over ---------------------------------------------------------------------------------


def test_what_was_replaced_ends_once_no_snapshot_needs_it() -> None:
    played = Played(page(b"b", done=True))

    async def course() -> None:
        await played.ask(SpreadRequest("c", 2))
        await played.until(lambda: played.shards() == 2)
        await asyncio.sleep(1)
        played.wall_ms += int((RETENTION_S + KEPT_S) * 1000) - 1
        await asyncio.sleep(1)
        assert len(played.sequencer.state.generations("c")) == 2
        played.wall_ms += 1
        await played.until(lambda: len(played.sequencer.state.generations("c")) == 1)
        assert played.shards() == 2

    run(played.lead(course))


def test_the_end_of_a_term_ends_the_wait_of_a_switch() -> None:
    played = Played(page(b"b", done=True))

    async def course() -> None:
        await played.ask(SpreadRequest("c", 2))
        played.confirming = False
        await played.until(lambda: played.shards() == 2)
        played.term.lose("another term has begun")
        await asyncio.sleep(1)
        asked = len(played.asked)
        await asyncio.sleep(5)
        assert len(played.asked) == asked

    run(played.lead(course))
