"""Moves of replicas: safe at each step, they come to an end, and no more of them than must be.

`VECTOR_DB_TEST_CLUSTERS` sets how many random clusters there are; `VECTOR_DB_TEST_FIRST` the seed
of the first.
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from typing import TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.property.controller import Controller
from vector_db.coordinator.core.moves import Placement
from vector_db.coordinator.core.rebalance import next_placement

CLUSTERS = int(os.environ.get("VECTOR_DB_TEST_CLUSTERS", "10000"))
K = TypeVar("K")
V = TypeVar("V")
FIRST = int(os.environ.get("VECTOR_DB_TEST_FIRST", "1"))


def live(seed: int) -> Controller:
    """A random cluster through random events; then the dead return or are given up."""
    rng = random.Random(seed)
    names = rng.choice((["a"], ["a"], ["a", "b"], ["a", "b", "c"]))
    factor = rng.choice((1, 2, 3, 3, 3))
    zones = [rng.choice(names) for _ in range(rng.randint(factor, 6))]
    controller = Controller(factor, rng.randint(1, 4), zones, seed)
    controller.place("first", rng.randint(1, controller.shard_count))
    for _ in range(rng.randint(0, 45)):
        controller.happen()
        if rng.random() < 0.5:
            controller.step()
    for name, worker in controller.workers.items():
        if not worker.alive and not worker.gone:
            rng.choice((controller.turn_on, controller.give_up))(name)
    return controller


def settled(controller: Controller) -> Controller:
    """After a few steps for each replica at most; no more copies than there are replicas."""
    replicas = len(controller.now.replicas) * (controller.factor + 1)
    begun = controller.changes["join"]
    controller.settle(20 + 8 * replicas)
    assert controller.changes["join"] - begun <= replicas
    controller.check_settled()
    return controller


def test_random_clusters_move_safely_and_settle() -> None:
    for seed in range(FIRST, FIRST + CLUSTERS):
        try:
            settled(live(seed))
        except AssertionError as e:
            e.add_note(f"VECTOR_DB_TEST_FIRST={seed} VECTOR_DB_TEST_CLUSTERS=1")
            raise


# --- any placement, reachable or not --------------------------------------------------------------


@st.composite
def controllers(draw: st.DrawFn) -> Controller:
    """Any placement on up to 6 workers in any state, whatever led there."""
    count = draw(st.integers(1, 6))
    zones = draw(st.lists(st.sampled_from("abc"), min_size=count, max_size=count))
    controller = Controller(
        draw(st.integers(1, 4)), draw(st.integers(1, 3)), zones, draw(st.integers(0, 9))
    )
    for worker in controller.workers.values():
        worker.gone = draw(st.integers(0, 4)) == 0
        worker.alive, worker.draining = not worker.gone, draw(st.integers(0, 4)) == 0
    replicas: dict[int, tuple[str, ...]] = {}
    joining: dict[int, str] = {}
    leaving: dict[int, tuple[str, ...]] = {}
    for shard in range(draw(st.integers(1, 6))):
        shuffled = list(draw(st.permutations(sorted(controller.workers))))
        size = draw(st.integers(1, count))
        replicas[shard], rest = tuple(shuffled[:size]), shuffled[size:]
        if draw(st.booleans()) and rest:
            joining[shard] = rest.pop()
            if draw(st.booleans()):
                controller.workers[joining[shard]].joined.add(shard)
        if draw(st.booleans()) and rest:
            leaving[shard] = tuple(rest)
    controller.now = Placement(replicas, joining, leaving)
    return controller


@given(controllers())
@settings(max_examples=1000)
def test_any_placement_settles_by_safe_steps(controller: Controller) -> None:
    controller.settle(300)
    controller.check_settled()


def turned(of: Mapping[K, V]) -> dict[K, V]:
    return dict(reversed(list(of.items())))


@given(controllers())
@settings(max_examples=300)
def test_the_order_in_which_things_are_told_does_not_matter(controller: Controller) -> None:
    facts = {n: w.facts() for n, w in controller.workers.items()}
    now = controller.now
    told = next_placement(now, facts, controller.factor, controller.moves_max)
    backwards = Placement(turned(now.replicas), turned(now.joining), turned(now.leaving))
    facts = turned(facts)
    again = next_placement(backwards, facts, controller.factor, controller.moves_max)
    assert (told and told[0]) == (again and again[0])


# --- no more moves than must be -------------------------------------------------------------------


@st.composite
def balanced(draw: st.DrawFn, is_zoned: bool | None = False) -> Controller:
    """A settled cluster with up to 24 shards: in one zone, or replicas in as many zones, each with
    two workers at least; or (None) in any zones.
    """
    factor = draw(st.integers(1, 3))
    count = draw(st.integers(factor + 1, 9))
    where = ["a"] * count
    if is_zoned:
        where = ["abc"[i % factor] for i in range(max(count, 2 * factor))]
    elif is_zoned is None:
        where = draw(st.lists(st.sampled_from("abc"), min_size=count, max_size=count))
    controller = Controller(factor, draw(st.integers(1, 4)), where, 0, shard_count=24)
    controller.place("c", draw(st.integers(1, 24)))
    return settled(controller)


@given(balanced())
@settings(max_examples=300)
def test_a_new_worker_is_given_its_share_and_nothing_else_moves(controller: Controller) -> None:
    begun, replicas = controller.changes["join"], sum(controller.loads().values())
    controller.add("a")
    newcomer = max(controller.workers, key=lambda w: int(w[1:]))
    before = controller.now
    settled(controller)
    share = replicas / len(controller.workers)
    assert controller.changes["join"] - begun <= share + 1
    for shard, held in controller.now.replicas.items():
        assert set(held) - set(before.replicas[shard]) <= {newcomer}


@given(balanced() | balanced(is_zoned=True), st.integers(0, 8))
@settings(max_examples=300)
def test_a_drained_worker_loses_its_replicas_and_nothing_else_moves(
    controller: Controller, index: int
) -> None:
    name = f"w{index % len(controller.workers)}"
    begun, held = controller.changes["join"], controller.loads()[name]
    controller.workers[name].draining = True
    settled(controller)
    assert held <= controller.changes["join"] - begun <= held + 1


@given(balanced(is_zoned=None), st.integers(0, 8))
@settings(max_examples=300)
def test_a_restart_moves_nothing(controller: Controller, index: int) -> None:
    name = f"w{index % len(controller.workers)}"
    controller.turn_off(name)
    assert not controller.step()
    controller.turn_on(name)
    assert not controller.step()
