"""Catalog and placement as the decisions make them."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from tests.support.protocol import Replicas, collection, takeover, txn
from vector_db.common.core.domain import DomainState, majority
from vector_db.common.core.messages.decisions import (
    Abort,
    AlterCollection,
    Commit,
    CreateCollection,
    DropCollection,
    SetAliases,
    SetPlacement,
)
from vector_db.common.model.ids import make_ts

T = make_ts
REPLICAS: Replicas = {0: ("w1", "w2", "w3"), 1: ("w3",), 2: ("w4", "w5")}
ONE = collection(id=T(1, 1), name="one")
TWO = collection(id=T(1, 2), name="two")


def folded() -> DomainState:
    state = DomainState()
    for decision in (
        SetPlacement(T(1, 0), REPLICAS),
        CreateCollection(T(1, 1), ONE),
        CreateCollection(T(1, 2), TWO),
    ):
        state = state.after(decision)
    return state


@pytest.mark.parametrize("replicas", range(1, 10))
def test_any_two_majorities_share_a_replica_and_no_smaller_number_does(replicas: int) -> None:
    size = majority(replicas)
    assert 2 * size > replicas
    assert 2 * (size - 1) <= replicas


def test_decisions_make_the_catalog() -> None:
    state = folded()
    assert state.catalog_ts == T(1, 2)
    assert state.by_name("one") == ONE
    assert state.by_name("nobody") is None
    state = state.after(DropCollection(T(1, 5), ONE.id))
    assert state.catalog_ts == T(1, 5)
    assert state.by_name("one") is None
    assert state.by_name("two") == TWO


def test_a_name_made_again_is_another_collection() -> None:
    again = collection(id=T(1, 6), name="one", dimension=9)
    state = folded().after(DropCollection(T(1, 5), ONE.id)).after(CreateCollection(T(1, 6), again))
    assert state.by_name("one") == again
    assert ONE.id not in state.collections


def test_an_alias_stands_for_its_collection_until_another_decision_says_otherwise() -> None:
    state = folded().after(SetAliases(T(1, 3), {"now": ONE.id, "old": ONE.id, "next": TWO.id}))
    assert (state.by_name("now"), state.by_name("next")) == (ONE, TWO)
    assert state.aliases_of(ONE.id) == ("now", "old")
    switched = state.after(SetAliases(T(1, 4), {"now": TWO.id}))
    assert switched.by_name("now") == TWO
    assert switched.by_name("old") is switched.by_name("next") is None
    assert switched.catalog_ts == T(1, 4)
    altered = msgspec.structs.replace(ONE, recall_target=0.9)
    state = state.after(AlterCollection(T(1, 5), altered))
    assert state.by_name("now") == state.by_name("one") == altered
    state = state.after(SetPlacement(T(1, 6), REPLICAS)).after(DropCollection(T(1, 7), ONE.id))
    assert state.aliases == {"next": TWO.id}
    told = msgspec.structs.replace(
        takeover(2, T(1, 7), {}, collections=(TWO,)), aliases=state.aliases
    )
    assert DomainState().after(told).by_name("next") == TWO


def test_commits_and_aborts_change_nothing_here() -> None:
    state = folded()
    assert state.after(Commit(T(1, 9), txn("t"), (0,))) is state
    assert state.after(Abort(T(1, 9), txn("t"), (0,), "conflict", "")) is state


def test_a_state_is_a_value_that_later_decisions_leave_alone() -> None:
    before = folded()
    kept = (before.catalog_ts, dict(before.collections), dict(before.replicas))
    before.after(DropCollection(T(1, 5), ONE.id))
    before.after(SetPlacement(T(1, 6), {9: ("w9",)}))
    before.after(CreateCollection(T(1, 7), collection(id=T(1, 7), name="three")))
    assert (before.catalog_ts, before.collections, before.replicas) == kept
    assert DomainState().collections == {}, "nor is an empty one shared"


def test_a_takeover_states_everything_anew() -> None:
    state = folded().after(takeover(2, T(1, 1), {7: ("w7",)}, collections=(ONE,)))
    assert (state.catalog_ts, state.replicas) == (ONE.id, {7: ("w7",)})
    assert state.collections == {ONE.id: ONE}


def test_a_placement_replaces_the_whole_one_before() -> None:
    assert folded().after(SetPlacement(T(1, 9), {1: ("w1",)})).replicas == {1: ("w1",)}


def test_who_holds_what() -> None:
    state = folded()
    assert state.shards_of("w3") == (0, 1)
    assert state.shards_of("w9") == ()
    assert state.workers() == {"w1", "w2", "w3", "w4", "w5"}


@pytest.mark.parametrize("shard", [0, 1, 2])
def test_a_majority_of_a_shard_counts_its_own_replicas_only(shard: int) -> None:
    state = folded()
    mine = set(REPLICAS[shard])
    for size in range(6):
        for some in itertools.combinations(["w1", "w2", "w3", "w4", "w5", "w9"], size):
            wanted = len(mine & set(some)) > len(mine) / 2
            assert state.has_majority(shard, set(some)) == wanted


def test_a_shard_that_is_not_placed_has_no_majority() -> None:
    assert not folded().has_majority(9, {"w1", "w2", "w3"})
