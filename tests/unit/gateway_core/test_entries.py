"""Which generation of a collection a name, a write and a snapshot mean."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from vector_db.common.model.collection import Collection, Metric
from vector_db.common.model.errors import NotFound, SnapshotTooOld
from vector_db.common.model.rows import Blob, RowBlock, hash_ids
from vector_db.gateway.core.entries import Entries

FIRST = Collection(10, "c", 1, Metric.COSINE, (0, 1))
OTHER = Collection(12, "d", 1, Metric.COSINE, (0,))
FILLED = msgspec.structs.replace(FIRST, id=20, shards=(1, 2, 3), first_id=10, replaces=10)
FILLING = Entries([FIRST, FILLED, OTHER], {"now": 10})
BEFORE = msgspec.structs.replace(FIRST, until_ts=30, until_ms=5)
AFTER = msgspec.structs.replace(FILLED, replaces=0, since_ts=30)
SWITCHED = Entries([BEFORE, AFTER, OTHER], {"now": 20})


def block(*ids: bytes, versions: tuple[int, ...] = (), delete: bool = False) -> RowBlock:
    vectors = b"" if delete else np.arange(len(ids), dtype="<f4").tobytes()
    return RowBlock(
        FIRST.id, 1, Blob.pack(ids), hash_ids(ids).tobytes(), vectors, delete=delete,
        precondition="version" if versions else "none",
        versions=np.array(versions, "<i8").tobytes(),
    )  # fmt: skip


def test_a_name_means_the_generation_in_force() -> None:
    hidden = msgspec.structs.replace(FIRST, name="_h"), msgspec.structs.replace(FILLED, name="_h")
    for entries, current in ((FILLING, FIRST), (SWITCHED, AFTER)):
        assert entries.by_name == {"c": current, "d": OTHER}
        assert entries.by_alias == {"now": current}
        assert set(entries.by_id) == {10, 12, 20}
        assert entries.of_origin(10) == current
        for held in (FIRST, FILLED, BEFORE, AFTER):
            assert entries.current(held) == current
    assert Entries(hidden).hidden == {"_h": hidden[0]}
    assert Entries(reversed(hidden)).by_name == {}


def test_a_successor_is_known_while_it_is_filled() -> None:
    assert FILLING.successor(FIRST) == FILLED
    assert FILLING.successor(OTHER) is None
    assert SWITCHED.successor(BEFORE) is None
    assert SWITCHED.successor(AFTER) is None
    assert Entries([OTHER]).successor(FIRST) is None


def test_a_collection_that_got_the_name_later_is_another_one() -> None:
    again = msgspec.structs.replace(FIRST, id=40)
    entries = Entries([again])
    assert entries.by_name["c"] == again
    assert entries.current(FIRST) is None
    with pytest.raises(NotFound, match="'c' does not exist"):
        entries.at(FIRST, 50)
    with pytest.raises(NotFound, match="'c' does not exist"):
        entries.routed([(block(b"a"), FIRST)])


@pytest.mark.parametrize("held", [FIRST, FILLED, BEFORE, AFTER])
def test_a_snapshot_is_of_the_generation_that_was_in_force(held: Collection) -> None:
    assert FILLING.at(held, 100) == FIRST
    assert SWITCHED.at(held, 29) == BEFORE
    assert SWITCHED.at(held, 30) == AFTER


def test_a_snapshot_whose_generation_is_gone_is_too_old() -> None:
    entries = Entries([AFTER])
    assert entries.at(FIRST, 30) == AFTER
    with pytest.raises(SnapshotTooOld, match="29"):
        entries.at(FIRST, 29)
    with pytest.raises(NotFound, match="did not exist at 9"):
        entries.at(FIRST, 9)


def test_a_write_is_mirrored_for_a_generation_that_is_filled() -> None:
    asked = [
        (block(b"a", b"b", versions=(4, 5)), FIRST),
        (block(b"x"), OTHER),
        (block(b"d", delete=True), FIRST),
    ]
    routed = FILLING.routed(asked)
    assert [(b.collection_id, b.precondition, c) for b, c in routed] == [
        (10, "version", FIRST),
        (20, "mirrored", FILLED),
        (12, "none", OTHER),
        (10, "none", FIRST),
        (20, "mirrored", FILLED),
    ]
    (first, _), (mirror, _) = routed[:2]
    assert (mirror.ids, mirror.vectors, mirror.metadata) == (
        first.ids, first.vectors, first.metadata,
    )  # fmt: skip
    assert (len(first.versions), mirror.versions) == (16, b"")
    assert routed[4][0].delete
    mirror.check()


@pytest.mark.parametrize("held", [FIRST, FILLED, AFTER])
def test_a_write_goes_to_the_generation_in_force_whichever_it_was_made_for(
    held: Collection,
) -> None:
    assert [(b.collection_id, c) for b, c in SWITCHED.routed([(block(b"a"), held)])] == [
        (20, AFTER)
    ]
