"""The participant: what it votes, what it applies and in which order, and what it forgets."""

from __future__ import annotations

import msgspec
import pytest

from tests.support.protocol import (
    COLLECTION,
    FAR_MS,
    block,
    collection,
    prepare,
    stage,
    txn,
)
from tests.unit.shard_core.driver import (
    SNAPSHOT,
    T,
    Worker,
    abort,
    commit,
)
from vector_db.common.core.messages.decisions import (
    AlterCollection,
    CreateCollection,
    DropCollection,
    SetAliases,
)
from vector_db.common.core.messages.takeover import PromiseRequest
from vector_db.common.model.rows import RowBlock
from vector_db.shard.core.decided import DECIDED_MEMORY_MS
from vector_db.shard.core.parts import ChainBroken, Checkpoint

# --- voting ---------------------------------------------------------------------------------------


def test_a_write_that_nothing_speaks_against_gets_yes() -> None:
    vote = Worker().vote(prepare("t", block("a", "b"), snapshot_ts=SNAPSHOT, participants=(0, 2)))
    assert vote.yes
    assert (vote.worker, vote.shard, vote.term) == ("w1", 0, 1)
    assert (vote.participants, vote.collections, vote.gateway) == ((0, 2), (COLLECTION,), "g")
    assert vote.deadline_ms == FAR_MS


def test_no_vote_before_the_cursor_has_reached_the_snapshot() -> None:
    worker = Worker()
    assert worker.take(prepare("t", block("a"), snapshot_ts=T(1, 4))) == []
    assert worker.decide(abort(3, "x")) == []
    (vote,) = worker.decide(abort(4, "y"))
    assert (vote.txn_id, vote.yes) == (txn("t"), True)


def test_a_row_that_changed_since_the_snapshot_is_a_conflict() -> None:
    worker = Worker()
    worker.put(3, "a")
    late = worker.vote(prepare("t", block("a"), snapshot_ts=SNAPSHOT))
    assert (late.yes, late.reason) == (False, "conflict")
    assert worker.vote(prepare("u", block("b"), snapshot_ts=SNAPSHOT)).yes
    worker.decide(abort(4, "t"))
    assert worker.vote(prepare("v", block("a"), snapshot_ts=T(1, 3))).yes


def test_a_deletion_since_the_snapshot_is_a_conflict_too() -> None:
    worker = Worker()
    worker.put(3, "a")
    worker.take(prepare("d", block("a", delete=True), snapshot_ts=T(1, 3)))
    worker.decide(commit(4, "d"))
    assert worker.alive == {}
    assert worker.vote(prepare("t", block("a"), snapshot_ts=T(1, 3))).reason == "conflict"


def test_blind_writes_coexist_and_do_not_look_at_versions() -> None:
    worker = Worker()
    worker.put(3, "a")
    for name in ("t", "u"):
        assert worker.vote(prepare(name, block("a"), mode="blind")).yes


@pytest.mark.parametrize(
    ("first", "second"), [("snapshot", "blind"), ("blind", "snapshot"), ("snapshot", "snapshot")]
)
def test_an_undecided_write_of_the_same_row_is_a_conflict(first: str, second: str) -> None:
    worker = Worker()
    worker.take(prepare("t", block("a"), snapshot_ts=SNAPSHOT, mode=first))
    vote = worker.vote(prepare("u", block("a"), snapshot_ts=SNAPSHOT, mode=second))
    assert (vote.yes, vote.reason) == (False, "conflict")


def test_a_write_that_was_voted_down_still_conflicts_while_it_is_undecided() -> None:
    """Another replica may have said yes to it."""
    worker = Worker()
    worker.put(3, "a")
    assert not worker.vote(prepare("t", block("a", "b"), snapshot_ts=SNAPSHOT)).yes
    assert not worker.vote(prepare("u", block("b"), snapshot_ts=T(1, 3))).yes
    worker.decide(abort(4, "t"))
    worker.decide(abort(5, "u"))
    assert worker.vote(prepare("v", block("b"), snapshot_ts=T(1, 5))).yes


@pytest.mark.parametrize(
    ("precondition", "versions", "reason"),
    [
        ("absent", (), "already_exists"),
        ("present", (), ""),
        ("version", (T(1, 3),), ""),
        ("version", (T(1, 2),), "precondition_failed"),
    ],
)
def test_preconditions_on_a_row_that_exists(
    precondition: str, versions: tuple[int, ...], reason: str
) -> None:
    worker = Worker()
    worker.put(3, "a")
    rows = block("a", precondition=precondition, versions=versions)
    vote = worker.vote(prepare("t", rows, snapshot_ts=T(1, 3)))
    assert (vote.yes, vote.reason) == (not reason, reason)


@pytest.mark.parametrize(
    ("precondition", "versions", "reason"),
    [
        ("absent", (), ""),
        ("present", (), "not_found"),
        ("version", (T(1, 3),), "precondition_failed"),
    ],
)
def test_preconditions_on_a_row_that_does_not_exist(
    precondition: str, versions: tuple[int, ...], reason: str
) -> None:
    rows = block("a", precondition=precondition, versions=versions)
    vote = Worker().vote(prepare("t", rows, snapshot_ts=SNAPSHOT))
    assert (vote.yes, vote.reason) == (not reason, reason)


def test_a_precondition_that_one_row_of_many_fails_names_that_row() -> None:
    worker = Worker()
    worker.put(3, "c", "d")
    rows = block("a", "b", "c", "d", precondition="absent")
    vote = worker.vote(prepare("t", rows, snapshot_ts=T(1, 3)))
    assert vote.reason == "already_exists"
    assert "'c'" in vote.detail
    assert "2 of 4" in vote.detail


def test_deletes_count_the_rows_that_they_find() -> None:
    worker = Worker()
    worker.put(3, "a", "b")
    vote = worker.vote(prepare("t", block("a", "b", "c", delete=True), snapshot_ts=T(1, 3)))
    assert (vote.yes, vote.deleted) == (True, 2)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (block("a", collection_id=T(1, 99)), "not_found"),
        (block("a", dimension=3), "invalid_argument"),
    ],
    ids=["unknown collection", "other dimension"],
)
def test_rows_that_do_not_fit_the_catalog_get_no(rows: RowBlock, reason: str) -> None:
    assert Worker().vote(prepare("t", rows, mode="blind")).reason == reason


def test_a_full_disk_takes_no_rows_and_goes_on_deleting() -> None:
    worker = Worker()
    worker.put(3, "a")
    worker.participant.full = "the disk is full"
    vote = worker.vote(prepare("t", block("b"), mode="blind"))
    assert (vote.reason, vote.detail) == ("storage_full", "the disk is full")
    assert worker.vote(prepare("u", block("a", delete=True), snapshot_ts=T(1, 3))).yes


def test_a_prepare_that_comes_twice_is_voted_on_once() -> None:
    worker = Worker()
    message = prepare("t", block("a"), snapshot_ts=SNAPSHOT)
    assert worker.vote(message).yes
    assert worker.take(message) == []
    assert [v.txn_id for v in worker.participant.votes_again()] == [txn("t")]


# --- what is wanted -------------------------------------------------------------------------------


@pytest.mark.parametrize("term", [0, 2])
def test_records_of_another_term_than_the_promised_one_are_not_taken(term: int) -> None:
    worker = Worker()
    assert worker.take(prepare("t", block("a"), term=term, mode="blind")) == []
    assert worker.wal[-1][2] != prepare("t", block("a"), term=term, mode="blind")
    assert worker.participant.term.positions[0] == worker.seq


def test_a_record_whose_deadline_has_passed_is_not_taken() -> None:
    worker = Worker()
    worker.decide(abort(3, "x"), wall_ms=5_000)
    assert not worker.participant.wants(prepare("t", block("a"), deadline_ms=5_000))
    assert worker.participant.wants(prepare("t", block("a"), deadline_ms=5_001))


def test_a_record_of_a_decided_transaction_is_not_taken() -> None:
    worker = Worker()
    worker.take(prepare("t", block("a"), mode="blind"))
    worker.decide(commit(3, "t"))
    assert not worker.participant.wants(prepare("t", block("a"), mode="blind"))


# --- applying -------------------------------------------------------------------------------------


def test_rows_become_visible_with_the_commit_and_not_before() -> None:
    worker = Worker()
    worker.take(prepare("t", block("a", value=7.0), mode="blind"))
    assert worker.alive == {}
    worker.decide(commit(3, "t"))
    assert worker.store.alive() == {b"a": (T(1, 3), 7.0)}
    assert worker.participant.cursor == T(1, 3)
    assert worker.status("t").commit_ts == T(1, 3)


def test_an_aborted_transaction_leaves_nothing() -> None:
    worker = Worker()
    worker.take(prepare("t", block("a"), mode="blind"))
    worker.decide(abort(3, "t"))
    assert worker.alive == {}
    assert worker.participant.counts()["undecided"] == 0
    assert worker.status("t").state == "aborted"


def test_rows_are_kept_until_the_decision_whatever_was_voted() -> None:
    """A majority may have said yes where this replica said no."""
    worker = Worker()
    worker.put(3, "a")
    assert not worker.vote(prepare("t", block("a", value=2.0), snapshot_ts=SNAPSHOT)).yes
    worker.decide(commit(4, "t"))
    assert worker.alive == {b"a": 2.0}


def test_a_commit_on_shards_of_other_workers_waits_for_nothing() -> None:
    worker = Worker()
    worker.decide(commit(3, "t", 2))
    assert worker.participant.cursor == T(1, 3)


def test_decisions_are_applied_in_the_order_of_their_chain_and_once() -> None:
    worker = Worker()
    for name, value in (("t", 1.0), ("u", 2.0)):
        worker.take(prepare(name, block("a", value=value), mode="blind"))
    worker.offer(commit(3, "t"), prev=T(1, 2))
    worker.offer(commit(3, "t"), prev=T(1, 2))
    worker.offer(commit(4, "u"), prev=T(1, 3))
    worker.apply_ready()
    worker.decide(commit(3, "t"), prev=T(1, 2))
    assert worker.store.alive() == {b"a": (T(1, 4), 2.0)}
    assert [v.begin_ts for v in worker.store.rows[b"a"]] == [T(1, 3), T(1, 4)]


def test_a_record_that_does_not_follow_the_last_one_breaks_the_chain() -> None:
    worker = Worker()
    with pytest.raises(ChainBroken):
        worker.decide(abort(4, "t"), prev=T(1, 3))
    worker.offer(abort(3, "t"), prev=T(1, 2))
    with pytest.raises(ChainBroken):
        worker.offer(abort(5, "u"), prev=T(1, 4))


def test_decisions_of_a_term_that_was_not_promised_are_ignored() -> None:
    worker = Worker()
    worker.participant.takeovers.adopt_term(2, "c2")
    worker.decide(abort(3, "t"))
    assert worker.participant.cursor == T(1, 2)


def test_several_writes_of_one_row_in_one_transaction_are_applied_in_their_order() -> None:
    worker = Worker()
    worker.take(prepare("t", block("a", value=1.0), block("b", delete=True), block("b", value=3.0)))
    worker.decide(commit(3, "t"))
    assert worker.alive == {b"a": 1.0, b"b": 3.0}


def test_rows_of_a_collection_that_was_dropped_before_the_commit_are_not_applied() -> None:
    worker = Worker()
    worker.take(prepare("t", block("a"), mode="blind"))
    worker.decide(DropCollection(T(1, 3), COLLECTION))
    worker.decide(commit(4, "t"))
    assert worker.alive == {}
    assert worker.participant.cursor == T(1, 4)


def test_what_was_decided_is_remembered_past_its_deadline_and_then_forgotten() -> None:
    worker = Worker()
    worker.take(prepare("t", block("a"), mode="blind", deadline_ms=5_000))
    worker.decide(commit(3, "t"), wall_ms=2_000)
    worker.decide(abort(4, "x"), wall_ms=5_000 + DECIDED_MEMORY_MS - 1)
    assert worker.status("t").state == "committed"
    worker.decide(abort(5, "y"), wall_ms=5_000 + DECIDED_MEMORY_MS)
    assert worker.status("t").state == "unknown"
    assert not worker.participant.wants(prepare("t", block("a"), deadline_ms=5_000))


# --- stable, checkpoints, recovery ----------------------------------------------------------------


def test_options_and_aliases_come_back_from_a_checkpoint_and_from_the_log() -> None:
    worker = Worker()
    first = msgspec.structs.replace(collection((0, 1, 2)), recall_target=0.9)
    worker.decide(AlterCollection(T(1, 3), first), SetAliases(T(1, 4), {"now": COLLECTION}))
    assert worker.participant.checkpoint(worker.lsn + 1) is None
    worker.participant.stable(T(1, 4), 0)
    saved = worker.participant.checkpoint(worker.lsn + 1)
    assert saved is not None
    saved = msgspec.msgpack.decode(msgspec.msgpack.encode(saved), type=Checkpoint)
    assert saved.state.aliases == {"now": COLLECTION}
    assert saved.state.collections == {COLLECTION: first}
    assert worker.replayed(cut=True).participant.state == worker.participant.state
    worker.decide(SetAliases(T(1, 5), {"other": COLLECTION}))
    again = worker.replayed(cut=False)
    assert again.participant.state == worker.participant.state
    assert again.participant.state.aliases == {"other": COLLECTION}
    assert again.store.collections == {COLLECTION: first}


def test_stable_goes_no_further_than_what_is_applied_and_never_back() -> None:
    participant = Worker().participant
    participant.stable(T(1, 9), 0)
    assert participant.stable_ts == T(1, 2)
    participant.stable(T(1, 1), 0)
    assert participant.stable_ts == T(1, 2)


def test_the_files_of_a_dropped_collection_go_once_the_drop_cannot_be_undone() -> None:
    worker = Worker()
    worker.decide(DropCollection(T(1, 3), COLLECTION))
    assert worker.participant.stable(T(1, 2), 0) == []
    assert worker.participant.stable(T(1, 3), 0) == [COLLECTION]
    assert worker.participant.stable(T(1, 3), 0) == []


def test_decisions_are_remembered_until_every_worker_is_durable_past_them() -> None:
    worker = Worker()
    for n in (3, 4, 5):
        worker.decide(abort(n, f"x{n}"))
    worker.participant.stable(T(1, 5), T(1, 4))
    answer = worker.participant.takeovers.promise_message(PromiseRequest(2, "c2", ""))
    assert ([r.last_ts for r in answer.tail], answer.tail_from) == ([T(1, 5)], T(1, 4))


def test_no_checkpoint_while_a_catalog_change_can_be_undone() -> None:
    worker = Worker()
    assert worker.participant.checkpoint(worker.lsn + 1) is None
    worker.participant.stable(T(1, 2), 0)
    assert worker.participant.checkpoint(worker.lsn + 1) is not None
    worker.decide(CreateCollection(T(1, 3), collection((0,), T(1, 3), "d")))
    assert worker.participant.checkpoint(worker.lsn + 1) is None


def test_a_checkpoint_replays_from_what_is_undecided_or_not_stable_yet() -> None:
    worker = Worker()
    worker.participant.stable(T(1, 2), 0)
    worker.take(prepare("t", block("a"), mode="blind"))
    prepared = worker.lsn
    worker.take(prepare("u", block("b"), mode="blind"))
    saved = worker.participant.checkpoint(worker.lsn + 1)
    assert saved is not None
    assert saved.replay_lsn == prepared, "t is undecided"

    worker.decide(commit(3, "t"))
    saved = worker.participant.checkpoint(worker.lsn + 1)
    assert saved is not None
    assert (saved.cursor, saved.replay_lsn) == (T(1, 2), prepared), (
        "t may be undone: its rows are needed"
    )

    worker.participant.stable(T(1, 3), 0)
    saved = worker.participant.checkpoint(worker.lsn + 1)
    assert saved is not None
    assert (saved.cursor, saved.replay_lsn) == (T(1, 3), prepared + 1), "u is undecided"

    worker.decide(abort(4, "u"))
    worker.participant.stable(T(1, 4), 0)
    saved = worker.participant.checkpoint(worker.lsn + 1)
    assert saved is not None
    assert saved.replay_lsn == worker.lsn + 1, "nothing is needed"


@pytest.mark.parametrize("cut", [False, True], ids=["whole log", "checkpoint"])
def test_after_a_restart_everything_is_as_it_was(cut: bool) -> None:
    worker = Worker()
    worker.participant.stable(T(1, 2), 0)
    worker.take(prepare("open", block("b"), snapshot_ts=SNAPSHOT))
    worker.put(3, "a", value=1.0)
    worker.take(prepare("refused", block("b"), snapshot_ts=T(1, 3)))
    worker.take(stage("half", 0, block("c")))
    worker.put(4, "d", value=4.0)
    worker.participant.stable(T(1, 3), 0)

    back = worker.replayed(cut)
    again = back.participant.revote().votes
    assert back.store.rows == worker.store.rows, "every version, once"
    assert back.participant.cursor == worker.participant.cursor
    assert back.participant.term.positions == worker.participant.term.positions
    assert back.participant.term.decision_seq == worker.participant.term.decision_seq
    assert back.participant.counts() == worker.participant.counts()
    assert [(v.txn_id, v.yes) for v in again] == [(txn("open"), True), (txn("refused"), False)]
    back.decide(commit(5, "open"))
    assert back.alive == {b"a": 1.0, b"b": 1.0, b"d": 4.0}


def test_replaying_casts_no_vote() -> None:
    """Votes are cast once recovery is over, in the order of the log."""
    worker = Worker()
    effects = worker.participant.take(prepare("t", block("a"), mode="blind"), 1, 1, replaying=True)
    assert effects.votes == []
    assert [v.txn_id for v in worker.participant.revote().votes] == [txn("t")]
