"""Reads by shard: every key at its home, a whole collection at each of its shards."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vector_db.common.core.placement import shards_of_ids
from vector_db.common.model.collection import Collection, Metric
from vector_db.common.model.rows import hash_ids
from vector_db.gateway.core.read_sets import read_sets


@given(
    st.lists(st.binary(min_size=1, max_size=8), unique=True),
    st.lists(st.integers(0, 9), min_size=1, unique=True),
)
def test_every_key_is_read_at_its_home_and_nowhere_else(
    keys: list[bytes], shards: list[int]
) -> None:
    collections = {5: Collection(5, "c", 1, Metric.DOT, tuple(shards))}
    found = read_sets({5: tuple(keys)}, collections)
    placed = {
        key: shard for shard, sets in found.items() for one in sets for key in one.ids.unpack()
    }
    homes = shards_of_ids(hash_ids(keys), shards).tolist() if keys else []
    assert placed == dict(zip(keys, homes, strict=True))
    assert all(not one.whole for sets in found.values() for one in sets)


def test_a_whole_collection_is_read_at_each_of_its_shards() -> None:
    collections = {
        5: Collection(5, "c", 1, Metric.DOT, (1, 2)),
        6: Collection(6, "d", 1, Metric.DOT, (2, 3)),
    }
    found = read_sets({5: None, 6: None}, collections)
    read = {
        shard: [(s.collection_id, s.whole, len(s.ids)) for s in sets]
        for shard, sets in found.items()
    }
    assert read == {1: [(5, True, 0)], 2: [(5, True, 0), (6, True, 0)], 3: [(6, True, 0)]}
