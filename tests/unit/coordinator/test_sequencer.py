"""The sequencer: what it decides, in which order, and when it says so."""

from __future__ import annotations

import itertools

import pytest

from tests.support.protocol import (
    FAR_MS,
    Replicas,
    collection,
    durable,
    first_takeover,
    takeover,
    txn,
    vote,
)
from vector_db.common.core.messages.decisions import (
    Abort,
    Commit,
    CreateCollection,
    Decision,
    DecisionRecord,
    DropCollection,
    SetPlacement,
    Takeover,
)
from vector_db.common.core.messages.transactions import Outcome, TxnStatus
from vector_db.common.model.collection import Metric
from vector_db.common.model.ids import make_ts
from vector_db.coordinator.core.effects import Effects
from vector_db.coordinator.core.order import DECISIONS_PER_RECORD_MAX
from vector_db.coordinator.core.sequencer import Sequencer
from vector_db.coordinator.core.two_phase_commit import DECIDED_MEMORY_MS

NOW_MS = 1_000
ONE_EACH: Replicas = {0: ("w1",), 1: ("w2",)}
THREE: Replicas = {0: ("w1", "w2", "w3"), 1: ("w1", "w2", "w3")}
T = make_ts


def begun(replicas: Replicas, term: int = 2) -> Sequencer:
    """A term over `replicas` with one collection, whose takeover is durable."""
    first = takeover(term, T(1, 9), replicas, collections=(collection(tuple(replicas)),))
    sequencer = Sequencer(term, first, NOW_MS)
    for worker in sequencer.state.workers():
        sequencer.durable(durable(worker, T(term, 0), term=term))
    assert sequencer.stable_ts == T(term, 0)
    sequencer.take_record(NOW_MS)
    return sequencer


def cast(
    sequencer: Sequencer, *votes: tuple[str, int, str], name: str = "t", **more: object
) -> Effects:
    """Votes of (worker, shard, reason for NO or ""), all of one transaction over shards 0 and 1."""
    effects = Effects()
    for worker, shard, no in votes:
        one = vote(
            name,
            worker,
            shard=shard,
            participants=(0, 1),
            no=no,
            term=sequencer.term,
            **more,  # type: ignore[arg-type]
        )
        got = sequencer.vote(one, NOW_MS)
        effects.outcomes += got.outcomes
        effects.stable_advanced |= got.stable_advanced
    return effects


def status(
    sequencer: Sequencer, name: str, deadline_ms: int = FAR_MS, now_ms: int = 0
) -> TxnStatus:
    """What is known of a transaction of this term."""
    return sequencer.status(txn(name), sequencer.term, deadline_ms, now_ms)


def decided(sequencer: Sequencer) -> list[Decision]:
    """Everything that waits to be published."""
    found: list[Decision] = []
    while sequencer.has_decisions():
        found += sequencer.take_record(NOW_MS).decisions
    return found


YES_ON_BOTH = (("w1", 0, ""), ("w2", 1, ""))


# --- deciding -------------------------------------------------------------------------------------


def test_a_transaction_commits_once_every_participant_says_yes() -> None:
    sequencer = begun(ONE_EACH)
    cast(sequencer, ("w1", 0, ""))
    assert decided(sequencer) == []
    assert status(sequencer, "t").state == "pending"
    cast(sequencer, ("w2", 1, ""))
    assert decided(sequencer) == [Commit(T(2, 1), txn("t"), (0, 1))]
    sequencer.durable(durable("w1", T(2, 1), term=2))
    assert status(sequencer, "t").state == "committed"


def test_one_no_aborts_and_its_reason_is_told_at_once() -> None:
    sequencer = begun(ONE_EACH)
    effects = cast(sequencer, ("w1", 0, "already_exists"), detail="id 'a' exists already")
    assert effects.outcomes == [
        ("g", Outcome(txn("t"), 0, 0, "already_exists", "id 'a' exists already"))
    ]
    (abort,) = decided(sequencer)
    assert isinstance(abort, Abort)
    assert (abort.participants, abort.reason) == ((0, 1), "already_exists")


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_a_majority_of_the_replicas_of_every_participant_is_needed(order: tuple[int, ...]) -> None:
    votes = [("w1", 0, ""), ("w2", 0, ""), ("w3", 1, ""), ("w1", 1, "")]
    sequencer = begun(THREE)
    for place, index in enumerate(order):
        assert decided(sequencer) == [], f"after {place} votes"
        cast(sequencer, votes[index])
    assert [type(d) for d in decided(sequencer)] == [Commit]


def test_the_same_vote_twice_is_one_vote() -> None:
    sequencer = begun(THREE)
    cast(sequencer, *[("w1", 0, "")] * 3, *[("w1", 1, "")] * 3)
    assert decided(sequencer) == []


def test_a_minority_of_no_does_not_abort_and_a_majority_does() -> None:
    sequencer = begun(THREE)
    assert not cast(sequencer, ("w1", 0, "conflict")).outcomes
    cast(sequencer, ("w2", 0, ""), ("w3", 0, ""), ("w1", 1, ""), ("w2", 1, ""))
    assert [type(d) for d in decided(sequencer)] == [Commit]

    sequencer = begun(THREE)
    effects = cast(sequencer, ("w1", 0, "conflict"), ("w2", 1, ""), ("w3", 0, "conflict"))
    assert [o.commit_ts for _, o in effects.outcomes] == [0]
    assert [type(d) for d in decided(sequencer)] == [Abort]


def test_a_reason_that_no_retry_mends_is_told_rather_than_a_conflict() -> None:
    sequencer = begun(THREE)
    effects = cast(sequencer, ("w1", 0, "conflict"), ("w2", 0, "precondition_failed"))
    assert effects.outcomes[0][1].reason == "precondition_failed"


def test_nothing_is_decided_twice() -> None:
    sequencer = begun(ONE_EACH)
    cast(sequencer, *YES_ON_BOTH)
    cast(sequencer, *YES_ON_BOTH, ("w1", 0, "conflict"))
    sequencer.tick(FAR_MS + 1)
    assert [type(d) for d in decided(sequencer)] == [Commit]

    effects = cast(sequencer, ("w1", 0, "conflict"), name="u", deadline_ms=2 * FAR_MS)
    effects.outcomes += cast(sequencer, *YES_ON_BOTH, name="u", deadline_ms=2 * FAR_MS).outcomes
    assert len(effects.outcomes) == 1
    assert [type(d) for d in decided(sequencer)] == [Abort]


@pytest.mark.parametrize(
    "stray",
    [
        vote("t", "w2", shard=1, participants=(0, 1), term=1),
        vote("t", "w2", shard=1, participants=(0, 1), term=3),
        vote("t", "w1", shard=1, participants=(0, 1), term=2),
        vote("t", "w9", shard=1, participants=(0, 1), term=2),
        vote("t", "w2", shard=7, participants=(0, 1), term=2),
    ],
    ids=["older term", "newer term", "replica of another shard", "no replica", "no such shard"],
)
def test_a_vote_that_is_not_of_this_term_and_of_a_replica_does_not_count(stray: object) -> None:
    sequencer = begun(ONE_EACH)
    cast(sequencer, ("w1", 0, ""))
    sequencer.vote(stray, NOW_MS)  # type: ignore[arg-type]
    assert decided(sequencer) == []


def test_what_the_deletes_of_all_shards_found_is_summed() -> None:
    sequencer = begun(ONE_EACH)
    for worker, shard, deleted in (("w1", 0, 3), ("w2", 1, 4)):
        sequencer.vote(
            vote("t", worker, shard=shard, participants=(0, 1), term=2, deleted=deleted), NOW_MS
        )
    assert [d.deleted for d in decided(sequencer) if isinstance(d, Commit)] == [7]
    sequencer.durable(durable("w1", T(2, 1), term=2))
    assert status(sequencer, "t").deleted == 7


# --- deadlines ------------------------------------------------------------------------------------


def test_no_commit_is_written_past_the_deadline() -> None:
    sequencer = begun(ONE_EACH)
    late = vote("t", "w2", shard=1, participants=(0, 1), term=2, deadline_ms=5_000)
    sequencer.vote(vote("t", shard=0, participants=(0, 1), term=2, deadline_ms=5_000), 4_999)
    effects = sequencer.vote(late, 5_000)
    assert [(o.commit_ts, o.detail) for _, o in effects.outcomes] == [(0, "deadline")]
    assert [type(d) for d in decided(sequencer)] == [Abort]


def test_a_clock_that_steps_back_gives_no_transaction_more_time() -> None:
    sequencer = begun(ONE_EACH)
    sequencer.vote(vote("t", shard=0, participants=(0, 1), term=2, deadline_ms=5_000), 4_000)
    cast(sequencer, *YES_ON_BOTH, name="other")
    assert sequencer.take_record(6_000).wall_ms == 6_000
    sequencer.vote(vote("t", "w2", shard=1, participants=(0, 1), term=2, deadline_ms=5_000), 3_000)
    assert [type(d) for d in decided(sequencer)] == [Abort]


def test_the_deadline_aborts_what_is_undecided_and_nothing_else() -> None:
    sequencer = begun(ONE_EACH)
    for name, deadline_ms in (("a", 5_000), ("b", 7_000)):
        cast(sequencer, ("w1", 0, ""), name=name, deadline_ms=deadline_ms)
    cast(sequencer, *YES_ON_BOTH, name="c", deadline_ms=5_000)
    assert not sequencer.tick(4_999).outcomes
    told = [o.txn_id for _, o in sequencer.tick(5_000).outcomes]
    assert told == [txn("a")]
    assert status(sequencer, "b").state == "pending"
    sequencer.durable(durable("w1", sequencer.last_ts, term=2))
    assert status(sequencer, "c").state == "committed"


def test_what_was_decided_is_remembered_past_its_deadline_and_then_forgotten() -> None:
    sequencer = begun(ONE_EACH)
    cast(sequencer, *YES_ON_BOTH, deadline_ms=5_000)
    sequencer.durable(durable("w1", T(2, 1), term=2))
    sequencer.tick(5_000 + DECIDED_MEMORY_MS - 1)
    assert status(sequencer, "t").state == "committed"
    sequencer.tick(5_000 + DECIDED_MEMORY_MS)
    assert status(sequencer, "t", deadline_ms=5_000).state == "unknown"


def test_votes_on_what_may_have_been_forgotten_never_commit_it() -> None:
    sequencer = begun(ONE_EACH)
    cast(sequencer, *YES_ON_BOTH, deadline_ms=5_000)
    decided(sequencer)
    sequencer.tick(5_000 + DECIDED_MEMORY_MS)
    effects = cast(sequencer, *YES_ON_BOTH, deadline_ms=5_000)
    assert not effects.outcomes, "its outcome was told long ago, and may have been a commit"
    assert {type(d) for d in decided(sequencer)} == {Abort}


def test_what_nobody_voted_on_by_its_deadline_is_aborted_and_stays_so() -> None:
    sequencer = begun(ONE_EACH)
    assert status(sequencer, "t", deadline_ms=5_000, now_ms=4_999).state == "unknown"
    assert status(sequencer, "t", deadline_ms=5_000, now_ms=5_000).state == "aborted"
    for worker, shard in (("w1", 0), ("w2", 1)):
        late = vote("t", worker, shard=shard, participants=(0, 1), term=2, deadline_ms=5_000)
        sequencer.vote(late, 4_000)
    assert Commit not in {type(d) for d in decided(sequencer)}


def test_nothing_is_said_of_what_another_term_or_a_forgotten_time_may_have_decided() -> None:
    sequencer = begun(ONE_EACH)
    assert sequencer.status(txn("t"), 1, 5_000, 6_000).state == "unknown"
    long_ago = sequencer.status(txn("t"), 2, 5_000, 5_000 + DECIDED_MEMORY_MS)
    assert long_ago.state == "unknown"


# --- the chain ------------------------------------------------------------------------------------


def test_every_decision_takes_the_next_number_and_every_record_names_the_one_before() -> None:
    sequencer = begun(ONE_EACH)
    records: list[DecisionRecord] = []
    for n in range(5):
        cast(sequencer, *YES_ON_BOTH, name=f"c{n}")
        if n % 2:
            cast(sequencer, ("w1", 0, "conflict"), name=f"a{n}")
        records.append(sequencer.take_record(NOW_MS))
    numbers = [d.ts for r in records for d in r.decisions]
    assert numbers == [T(2, n) for n in range(1, 8)]
    assert records[0].prev_ts == T(2, 0)
    for before, after in itertools.pairwise(records):
        assert after.prev_ts == before.last_ts


def test_the_first_record_of_a_term_begins_with_its_takeover_after_the_base() -> None:
    first = takeover(3, T(2, 40), ONE_EACH)
    record = Sequencer(3, first, NOW_MS).take_record(NOW_MS)
    assert (record.prev_ts, record.decisions) == (T(2, 40), (first,))


def test_the_wall_time_of_records_never_goes_back() -> None:
    sequencer = begun(ONE_EACH)
    walls = []
    for n, now_ms in enumerate((2_000, 1_500, 3_000, 10)):
        cast(sequencer, *YES_ON_BOTH, name=f"c{n}")
        walls.append(sequencer.take_record(now_ms).wall_ms)
    assert walls == [2_000, 2_000, 3_000, 3_000]


def test_a_record_is_bounded_and_the_rest_follows_in_order() -> None:
    sequencer = begun(ONE_EACH)
    for n in range(DECISIONS_PER_RECORD_MAX + 5):
        cast(sequencer, ("w1", 0, "conflict"), name=f"a{n}")
    first, second = sequencer.take_record(NOW_MS), sequencer.take_record(NOW_MS)
    assert (len(first.decisions), len(second.decisions)) == (DECISIONS_PER_RECORD_MAX, 5)
    assert second.prev_ts == first.last_ts
    assert not sequencer.has_decisions()


# --- releasing ------------------------------------------------------------------------------------


def test_a_commit_is_told_only_once_a_majority_of_a_participant_is_durable() -> None:
    sequencer = begun(THREE)
    for shard in (0, 1):
        cast(sequencer, ("w1", shard, ""), ("w2", shard, ""))
    ts = T(2, 1)
    assert not sequencer.durable(durable("w1", ts, term=2)).outcomes
    assert sequencer.stable_ts == T(2, 0)
    effects = sequencer.durable(durable("w3", ts, term=2))
    assert effects.outcomes == [("g", Outcome(txn("t"), ts))]
    assert effects.stable_advanced
    assert sequencer.stable_ts == ts


def test_durability_at_a_worker_that_is_no_participant_releases_nothing() -> None:
    sequencer = begun(ONE_EACH)
    sequencer.vote(vote("t", "w1", shard=0, term=2), NOW_MS)
    assert not sequencer.durable(durable("w2", T(2, 1), term=2)).outcomes
    assert sequencer.durable(durable("w1", T(2, 1), term=2)).outcomes


def test_outcomes_are_released_in_commit_order() -> None:
    sequencer = begun(ONE_EACH)
    sequencer.vote(vote("first", "w1", shard=0, term=2), NOW_MS)
    sequencer.vote(vote("second", "w2", shard=1, term=2), NOW_MS)
    assert not sequencer.durable(durable("w2", T(2, 2), term=2)).outcomes, (
        "the first is not durable"
    )
    assert sequencer.stable_ts == T(2, 0)
    told = sequencer.durable(durable("w1", T(2, 1), term=2)).outcomes
    assert [o.txn_id for _, o in told] == [txn("first"), txn("second")]
    assert sequencer.stable_ts == T(2, 2)


def test_a_cursor_that_comes_late_takes_nothing_back() -> None:
    sequencer = begun(ONE_EACH)
    cast(sequencer, *YES_ON_BOTH, name="a")
    sequencer.durable(durable("w1", T(2, 1), term=2))
    sequencer.durable(durable("w1", T(2, 0), term=2))
    assert sequencer.stable_ts == T(2, 1)
    sequencer.durable(durable("w2", T(2, 1), term=2))
    assert sequencer.floor_ts() == T(2, 1)


@pytest.mark.parametrize("term", [1, 3])
def test_a_cursor_of_another_term_releases_nothing(term: int) -> None:
    sequencer = begun(ONE_EACH)
    cast(sequencer, *YES_ON_BOTH)
    assert not sequencer.durable(durable("w1", T(9, 9), term=term)).outcomes


def test_nothing_is_stable_before_the_takeover_is_durable() -> None:
    sequencer = Sequencer(2, takeover(2, T(1, 9), THREE), NOW_MS)
    cast(sequencer, ("w1", 0, ""), ("w2", 0, ""), ("w1", 1, ""), ("w2", 1, ""))
    sequencer.durable(durable("w1", T(2, 1), term=2))
    assert sequencer.stable_ts == 0
    sequencer.durable(durable("w2", T(2, 0), term=2))
    assert sequencer.stable_ts == T(2, 0)


# --- catalog and placement ------------------------------------------------------------------------


def created(sequencer: Sequencer, replicas: Replicas, name: str = "new", token: int = 7) -> Effects:
    return sequencer.changes.create_collection(
        name, 4, Metric.COSINE, tuple(replicas), dict(replicas), token
    )


def test_the_first_collection_is_answered_for_once_its_placement_is_in_force() -> None:
    sequencer = Sequencer(1, first_takeover(), NOW_MS)
    assert not created(sequencer, ONE_EACH).replies
    assert [type(d) for d in decided(sequencer)] == [Takeover, SetPlacement, CreateCollection]
    assert not sequencer.placement_settled
    assert not sequencer.durable(durable("w1", T(1, 2))).replies, "w2 has not confirmed"
    (reply,) = sequencer.durable(durable("w2", T(1, 2))).replies
    assert sequencer.placement_settled
    assert reply.token == 7
    assert reply.collection is not None
    assert reply.collection.id == reply.ts == T(1, 2)


def test_a_collection_on_the_placement_as_it_is_changes_no_placement() -> None:
    sequencer = begun(ONE_EACH)
    created(sequencer, ONE_EACH)
    assert [type(d) for d in decided(sequencer)] == [CreateCollection]
    assert len(sequencer.durable(durable("w1", T(2, 1), term=2)).replies) == 1


def test_votes_on_a_new_shard_count_only_once_the_old_shards_know_of_it() -> None:
    sequencer = begun({0: ("w1",)})
    created(sequencer, ONE_EACH)
    decided(sequencer)
    yes = vote("t", "w2", shard=1, term=2)
    sequencer.vote(yes, NOW_MS)
    assert decided(sequencer) == []
    assert status(sequencer, "t").state == "unknown"
    for worker in ("w1", "w2"):
        sequencer.durable(durable(worker, T(2, 2), term=2))
    sequencer.vote(yes, NOW_MS)
    assert [type(d) for d in decided(sequencer)] == [Commit]


def test_a_new_shard_alone_makes_no_placement_durable() -> None:
    """A survey of the old shards alone must know of the change before it counts."""
    sequencer = begun({0: ("w1",)})
    created(sequencer, ONE_EACH)
    effects = sequencer.durable(durable("w2", T(2, 2), term=2))
    assert not effects.replies
    assert sequencer.stable_ts == T(2, 0)
    assert not sequencer.placement_settled


def test_a_drop_aborts_what_is_undecided_on_the_collection() -> None:
    sequencer = begun(ONE_EACH)
    cast(sequencer, ("w1", 0, ""))
    (found,) = sequencer.state.collections.values()
    effects = sequencer.changes.drop_collection((found,), 3)
    assert [o.reason for _, o in effects.outcomes] == ["not_found"]
    assert [type(d) for d in decided(sequencer)] == [DropCollection, Abort]
    assert sequencer.state.by_name("c") is None
    assert len(sequencer.durable(durable("w1", T(2, 1), term=2)).replies) == 1


def test_a_write_to_a_collection_that_was_dropped_in_between_is_aborted() -> None:
    sequencer = begun(ONE_EACH)
    (found,) = sequencer.state.collections.values()
    sequencer.changes.drop_collection((found,), 3)
    effects = cast(sequencer, *YES_ON_BOTH)
    assert [o.reason for _, o in effects.outcomes] == ["not_found"]
    assert Commit not in {type(d) for d in decided(sequencer)}


# --- what the shell asks --------------------------------------------------------------------------


def test_the_floor_is_the_least_durable_cursor_and_nothing_while_one_was_not_heard() -> None:
    sequencer = Sequencer(2, takeover(2, T(1, 9), ONE_EACH), NOW_MS)
    sequencer.durable(durable("w1", T(2, 5), term=2))
    assert sequencer.floor_ts() == 0
    sequencer.durable(durable("w2", T(2, 3), term=2))
    assert sequencer.floor_ts() == T(2, 3)


def test_logs_are_trimmed_to_what_every_replica_has_and_not_while_one_is_silent() -> None:
    sequencer = begun({0: ("w1", "w2", "w3"), 1: ("w3",)})
    for worker, shard_seq, decision_seq in (("w1", 10, 4), ("w2", 7, 9)):
        flushed = {0: shard_seq}
        sequencer.durable(
            durable(worker, T(2, 0), term=2, flushed=flushed, decision_seq=decision_seq)
        )
    assert sequencer.trim_points() == ({0: 0, 1: 0}, 0)
    sequencer.durable(durable("w3", T(2, 0), term=2, flushed={0: 8, 1: 5}, decision_seq=6))
    assert sequencer.trim_points() == ({0: 7, 1: 5}, 4)
