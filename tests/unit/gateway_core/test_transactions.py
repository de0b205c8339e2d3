"""The client's side of a commit, with the sequencer and the workers played by the test."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import numpy as np
import pytest

from tests.support.memory_bus import MemoryBus
from tests.support.virtual_time import LoopClock, run, turns
from vector_db.common.adapters.loopback_bus import LoopbackBus
from vector_db.common.core.messages import AnyMessage
from vector_db.common.core.messages.catalog import CatalogReply, CatalogRequest, Member
from vector_db.common.core.messages.transactions import (
    Beat,
    Outcome,
    Prepare,
    Stage,
    TxnStatus,
    TxnStatusRequest,
)
from vector_db.common.core.subjects import (
    beats,
    members,
    outcomes,
    sequencer,
    shard_log,
    worker,
)
from vector_db.common.model.errors import (
    AlreadyExists,
    Conflict,
    OutcomeUnknown,
    TooManyRequests,
    Unavailable,
)
from vector_db.common.model.ids import make_ts
from vector_db.common.model.limits import UNACKED_BYTES_PER_SHARD_MAX
from vector_db.common.model.rows import Blob, RowBlock, chunks_checksum, hash_ids
from vector_db.gateway.bounds import ROOM_TIMEOUT_S
from vector_db.gateway.cluster import MEMBER_TIMEOUT_S, ClusterView
from vector_db.gateway.core.partition import Routed, ShardPart
from vector_db.gateway.transactions import (
    AGAIN_AFTER_S,
    RETRIES_MAX,
    TXN_TIMEOUT_S,
    UNKNOWN_AFTER_S,
    Committed,
    Transactions,
)

GATEWAY = "g"


def block(*ids: bytes) -> RowBlock:
    vectors = np.zeros((len(ids), 1), dtype="<f4").tobytes()
    return RowBlock(1, 1, Blob.pack(ids), hash_ids(ids).tobytes(), vectors)


def part(shard: int, chunks: int = 1, size_bytes: int = 100) -> ShardPart:
    return ShardPart(shard, [(block(b"%d-%d" % (shard, i)),) for i in range(chunks)], size_bytes)


def parts(*some: ShardPart) -> Callable[[], Routed]:
    return lambda: Routed({one.shard: one for one in some}, 0)


class World:
    """One gateway in term 1, whose two shards live on workers w0 and w1."""

    def __init__(self) -> None:
        self.broker = MemoryBus()
        self.bus = LoopbackBus(self.broker)
        self.transactions = Transactions(self.bus, GATEWAY)
        self.view = ClusterView(self.bus, LoopClock(), self.transactions.on_outcome)
        self.term = 1
        self.stable_ts = make_ts(1, 0)
        self.known: dict[bytes, TxnStatus] = {}
        """What the sequencer says of transactions."""
        self.remembered: dict[bytes, TxnStatus] = {}
        """What every worker says of transactions."""
        self.asked: list[AnyMessage] = []
        self._beats: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.bus.serve(sequencer(), self._answer)
        for name in ("w0", "w1"):
            await self.bus.serve(worker(name), self._remember)
        await self.transactions.start(self.view)
        self._beats = asyncio.create_task(self._beat_on())
        await self.view.start(5.0)

    async def stop(self) -> None:
        if self._beats is not None:
            self._beats.cancel()
        await self.transactions.stop()
        await self.view.stop()

    def silence(self) -> None:
        """The sequencer is gone: no beat, no answer."""
        if self._beats is not None:
            self._beats.cancel()
        self.broker.up = False

    async def _beat_on(self) -> None:
        while True:
            await self.tell()
            await asyncio.sleep(0.5)

    async def tell(self, *told: Outcome) -> None:
        """A beat to this gateway, with outcomes."""
        beat = Beat(self.term, "c", "cluster", self.stable_ts, 0, 1_000_000, 0, told)
        await self.bus.publish(outcomes(GATEWAY) if told else beats(), beat)

    async def commit_all(self, n: int, deleted: int = 0) -> None:
        """Everything prepared is committed at (term, n)."""
        self.stable_ts = make_ts(self.term, n)
        await self.tell(*(Outcome(t, self.stable_ts, deleted) for t in self.sent()))

    async def abort_all(self, reason: str) -> None:
        await self.tell(*(Outcome(t, 0, 0, reason, "because") for t in self.sent()))

    def records(self, shard: int, term: int = 1) -> list[Prepare | Stage]:
        found = self.broker.logs[shard_log(term, shard).stream]
        return [r for r in found if isinstance(r, Prepare | Stage)]

    def prepares(self) -> list[Prepare]:
        """Every PREPARE of every shard and term, in the order of the logs."""
        logs: Iterable[list[AnyMessage]] = self.broker.logs.values()
        return [r for log in logs for r in log if isinstance(r, Prepare)]

    def sent(self) -> list[bytes]:
        return list(dict.fromkeys(p.txn_id for p in self.prepares()))

    async def heartbeat(self, name: str) -> None:
        await self.bus.publish(members(), Member(name, self.term, True, "", (), self.stable_ts))

    async def _answer(self, message: AnyMessage) -> AnyMessage:
        self.asked.append(message)
        if isinstance(message, TxnStatusRequest):
            return self.known.get(message.txn_id, TxnStatus("unknown"))
        assert isinstance(message, CatalogRequest)
        replicas: dict[int, tuple[str, ...]] = {0: ("w0",), 1: ("w1",)}
        return CatalogReply(self.term, 0, self.stable_ts, 0, (), replicas, ())

    async def _remember(self, message: AnyMessage) -> AnyMessage:
        assert isinstance(message, TxnStatusRequest)
        return self.remembered.get(message.txn_id, TxnStatus("unknown"))


def with_world(test: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        world = World()
        await world.start()
        try:
            await test(world)
        finally:
            await world.stop()

    run(main())


def begin(
    world: World, *some: ShardPart, mode: str = "blind", snapshot_ts: int = 0
) -> asyncio.Task[Committed]:
    work = world.transactions.commit(parts(*(some or (part(0),))), mode, snapshot_ts)
    return asyncio.create_task(work)


# --- told -----------------------------------------------------------------------------------------


def test_an_outcome_that_is_told_is_the_answer() -> None:
    async def test(world: World) -> None:
        write = begin(world)
        await turns()
        assert not write.done()
        await world.commit_all(4, deleted=3)
        assert await write == Committed(make_ts(1, 4), 3)
        assert world.transactions.in_flight() == 0

    with_world(test)


def test_every_participant_is_sent_one_prepare_that_names_them_all() -> None:
    async def test(world: World) -> None:
        write = begin(world, part(1), part(0), mode="snapshot")
        await turns()
        first, second = world.prepares()
        assert {first.shard, second.shard} == {0, 1}
        for prepare in (first, second):
            assert prepare.participants == (0, 1)
            assert prepare.txn_id == first.txn_id
            assert (prepare.term, prepare.mode, prepare.gateway) == (1, "snapshot", GATEWAY)
            assert prepare.snapshot_ts == world.stable_ts
            now_ms = world.view.wall_ms()
            assert now_ms < prepare.deadline_ms <= now_ms + TXN_TIMEOUT_S * 1000
        await world.commit_all(1)
        await write

    with_world(test)


def test_the_chunks_of_a_large_part_come_before_the_prepare_that_counts_them() -> None:
    async def test(world: World) -> None:
        large = part(0, chunks=4)
        write = begin(world, large)
        await turns()
        *stages, prepare = world.records(0)
        assert [s.index for s in stages if isinstance(s, Stage)] == [0, 1, 2]
        assert isinstance(prepare, Prepare)
        assert [r.blocks for r in (*stages, prepare)] == large.chunks
        assert prepare.stages == 3
        assert prepare.stages_crc == chunks_checksum(large.chunks[:-1])
        await world.commit_all(1)
        await write

    with_world(test)


def test_the_outcome_of_another_transaction_is_nobodys_answer() -> None:
    async def test(world: World) -> None:
        write = begin(world)
        await turns()
        await world.tell(Outcome(b"x" * 16, make_ts(1, 9)))
        await turns()
        assert not write.done()
        await world.commit_all(10)
        assert (await write).commit_ts == make_ts(1, 10)

    with_world(test)


def test_a_reason_that_no_retry_mends_is_told_at_once() -> None:
    async def test(world: World) -> None:
        write = begin(world, mode="snapshot")
        await turns()
        await world.abort_all("already_exists")
        with pytest.raises(AlreadyExists, match="because"):
            await write
        assert len(world.prepares()) == 1

    with_world(test)


# --- retried --------------------------------------------------------------------------------------


def test_a_conflict_is_tried_again_under_a_new_id_at_a_newer_snapshot() -> None:
    async def test(world: World) -> None:
        write = begin(world, mode="snapshot")
        await turns()
        world.stable_ts = make_ts(1, 7)
        await world.abort_all("conflict")
        await asyncio.sleep(1.0)
        first, second = world.prepares()
        assert first.txn_id != second.txn_id
        assert (first.snapshot_ts, second.snapshot_ts) == (make_ts(1, 0), make_ts(1, 7))
        await world.commit_all(8)
        assert (await write).commit_ts == make_ts(1, 8)

    with_world(test)


def test_a_write_that_is_based_on_a_snapshot_is_not_tried_again_at_another() -> None:
    async def test(world: World) -> None:
        write = begin(world, mode="snapshot", snapshot_ts=make_ts(1, 0))
        await turns()
        await world.abort_all("conflict")
        with pytest.raises(Conflict):
            await write
        assert len(world.prepares()) == 1

    with_world(test)


def test_a_write_that_always_conflicts_is_given_up() -> None:
    async def test(world: World) -> None:
        write = begin(world)
        while not write.done():
            await world.abort_all("conflict")
            await asyncio.sleep(0.001)
        with pytest.raises(Conflict):
            await write
        assert len(world.prepares()) == RETRIES_MAX + 1

    with_world(test)


# --- lost -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("deleted", [0, 5])
def test_an_outcome_that_was_lost_on_the_way_is_found_by_asking(deleted: int) -> None:
    async def test(world: World) -> None:
        write = begin(world)
        await turns()
        (txn_id,) = world.sent()
        world.stable_ts = ts = make_ts(1, 2)
        world.known[txn_id] = TxnStatus("committed", ts, deleted=deleted)
        assert await write == Committed(ts, deleted)

    with_world(test)


def test_an_abort_that_was_lost_on_the_way_is_found_by_asking() -> None:
    async def test(world: World) -> None:
        write = begin(world)
        await turns()
        (txn_id,) = world.sent()
        world.known[txn_id] = TxnStatus("aborted", 0, "not_found", "the collection was dropped")
        with pytest.raises(Exception, match="the collection was dropped"):
            await write

    with_world(test)


def test_a_commit_found_by_asking_is_told_only_once_nothing_can_undo_it() -> None:
    async def test(world: World) -> None:
        write = begin(world)
        await turns()
        (txn_id,) = world.sent()
        ts = make_ts(1, 2)
        world.known[txn_id] = TxnStatus("committed", ts)
        await asyncio.sleep(TXN_TIMEOUT_S + 4)
        assert not write.done()
        world.stable_ts = ts
        assert (await write).commit_ts == ts

    with_world(test)


@pytest.mark.parametrize("state", ["pending", "unknown"])
def test_an_outcome_that_nobody_knows_is_said_to_be_unknown_and_is_not_tried_again(
    state: str,
) -> None:
    async def test(world: World) -> None:
        write = begin(world)
        await turns()
        (txn_id,) = world.sent()
        world.known[txn_id] = TxnStatus(state)
        with pytest.raises(OutcomeUnknown) as said:
            await write
        assert said.value.details == {"outcome": "unknown", "transaction": txn_id.hex()}
        assert not said.value.retryable
        assert {prepare.txn_id for prepare in world.prepares()} == {txn_id}
        waited_s = asyncio.get_running_loop().time()
        assert waited_s <= 2 * TXN_TIMEOUT_S + UNKNOWN_AFTER_S + 2

    with_world(test)


def test_what_nothing_is_heard_of_is_sent_again_as_it_was() -> None:
    async def test(world: World) -> None:
        write = begin(world)
        await asyncio.sleep(AGAIN_AFTER_S[0] + 0.1)
        first, again = world.prepares()
        assert first == again, "replicas pass over the second copy of what they have"
        await world.commit_all(2)
        await write
        await asyncio.sleep(2 * AGAIN_AFTER_S[1])
        assert len(world.prepares()) == 2

    with_world(test)


def test_with_the_coordinator_gone_a_sent_write_is_never_said_to_be_aborted() -> None:
    async def test(world: World) -> None:
        write = begin(world)
        await turns()
        world.silence()
        with pytest.raises(OutcomeUnknown):
            await write

    with_world(test)


def test_an_unknown_in_the_same_term_is_not_taken_from_a_workers_memory() -> None:
    """The sequencer may still decide: only it speaks for its own term."""

    async def test(world: World) -> None:
        write = begin(world)
        await turns()
        (txn_id,) = world.sent()
        world.remembered[txn_id] = TxnStatus("aborted")
        with pytest.raises(OutcomeUnknown):
            await write

    with_world(test)


def test_the_sequencer_is_told_the_deadline_that_the_workers_were_told() -> None:
    async def test(world: World) -> None:
        write = begin(world)
        await turns()
        (prepare,) = world.prepares()
        with pytest.raises(OutcomeUnknown):
            await write
        asked = [m for m in world.asked if isinstance(m, TxnStatusRequest)]
        assert {(m.txn_id, m.term, m.deadline_ms) for m in asked} == {
            (prepare.txn_id, 1, prepare.deadline_ms)
        }

    with_world(test)


# --- a new term -----------------------------------------------------------------------------------


def test_after_a_takeover_a_participant_that_remembers_the_commit_is_believed() -> None:
    async def test(world: World) -> None:
        write = begin(world, part(0), part(1))
        await turns()
        (txn_id,) = world.sent()
        committed = make_ts(1, 5)
        world.remembered[txn_id] = TxnStatus("committed", committed)
        world.term, world.stable_ts = 2, make_ts(2, 0)
        await world.tell()
        assert (await write).commit_ts == committed
        assert asyncio.get_running_loop().time() < 1.0, "asked at once, not at the timeout"
        assert len(world.sent()) == 1

    with_world(test)


def test_after_a_takeover_that_voided_it_the_write_is_tried_again_in_the_new_term() -> None:
    async def test(world: World) -> None:
        write = begin(world)
        await turns()
        (txn_id,) = world.sent()
        world.remembered[txn_id] = TxnStatus("aborted")
        world.term, world.stable_ts = 2, make_ts(2, 0)
        await world.tell()
        await asyncio.sleep(0.5)
        (again,) = world.records(0, term=2)
        assert again.txn_id != txn_id
        await world.commit_all(1)
        assert (await write).commit_ts == make_ts(2, 1)

    with_world(test)


# --- somebody is away ---------------------------------------------------------------------------


def test_without_a_sequencer_nothing_is_published() -> None:
    async def test(world: World) -> None:
        world.silence()
        await asyncio.sleep(5.0)
        world.broker.up = True
        with pytest.raises(Unavailable, match="nothing was written"):
            await begin(world)
        assert world.prepares() == []

    with_world(test)


def test_nothing_is_published_to_a_shard_whose_workers_have_fallen_silent() -> None:
    async def test(world: World) -> None:
        for name in ("w0", "w1"):
            await world.heartbeat(name)
        await asyncio.sleep(2 * MEMBER_TIMEOUT_S)
        await world.heartbeat("w1")
        with pytest.raises(Unavailable, match=r"shards \[0\] .* nothing was written"):
            await begin(world, part(0), part(1))
        assert world.prepares() == []
        write = begin(world, part(1))
        await turns()
        await world.commit_all(1)
        await write

    with_world(test)


def test_a_broker_that_is_away_before_anything_was_sent_means_nothing_was_written() -> None:
    async def test(world: World) -> None:
        world.broker.appends_left = 0
        with pytest.raises(Unavailable, match="nothing was written"):
            await begin(world, part(0), part(1))
        assert asyncio.get_running_loop().time() < 1.0

    with_world(test)


@pytest.mark.parametrize("sent", [1, 2])
def test_a_write_that_was_sent_in_part_is_the_sequencers_to_judge(sent: int) -> None:
    async def test(world: World) -> None:
        world.broker.appends_left = sent
        write = begin(world, part(0, chunks=2), part(1))
        await turns()
        assert not write.done()
        (txn_id,) = {r.txn_id for r in world.records(0)}
        world.broker.appends_left = None
        await world.tell(Outcome(txn_id, 0, 0, "storage_full", "deadline"))
        with pytest.raises(Exception, match="deadline"):
            await write

    with_world(test)


# --- bytes in flight ------------------------------------------------------------------------------

HALF = UNACKED_BYTES_PER_SHARD_MAX // 2 + 1


def test_a_write_waits_for_room_and_goes_once_there_is_some() -> None:
    async def test(world: World) -> None:
        first = begin(world, part(0, size_bytes=HALF))
        await turns()
        second = begin(world, part(0, size_bytes=HALF))
        await turns()
        assert len(world.prepares()) == 1
        await world.commit_all(1)
        await first
        await turns()
        assert len(world.prepares()) == 2
        await world.commit_all(2)
        await second

    with_world(test)


def test_a_write_that_finds_no_room_is_told_to_come_back_and_sends_nothing() -> None:
    async def test(world: World) -> None:
        first = begin(world, part(0, size_bytes=HALF))
        await turns()
        with pytest.raises(TooManyRequests) as said:
            await begin(world, part(0, size_bytes=HALF))
        assert said.value.http_status == 429
        assert asyncio.get_running_loop().time() == pytest.approx(ROOM_TIMEOUT_S, abs=0.1)
        assert len(world.prepares()) == 1
        await world.commit_all(1)
        await first

    with_world(test)


def test_shards_are_bounded_apart() -> None:
    async def test(world: World) -> None:
        writes = [begin(world, part(shard, size_bytes=HALF)) for shard in (0, 1)]
        await turns()
        assert len(world.prepares()) == 2
        await world.commit_all(1)
        await asyncio.gather(*writes)

    with_world(test)


def test_a_write_over_the_bound_goes_when_it_is_alone() -> None:
    async def test(world: World) -> None:
        write = begin(world, part(0, size_bytes=3 * UNACKED_BYTES_PER_SHARD_MAX))
        await turns()
        assert len(world.prepares()) == 1
        await world.commit_all(1)
        await write

    with_world(test)


@pytest.mark.parametrize("end", ["committed", "aborted", "cancelled", "unknown", "unsent"])
def test_room_is_given_back_however_a_write_ends(end: str) -> None:
    async def test(world: World) -> None:
        if end == "unsent":
            world.broker.appends_left = 0
        write = begin(world, part(0, size_bytes=HALF))
        await turns()
        match end:
            case "committed":
                await world.commit_all(1)
            case "aborted":
                await world.abort_all("not_found")
            case "cancelled":
                write.cancel()
                await turns()
                assert world.transactions.in_flight() == 1, "it is still undecided"
                await world.commit_all(1)
        await asyncio.gather(write, return_exceptions=True)
        world.broker.appends_left = None
        before = len(world.prepares())
        after = begin(world, part(0, size_bytes=HALF))
        await turns()
        assert len(world.prepares()) == before + 1
        await world.commit_all(2)
        await after
        assert world.transactions.in_flight() == 0

    with_world(test)


def test_what_was_sent_is_seen_through_though_its_client_has_left() -> None:
    """Until it is decided it is in the way of others, so it is sent again where it was lost."""

    async def test(world: World) -> None:
        write = begin(world)
        await turns()
        write.cancel()
        await asyncio.sleep(AGAIN_AFTER_S[0] + 0.1)
        first, again = world.prepares()
        assert first == again
        await world.commit_all(1)
        await turns()
        assert world.transactions.in_flight() == 0
        assert len(world.prepares()) == 2

    with_world(test)


def test_a_write_that_waits_is_not_sent_for_a_client_that_has_left() -> None:
    async def test(world: World) -> None:
        world.transactions.bounds.admission.limit = 1.0
        first, second = begin(world), begin(world)
        await turns()
        second.cancel()
        await turns()
        await world.commit_all(1)
        await first
        await turns()
        assert len(world.prepares()) == 1

    with_world(test)


def test_stopping_waits_for_what_is_in_flight() -> None:
    async def test(world: World) -> None:
        write = begin(world)
        await turns()
        stopping = asyncio.create_task(world.transactions.stop())
        await turns()
        assert not stopping.done()
        await world.commit_all(1)
        await stopping
        assert (await write).commit_ts == make_ts(1, 1)

    with_world(test)
