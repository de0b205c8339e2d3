"""Placements at the sequencer: one replica at a time, when they are in force, whose votes count."""

from __future__ import annotations

import pytest

from tests.support.protocol import Replicas, collection, durable, takeover, txn, vote
from vector_db.common.core.messages.decisions import Commit, Decision, Moves, SetPlacement
from vector_db.common.model.ids import make_ts
from vector_db.coordinator.core.sequencer import Sequencer

NOW_MS = 1_000
T = make_ts
TWO: Replicas = {0: ("w1", "w2", "w3"), 1: ("w4",)}


def begun(replicas: Replicas) -> Sequencer:
    """A term whose takeover every worker has."""
    first = takeover(2, T(1, 9), replicas, collections=(collection(tuple(replicas)),))
    sequencer = Sequencer(2, first, NOW_MS)
    confirm(sequencer, T(2, 0), *sorted(sequencer.state.workers()))
    sequencer.take_record(NOW_MS)
    return sequencer


def confirm(sequencer: Sequencer, ts: int, *workers: str, needs_ts: int = 0) -> list[int]:
    """Workers are durable up to `ts`; the tokens that are answered."""
    tokens = []
    for worker in workers:
        report = durable(worker, ts, term=2)
        if needs_ts:
            report = type(report)(worker, 2, ts, {}, 0, needs_ts)
        tokens += [reply.token for reply in sequencer.durable(report).replies]
    return tokens


def cast(
    sequencer: Sequencer, name: str, *workers: str, at_ts: int | None = None
) -> list[Decision]:
    """Votes of YES at shard 0; what is decided."""
    for worker in workers:
        sequencer.vote(vote(name, worker, term=2, at_ts=at_ts), NOW_MS)
    found: list[Decision] = []
    while sequencer.has_decisions():
        found += sequencer.take_record(NOW_MS).decisions
    return found


def place(sequencer: Sequencer, *replicas: str, moves: Moves = Moves()) -> int:
    """Other replicas of shard 0; the ts of the placement."""
    sequencer.changes.set_placement(TWO | {0: replicas}, moves, 7)
    (placed,) = sequencer.take_record(NOW_MS).decisions
    assert isinstance(placed, SetPlacement)
    return placed.ts


@pytest.mark.parametrize(
    "replicas", [("w1",), ("w1", "w2", "w5"), ("w1", "w2", "w3", "w5", "w6"), ()]
)
def test_a_shard_changes_by_one_worker_at_most(replicas: tuple[str, ...]) -> None:
    sequencer = begun(TWO)
    with pytest.raises(ValueError, match="shard 0 changes"):
        sequencer.changes.set_placement(TWO | {0: replicas}, Moves(), 7)
    assert not sequencer.has_decisions()


def test_the_next_placement_waits_until_a_majority_of_every_shard_knows_the_last() -> None:
    sequencer = begun(TWO)
    ts = place(sequencer, "w1", "w2", "w3", "w5")
    assert confirm(sequencer, ts, "w1", "w2", "w4") == [], "two of four are no majority"
    with pytest.raises(ValueError, match="not in force"):
        sequencer.changes.set_placement(TWO, Moves(), 8)
    assert confirm(sequencer, ts, "w5") == [7]
    assert sequencer.placement_settled
    sequencer.changes.set_placement(TWO, Moves(), 8)


def test_votes_count_by_the_placement_in_force_if_given_in_its_knowledge() -> None:
    sequencer = begun(TWO)
    ts = place(sequencer, "w1", "w2", "w3", "w5")
    assert cast(sequencer, "early", "w5", at_ts=ts) == [], "it is no replica yet"
    assert cast(sequencer, "early", "w1", "w2", at_ts=T(2, 0)) == [
        Commit(T(2, 2), txn("early"), (0,))
    ], "the old placement is in force, and a majority of it knows no other"
    assert cast(sequencer, "late", "w1", at_ts=T(2, 0)) == []
    confirm(sequencer, ts, "w1", "w2", "w4", "w5")
    assert cast(sequencer, "late", "w2", "w3", at_ts=T(2, 0)) == [], (
        "they know no placement of four"
    )
    assert cast(sequencer, "late", "w2", "w3", at_ts=ts) == [], "w1 said so before it"
    assert cast(sequencer, "late", "w5", at_ts=ts) == [Commit(T(2, 3), txn("late"), (0,))]


def test_votes_of_a_worker_that_was_removed_count_no_more() -> None:
    sequencer = begun(TWO)
    assert cast(sequencer, "t", "w3") == []
    confirm(sequencer, place(sequencer, "w1", "w2"), "w1", "w2", "w4")
    assert cast(sequencer, "t", "w1") == []
    assert cast(sequencer, "t", "w2") == [Commit(T(2, 2), txn("t"), (0,))]


def test_nothing_is_released_before_every_shard_knows_of_the_takeover() -> None:
    first = takeover(2, T(1, 9), TWO, collections=(collection((0, 1)),))
    sequencer = Sequencer(2, first, NOW_MS)
    confirm(sequencer, T(2, 0), "w4")
    assert sequencer.stable_ts == 0, "a survey of shard 0 may not learn of its placement"
    assert not sequencer.placement_settled
    confirm(sequencer, T(2, 0), "w1", "w2")
    assert sequencer.stable_ts == T(2, 0)


def test_what_a_copy_needs_is_not_forgotten_and_its_log_is_not_trimmed() -> None:
    sequencer = begun(TWO)
    for worker in ("w1", "w2", "w3", "w4"):
        sequencer.durable(durable(worker, T(2, 0), term=2, flushed={0: 5, 1: 5}, decision_seq=3))
    assert sequencer.trim_points() == ({0: 5, 1: 5}, 3)
    ts = place(sequencer, "w1", "w2", "w3", moves=Moves(joining={0: "w5"}))
    confirm(sequencer, T(2, 9), "w1", "w2", "w3", "w4")
    assert sequencer.floor_ts() == 0, "the joining worker was not heard"
    confirm(sequencer, T(2, 9), "w5", needs_ts=ts)
    assert sequencer.floor_ts() == ts
    assert sequencer.trim_points()[0][0] == 0, "it reads the log of shard 0 from the start"
