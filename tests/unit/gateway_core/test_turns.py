"""Turns at rows: who waits for whom, and that nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from random import Random

import pytest

from tests.support.virtual_time import run as run_virtual
from tests.unit.gateway_core.played import Cluster, upsert, with_cluster
from vector_db.common.core.messages.transactions import Prepare
from vector_db.common.model.errors import Conflict
from vector_db.gateway.core.requests import Idempotency
from vector_db.gateway.turns import ROWS_MAX, TURN_TIMEOUT_S, Turns

A, B, C = ("c", b"a"), ("c", b"b"), ("c", b"c")


class Writes:
    """Writes that take their turns and stay until they are let go."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.at_turn: list[str] = []
        self._let_go: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def begin(self, name: str, keys: Iterable[tuple[str, bytes]], alone: bool = True) -> None:
        self._let_go[name] = asyncio.Event()
        self._tasks[name] = asyncio.create_task(self._write(name, keys, alone))
        await self._settle()

    async def _write(self, name: str, keys: Iterable[tuple[str, bytes]], alone: bool) -> None:
        async with self.turns.turn(keys, alone):
            self.at_turn.append(name)
            await self._let_go[name].wait()
            self.at_turn.remove(name)

    async def end(self, name: str) -> None:
        self._let_go[name].set()
        await self._tasks[name]
        await self._settle()

    async def give_up(self, name: str) -> None:
        self._tasks[name].cancel()
        with pytest.raises(asyncio.CancelledError):
            await self._tasks[name]
        await self._settle()

    async def _settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)


def test_writes_of_a_row_go_one_by_one_in_their_order() -> None:
    async def run() -> None:
        writes = Writes()
        for name in ("first", "second", "third"):
            await writes.begin(name, [A])
        await writes.begin("elsewhere", [B])
        assert writes.at_turn == ["first", "elsewhere"]
        await writes.end("first")
        assert writes.at_turn == ["elsewhere", "second"]
        await writes.end("second")
        assert writes.at_turn == ["elsewhere", "third"]
        await writes.end("elsewhere")
        await writes.end("third")
        assert not writes.turns.lines()

    run_virtual(run())


def test_blind_upserts_go_together_and_mind_those_that_do_not() -> None:
    async def run() -> None:
        writes = Writes()
        await writes.begin("one", [A], alone=False)
        await writes.begin("two", [A], alone=False)
        await writes.begin("alone", [A])
        await writes.begin("late", [A], alone=False)
        assert writes.at_turn == ["one", "two"]
        await writes.end("one")
        assert writes.at_turn == ["two"]
        await writes.end("two")
        assert writes.at_turn == ["alone"]
        await writes.end("alone")
        assert writes.at_turn == ["late"]
        await writes.end("late")

    run_virtual(run())


def test_a_write_waits_for_all_of_its_rows() -> None:
    async def run() -> None:
        writes = Writes()
        await writes.begin("a", [A])
        await writes.begin("b", [B])
        await writes.begin("both", [A, B, A])
        await writes.end("a")
        assert writes.at_turn == ["b"]
        await writes.end("b")
        assert writes.at_turn == ["both"]
        await writes.end("both")

    run_virtual(run())


def test_who_gives_up_leaves_the_line() -> None:
    async def run() -> None:
        writes = Writes()
        await writes.begin("first", [A])
        await writes.begin("gone", [A, B])
        await writes.begin("behind", [B])
        assert writes.at_turn == ["first"]
        await writes.give_up("gone")
        assert writes.at_turn == ["first", "behind"]
        await writes.give_up("first")
        await writes.end("behind")
        assert not writes.turns.lines()

    run_virtual(run())


def test_nobody_waits_for_ever() -> None:
    async def run() -> None:
        writes, loop = Writes(), asyncio.get_running_loop()
        await writes.begin("slow", [A])
        started = loop.time()
        with pytest.raises(Conflict):
            async with writes.turns.turn([A], alone=True):
                pytest.fail("it was not its turn")
        assert loop.time() - started == pytest.approx(TURN_TIMEOUT_S, abs=0.1)
        await writes.end("slow")
        assert not writes.turns.lines()

    run_virtual(run())


def test_large_writes_take_no_turns() -> None:
    async def run() -> None:
        writes = Writes()
        many = [("c", str(i).encode()) for i in range(ROWS_MAX + 1)]
        await writes.begin("one", many)
        await writes.begin("two", many)
        assert writes.at_turn == ["one", "two"]
        await writes.end("one")
        await writes.end("two")

    run_virtual(run())


@pytest.mark.parametrize("seed", range(20))
def test_random_writes_never_meet_and_all_have_their_turn(seed: int) -> None:
    random = Random(seed)
    turns = Turns()
    inside: dict[tuple[str, bytes], list[bool]] = {key: [] for key in (A, B, C)}
    done = []

    async def write(number: int) -> None:
        keys = random.sample((A, B, C), random.randrange(1, 4))
        alone = random.random() < 0.5
        await asyncio.sleep(random.random())
        async with turns.turn(keys, alone):
            for key in keys:
                assert not (inside[key] and (alone or any(inside[key])))
                inside[key].append(alone)
            await asyncio.sleep(random.random() / 10)
            for key in keys:
                inside[key].remove(alone)
        done.append(number)

    async def run() -> None:
        await asyncio.gather(*(write(number) for number in range(40)))

    run_virtual(run())
    assert len(done) == 40
    assert not turns.lines()


@pytest.mark.parametrize("keyed", [False, True])
def test_patches_of_a_row_through_one_gateway_never_meet(keyed: bool) -> None:
    """Each is sent once, and merged into what the one before it wrote."""

    async def test(cluster: Cluster) -> None:
        database = cluster.database
        await database.write([upsert("a")])
        # Whatever is made when it is first needed is there.
        await database.write([upsert("b")], Idempotency(b"first", b"." * 16))
        before = _prepared(cluster)

        async def patch(n: int) -> None:
            key = Idempotency(b"%d" % n, b"." * 16) if keyed else None
            await database.patch_metadata("c", b"a", {f"n{n}": 1}, idempotency=key)

        await asyncio.gather(*map(patch, range(12)))
        assert _prepared(cluster) - before == 12
        (collection,) = (c for c in cluster.collections.values() if c.name == "c")
        found = cluster.latest(collection.id, b"a")
        assert found is not None
        assert all(f"n{n}".encode() in found.metadata for n in range(12))

    with_cluster(test)


def _prepared(cluster: Cluster) -> int:
    logs = cluster.broker.logs.values()
    return len({r.txn_id for log in logs for r in log if isinstance(r, Prepare)})
