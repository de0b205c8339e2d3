"""A backup holds the rows of every commit in its window, whatever replicas do meanwhile."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.unit.shard_backup.small_cluster import ANIMALS, PLANTS, Rows, SmallCluster
from vector_db.common.adapters.posix_disk import PosixDisk
from vector_db.common.core.messages import AnyMessage
from vector_db.common.core.messages.copies import SnapshotBytes, SnapshotRead, SnapshotRequest
from vector_db.common.model.errors import Unavailable
from vector_db.shard.backup.errors import BackupError
from vector_db.shard.backup.inventory import backups
from vector_db.shard.backup.manifest import Manifest, check_bytes, read_manifest
from vector_db.shard.backup.restore import chosen, commit_at
from vector_db.shard.backup.rows import batches, open_segments
from vector_db.shard.core.timeline import STEP_MS


def rows_at(directory: Path, manifest: Manifest, ts: int) -> dict[str, Rows]:
    """Every row of a backup at a commit."""
    found: dict[str, Rows] = {c.name: {} for c in manifest.collections}
    names = {c.id: c for c in manifest.collections}
    for shard in manifest.shards:
        for part in shard.slices:
            collection = names[part.collection_id]
            for segment in open_segments(PosixDisk(directory), part, collection):
                for batch in batches(segment, ts):
                    for row_id, vector, text in zip(
                        batch.ids.unpack(), batch.vectors, batch.metadata.unpack(), strict=True
                    ):
                        assert row_id not in found[collection.name]
                        found[collection.name][row_id] = (vector.tobytes(), text)
    return found


def without_hidden(state: dict[str, Rows]) -> dict[str, Rows]:
    return {name: rows for name, rows in state.items() if not name.startswith("_")}


def rows_of(state: dict[str, Rows]) -> int:
    return sum(map(len, without_hidden(state).values()))


async def test_every_commit_up_to_its_own_can_be_read(cluster: SmallCluster) -> None:
    for _ in range(40):
        cluster.commit()
    manifest = await cluster.backup()
    assert manifest == read_manifest(cluster.directory())
    check_bytes(cluster.directory(), manifest)
    assert (manifest.commit_ts, manifest.cluster_id) == (400, "the-cluster")
    assert manifest.collections == (ANIMALS, PLANTS)
    assert manifest.aliases == {"beasts": ANIMALS.id}
    assert manifest.rows == rows_of(cluster.past[400])
    parts = [part for shard in manifest.shards for part in shard.slices]
    assert any(p.segments and p.image for p in parts)
    assert any(s.deaths for p in parts for s in p.segments)
    for ts in range(0, 401, 5):
        expected = without_hidden(cluster.past[ts // 10 * 10])
        assert rows_at(cluster.directory(), manifest, ts) == expected, ts


async def test_what_is_committed_while_it_is_taken_is_not_in_it(cluster: SmallCluster) -> None:
    for _ in range(20):
        cluster.commit()

    def commit_first(message: AnyMessage) -> None:
        if isinstance(message, SnapshotRequest):
            rows_before = rows_of(cluster.past[200])
            while cluster.ts < 210 or rows_of(cluster.past[cluster.ts]) == rows_before:
                cluster.commit()

    for replica in cluster.replicas:
        replica.meddle = commit_first
    manifest = await cluster.backup()
    assert manifest.commit_ts == 200 < min(shard.ts for shard in manifest.shards)
    assert manifest.rows == rows_of(cluster.past[200])
    assert rows_at(cluster.directory(), manifest, 200) == without_hidden(cluster.past[200])


async def test_a_replica_that_fails_halfway_is_replaced_by_another(cluster: SmallCluster) -> None:
    for _ in range(20):
        cluster.commit()
    reads = 0

    def fail(message: AnyMessage) -> None:
        nonlocal reads
        if isinstance(message, SnapshotRead) and not message.done:
            reads += 1
            if reads > 2:
                raise Unavailable("the snapshot is not kept any more")

    cluster.replicas[0].meddle = fail
    manifest = await cluster.backup()
    assert {shard.worker for shard in manifest.shards} == {"w2"}
    assert rows_at(cluster.directory(), manifest, 200) == without_hidden(cluster.past[200])
    names = {f.name for f in manifest.files}
    assert names == set(PosixDisk(cluster.directory()).names()) - {"manifest.json"}


async def test_bytes_that_are_damaged_on_the_way_do_not_count(cluster: SmallCluster) -> None:
    cluster.commit()

    def damage(message: AnyMessage) -> AnyMessage | None:
        if isinstance(message, SnapshotRead) and not message.done:
            return SnapshotBytes(bytes(message.size_bytes), 1)
        return None

    for replica in cluster.replicas:
        replica.meddle = damage
    with pytest.raises(BackupError, match=r"no replica gives shard .* damaged on the way"):
        await cluster.backup(patience_s=0.0)
    assert [found.state for found in backups(cluster.folder / "backups", False)] == ["unfinished"]


async def test_a_collection_that_is_dropped_meanwhile_is_left_out(cluster: SmallCluster) -> None:
    for _ in range(20):
        cluster.commit()

    def drop(message: AnyMessage) -> None:
        cluster.collections = (ANIMALS,)

    for replica in cluster.replicas:
        replica.meddle = drop
    manifest = await cluster.backup()
    assert manifest.collections == (ANIMALS,)
    check_bytes(cluster.directory(), manifest)
    found = rows_at(cluster.directory(), manifest, 200)
    assert found == {"animals": cluster.past[200]["animals"]}
    names = {f.name for f in manifest.files}
    assert names == set(PosixDisk(cluster.directory()).names()) - {"manifest.json"}


async def test_a_deposed_sequencer_is_not_believed(cluster: SmallCluster) -> None:
    for _ in range(10):
        cluster.commit()
    cluster.stale = [cluster.catalog()]
    cluster.commit()

    def drop(message: AnyMessage) -> None:
        if isinstance(message, SnapshotRequest) and len(cluster.collections) > 1:
            cluster.stale = [cluster.catalog()]
            cluster.collections = (ANIMALS,)
            cluster.commit()

    for replica in cluster.replicas:
        replica.meddle = drop
    manifest = await cluster.backup()
    assert cluster.stale == []
    assert (manifest.commit_ts, manifest.collections) == (110, (ANIMALS,))


async def test_a_window_that_has_passed_its_commit_makes_no_backup(cluster: SmallCluster) -> None:
    for _ in range(20):
        cluster.commit()

    def pass_by(message: AnyMessage) -> None:
        for replica in cluster.replicas:
            replica.stable_ts = replica.timeline.floor_ts = 201

    for replica in cluster.replicas:
        replica.meddle = pass_by
    with pytest.raises(BackupError, match="VECTOR_DB_RETENTION_S"):
        await cluster.backup()


async def test_it_reaches_back_as_far_as_all_of_its_shards_do(cluster: SmallCluster) -> None:
    for _ in range(20):
        cluster.commit()

    def rise(message: AnyMessage) -> None:
        if isinstance(message, SnapshotRequest):
            for replica in cluster.replicas:
                replica.timeline.floor_ts += 40

    for replica in cluster.replicas:
        replica.meddle = rise
    manifest = await cluster.backup()
    assert sorted(shard.floor_ts for shard in manifest.shards) == [40, 80]
    assert manifest.oldest_ts == 80


async def test_a_catalog_that_is_not_stable_is_not_backed_up(cluster: SmallCluster) -> None:
    cluster.commit()
    cluster.catalog_ts = 11
    with pytest.raises(BackupError, match="catalog keeps changing"):
        await cluster.backup(patience_s=0.0)


async def test_it_can_be_asked_for_commits_and_times_of_its_window_alone(
    cluster: SmallCluster,
) -> None:
    for _ in range(20):
        cluster.commit()
    for replica in cluster.replicas:
        replica.timeline.floor_ts = 100
    manifest = await cluster.backup()
    directory = cluster.directory()

    def at(ts: int | None = None, ms: int | None = None) -> int:
        return commit_at(directory, manifest, ts, ms)

    assert at() == 200
    assert (at(100), at(155), at(200)) == (100, 155, 200)
    for outside in (99, 201):
        with pytest.raises(BackupError, match="at commits 100 to 200"):
            at(outside)
    # A commit's step of the clock has to be over.
    assert (at(ms=151 * STEP_MS), at(ms=150 * STEP_MS)) == (150, 140)
    for outside_ms, why in ((90 * STEP_MS, "retention window"), (201 * STEP_MS, "taken before")):
        with pytest.raises(BackupError, match=why):
            at(ms=outside_ms)


async def test_collections_are_chosen_by_name_and_by_what_existed(cluster: SmallCluster) -> None:
    cluster.commit()
    manifest = await cluster.backup()
    later = msgspec.structs.replace(PLANTS, id=9)
    manifest = msgspec.structs.replace(manifest, collections=(ANIMALS, later))
    assert chosen(manifest, 10, []) == [ANIMALS, later]
    assert chosen(manifest, 8, []) == [ANIMALS]
    assert chosen(manifest, 10, ["plants"]) == [later]
    with pytest.raises(BackupError, match=r"no collection 'plants' at commit 8; it has: animals"):
        chosen(manifest, 8, ["plants"])
