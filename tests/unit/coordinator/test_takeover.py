"""The survey that a term begins with: whose promises it needs, and what it makes of them."""

from __future__ import annotations

import msgspec
import pytest

from tests.support.protocol import Replicas, collection, first_takeover, promise, takeover, txn
from vector_db.common.core.messages.decisions import (
    Abort,
    Commit,
    Decision,
    DecisionRecord,
    Takeover,
)
from vector_db.common.model.ids import make_ts
from vector_db.coordinator.core.takeover import (
    TAKEOVER_BYTES_MAX,
    ClusterMismatch,
    HistoryLost,
    Survey,
)

T = make_ts
ONE_EACH: Replicas = {0: ("w1",), 1: ("w2",)}
THREE: Replicas = {0: ("w1", "w2", "w3")}


def commit(ts: int) -> Commit:
    return Commit(ts, txn(f"t{ts}"), (0,))


def record(prev_ts: int, *decisions: Decision) -> DecisionRecord:
    return DecisionRecord(1, prev_ts, 500, decisions)


def chain(first: int, last: int) -> list[DecisionRecord]:
    """Records of one commit each, (1, first) to (1, last)."""
    return [record(T(1, n - 1), commit(T(1, n))) for n in range(first, last + 1)]


# --- when it is complete --------------------------------------------------------------------------


def test_a_majority_of_every_shard_must_promise() -> None:
    survey = Survey(2, "")
    replicas = {0: ("w1", "w2", "w3"), 1: ("w3", "w4", "w5"), 2: ("w5",)}
    needs = [("w1", [0, 1, 2]), ("w3", [1, 2]), ("w4", [2]), ("w5", [])]
    for worker, missing in needs:
        survey.promise(promise(worker, 2, cursor=T(1, 3), replicas=replicas))
        assert survey.missing() == missing
        assert survey.complete() == (not missing)


def test_the_newest_placement_that_anyone_knows_is_the_one_that_counts() -> None:
    survey = Survey(2, "")
    survey.promise(promise("w1", 2, cursor=T(1, 3), replicas={0: ("w1",)}))
    assert survey.complete()
    survey.promise(promise("w2", 2, cursor=T(1, 5), replicas={0: ("w1",), 1: ("w3",)}))
    assert survey.missing() == [1]


def test_an_incomplete_survey_begins_no_term() -> None:
    survey = Survey(2, "")
    survey.promise(promise("w1", 2, cursor=T(1, 3), replicas=ONE_EACH))
    with pytest.raises(ValueError, match="not complete"):
        survey.takeover()


def test_a_refusal_counts_for_nothing_and_says_which_term_to_pass() -> None:
    survey = Survey(2, "")
    for worker, promised in (("w1", 5), ("w2", 3)):
        survey.promise(promise(worker, 2, granted=False, promised=promised, replicas=THREE))
    assert survey.workers == set()
    assert survey.refused_term == 5


def test_a_promise_of_another_term_counts_for_nothing() -> None:
    survey = Survey(2, "")
    survey.promise(promise("w1", 2, promised=1, replicas=THREE))
    assert survey.workers == set()


def test_one_worker_that_promises_twice_is_one_worker() -> None:
    survey = Survey(2, "")
    for _ in range(3):
        survey.promise(promise("w1", 2, cursor=T(1, 1), replicas=THREE))
    assert survey.missing() == [0]


def test_workers_of_two_clusters_are_told_apart() -> None:
    survey = Survey(2, "")
    survey.promise(promise("w1", 2, cluster_id="mine", replicas=THREE))
    with pytest.raises(ClusterMismatch, match="w2"):
        survey.promise(promise("w2", 2, cluster_id="yours", replicas=THREE))
    with pytest.raises(ClusterMismatch):
        Survey(2, "known").promise(promise("w1", 2, cluster_id="mine"))


def test_only_workers_that_never_belonged_to_a_cluster_begin_one() -> None:
    survey = Survey(1, "")
    assert not survey.is_fresh(), "nobody answered yet"
    survey.promise(promise("new", 1, cluster_id=""))
    assert survey.is_fresh()
    assert not survey.complete()
    begun = survey.bootstrap("made-up")
    assert (begun.ts, begun.base, begun.replicas) == (T(1, 0), 0, {})
    survey.promise(promise("old", 1, cursor=T(1, 4), replicas=ONE_EACH))
    assert not survey.is_fresh()


def test_the_newest_wall_time_is_carried_on() -> None:
    survey = Survey(2, "")
    assert survey.wall_ms() == 0
    survey.promise(promise("w1", 2, wall_ms=700))
    survey.promise(promise("w2", 2, wall_ms=400))
    assert survey.wall_ms() == 700


# --- what the takeover says -----------------------------------------------------------------------


def test_the_highest_cursor_of_those_surveyed_is_the_base() -> None:
    survey = Survey(2, "")
    c = collection((0,))
    for worker, n in (("w1", 4), ("w3", 6)):
        survey.promise(
            promise(
                worker,
                2,
                cursor=T(1, n),
                replicas=THREE,
                collections=(c,),
                tail=chain(1, n),
                bases={1: 0},
            )
        )
    found = survey.takeover()
    assert (found.ts, found.base) == (T(2, 0), T(1, 6))
    assert found.bases == {1: 0, 2: T(1, 6)}
    assert (found.collections, found.replicas, found.cluster_id) == ((c,), THREE, "cluster")


def test_it_tells_everything_from_the_least_cursor_to_the_base() -> None:
    survey = Survey(2, "")
    for worker, n in (("w1", 4), ("w2", 6)):
        survey.promise(promise(worker, 2, cursor=T(1, n), replicas=ONE_EACH, tail=chain(1, n)))
    found = survey.takeover()
    assert found.decisions_after == T(1, 4)
    assert [r.last_ts for r in found.decisions] == [T(1, 5), T(1, 6)]


def test_a_replica_that_was_not_surveyed_may_be_as_far_behind_as_the_tail_reaches() -> None:
    survey = Survey(2, "")
    for worker in ("w1", "w2"):
        survey.promise(
            promise(worker, 2, cursor=T(1, 6), replicas=THREE, tail=chain(3, 6), tail_from=T(1, 2))
        )
    found = survey.takeover()
    assert found.decisions_after == T(1, 2)
    assert [r.last_ts for r in found.decisions] == [T(1, n) for n in (3, 4, 5, 6)]


def test_a_worker_that_holds_no_shard_holds_nothing_up() -> None:
    survey = Survey(2, "")
    survey.promise(
        promise("w1", 2, cursor=T(1, 6), replicas={0: ("w1",)}, tail=chain(5, 6), tail_from=T(1, 4))
    )
    survey.promise(promise("spare", 2, cursor=T(1, 1), replicas={0: ("w1",)}))
    assert survey.takeover().decisions_after == T(1, 6)


def test_a_worker_that_lost_what_it_had_reported_stops_the_takeover() -> None:
    """It would have to skip decisions whose rows it voted for."""
    survey = Survey(2, "")
    survey.promise(
        promise("w1", 2, cursor=T(1, 6), replicas=ONE_EACH, tail=chain(5, 6), tail_from=T(1, 4))
    )
    survey.promise(promise("w2", 2, cursor=T(1, 2), replicas=ONE_EACH))
    with pytest.raises(HistoryLost, match="lack them now"):
        survey.takeover()


def test_a_worker_that_entered_lately_and_is_ahead_makes_nobody_look_lost() -> None:
    """It holds nothing; what it cannot tell, others can."""
    survey = Survey(2, "")
    both: Replicas = {0: ("w1", "w2")}
    survey.promise(
        promise("new", 2, cursor=T(1, 6), replicas=both, tail=chain(5, 6), tail_from=T(1, 4))
    )
    survey.promise(promise("w1", 2, cursor=T(1, 5), replicas=both, tail=chain(1, 5)))
    survey.promise(promise("w2", 2, cursor=T(1, 2), replicas=both, tail=chain(1, 2)))
    told = survey.takeover()
    assert (told.base, told.decisions_after) == (T(1, 6), T(1, 4)), "w2 asks w1 for 3 and 4"
    assert [r.last_ts for r in told.decisions] == [T(1, 5), T(1, 6)]


def test_of_workers_that_are_as_far_the_one_that_reaches_back_furthest_is_told_by() -> None:
    survey = Survey(2, "")
    survey.promise(
        promise("z", 2, cursor=T(1, 6), replicas=ONE_EACH, tail=chain(5, 6), tail_from=T(1, 4))
    )
    survey.promise(promise("w1", 2, cursor=T(1, 6), replicas=ONE_EACH, tail=chain(1, 6)))
    survey.promise(promise("w2", 2, cursor=T(1, 2), replicas=ONE_EACH, tail=chain(1, 2)))
    told = survey.takeover()
    assert told.decisions_after == T(1, 2)
    assert [r.last_ts for r in told.decisions] == [T(1, n) for n in (3, 4, 5, 6)]


def test_the_catalog_of_the_base_is_told_with_its_options_and_aliases() -> None:
    survey = Survey(2, "")
    older = collection((0,))
    newer = msgspec.structs.replace(older, recall_target=0.9, fields=("lang",))
    for worker, n, entry, alias in (("w1", 4, newer, "now"), ("w2", 3, older, "before")):
        one = promise(
            worker, 2, cursor=T(1, n), replicas=ONE_EACH, collections=(entry,),
            tail=chain(1, n), bases={1: 0},
        )  # fmt: skip
        survey.promise(msgspec.structs.replace(one, aliases={alias: entry.id}))
    told = survey.takeover()
    assert (told.collections, told.aliases) == ((newer,), {"now": newer.id})


def test_takeovers_do_not_nest() -> None:
    """A record less its takeover is told; one that held nothing else is left out."""
    old = takeover(2, T(1, 1), ONE_EACH)
    tail = [
        DecisionRecord(2, T(1, 1), 500, (old,)),
        DecisionRecord(
            3,
            T(2, 0),
            600,
            (takeover(3, T(2, 0), ONE_EACH), Abort(T(3, 1), txn("t"), (0,), "", "")),
        ),
    ]
    survey = Survey(4, "")
    for worker, cursor in (("w1", T(1, 1)), ("w2", T(3, 1))):
        survey.promise(
            promise(
                worker,
                4,
                cursor=cursor,
                replicas=ONE_EACH,
                tail=tail,
                bases={2: T(1, 1), 3: T(2, 0)},
            )
        )
    found = survey.takeover()
    told = [d for r in found.decisions for d in r.decisions]
    assert [d.ts for d in told] == [T(3, 1)]
    assert not any(isinstance(d, Takeover) for d in told)


def test_a_worker_that_went_on_in_a_term_that_was_undone_counts_up_to_where_it_was_undone() -> None:
    """w1 followed term 1 to n = 9, of which only 5 survived into term 2."""
    survey = Survey(3, "")
    tail = [
        DecisionRecord(1, T(1, 4), 500, (commit(T(1, 5)),)),
        DecisionRecord(2, T(1, 5), 600, (takeover(2, T(1, 5), ONE_EACH), commit(T(2, 1)))),
    ]
    survey.promise(promise("w1", 3, cursor=T(1, 9), replicas=ONE_EACH, tail=chain(5, 9)))
    survey.promise(
        promise(
            "w2",
            3,
            cursor=T(2, 1),
            replicas=ONE_EACH,
            bases={2: T(1, 5)},
            tail=tail,
            tail_from=T(1, 4),
        )
    )
    found = survey.takeover()
    assert (found.base, found.decisions_after) == (T(2, 1), T(1, 5))
    assert [d.ts for r in found.decisions for d in r.decisions] == [T(2, 1)]


def test_a_new_cluster_knows_nothing() -> None:
    assert Survey(1, "").bootstrap("cluster") == first_takeover()


# --- what was acknowledged, and what fits ---------------------------------------------------------


def test_workers_that_all_lost_an_acknowledged_decision_begin_no_term() -> None:
    survey = Survey(2, "")
    survey.promise(promise("w1", 2, cursor=T(1, 6), replicas={0: ("w1",)}, tail=chain(1, 6)))
    assert survey.takeover(stable_ts=T(1, 6)).base == T(1, 6)
    with pytest.raises(HistoryLost, match="acknowledged"):
        survey.takeover(stable_ts=T(1, 7))


def test_a_takeover_record_carries_only_what_fits_and_says_from_where() -> None:
    """Whoever is further behind asks a peer for the rest."""
    wide = tuple(range(200_000))
    long = [record(T(1, n - 1), Commit(T(1, n), txn(f"t{n}"), wide)) for n in range(1, 21)]
    survey = Survey(2, "")
    survey.promise(promise("w1", 2, cursor=T(1, 20), replicas=ONE_EACH, tail=long))
    survey.promise(promise("w2", 2, cursor=T(1, 2), replicas=ONE_EACH))
    made = survey.takeover()
    size = len(msgspec.msgpack.encode(made))
    assert TAKEOVER_BYTES_MAX // 2 < size <= TAKEOVER_BYTES_MAX + 1000
    kept = [r.last_ts for r in made.decisions]
    assert kept == [T(1, n) for n in range(21 - len(kept), 21)]
    assert made.decisions_after == made.decisions[0].prev_ts == T(1, 20 - len(kept))
