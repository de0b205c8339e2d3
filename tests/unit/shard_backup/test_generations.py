"""A backup of a collection that is spread over other shards has its rows once at every commit."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, cast

import pytest

from tests.unit.shard_backup.small_cluster import ANIMALS, PLANTS, Rows, SmallCluster
from tests.unit.shard_backup.test_create import rows_of, without_hidden
from vector_db.common.adapters.posix_disk import PosixDisk
from vector_db.common.core.messages import AnyMessage
from vector_db.common.model.collection import Collection
from vector_db.shard.backup.errors import BackupError
from vector_db.shard.backup.manifest import Manifest, check_bytes
from vector_db.shard.backup.restore import Restore, chosen
from vector_db.shard.backup.rows import batches, open_segments


def restored(cluster: SmallCluster, manifest: Manifest, ts: int) -> dict[str, Rows]:
    """What a restore at a commit reads."""
    found: dict[str, Rows] = {}
    for collection in chosen(manifest, ts, []):
        rows = found.setdefault(collection.name, {})
        for shard in manifest.shards:
            for part in shard.slices:
                if part.collection_id == collection.id:
                    segments = open_segments(PosixDisk(cluster.directory()), part, collection)
                    for batch in (batch for segment in segments for batch in batches(segment, ts)):
                        for row_id, vector, text in zip(
                            batch.ids.unpack(), batch.vectors, batch.metadata.unpack(), strict=True
                        ):
                            assert row_id not in rows
                            rows[row_id] = (vector.tobytes(), text)
    return found


def alias_targets(cluster: SmallCluster, manifest: Manifest, ts: int) -> dict[str, str]:
    collections = chosen(manifest, ts, [])
    nothing = cast(Any, None)
    restore = Restore(
        cluster.directory(), manifest, ts, collections, nothing, lambda *_: nullcontext(nothing)
    )
    return restore._aliases()


def spread(cluster: SmallCluster) -> Collection:
    """With commits before it is filled, while it is, and after it was put in force at 251."""
    for _ in range(15):
        cluster.commit()
    filled = cluster.spread("animals")
    for _ in range(9):
        cluster.commit()
    now = cluster.switch(filled)
    for _ in range(10):
        cluster.commit()
    return now


async def test_a_generation_that_is_being_filled_is_not_in_it(cluster: SmallCluster) -> None:
    for _ in range(15):
        cluster.commit()
    cluster.spread("animals")
    cluster.commit()
    manifest = await cluster.backup()
    assert manifest.collections == (ANIMALS, PLANTS)
    assert manifest.rows == rows_of(cluster.past[170])
    assert restored(cluster, manifest, 170) == without_hidden(cluster.past[170])


async def test_every_commit_is_restored_from_the_generation_that_served_it(
    cluster: SmallCluster,
) -> None:
    now = spread(cluster)
    manifest = await cluster.backup()
    check_bytes(cluster.directory(), manifest)
    assert [c.id for c in manifest.collections] == [ANIMALS.id, PLANTS.id, now.id]
    assert manifest.collections_at(manifest.commit_ts) == (PLANTS, now)
    assert manifest.rows == rows_of(cluster.past[350])
    for ts in range(0, 351, 5):
        expected = without_hidden(cluster.past[ts // 10 * 10])
        served = {c.name: c.id for c in chosen(manifest, ts, [])}
        assert restored(cluster, manifest, ts) == {name: expected[name] for name in served}
        assert served.get("animals", ANIMALS.id) == (now.id if ts > 250 else ANIMALS.id)
        assert served.keys() == (expected.keys() if ts else set())
    for ts in (250, 251):
        assert alias_targets(cluster, manifest, ts) == {"beasts": "animals"}


@pytest.mark.parametrize("which", ["over", "in force"])
async def test_what_is_given_up_while_it_is_taken(cluster: SmallCluster, which: str) -> None:
    if which == "over":
        now = spread(cluster)
    else:
        for _ in range(20):
            cluster.commit()

    def drop(message: AnyMessage) -> None:
        if which == "in force" and ANIMALS in cluster.collections:
            cluster.switch(cluster.spread("animals"))
        cluster.collections = tuple(c for c in cluster.collections if not c.until_ts)

    for replica in cluster.replicas:
        replica.meddle = drop
    if which == "in force":
        with pytest.raises(BackupError, match=r"'animals' was spread .* take it again"):
            await cluster.backup()
        return
    manifest = await cluster.backup()
    assert manifest.collections == (PLANTS, now)
    assert restored(cluster, manifest, 350) == without_hidden(cluster.past[350])
    assert set(restored(cluster, manifest, 250)) == {"plants"}
