"""What a worker lacks: it waits, says what, takes it from a peer, and replays it without one."""

from __future__ import annotations

import pytest

from tests.support.protocol import Replicas, block, prepare, stage, txn
from tests.unit.shard_core.driver import SNAPSHOT, T, Worker, abort, commit, later
from vector_db.common.core.messages.decisions import DecisionRecord
from vector_db.common.core.messages.transactions import Prepare, Stage
from vector_db.shard.core.parts import ChainBroken

SHARED: Replicas = {0: ("w1", "w2", "w3")}
CHUNKS = [stage("t", i, block(f"k{i}")) for i in range(3)]
WHOLE = prepare("t", block("end"), mode="blind", stages=CHUNKS)
EVERYTHING: list[Prepare | Stage] = [*CHUNKS, WHOLE]
KEYS = {b"k0", b"k1", b"k2", b"end"}


def pair() -> tuple[Worker, Worker]:
    """Two replicas of one shard."""
    return Worker(name="w1", replicas=SHARED), Worker(name="w2", replicas=SHARED)


def record(prev: int, *decisions: object, term: int = 1) -> DecisionRecord:
    return DecisionRecord(term, prev, 1_000, decisions)  # type: ignore[arg-type]


# --- rows of a commit ----------------------------------------------------------------------------


@pytest.mark.parametrize("arrived", [[], CHUNKS[:1], CHUNKS, [CHUNKS[0], CHUNKS[2]], [WHOLE]])
@pytest.mark.parametrize("decided", [False, True], ids=["peer undecided", "peer committed"])
def test_rows_of_a_commit_come_from_a_peer(arrived: list[Prepare | Stage], decided: bool) -> None:
    worker, peer = pair()
    peer.take(*EVERYTHING)
    if decided:
        peer.decide(commit(3, "t"))
    worker.take(*arrived)
    worker.decide(commit(3, "t"))
    missing = worker.participant.missing()
    assert missing is not None
    assert (missing.parts, missing.tail, missing.takeover) == (((txn("t"), 0),), None, False)
    worker.supply(peer)
    assert worker.participant.missing() is None
    assert worker.alive.keys() == KEYS
    assert worker.replayed(cut=False).store.rows == worker.store.rows, "no peer is needed again"


def test_chunks_that_are_not_the_ones_that_were_committed_are_replaced() -> None:
    worker, peer = pair()
    peer.take(*EVERYTHING)
    worker.take(stage("t", 0, block("wrong")), *CHUNKS[1:], WHOLE)
    worker.decide(commit(3, "t"))
    assert worker.participant.skippable(txn("t"), 0) == 0
    worker.supply(peer)
    assert worker.alive.keys() == KEYS
    assert worker.replayed(cut=False).alive.keys() == KEYS


def test_what_a_peer_gave_is_not_voted_on() -> None:
    worker, peer = pair()
    peer.take(*EVERYTHING)
    worker.decide(commit(3, "t"))
    for n, message in enumerate(EVERYTHING):
        assert worker.participant.take(message, 0, worker.log(message, 0)).votes == [], n
    back = worker.replayed(cut=False)
    assert back.participant.revote().votes == back.participant.votes_again() == []
    assert worker.participant.term.positions == {}


def test_only_what_is_lacking_is_taken_from_a_peer() -> None:
    worker, _ = pair()
    assert not worker.participant.lacks(WHOLE)
    worker.decide(commit(3, "t"))
    assert worker.participant.lacks(WHOLE)
    assert not worker.participant.lacks(prepare("other"))


def test_a_commit_still_goes_on_with_rows_that_come_the_usual_way() -> None:
    worker, _ = pair()
    worker.decide(commit(3, "t"))
    worker.take(*EVERYTHING)
    worker.apply_ready()
    assert worker.alive.keys() == KEYS


# --- what peers keep -----------------------------------------------------------------------------


def test_a_committed_part_is_kept_for_peers_until_every_worker_is_past_it() -> None:
    peer = pair()[1]
    peer.take(*EVERYTHING)
    peer.decide(commit(3, "t"))
    for floor, kept in ((T(1, 2), True), (T(1, 3), False)):
        peer.participant.stable(T(1, 3), floor)
        assert bool(peer.participant.part_lsns(txn("t"), 0)) is kept
        saved = peer.participant.checkpoint(peer.lsn + 1)
        assert saved is not None
        first_of_part = peer.lsn - len(EVERYTHING)
        assert saved.replay_lsn == (first_of_part if kept else peer.lsn + 1)


def test_a_kept_part_is_there_after_a_restart_and_not_applied_again() -> None:
    peer = pair()[1]
    peer.take(*EVERYTHING)
    peer.decide(commit(3, "t"))
    peer.participant.stable(T(1, 3), T(1, 2))
    back = peer.replayed(cut=True)
    assert back.participant.part_lsns(txn("t"), 0) == peer.participant.part_lsns(txn("t"), 0)
    assert back.store.rows == peer.store.rows
    assert back.participant.counts()["undecided"] == 0


def test_the_only_replica_keeps_nothing() -> None:
    worker = Worker(replicas={0: ("w1",)})
    worker.put(3, "a")
    worker.participant.stable(T(1, 3), 0)
    assert not worker.participant.part_lsns(txn("put3"), 0)
    saved = worker.participant.checkpoint(worker.lsn + 1)
    assert saved is not None
    assert saved.replay_lsn == worker.lsn + 1


def test_a_part_that_is_not_whole_is_nothing_for_a_peer() -> None:
    peer = pair()[1]
    peer.take(CHUNKS[0], WHOLE)
    assert not peer.participant.part_lsns(txn("t"), 0)


def test_an_undone_commit_is_nothing_for_a_peer() -> None:
    peer = pair()[1]
    peer.put(3, "a")
    peer.take_over(later(T(1, 2), replicas=SHARED))
    assert not peer.participant.part_lsns(txn("put3"), 0)


# --- takeovers -----------------------------------------------------------------------------------


def test_the_rows_of_a_commit_that_a_takeover_tells_come_from_a_peer() -> None:
    worker, peer = pair()
    peer.put(3, "a")
    first = later(
        T(1, 3), after=T(1, 2), decisions=(record(T(1, 2), commit(3, "put3")),), replicas=SHARED
    )
    peer.take_over(first)
    worker.take_over(first)
    missing = worker.participant.missing()
    assert missing is not None
    assert (missing.takeover, missing.parts) == (True, ((txn("put3"), 0),))
    assert worker.participant.cursor == T(1, 2), "it waits as it was"
    worker.supply(peer)
    assert worker.store.rows == peer.store.rows
    assert worker.participant.cursor == T(2, 0)
    assert worker.replayed(cut=False).store.rows == peer.store.rows


def ahead() -> tuple[Worker, Worker]:
    """A worker at (1, 2), and a peer that has all up to (1, 5) and the takeover of term 2."""
    worker, peer = pair()
    for n in (3, 4, 5):
        peer.put(n, f"k{n}", value=float(n))
    first = later(T(1, 5), after=T(1, 5), replicas=SHARED)
    peer.take_over(first)
    worker.take_over(first)
    return worker, peer


def test_decisions_that_a_takeover_does_not_tell_come_from_a_peer() -> None:
    worker, peer = ahead()
    missing = worker.participant.missing()
    assert missing is not None
    assert (missing.takeover, missing.tail, missing.parts) == (True, (T(1, 2), T(1, 5)), ())
    worker.supply(peer)
    assert worker.store.rows == peer.store.rows
    assert worker.participant.cursor == T(2, 0)
    assert worker.status("put4").commit_ts == T(1, 4)
    tail = worker.participant.tail_after(2, T(1, 2), T(1, 5))
    assert [r.last_ts for r in tail] == [T(1, 3), T(1, 4), T(1, 5)], "for the next one"


def test_a_completed_takeover_is_replayed_without_a_peer() -> None:
    worker, peer = ahead()
    worker.supply(peer)
    back = worker.replayed(cut=False)
    assert back.store.rows == peer.store.rows
    assert back.participant.cursor == T(2, 0)
    assert back.participant.missing() is None


def test_a_tail_may_come_in_pieces() -> None:
    worker, peer = ahead()
    for n in (3, 4, 5):
        piece = peer.participant.tail_after(2, T(1, 2), T(1, n))
        assert worker.participant.supply_tail(piece)
        assert not worker.participant.supply_tail(piece), "known already"
    worker.supply(peer)
    assert worker.store.rows == peer.store.rows


@pytest.mark.parametrize(
    "piece",
    [
        record(T(1, 3), abort(4, "x")),
        record(T(1, 2), abort(6, "x")),
        record(T(1, 1), abort(3, "x")),
    ],
    ids=["a gap", "beyond what is asked", "another history"],
)
def test_decisions_that_do_not_follow_are_not_taken(piece: DecisionRecord) -> None:
    worker, _ = ahead()
    assert not worker.participant.supply_tail([piece])
    missing = worker.participant.missing()
    assert missing is not None
    assert missing.tail == (T(1, 2), T(1, 5))


def test_a_tail_is_given_only_by_a_worker_that_is_past_that_takeover() -> None:
    _, peer = pair()
    peer.put(3, "a")
    assert peer.participant.tail_after(2, T(1, 2), T(1, 3)) == []
    peer.take_over(later(T(1, 3), replicas=SHARED))
    assert len(peer.participant.tail_after(2, T(1, 2), T(1, 3))) == 1
    peer.participant.stable(T(2, 0), T(1, 3))
    assert peer.participant.tail_after(2, T(1, 2), T(1, 3)) == [], "it does not go back so far"


def test_a_new_term_forgets_what_was_fetched_for_the_old_one() -> None:
    worker, peer = ahead()
    worker.participant.supply_tail(peer.participant.tail_after(2, T(1, 2), T(1, 4)))
    worker.promise(3)
    assert worker.participant.missing() is None
    again = later(T(1, 5), after=T(1, 5), term=3, replicas=SHARED)
    worker.decide(again, prev=T(1, 5), term=3)
    missing = worker.participant.missing()
    assert missing is not None
    assert missing.tail == (T(1, 2), T(1, 5))


def test_a_history_that_an_earlier_takeover_cut_is_undone_to_there() -> None:
    """This worker slept through term 2, which began at (1, 3)."""
    worker, peer = pair()
    for it in (worker, peer):
        it.put(3, "a", value=1.0)
    worker.put(4, "a", value=2.0)
    peer.take_over(later(T(1, 3), replicas=SHARED))
    peer.decide(abort(1, "x", term=2), term=2)
    told = (record(T(2, 0), abort(1, "x", term=2), term=2),)
    worker.take_over(later(T(2, 1), {2: T(1, 3)}, T(1, 3), told, term=3, replicas=SHARED))
    assert worker.store.alive() == {b"a": (T(1, 3), 1.0)}
    assert worker.participant.cursor == T(3, 0)


def test_a_takeover_that_no_later_one_knows_is_undone_with_what_it_undid() -> None:
    """Term 2 began at (1, 2), and this worker was the only one to follow it; term 3 goes on from
    (1, 3), which this worker had undone: it needs those rows again."""
    worker, peer = pair()
    for it in (worker, peer):
        it.put(3, "a", value=3.0)
    worker.take_over(later(T(1, 2), replicas=SHARED))
    assert worker.alive == {}
    third = later(T(1, 3), {}, T(1, 3), term=3, replicas=SHARED)
    peer.take_over(third)
    worker.take_over(third)
    missing = worker.participant.missing()
    assert missing is not None
    assert missing.tail == (T(1, 2), T(1, 3))
    worker.supply(peer)
    assert worker.store.rows == peer.store.rows
    assert worker.participant.cursor == T(3, 0)
    assert worker.status("put3").commit_ts == T(1, 3)
    assert worker.replayed(cut=False).store.rows == peer.store.rows


@pytest.mark.parametrize("told", [(4, 5), (3, 5), (3, 4)], ids=["start", "middle", "end"])
def test_a_takeover_that_leaves_decisions_out_is_refused(told: tuple[int, ...]) -> None:
    worker = pair()[0]
    records = tuple(record(T(1, n - 1), abort(n, f"x{n}")) for n in told)
    with pytest.raises(ChainBroken, match="does not tell all"):
        worker.take_over(later(T(1, 5), after=T(1, 2), decisions=records))


def test_a_worker_without_a_shard_joins_at_the_takeover_and_lacks_nothing() -> None:
    worker = Worker(name="w9", replicas=SHARED)
    worker.take_over(later(T(1, 9), after=T(1, 9), replicas=SHARED))
    assert worker.participant.cursor == T(2, 0)
    assert worker.participant.missing() is None


# --- votes after a restart -----------------------------------------------------------------------


@pytest.mark.parametrize("cut", [False, True])
def test_of_two_that_conflict_a_restart_never_gives_yes_to_the_other_one(cut: bool) -> None:
    """t waits for its snapshot, so u, which comes later, gets the YES; t gets NO."""
    worker = Worker()
    worker.participant.stable(SNAPSHOT, 0)
    worker.take(prepare("t", block("a"), snapshot_ts=T(1, 3)))
    assert worker.vote(prepare("u", block("a"), snapshot_ts=SNAPSHOT)).yes
    (waited,) = worker.decide(abort(3, "x"))
    assert (waited.txn_id, waited.yes) == (txn("t"), False)
    worker.participant.stable(T(1, 3), 0)
    back = worker.replayed(cut)
    told = {v.txn_id: v.yes for v in back.participant.revote().votes}
    assert told[txn("t")] is False


def test_chunks_that_came_early_do_not_put_a_transaction_first_after_a_restart() -> None:
    worker = Worker()
    chunks = [stage("t", 0, block("a"))]
    worker.take(*chunks)
    assert worker.vote(prepare("u", block("a"), snapshot_ts=SNAPSHOT)).yes
    assert not worker.vote(prepare("t", snapshot_ts=SNAPSHOT, stages=chunks)).yes
    back = worker.replayed(cut=False)
    told = {v.txn_id: v.yes for v in back.participant.revote().votes}
    assert told == {txn("t"): False, txn("u"): True}
