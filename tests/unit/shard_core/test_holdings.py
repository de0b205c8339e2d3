"""Which shards a worker follows, holds and votes on, as placements come and go."""

from __future__ import annotations

import pytest

from vector_db.common.core.domain import DomainState
from vector_db.common.core.messages.decisions import Moves
from vector_db.shard.core.holdings import Holdings
from vector_db.shard.core.parts import ChainBroken


def state(
    *replicas: str, joining: str = "", leaving: tuple[str, ...] = (), ts: int = 1
) -> DomainState:
    """A placement of shard 0."""
    moves = Moves({0: joining} if joining else {}, {0: leaving} if leaving else {})
    return DomainState(ts, replicas={0: replicas}, moves=moves)


def views(holdings: Holdings, at: DomainState) -> tuple[bool, bool, bool]:
    """Whether shard 0 is (followed, held, voted on)."""
    return 0 in holdings.followed_in(at), 0 in holdings.held_in(at), 0 in holdings.voted_in(at)


def test_a_replica_follows_holds_and_votes_and_others_do_nothing() -> None:
    assert views(Holdings("w1"), state("w1", "w2")) == (True, True, True)
    assert views(Holdings("w3"), state("w1", "w2")) == (False, False, False)


def test_a_joining_worker_follows_then_holds_and_votes_as_a_replica_only() -> None:
    holdings, joining = Holdings("w3"), state("w1", joining="w3")
    assert views(holdings, joining) == (False, False, False)
    assert holdings.needs_ts(90) == 90
    holdings.follow(0, 70)
    assert views(holdings, joining) == (True, False, False)
    assert holdings.needs_ts(90) == 70
    holdings.join(0, 80)
    assert views(holdings, joining) == (True, True, False)
    assert holdings.needs_ts(90) == 90
    replica = state("w1", "w3")
    holdings.placed(joining, replica)
    assert views(holdings, replica) == (True, True, True)


def test_what_is_not_wanted_any_more_begins_anew() -> None:
    holdings, joining = Holdings("w3"), state("w1", joining="w3")
    holdings.follow(0, 70)
    holdings.join(0, 80)
    holdings.placed(joining, state("w1"))
    assert views(holdings, joining) == (False, False, False)
    assert holdings.joined == {}


def test_a_worker_that_copied_nothing_refuses_to_be_a_replica() -> None:
    with pytest.raises(ChainBroken, match="rows were not copied"):
        Holdings("w3").placed(state("w1", joining="w3"), state("w1", "w3"))


def test_a_shard_that_was_just_placed_has_no_rows_to_copy() -> None:
    Holdings("w3").placed(DomainState(), state("w3"))


def test_rows_are_kept_while_leaving_and_then_of_no_use() -> None:
    holdings = Holdings("w1")
    assert holdings.keeps(0, state("w1", "w2"))
    assert holdings.keeps(0, state("w2", leaving=("w1",)))
    assert not holdings.keeps(0, state("w2"))


def test_a_lost_shard_is_neither_followed_nor_voted_on_until_the_placement_says_so() -> None:
    holdings, before = Holdings("w1"), state("w1", "w2")
    holdings.lose(0)
    assert views(holdings, before) == (False, False, False)
    assert not holdings.keeps(0, before)
    holdings.placed(before, state("w2"))
    assert holdings.lost == set()


def test_what_was_saved_is_known_again() -> None:
    saved = Holdings("w3", {0: 80}, (1,))
    assert views(saved, state("w1", joining="w3")) == (True, True, False)
    assert saved.lost == {1}
