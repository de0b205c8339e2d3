"""Placement: all compute the same homes, evenly spread, and growth moves only what it must."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vector_db.common.core.placement import (
    choose_worker,
    place_collection,
    shards_of_ids,
    weight,
)
from vector_db.common.model.rows import hash_ids

HASHES = hash_ids([b"row-%d" % i for i in range(20_000)])
workers = st.sets(st.sampled_from([f"w{i}" for i in range(6)]), min_size=1)


# --- ids ------------------------------------------------------------------------------------------


def test_homes_are_the_same_in_every_process_and_version() -> None:
    """Rows are found where an older process put them: these numbers never change."""
    hashes = hash_ids([b"a", b"b", b"vec1", b"\xff", b"row-00017"])
    assert shards_of_ids(hashes, (0, 3, 7, 11)).tolist() == [7, 0, 0, 11, 11]
    assert weight("id", 3) == 16977682523965076853


def test_ids_hash_over_the_set_of_shards_and_not_their_order() -> None:
    assert np.array_equal(shards_of_ids(HASHES, (2, 5, 9)), shards_of_ids(HASHES, (9, 2, 5)))


@pytest.mark.parametrize("count", [2, 3, 5, 16])
def test_ids_spread_evenly(count: int) -> None:
    homes = np.bincount(shards_of_ids(HASHES, range(count)), minlength=count)
    mean = len(HASHES) / count
    assert np.abs(homes - mean).max() < 5 * np.sqrt(mean)


@pytest.mark.parametrize("count", [1, 2, 4, 15])
def test_a_further_shard_takes_its_share_and_moves_nothing_between_the_others(count: int) -> None:
    before = shards_of_ids(HASHES, range(count))
    after = shards_of_ids(HASHES, range(count + 1))
    moved = before != after
    assert set(after[moved].tolist()) == {count}
    share = len(HASHES) / (count + 1)
    assert abs(moved.sum() - share) < 5 * np.sqrt(share)


def test_no_ids_have_no_homes() -> None:
    assert shards_of_ids(hash_ids([]), (1, 2)).tolist() == []
    assert shards_of_ids(hash_ids([b"a"]), (7,)).tolist() == [7]


# --- workers --------------------------------------------------------------------------------------


def test_a_new_shard_goes_to_one_of_the_least_loaded() -> None:
    load = {"w1": 2, "w2": 1, "w3": 1}
    assert {choose_worker(s, ["w1", "w2", "w3"], load) for s in range(50)} == {"w2", "w3"}


@given(workers, st.integers(0, 15))
def test_the_order_of_workers_does_not_matter(names: set[str], shard: int) -> None:
    assert choose_worker(shard, sorted(names), {}) == choose_worker(
        shard, sorted(names, reverse=True), {}
    )


# --- collections ----------------------------------------------------------------------------------

placements = st.dictionaries(
    st.integers(0, 15),
    st.lists(st.sampled_from([f"w{i}" for i in range(6)]), min_size=1, max_size=3, unique=True).map(
        tuple
    ),
    max_size=12,
)


@given(placements, workers, st.integers(1, 16), st.text("abc", min_size=1, max_size=3))
@settings(max_examples=300)
def test_any_placement_is_only_added_to_and_every_chosen_shard_has_a_live_majority(
    replicas: dict[int, tuple[str, ...]], alive: set[str], count: int, name: str
) -> None:
    usable = [
        s
        for s in range(16)
        if s not in replicas or 2 * len(alive & set(replicas[s])) > len(replicas[s])
    ]
    if len(usable) < count:
        with pytest.raises(ValueError, match=f"{count} shards asked, {len(usable)}"):
            place_collection(name, count, 16, replicas, dict.fromkeys(sorted(alive), ""))
        return
    shards, placement = place_collection(
        name, count, 16, replicas, dict.fromkeys(sorted(alive), "")
    )
    assert len(shards) == len(set(shards)) == count
    assert all(alive & set(placement[s]) for s in shards)
    assert {s: placement[s] for s in replicas} == replicas, "what is placed stays where it is"
    assert placement.keys() - replicas.keys() <= set(shards), "no shard is placed that nobody needs"
    again = place_collection(
        name, count, 16, replicas, dict.fromkeys(sorted(alive, reverse=True), "")
    )
    assert again == (shards, placement)


@given(workers, st.integers(1, 16))
def test_shards_lie_on_different_workers_first(alive: set[str], count: int) -> None:
    shards, placement = place_collection("c", count, 16, {}, dict.fromkeys(sorted(alive), ""))
    load = Counter(w for s in shards for w in placement[s])
    assert len(load) == min(count, len(alive))
    assert max(load.values()) - min(load.values()) <= 1


@given(st.lists(st.sampled_from(["w1", "w2", "w3"]), max_size=8), st.integers(1, 8))
def test_shards_that_are_placed_already_count_as_their_workers(
    placed: list[str], count: int
) -> None:
    replicas: dict[int, tuple[str, ...]] = {shard: (worker,) for shard, worker in enumerate(placed)}
    shards, placement = place_collection(
        "c", count, 16, replicas, dict.fromkeys(["w1", "w2", "w3"], "")
    )
    assert len({w for s in shards for w in placement[s]}) == min(count, 3)


def test_collections_of_one_shard_each_spread_over_workers_and_shards() -> None:
    replicas: dict[int, tuple[str, ...]] = {}
    names = dict.fromkeys(["w1", "w2", "w3", "w4"], "")
    used: Counter[int] = Counter()
    for i in range(400):
        shards, replicas = place_collection(f"collection-{i}", 1, 16, replicas, names)
        used.update(shards)
    load = Counter(w for ws in replicas.values() for w in ws)
    assert len(replicas) == 16
    assert set(load.values()) == {4}
    assert max(used.values()) < 3 * min(used.values())


def test_the_argument_is_not_changed() -> None:
    replicas: dict[int, tuple[str, ...]] = {0: ("w1",)}
    place_collection("c", 8, 16, replicas, dict.fromkeys(["w1", "w2"], ""))
    assert replicas == {0: ("w1",)}


@given(
    st.dictionaries(
        st.sampled_from([f"w{i}" for i in range(9)]), st.sampled_from("abc"), min_size=1
    ),
    st.integers(1, 5),
    st.integers(1, 16),
)
def test_replicas_lie_on_different_workers_and_zones(
    zones: dict[str, str], factor: int, count: int
) -> None:
    if len(zones) < factor:
        with pytest.raises(ValueError, match=f"{factor} replicas need as many live workers"):
            place_collection("c", count, 16, {}, zones, factor)
        return
    shards, placement = place_collection("c", count, 16, {}, zones, factor)
    for shard in shards:
        workers = placement[shard]
        assert len(set(workers)) == len(workers) == factor
        assert len({zones[w] for w in workers}) == min(factor, len(set(zones.values())))


def test_replicas_are_spread_evenly() -> None:
    zones = {f"w{i}": f"z{i % 3}" for i in range(6)}
    _, placement = place_collection("c", 16, 16, {}, zones, 3)
    load = Counter(w for ws in placement.values() for w in ws)
    assert set(load.values()) == {8}
