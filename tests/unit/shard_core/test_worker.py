"""The driver of a participant over a real log: waiting, asking peers, turns, and what is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.dict_store import DictStore
from tests.support.memory_bus import MemoryBus
from tests.support.protocol import (
    COLLECTION,
    Replicas,
    block,
    collection,
    first_takeover,
    prepare,
    stage,
    txn,
)
from tests.support.virtual_time import run
from tests.unit.shard_core.driver import SNAPSHOT, T, abort, commit, later
from tests.unit.shard_wal.memory_disk import MemoryDisk
from vector_db.common.core.codec import encode
from vector_db.common.core.messages import AnyMessage
from vector_db.common.core.messages.catching_up import EnterReply, PartRequest, TailRequest
from vector_db.common.core.messages.decisions import (
    CreateCollection,
    Decision,
    DecisionRecord,
    SetPlacement,
)
from vector_db.common.core.messages.reads import Overlay
from vector_db.common.core.messages.transactions import Beat, Durable, Prepare, Stage, Vote
from vector_db.common.core.subjects import votes
from vector_db.common.core.subjects import worker as worker_subject
from vector_db.common.model.errors import StorageCorrupt
from vector_db.shard import fetching
from vector_db.shard import worker as driver
from vector_db.shard.core import staging
from vector_db.shard.core.participant import Participant
from vector_db.shard.storage.records import LostRecord, PromiseRecord, WalChunks, parse
from vector_db.shard.storage.wal import Wal
from vector_db.shard.worker import Worker

SHARED: Replicas = {0: ("w1", "w2")}
CHUNKS = [stage("t", i, block(f"k{i}")) for i in range(3)]
WHOLE = prepare("t", block("end"), mode="blind", stages=CHUNKS)
KEYS = {b"k0", b"k1", b"k2", b"end"}


class Node:
    """A worker that is driven by hand, on a bus of the test."""

    def __init__(self, bus: MemoryBus, name: str, replicas: Replicas) -> None:
        self.name = name
        self.bus = bus
        self.replicas = replicas
        self.disk = MemoryDisk()
        self.store = DictStore()
        self.wal, _ = Wal.open(self.disk)
        self.participant = Participant(name, self.store, WalChunks(self.wal))
        self.pool = ThreadPoolExecutor(1)
        self.worker = Worker(
            bus,
            self.participant,
            self.wal,
            self.pool,
            on_applied=lambda: None,
            on_dropped=lambda _: None,
            on_removed=lambda _: None,
        )
        self.seq = 0
        self.prev = 0
        self.tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self.tasks = [
            asyncio.create_task(self.worker.run()),
            asyncio.create_task(self.worker.fetcher.run()),
        ]
        await self.bus.serve(worker_subject(self.name), self.answer)
        self.beat(1)
        await self.decide(
            first_takeover(),
            SetPlacement(T(1, 1), self.replicas),
            CreateCollection(COLLECTION, collection((0, 1, 2))),
        )

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.pool.shutdown()

    async def answer(self, message: AnyMessage) -> AnyMessage:
        match message:
            case PartRequest():
                return self.worker.part(message)
            case TailRequest():
                return self.worker.tail(message)
            case _:
                raise TypeError(str(message))

    def beat(self, term: int, stable_ts: int = 0) -> None:
        self.worker.on_control(Beat(term, f"c{term}", "cluster", stable_ts, 0, 1_000))

    def feed(self, shard: int | None, message: AnyMessage, term: int = 1) -> None:
        self.seq += 1
        self.worker._on_record(shard, term, self.seq, encode(message))

    async def take(self, *messages: Prepare | Stage) -> None:
        for message in messages:
            self.feed(message.shard, message)
        await self.through()

    async def decide(self, *decisions: Decision, prev: int = -1, term: int = 1) -> None:
        prev = self.prev if prev < 0 else prev
        self.feed(None, DecisionRecord(term, prev, 1_000, decisions), term)
        self.prev = decisions[-1].ts
        await self.through()

    async def through(self) -> None:
        """Everything that was fed is done."""
        await self.worker.between_groups(lambda: None)

    def replayed(self) -> DictStore:
        """The rows that the synced log alone makes."""
        wal, _ = Wal.open(MemoryDisk(self.disk.synced))
        store = DictStore()
        participant = Participant(self.name, store, WalChunks(wal))
        for lsn, record_type, payload in wal.replay(1):
            parsed = parse(record_type, payload, lsn)
            if isinstance(parsed, PromiseRecord):
                participant.takeovers.adopt_term(parsed.term, parsed.coordinator)
            elif isinstance(parsed, LostRecord):
                participant.lose(parsed.shard)
            elif isinstance(parsed, EnterReply):
                participant.enter(parsed, lsn)
            elif isinstance(parsed[1], DecisionRecord):
                participant.apply(parsed[1], parsed[0], lsn)
            else:
                participant.take(parsed[1], parsed[0], lsn, replaying=True)
        return store


def drive(scenario: Callable[[Node, Node], Awaitable[None]], replicas: Replicas = SHARED) -> None:
    """Two workers on one bus, in virtual time."""

    async def main() -> None:
        bus = MemoryBus()
        nodes = [Node(bus, name, replicas) for name in ("w1", "w2")]
        try:
            for node in nodes:
                await node.start()
            await scenario(nodes[0], nodes[1])
        finally:
            for node in nodes:
                await node.stop()

    run(main())


# --- open transactions ---------------------------------------------------------------------------


def test_a_read_waits_for_the_chunks_that_it_must_see() -> None:
    async def scenario(node: Node, _: Node) -> None:
        overlay = Overlay(txn("t"), 1, {0: 3})
        waiting = asyncio.create_task(node.worker.wait_for_chunks(overlay, 60.0))
        await node.take(*CHUNKS[:2])
        assert not waiting.done()
        await node.take(CHUNKS[2])
        assert await waiting
        assert await node.worker.wait_for_chunks(overlay, 60.0)

    drive(scenario)


def test_a_wait_for_chunks_ends_with_its_time_its_transaction_or_its_term() -> None:
    async def scenario(node: Node, _: Node) -> None:
        loop = asyncio.get_running_loop()
        overlay = Overlay(txn("t"), 1, {0: 3})
        began = loop.time()
        assert not await node.worker.wait_for_chunks(overlay, 2.0)
        assert loop.time() - began == pytest.approx(2.0)
        waits = [
            asyncio.create_task(node.worker.wait_for_chunks(Overlay(txn(name), 1, {0: 3}), 60.0))
            for name in ("t", "u")
        ]
        await node.decide(abort(3, "t"))
        assert not await waits[0]
        assert not waits[1].done()
        node.beat(2)
        assert not await waits[1]
        assert not await node.worker.wait_for_chunks(overlay, 60.0)
        assert loop.time() - began < 3.0

    drive(scenario)


# --- what is missing -----------------------------------------------------------------------------


@pytest.mark.parametrize("reply_bytes", [1, 1 << 20], ids=["record by record", "at once"])
def test_rows_that_never_came_are_fetched_after_a_while(
    monkeypatch: pytest.MonkeyPatch, reply_bytes: int
) -> None:
    monkeypatch.setattr(fetching, "PEER_REPLY_BYTES_MAX", reply_bytes)

    async def scenario(node: Node, peer: Node) -> None:
        await peer.take(*CHUNKS, WHOLE)
        await peer.decide(commit(3, "t"))
        await node.take(CHUNKS[0])
        began = asyncio.get_running_loop().time()
        await node.decide(commit(3, "t"))
        assert node.bus.requests == [], "they may still be on their way"
        assert await node.worker.wait_for_cursor(T(1, 3), 10.0)
        waited = asyncio.get_running_loop().time() - began
        assert fetching.ROWS_WAIT_S <= waited < fetching.ROWS_WAIT_S * 2 + 4
        assert node.store.rows == peer.store.rows
        assert node.store.alive().keys() == KEYS
        assert node.replayed().rows == peer.store.rows
        asked = [m for _, m in node.bus.requests if isinstance(m, PartRequest)]
        assert [m.skip for m in asked] == ([1, 2, 3] if reply_bytes == 1 else [1])

    drive(scenario)


def test_a_peer_that_does_not_have_the_rows_yet_is_asked_again() -> None:
    async def scenario(node: Node, peer: Node) -> None:
        await node.decide(commit(3, "t"))
        await asyncio.sleep(10.0)
        assert node.participant.cursor == SNAPSHOT
        await peer.take(*CHUNKS, WHOLE)
        assert await node.worker.wait_for_cursor(T(1, 3), 10.0)
        assert node.store.alive().keys() == KEYS

    drive(scenario)


def test_what_a_takeover_does_not_tell_is_fetched_at_once() -> None:
    async def scenario(node: Node, peer: Node) -> None:
        await peer.take(*CHUNKS, WHOLE)
        await peer.decide(commit(3, "t"))
        first = later(T(1, 3), after=T(1, 3), replicas=SHARED)
        for it in (peer, node):
            it.beat(2)
            await it.decide(first, prev=T(1, 3), term=2)
        began = asyncio.get_running_loop().time()
        assert await node.worker.wait_for_cursor(T(2, 0), 10.0)
        assert asyncio.get_running_loop().time() - began < 0.5
        assert node.store.rows == peer.store.rows
        assert node.replayed().rows == peer.store.rows

    drive(scenario)


def test_a_worker_that_lost_what_nobody_else_has_refuses_to_go_on() -> None:
    alone: Replicas = {0: ("w1",)}

    async def scenario(node: Node, _: Node) -> None:
        lost = DecisionRecord(1, SNAPSHOT, 1_000, (commit(3, "t"),))
        node.beat(2)
        first = later(T(1, 3), after=SNAPSHOT, decisions=(lost,), replicas=alone)
        await node.decide(first, prev=T(1, 3), term=2)
        with pytest.raises(StorageCorrupt, match="behind its cluster"):
            await asyncio.wait_for(asyncio.shield(node.tasks[1]), 5.0)
        assert node.participant.cursor == SNAPSHOT

    drive(scenario, alone)


def test_the_only_replica_waits_for_rows_that_are_on_their_way() -> None:
    alone: Replicas = {0: ("w1",)}

    async def scenario(node: Node, _: Node) -> None:
        await node.decide(commit(3, "t"))
        await asyncio.sleep(30.0)
        assert not node.tasks[1].done()
        await node.take(*CHUNKS, WHOLE)
        assert node.store.alive().keys() == KEYS

    drive(scenario, alone)


# --- large transactions --------------------------------------------------------------------------


def test_other_tasks_get_turns_while_a_large_commit_is_applied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(driver, "ROWS_PER_TURN", 1)
    monkeypatch.setattr(staging, "STAGED_PART_BYTES_MAX", 40)

    async def scenario(node: Node, _: Node) -> None:
        chunks = [stage("t", i, block(f"k{i}")) for i in range(20)]
        await node.take(*chunks, prepare("t", mode="blind", stages=chunks))
        seen: list[tuple[int, int]] = []

        async def watch() -> None:
            while node.participant.cursor < T(1, 3):
                seen.append((node.participant.cursor, len(node.store.rows)))
                await asyncio.sleep(0)

        watching = asyncio.create_task(watch())
        await node.decide(commit(3, "t"))
        await watching
        assert len({rows for _, rows in seen}) > 15
        assert {cursor for cursor, _ in seen} == {SNAPSHOT}
        assert len(node.store.alive()) == 20
        assert node.replayed().rows == node.store.rows

    drive(scenario)


# --- what is told --------------------------------------------------------------------------------


def test_logs_are_needed_from_the_last_checkpoint_on() -> None:
    async def scenario(node: Node, _: Node) -> None:
        told: list[Durable] = []

        def listen(message: AnyMessage) -> None:
            if isinstance(message, Durable) and message.worker == "w1":
                told.append(message)

        await node.bus.subscribe(votes(), listen)
        await node.take(prepare("t", block("a"), mode="blind"))
        await node.decide(commit(3, "t"))
        assert (told[-1].cursor, told[-1].flushed, told[-1].decision_seq) == (T(1, 3), {}, 0)
        node.beat(1, stable_ts=T(1, 3))
        await node.through()
        saved = node.participant.checkpoint(node.wal.next_lsn)
        assert saved is not None
        node.worker.checkpointed(saved)
        await node.decide(abort(4, "x"))
        last = told[-1]
        assert (last.cursor, last.flushed) == (T(1, 4), node.participant.term.positions)
        assert 0 < last.decision_seq < node.participant.term.decision_seq
        node.beat(2, stable_ts=T(1, 3))
        await node.through()
        assert (told[-1].term, told[-1].flushed, told[-1].decision_seq) == (2, {}, 0)

    drive(scenario)


def test_a_vote_leaves_only_once_its_chunks_are_synced() -> None:
    async def scenario(node: Node, _: Node) -> None:
        synced: list[int] = []

        def listen(message: AnyMessage) -> None:
            if isinstance(message, Vote) and message.worker == "w1":
                synced.append(node.wal.durable_lsn)

        await node.bus.subscribe(votes(), listen)
        await node.take(*CHUNKS, WHOLE)
        assert synced == [node.wal.next_lsn - 1]

    drive(scenario)
