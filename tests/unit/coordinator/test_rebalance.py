"""The planner of moves, case by case. The lives of random clusters are in `tests/property`."""

from __future__ import annotations

from dataclasses import replace

from vector_db.coordinator.core.moves import Change, Placement, WorkerFacts
from vector_db.coordinator.core.rebalance import next_placement

Workers = dict[str, WorkerFacts]
UP = WorkerFacts("z", alive=True)
AWAY = WorkerFacts("z", alive=False)
GONE = WorkerFacts("z", alive=False, gone=True)
DRAINED = WorkerFacts("z", alive=True, draining=True)


def zoned(**zones: str) -> Workers:
    return {name: WorkerFacts(zone, alive=True) for name, zone in zones.items()}


def placed(
    *replicas: str, joining: dict[int, str] | None = None, leaving: dict[int, str] | None = None
) -> Placement:
    """Shards 0, 1, …, each with the workers of a string of letters."""
    left = {s: tuple(ws) for s, ws in (leaving or {}).items()}
    return Placement({s: tuple(ws) for s, ws in enumerate(replicas)}, joining or {}, left)


def said(
    now: Placement, workers: Workers, factor: int, moves_max: int = 4
) -> list[tuple[str, int, str]]:
    found = next_placement(now, workers, factor, moves_max)
    return [(c.kind, c.shard, c.worker) for c in found[1]] if found else []


def all_up(names: str) -> Workers:
    return dict.fromkeys(names, UP)


# --- a worker is gone -----------------------------------------------------------------------------


def test_a_gone_replica_goes_before_its_replacement_comes() -> None:
    workers = all_up("bcd") | {"a": GONE}
    found = next_placement(placed("abc"), workers, 3, 1)
    assert found == (placed("bc", leaving={0: "a"}), (Change("remove", 0, "a", "is gone"),))
    assert next_placement(found[0], workers, 3, 1) == (
        placed("bc", joining={0: "d"}, leaving={0: "a"}),
        (Change("join", 0, "d", "2 of 3 replicas"),),
    )


def test_a_replica_that_is_only_away_stays() -> None:
    assert said(placed("abc"), all_up("bcd") | {"a": AWAY}, 3) == []


def test_a_shard_without_a_live_majority_is_left_alone() -> None:
    assert said(placed("ab"), all_up("bc") | {"a": GONE}, 2) == []
    assert said(placed("a"), all_up("bc") | {"a": GONE}, 1) == []
    assert said(placed("abc"), all_up("cd") | {"a": GONE, "b": AWAY}, 3) == []
    copied = replace(UP, joined=frozenset({0}))
    assert said(placed("ab", joining={0: "c"}), {"a": AWAY, "b": UP, "c": copied}, 3) == []


def test_what_a_shard_without_a_live_majority_waits_for_keeps_nobody_else_from_copying() -> None:
    workers = all_up("bcd") | {"a": GONE}
    assert said(placed("ab", "bc", joining={0: "d"}), workers, 3, moves_max=1) == [("join", 1, "d")]


def test_the_shard_with_the_fewest_replicas_is_copied_first() -> None:
    joins = said(placed("ab", "a", "abc"), all_up("abcd"), 3, moves_max=1)
    assert [shard for _, shard, _ in joins] == [1]


# --- a worker drains ------------------------------------------------------------------------------


def test_a_drained_replica_goes_once_its_replacement_has_come() -> None:
    workers = all_up("bcd") | {"a": DRAINED}
    assert said(placed("abc"), workers, 3) == [("join", 0, "d")]
    assert said(placed("abc", joining={0: "d"}), workers, 3) == []
    workers["d"] = replace(UP, joined=frozenset({0}))
    assert said(placed("abc", joining={0: "d"}), workers, 3) == [("promote", 0, "d")]
    assert said(placed("abcd"), workers, 3) == [("remove", 0, "a")]


def test_a_drained_replica_stays_where_nobody_can_replace_it() -> None:
    assert said(placed("abc"), all_up("bc") | {"a": DRAINED}, 3) == []
    assert said(placed("abc"), all_up("bc") | {"a": DRAINED, "d": AWAY}, 3) == []


def test_the_gone_go_before_the_drained() -> None:
    """A drained replica still counts: without it a second failure would take the majority."""
    assert said(placed("abcd"), all_up("cd") | {"a": DRAINED, "b": GONE}, 3) == [("remove", 0, "b")]


def test_no_removal_leaves_a_majority_that_is_away() -> None:
    assert said(placed("abc"), {"a": DRAINED, "b": AWAY, "c": UP}, 2) == []


# --- a join is given up ---------------------------------------------------------------------------


def test_a_joining_worker_that_is_gone_or_drains_is_given_up() -> None:
    for state in (GONE, DRAINED):
        workers = all_up("ab") | {"c": state}
        assert said(placed("ab", joining={0: "c"}), workers, 3) == [("cancel", 0, "c")]
    assert said(placed("ab", joining={0: "c"}), all_up("ab") | {"c": AWAY}, 3) == []


def test_a_join_that_is_not_needed_any_more_is_given_up() -> None:
    """As when the replica that it should replace drains no more."""
    copied = replace(UP, joined=frozenset({0}))
    for state in (UP, copied):
        for name in "abcd":
            workers = all_up("abcd") | {name: state}
            now = placed("abcd".replace(name, ""), joining={0: name})
            assert said(now, workers, 3) == [("cancel", 0, name)]


# --- zones and load -------------------------------------------------------------------------------


def test_a_shard_goes_to_a_zone_that_has_none_of_it_and_leaves_one_that_has_two() -> None:
    workers = zoned(a="x", b="x", c="y")
    assert said(placed("ab"), workers, 2) == [("join", 0, "c")]
    assert said(placed("abc"), workers, 2) in ([("remove", 0, "a")], [("remove", 0, "b")])
    assert said(placed("ac"), workers, 2) == []


def test_load_goes_to_the_least_loaded_where_zones_let_it() -> None:
    assert said(placed("a", "a", "b"), zoned(a="x", b="x", c="y"), 1) in (
        [("join", 0, "c")],
        [("join", 1, "c")],
    )
    assert said(placed("ac", "ac", "ad"), zoned(a="y", c="x", d="x"), 2) == [], "a is alone in y"


def test_a_chain_of_moves_is_begun_whole_or_not_at_all() -> None:
    # a has two and c none, but each shard of a has a replica in the zone of c already. So one
    # goes from a to b or e, and theirs to c.
    workers = zoned(a="1", b="1", c="3", d="3", f="3", e="2")
    now = placed("ad", "af", "be")
    assert said(now, workers, 2, moves_max=1) == []
    joins = said(now, workers, 2, moves_max=2)
    assert {(kind, shard) for kind, shard, _ in joins} in (
        {("join", 0), ("join", 2)},
        {("join", 1), ("join", 2)},
    )
    assert ("join", 2, "c") in joins


def test_nothing_is_evened_out_while_a_missing_replica_waits_for_its_turn() -> None:
    now = placed("a", "a", "bc", "bc", "bc", "bc", "bc", "bc")
    workers = all_up("abcde")
    (kind, shard, _), *others = said(now, workers, 2)
    assert (kind, others) == ("join", []) and shard in (0, 1), "a gives one copy at a time"
    now = placed("ad", "ae", *["bc"] * 6)
    assert said(now, workers, 2) != [], "now b and c may give theirs away"


def test_nothing_is_evened_out_while_a_zone_has_no_replica() -> None:
    now = placed("ab", "ab", "ab", *["cd"] * 6)
    workers = zoned(a="x", b="x", c="x", d="y", e="y")
    assert {shard for _, shard, _ in said(now, workers, 2)} < {0, 1, 2}
    now = placed("ae", "be", "be", *["cd"] * 6)
    assert said(now, workers, 2) != [], "now c and d may give theirs away"


# --- bounds ---------------------------------------------------------------------------------------


def test_no_more_joins_than_may_be_under_way() -> None:
    now = placed("a", "b", "c", "d")
    workers = all_up("abcd")
    for moves_max in range(5):
        assert len(said(now, workers, 2, moves_max)) == moves_max
    assert said(Placement(now.replicas, {0: "b"}, {}), workers, 2, moves_max=1) == []


def test_a_worker_takes_one_copy_at_a_time() -> None:
    assert len(said(placed("a", "b", "c"), all_up("abc") | {"b": DRAINED, "c": DRAINED}, 2)) == 1


def test_a_worker_gives_one_copy_at_a_time() -> None:
    assert len(said(placed("a", "a", "a"), all_up("abcd"), 2)) == 1
    assert len(said(placed("ab", "ab", "ab"), all_up("abcde"), 3)) == 2


def test_a_worker_that_still_holds_an_old_copy_cannot_join() -> None:
    assert said(placed("ab", leaving={0: "c"}), all_up("abc"), 3) == []
    assert said(placed("ab", leaving={0: "c"}), all_up("abcd"), 3) == [("join", 0, "d")]
