"""Chunks of large transactions: kept, left to the log, read back, freed, and applied in steps."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.protocol import FAR_MS, block, prepare, stage, txn
from tests.unit.shard_core.driver import SNAPSHOT, T, Worker, abort, commit
from vector_db.common.core.messages.reads import Overlay
from vector_db.common.core.messages.transactions import Prepare, Stage
from vector_db.shard.core import staging

CHUNKS = [stage("t", 0, block("a", "b")), stage("t", 1, block("c"))]
WHOLE = prepare("t", block("d"), mode="blind", stages=CHUNKS)


def test_all_chunks_and_the_prepare_are_applied_as_one() -> None:
    worker = Worker()
    assert worker.vote(*CHUNKS, WHOLE).yes
    assert worker.alive == {}
    worker.decide(commit(3, "t"))
    assert worker.alive.keys() == {b"a", b"b", b"c", b"d"}


@pytest.mark.parametrize("missing", [0, 1])
def test_a_missing_chunk_is_a_no_that_may_be_tried_again(missing: int) -> None:
    vote = Worker().vote(*(c for c in CHUNKS if c.index != missing), WHOLE)
    assert (vote.yes, vote.reason) == (False, "conflict")
    assert "1 of 2 chunks" in vote.detail


def test_a_chunk_that_is_not_the_one_that_was_sent_is_a_no() -> None:
    vote = Worker().vote(CHUNKS[0], stage("t", 1, block("x")), WHOLE)
    assert not vote.yes


def test_a_chunk_that_comes_twice_counts_once() -> None:
    assert Worker().vote(CHUNKS[0], *CHUNKS, CHUNKS[1], WHOLE).yes


def test_the_keys_of_chunks_conflict_like_the_prepares_own() -> None:
    worker = Worker()
    worker.take(*CHUNKS, WHOLE)
    assert not worker.vote(prepare("u", block("b"), snapshot_ts=SNAPSHOT)).yes


@pytest.mark.parametrize("arrived", [[], [CHUNKS[0]], CHUNKS, [CHUNKS[0], WHOLE]], ids=len)
def test_a_commit_waits_for_all_of_its_rows_and_holds_back_what_follows(
    arrived: list[Prepare | Stage],
) -> None:
    worker = Worker()
    worker.take(*arrived)
    worker.take(prepare("u", block("z"), mode="blind"))
    worker.decide(commit(3, "t"))
    worker.offer(commit(4, "u"), prev=T(1, 3))
    worker.apply_ready()
    assert (worker.participant.cursor, worker.alive) == (T(1, 2), {})
    everything: list[Prepare | Stage] = [*CHUNKS, WHOLE]
    worker.take(*(m for m in everything if m not in arrived))
    worker.apply_ready()
    assert worker.participant.cursor == T(1, 4)
    assert worker.alive.keys() == {b"a", b"b", b"c", b"d", b"z"}


# --- the first copy counts ----------------------------------------------------------------------


def test_a_retry_of_a_chunk_with_other_rows_changes_nothing() -> None:
    worker = Worker()
    worker.take(CHUNKS[0], stage("t", 0, block("x")), CHUNKS[1], WHOLE)
    worker.decide(commit(3, "t"))
    assert worker.alive.keys() == {b"a", b"b", b"c", b"d"}


def test_chunks_beyond_those_that_the_prepare_names_do_not_count() -> None:
    """A statement failed half way, and its client committed what came before."""
    worker = Worker()
    assert worker.vote(*CHUNKS, stage("t", 2, block("left")), WHOLE).yes
    worker.decide(commit(3, "t"))
    assert worker.alive.keys() == {b"a", b"b", b"c", b"d"}


def test_a_later_chunk_wins_over_an_earlier_one() -> None:
    chunks = [stage("t", 0, block("a", value=1.0)), stage("t", 1, block("a", value=2.0))]
    worker = Worker()
    worker.take(*chunks, prepare("t", snapshot_ts=SNAPSHOT, stages=chunks))
    worker.decide(commit(3, "t"))
    assert worker.alive == {b"a": 2.0}


def test_chunks_in_any_order_are_the_same_part() -> None:
    assert Worker().vote(CHUNKS[1], CHUNKS[0], WHOLE).yes


def test_a_chunk_behind_the_prepare_is_kept_for_the_commit_and_mends_no_vote() -> None:
    """After a restart too: rows that were not known when others were voted on cannot get YES."""
    worker = Worker()
    assert not worker.vote(CHUNKS[0], WHOLE).yes
    assert worker.vote(prepare("u", block("c"), snapshot_ts=SNAPSHOT)).yes
    worker.take(CHUNKS[1])
    back = worker.replayed(cut=False)
    told = {v.txn_id: v.yes for v in back.participant.revote().votes}
    assert told[txn("t")] is False
    back.decide(commit(3, "t"))
    assert back.alive.keys() == {b"a", b"b", b"c", b"d"}


# --- memory and the log -------------------------------------------------------------------------


@pytest.fixture
def tiny_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """One small chunk fits."""
    monkeypatch.setattr(staging, "STAGED_PART_BYTES_MAX", 40)


def many(n: int) -> list[Stage]:
    return [stage("t", i, block(f"k{i}", value=float(i))) for i in range(n)]


@pytest.mark.usefixtures("tiny_memory")
@pytest.mark.parametrize("restarted", [False, True])
def test_chunks_beyond_the_bound_are_read_back_from_the_log(restarted: bool) -> None:
    worker, chunks = Worker(), many(6)
    whole = prepare("t", block("end"), mode="blind", stages=chunks)
    assert worker.vote(*chunks, whole).yes
    assert worker.records.loads == [], "the checksum was made as they came"
    if restarted:
        worker = worker.replayed(cut=False)
        assert [v.yes for v in worker.participant.revote().votes] == [True]
    loads = len(worker.records.loads)
    worker.decide(commit(3, "t"))
    assert len(worker.records.loads) - loads == 5
    assert worker.alive == {b"k%d" % i: float(i) for i in range(6)} | {b"end": 1.0}


@pytest.mark.usefixtures("tiny_memory")
def test_conflicts_with_chunks_in_the_log_are_found_without_reading_them() -> None:
    worker, chunks = Worker(), many(6)
    worker.take(*chunks, prepare("t", mode="blind", stages=chunks))
    assert not worker.vote(prepare("u", block("k5"), snapshot_ts=SNAPSHOT)).yes
    assert worker.records.loads == []


@pytest.mark.usefixtures("tiny_memory")
def test_a_checked_part_in_the_log_is_voted_on_row_by_row() -> None:
    worker, chunks = Worker(), many(6)
    worker.put(3, "k5")
    vote = worker.vote(*chunks, prepare("t", snapshot_ts=SNAPSHOT, stages=chunks))
    assert (vote.yes, vote.reason) == (False, "conflict")


@pytest.mark.usefixtures("tiny_memory")
def test_staged_chunks_are_read_from_wherever_they_are() -> None:
    worker, chunks = Worker(), many(4)
    worker.take(*chunks[:3])
    staged = worker.participant.staged
    assert staged(txn("t"), 0, 0, 3) == [c.blocks for c in chunks[:3]]
    assert staged(txn("t"), 0, 1, 2) == [chunks[1].blocks]
    assert staged(txn("t"), 0, 0, 4) is None
    assert staged(txn("t"), 1, 0, 1) is None
    assert staged(txn("t"), 1, 0, 0) == []


def test_a_hole_in_the_chunks_is_not_passed_over() -> None:
    worker = Worker()
    worker.take(stage("t", 0, block("a")), stage("t", 2, block("c")))
    assert worker.participant.staged(txn("t"), 0, 0, 2) is None
    assert worker.participant.has_chunks(Overlay(txn("t"), 1, {0: 1}))
    assert not worker.participant.has_chunks(Overlay(txn("t"), 1, {0: 3}))


def test_an_overlay_is_over_with_its_decision_or_its_term() -> None:
    worker = Worker()
    worker.take(*CHUNKS, WHOLE)
    overlay = Overlay(txn("t"), 1, {0: 2})
    assert worker.participant.has_chunks(overlay)
    assert not worker.participant.is_over(overlay)
    worker.decide(abort(3, "t"))
    assert worker.participant.is_over(overlay)
    assert worker.participant.is_over(Overlay(txn("u"), 2, {0: 1}))


# --- in steps -----------------------------------------------------------------------------------


def test_between_the_steps_of_a_commit_nothing_of_it_counts() -> None:
    worker, chunks = Worker(), many(4)
    worker.take(*chunks, prepare("t", mode="blind", stages=chunks))
    worker.participant.stable(T(1, 2), 0)
    worker.offer(commit(3, "t"), prev=T(1, 2))
    ready = worker.participant.next_ready()
    assert ready is not None
    record, seq, _ = ready
    steps = worker.participant.apply_steps(record, seq, worker.log(record, seq))
    seen = 0
    for rows in steps:
        seen += rows
        assert worker.participant.cursor == T(1, 2)
        worker.participant.stable(T(1, 3), T(1, 3))
        saved = worker.participant.checkpoint(worker.lsn + 1)
        assert saved is None or saved.cursor == T(1, 2)
    assert seen == 4
    assert worker.participant.cursor == T(1, 3)


def test_a_vote_takes_steps_as_well() -> None:
    worker, chunks = Worker(), many(4)
    worker.take(*chunks)
    whole = prepare("t", snapshot_ts=SNAPSHOT, stages=chunks)
    steps: Iterator[int] = worker.participant.take_steps(whole, 99, worker.log(whole, 99))
    assert list(steps) == [1, 1, 1, 1]


# --- expiry -------------------------------------------------------------------------------------


def expiring(deadline_ms: int) -> list[Stage]:
    return [stage("t", i, block(f"k{i}"), deadline_ms=deadline_ms) for i in range(2)]


def test_chunks_without_a_prepare_are_freed_once_time_has_passed_their_deadline() -> None:
    worker = Worker()
    worker.take(*expiring(5_000))
    worker.participant.hear(5_000, T(1, 2))
    assert worker.participant.counts()["undecided"] == 1
    worker.participant.hear(5_001, T(1, 2))
    assert worker.participant.counts()["undecided"] == 0
    worker.participant.stable(T(1, 2), 0)
    saved = worker.participant.checkpoint(worker.lsn + 1)
    assert saved is not None
    assert saved.replay_lsn == worker.lsn + 1, "the log is free of them too"


def test_decisions_pass_the_time_as_well() -> None:
    worker = Worker()
    worker.take(*expiring(5_000))
    worker.decide(abort(3, "x"), wall_ms=5_001)
    assert worker.participant.counts()["undecided"] == 0


def test_a_beat_tells_no_time_to_a_worker_that_has_decisions_before_it_to_read() -> None:
    worker = Worker()
    worker.take(*expiring(5_000))
    worker.participant.hear(9_000, T(1, 3))
    worker.participant.hear(9_000, 0)
    assert (worker.participant.wall_ms, worker.participant.counts()["undecided"]) == (1_000, 1)


def test_a_prepare_keeps_its_chunks_until_the_decision() -> None:
    worker = Worker()
    chunks = expiring(5_000)
    worker.take(*chunks, prepare("t", mode="blind", stages=chunks, deadline_ms=5_000))
    worker.participant.hear(9_000, T(1, 2))
    worker.decide(commit(3, "t"))
    assert worker.alive.keys() == {b"k0", b"k1"}


@pytest.mark.parametrize("restarted", [False, True])
def test_a_prepare_that_outlives_its_chunks_gets_no(restarted: bool) -> None:
    """They may be freed here and back after a restart: the answer must not turn into YES."""
    worker = Worker()
    chunks = expiring(5_000)
    worker.take(*chunks)
    worker.participant.hear(5_001, T(1, 2))
    assert not worker.vote(prepare("t", mode="blind", stages=chunks, deadline_ms=FAR_MS)).yes
    assert worker.vote(prepare("u", block("k0"), snapshot_ts=SNAPSHOT)).yes
    if restarted:
        worker = worker.replayed(cut=False)
        told = {v.txn_id: v.yes for v in worker.participant.revote().votes}
        assert told[txn("t")] is False


def test_an_abort_frees_chunks_whose_prepare_never_came() -> None:
    worker = Worker()
    worker.take(*CHUNKS)
    worker.decide(abort(3, "t"))
    assert worker.participant.counts()["undecided"] == 0
    assert not worker.participant.wants(stage("t", 2, block("z")))
    assert worker.status("t").state == "aborted"
