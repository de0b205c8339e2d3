"""What a serializable transaction read: checked at the vote, and kept as it was until the end."""

from __future__ import annotations

import pytest

from tests.support.protocol import COLLECTION, block, prepare, read_all, read_keys
from tests.unit.shard_core.driver import SNAPSHOT, T, Worker, abort, commit
from vector_db.common.core.messages.decisions import CreateCollection, DropCollection
from vector_db.common.core.messages.transactions import ReadSet
from vector_db.common.model.collection import Collection, Metric

READS = [read_keys("a"), read_all()]
IDS = ["key", "whole"]


@pytest.mark.parametrize("read", READS, ids=IDS)
def test_what_nobody_wrote_since_the_snapshot_is_a_yes(read: ReadSet) -> None:
    worker = Worker()
    worker.put(3, "a")
    vote = worker.vote(prepare("t", snapshot_ts=T(1, 3), reads=[read]))
    assert vote.yes
    assert vote.collections == (COLLECTION,), "it was read, not written"


@pytest.mark.parametrize("read", READS, ids=IDS)
def test_what_was_written_since_the_snapshot_is_a_conflict(read: ReadSet) -> None:
    worker = Worker()
    worker.put(3, "a")
    vote = worker.vote(prepare("t", block("z"), snapshot_ts=SNAPSHOT, reads=[read]))
    assert (vote.yes, vote.reason) == (False, "conflict")


def test_a_key_that_was_deleted_since_the_snapshot_is_a_conflict() -> None:
    worker = Worker()
    worker.put(3, "a")
    worker.take(prepare("d", block("a", delete=True), snapshot_ts=T(1, 3)))
    worker.decide(commit(4, "d"))
    vote = worker.vote(prepare("t", snapshot_ts=T(1, 3), reads=[read_keys("a")]))
    assert not vote.yes


def test_a_key_that_was_not_found_must_still_be_absent() -> None:
    worker = Worker()
    assert worker.vote(prepare("t", snapshot_ts=SNAPSHOT, reads=[read_keys("new")])).yes
    worker.decide(abort(3, "t"))
    worker.put(4, "new")
    assert not worker.vote(prepare("u", snapshot_ts=T(1, 3), reads=[read_keys("new")])).yes


def test_point_reads_do_not_mind_other_keys() -> None:
    worker = Worker()
    worker.put(3, "b")
    assert worker.vote(prepare("t", snapshot_ts=SNAPSHOT, reads=[read_keys("a")])).yes


@pytest.mark.parametrize("read", READS, ids=IDS)
@pytest.mark.parametrize("mode", ["blind", "snapshot"])
def test_an_undecided_writer_is_a_conflict_for_a_read(read: ReadSet, mode: str) -> None:
    worker = Worker()
    worker.take(prepare("w", block("a"), mode=mode, snapshot_ts=SNAPSHOT))
    vote = worker.vote(prepare("t", snapshot_ts=SNAPSHOT, reads=[read]))
    assert (vote.yes, vote.reason) == (False, "conflict")


@pytest.mark.parametrize("read", READS, ids=IDS)
@pytest.mark.parametrize("mode", ["blind", "snapshot"])
def test_an_undecided_read_is_a_conflict_for_a_writer_until_it_is_decided(
    read: ReadSet, mode: str
) -> None:
    worker = Worker()
    assert worker.vote(prepare("t", snapshot_ts=SNAPSHOT, reads=[read])).yes
    assert not worker.vote(prepare("w", block("a"), mode=mode, snapshot_ts=SNAPSHOT)).yes
    worker.decide(commit(3, "t"), abort(4, "w"))
    assert worker.vote(prepare("x", block("a"), mode=mode, snapshot_ts=T(1, 4))).yes


def test_reads_coexist() -> None:
    worker = Worker()
    for name in ("t", "u"):
        reads = [read_keys("a"), read_all()]
        assert worker.vote(prepare(name, snapshot_ts=SNAPSHOT, reads=reads)).yes


def test_write_skew_is_not_possible() -> None:
    """Each reads what the other writes."""
    worker = Worker()
    first = prepare("t", block("a"), snapshot_ts=SNAPSHOT, reads=[read_keys("b")])
    second = prepare("u", block("b"), snapshot_ts=SNAPSHOT, reads=[read_keys("a")])
    assert worker.vote(first).yes
    assert not worker.vote(second).yes
    worker.decide(commit(3, "t"), abort(4, "u"))
    again = prepare("v", block("b"), snapshot_ts=SNAPSHOT, reads=[read_keys("a")])
    assert not worker.vote(again).yes, "a has changed since that snapshot"


def test_a_transaction_does_not_conflict_with_what_it_wrote_itself() -> None:
    both = [read_keys("a"), read_all()]
    assert Worker().vote(prepare("t", block("a"), snapshot_ts=SNAPSHOT, reads=both)).yes


@pytest.mark.parametrize("read", READS, ids=IDS)
def test_reading_a_collection_that_is_dropped_by_then_is_a_no(read: ReadSet) -> None:
    worker = Worker()
    worker.decide(DropCollection(T(1, 3), COLLECTION))
    assert worker.vote(prepare("t", snapshot_ts=SNAPSHOT, reads=[read])).reason == "not_found"


def test_the_vote_names_the_collections_that_were_read_and_written() -> None:
    worker = Worker()
    other = T(1, 3)
    worker.decide(CreateCollection(other, Collection(other, "d", 1, Metric.DOT, (0,))))
    vote = worker.vote(prepare("t", block("a"), snapshot_ts=other, reads=[read_keys("x")]))
    assert vote.collections == (COLLECTION,)
    mixed = prepare("u", block("b"), snapshot_ts=other, reads=[read_keys("x", collection_id=other)])
    assert worker.vote(mixed).collections == (COLLECTION, other)


@pytest.mark.parametrize("cut", [False, True])
def test_undecided_reads_block_writers_after_a_restart_too(cut: bool) -> None:
    worker = Worker()
    worker.participant.stable(SNAPSHOT, 0)
    worker.take(prepare("t", snapshot_ts=SNAPSHOT, reads=[read_all()]))
    back = worker.replayed(cut)
    back.participant.revote()
    assert not back.vote(prepare("w", block("a"), mode="blind")).yes
