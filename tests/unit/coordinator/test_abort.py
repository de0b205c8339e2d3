"""What a client's abort does at the sequencer, and the clock that its beats carry."""

from __future__ import annotations

import msgspec

from tests.support.protocol import FAR_MS, Replicas, collection, durable, takeover, txn, vote
from vector_db.common.core.messages.decisions import Abort, Commit
from vector_db.common.core.messages.transactions import Outcome, TxnStatus
from vector_db.common.model.ids import make_ts, make_txn_id
from vector_db.coordinator.core.effects import Effects
from vector_db.coordinator.core.sequencer import Sequencer
from vector_db.coordinator.core.two_phase_commit import DECIDED_MEMORY_MS

NOW_MS = 1_000
ONE_EACH: Replicas = {0: ("w1",), 1: ("w2",)}
T = make_ts


def begun() -> Sequencer:
    first = takeover(2, T(1, 9), ONE_EACH, collections=(collection((0, 1)),))
    sequencer = Sequencer(2, first, NOW_MS)
    for worker in ("w1", "w2"):
        sequencer.durable(durable(worker, T(2, 0), term=2))
    sequencer.take_record(NOW_MS)
    return sequencer


def cast(sequencer: Sequencer, worker: str, shard: int) -> Effects:
    given = vote("t", worker, shard=shard, participants=(0, 1), term=2)
    return sequencer.vote(given, NOW_MS)


def test_chunks_that_nobody_prepared_are_given_up_by_a_decision() -> None:
    sequencer = begun()
    status, effects = sequencer.abort(txn("t"), (0, 1), FAR_MS, NOW_MS)
    assert status == TxnStatus("aborted", 0, "aborted", "by its client")
    assert effects.outcomes == [], "no gateway waits for it"
    record = sequencer.take_record(NOW_MS)
    assert record.decisions == (Abort(T(2, 1), txn("t"), (0, 1), "aborted", "by its client"),)


def test_an_abort_beats_votes_that_come_after_it() -> None:
    sequencer = begun()
    cast(sequencer, "w1", 0)
    _, effects = sequencer.abort(txn("t"), (), FAR_MS, NOW_MS)
    assert effects.outcomes == [("g", Outcome(txn("t"), 0, 0, "aborted", "by its client"))]
    cast(sequencer, "w2", 1)
    (decision,) = sequencer.take_record(NOW_MS).decisions
    assert isinstance(decision, Abort)
    assert decision.participants == (0, 1)


def test_what_is_committed_stays_so_and_the_client_learns_it() -> None:
    sequencer = begun()
    cast(sequencer, "w1", 0)
    cast(sequencer, "w2", 1)
    sequencer.durable(durable("w2", T(2, 1), term=2))
    status, effects = sequencer.abort(txn("t"), (0, 1), FAR_MS, NOW_MS)
    assert (status.state, status.commit_ts) == ("committed", T(2, 1))
    assert effects.outcomes == []
    assert sequencer.take_record(NOW_MS).decisions == (Commit(T(2, 1), txn("t"), (0, 1)),)


def test_aborting_twice_decides_once() -> None:
    sequencer = begun()
    first, _ = sequencer.abort(txn("t"), (0,), FAR_MS, NOW_MS)
    again, _ = sequencer.abort(txn("t"), (0,), FAR_MS, NOW_MS)
    assert first == again
    assert len(sequencer.take_record(NOW_MS).decisions) == 1


def test_what_an_open_transaction_came_to_is_known_until_it_would_have_expired() -> None:
    """Its PREPAREs have nearer deadlines: thousands of others are forgotten meanwhile."""
    sequencer = begun()
    expiry_ms = NOW_MS + 3_600_000
    open_id = make_txn_id(2, expiry_ms, bytes(7))
    for txn_id in (open_id, make_txn_id(2, NOW_MS + 10_000, bytes(7))):
        for worker, shard in (("w1", 0), ("w2", 1)):
            given = vote("t", worker, shard=shard, participants=(0, 1), term=2)
            given = msgspec.structs.replace(given, txn_id=txn_id, deadline_ms=NOW_MS + 10_000)
            sequencer.vote(given, NOW_MS)
    sequencer.tick(NOW_MS + 10_000 + DECIDED_MEMORY_MS)
    assert sequencer.status(make_txn_id(2, NOW_MS + 10_000, bytes(7))).state == "unknown"
    sequencer.tick(expiry_ms + DECIDED_MEMORY_MS - 1)
    assert sequencer.status(open_id).state == "pending", "decided, and not yet durable"
    sequencer.tick(expiry_ms + DECIDED_MEMORY_MS)
    assert sequencer.status(open_id).state == "unknown"


def test_a_commit_is_told_only_once_it_is_released() -> None:
    """A sequencer that was replaced while it slept must not tell what it decides on waking."""
    sequencer = begun()
    cast(sequencer, "w1", 0)
    cast(sequencer, "w2", 1)
    assert sequencer.status(txn("t")).state == "pending"
    assert sequencer.abort(txn("t"), (0, 1), FAR_MS, NOW_MS)[0].state == "pending"
    sequencer.durable(durable("w1", T(2, 1), term=2))
    assert sequencer.status(txn("t")).state == "committed"


def test_no_decision_after_a_beat_carries_an_earlier_time_than_it() -> None:
    """Workers take the beat's time as passed once they hold everything up to `last_ts`."""
    sequencer = begun()
    before = sequencer.last_ts
    assert sequencer.wall_now(9_000) == 9_000
    cast(sequencer, "w1", 0)
    cast(sequencer, "w2", 1)
    record = sequencer.take_record(NOW_MS)
    assert record.decisions[0].ts == before + 1 == sequencer.last_ts
    assert record.wall_ms == 9_000
