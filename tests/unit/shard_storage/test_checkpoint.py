"""Checkpoints: what they write, what they reuse, what they remove, and what an open finds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.support.indexes import build_all_due
from vector_db.common.adapters.posix_disk import PosixDisk
from vector_db.common.core.messages.reads import FetchRequest
from vector_db.common.model.collection import Collection, Metric
from vector_db.common.model.errors import NotFound, StorageCorrupt
from vector_db.common.model.rows import Blob, RowBlock
from vector_db.common.ports import DiskFull
from vector_db.shard.index.opening import open_index
from vector_db.shard.storage.store import CheckpointJob, Idle, Store, StoreOptions

BlockMaker = Callable[..., RowBlock]
Seal = Callable[[Store, int], int]
NINE = [b"n%d" % n for n in range(9)]


def checkpoint(store: Store, ts: int) -> CheckpointJob:
    job = store.checkpoint(ts)
    job.run()
    store.checkpointed(job)
    return job


def ids_at(store: Store, shard: int, ts: int) -> list[bytes]:
    return sorted(
        row_id
        for view in store.views(7, (shard,), ts)
        for row_id, live in zip(
            view.ids.range(0, view.rows),
            np.ones(view.rows, bool) if view.live is None else view.live,
            strict=True,
        )
        if live
    )


def test_a_clean_slice_reuses_the_file_of_the_last_checkpoint(
    store: Store, disk: PosixDisk, upsert: BlockMaker
) -> None:
    store.apply(0, upsert([b"a"]), 1)
    store.apply(1, upsert([b"b"]), 1)
    checkpoint(store, 1)
    before = {name: (disk.root / name).stat().st_ino for name in disk.names("images/")}
    store.apply(1, upsert([b"c"]), 2)
    checkpoint(store, 2)
    after = {name: (disk.root / name).stat().st_ino for name in disk.names("images/")}
    assert len(before) == len(after) == 2
    assert len(before.items() & after.items()) == 1


def test_reopened_files_are_reused_too(
    store: Store, disk: PosixDisk, options: StoreOptions, collection: Collection,
    upsert: BlockMaker, delete: BlockMaker, seal: Seal,
) -> None:  # fmt: skip
    store.apply(0, upsert(NINE), 1)
    seal(store, 1)
    store.apply(0, delete([b"n3"]), 2)
    store.apply(0, upsert([b"x"]), 3)
    manifest = checkpoint(store, 3).manifest
    reopened = Store.open(disk, options, manifest, [collection])
    assert checkpoint(reopened, 9).manifest == manifest | {"ts": 9}


def test_rows_and_deaths_above_the_checkpoint_are_left_out(
    store: Store, disk: PosixDisk, options: StoreOptions, collection: Collection,
    upsert: BlockMaker, delete: BlockMaker, seal: Seal,
) -> None:  # fmt: skip
    store.apply(0, upsert(NINE), 1)
    seal(store, 1)
    store.apply(0, upsert([b"a", b"b"]), 2)
    store.apply(0, delete([b"a", b"n0"]), 3)
    store.apply(0, upsert([b"c"]), 4)
    manifest = checkpoint(store, 2).manifest
    reopened = Store.open(disk, options, manifest, [collection])
    assert ids_at(reopened, 0, 9) == sorted([*NINE, b"a", b"b"])
    reopened.apply(0, delete([b"a", b"n0"]), 3)
    reopened.apply(0, upsert([b"c"]), 4)
    assert ids_at(reopened, 0, 9) == ids_at(store, 0, 9)


def test_a_segment_sealed_after_the_checkpoint_is_a_leftover_and_its_rows_are_in_the_image(
    store: Store, disk: PosixDisk, options: StoreOptions, collection: Collection,
    upsert: BlockMaker, seal: Seal,
) -> None:  # fmt: skip
    store.apply(0, upsert(NINE), 1)
    job = store.checkpoint(1)
    seal(store, 1)
    job.run()
    store.checkpointed(job)
    assert disk.names("segments/"), "the living segment must survive the sweep"
    reopened = Store.open(disk, options, job.manifest, [collection])
    assert not disk.names("segments/")
    assert ids_at(reopened, 0, 1) == NINE
    assert not checkpoint(store, 1).manifest["slices"][0]["image"]


def test_files_go_only_after_a_manifest_without_them_is_durable(
    store: Store, disk: PosixDisk, upsert: BlockMaker, delete: BlockMaker, seal: Seal
) -> None:
    store.apply(0, upsert(NINE), 1)
    seal(store, 1)
    store.apply(0, upsert([b"n1"]), 2)
    checkpoint(store, 2)
    old = set(disk.names())
    store.apply(0, delete([b"n2", b"n1"]), 3)
    job = store.checkpoint(3)
    job.run()
    assert old <= set(disk.names())
    store.checkpointed(job)
    named = {s["image"] for s in job.manifest["slices"]}
    named |= {g["deaths_file"] for s in job.manifest["slices"] for g in s["segments"]}
    kept = {name for name in disk.names() if not name.endswith(("vectors.f32", "columns.vdb"))}
    assert kept == named and len(old - set(disk.names())) == 2


def test_a_dropped_collection_is_gone_at_once_and_its_files_with_the_next_checkpoint(
    store: Store, disk: PosixDisk, upsert: BlockMaker, seal: Seal
) -> None:
    store.apply(0, upsert(NINE), 1)
    seal(store, 1)
    store.apply(0, upsert([b"a"]), 2)
    checkpoint(store, 2)
    (view, *_) = store.views(7, (0,), 2)
    store.drop_collection(7)
    with pytest.raises(NotFound):
        store.views(7, (0,), 2)
    assert len(disk.names()) == 3
    assert checkpoint(store, 3).manifest["slices"] == []
    assert disk.names() == []
    assert view.ids.get(8) == b"n8" and np.isfinite(view.vectors).all()


def test_a_collection_dropped_before_the_restart_is_not_opened_and_its_files_wait(
    store: Store, disk: PosixDisk, options: StoreOptions, upsert: BlockMaker
) -> None:
    store.apply(0, upsert([b"a"]), 1)
    manifest = checkpoint(store, 1).manifest
    reopened = Store.open(disk, options, manifest, [])
    assert len(disk.names()) == 1
    checkpoint(reopened, 2)
    assert disk.names() == []


def test_a_seal_in_flight_outlives_the_sweep_and_the_drop_of_its_collection(
    store: Store, disk: PosixDisk, upsert: BlockMaker
) -> None:
    store.apply(0, upsert(NINE), 1)
    job = store.seal_due(1, Idle.NO)
    assert job is not None
    job.run()
    checkpoint(store, 1)
    assert len(disk.names("segments/")) == 2
    store.drop_collection(7)
    store.sealed(job)
    checkpoint(store, 2)
    assert disk.names() == []


def test_without_a_manifest_every_file_is_a_leftover_and_other_files_are_left_alone(
    store: Store, disk: PosixDisk, options: StoreOptions, upsert: BlockMaker, seal: Seal
) -> None:
    disk.write_atomic("wal/000001", [b"x"])
    store.apply(0, upsert(NINE), 1)
    seal(store, 1)
    Store.open(disk, options, None, [])
    assert disk.names() == ["wal/000001"]


def test_the_name_of_a_lost_segment_is_not_used_again(
    store: Store, disk: PosixDisk, options: StoreOptions, collection: Collection, upsert: BlockMaker
) -> None:
    names = set[str]()
    for _ in range(3):
        store.apply(0, upsert(NINE), 1)
        job = store.seal_due(1, Idle.NO)
        assert job is not None
        job.run()
        store.sealed(job)
        names.add(job.name)
        store = Store.open(disk, options, None, [collection])
    assert len(names) == 3
    checkpoint(store, 1)
    assert [path.name for path in (disk.root / "segments").iterdir()] == []


def test_an_index_file_stays_with_its_segment(
    store: Store, disk: PosixDisk, options: StoreOptions, collection: Collection,
    upsert: BlockMaker, seal: Seal,
) -> None:  # fmt: skip
    store.apply(0, upsert(NINE), 1)
    seal(store, 1)
    (job,) = build_all_due(disk, store)
    manifest = checkpoint(store, 1).manifest
    reopened = Store.open(disk, options, manifest, [collection])
    ((_, segment),) = reopened.sealed_segments()
    assert segment.name == job.segment.name
    assert open_index(segment.directory, Metric.COSINE, 9, 4, mapped=False).rows == 9


def test_a_failed_checkpoint_leaves_the_last_one_whole(
    store: Store, disk: PosixDisk, options: StoreOptions, collection: Collection,
    upsert: BlockMaker, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    store.apply(0, upsert([b"a"]), 1)
    manifest = checkpoint(store, 1).manifest
    store.apply(0, upsert([b"b"]), 2)
    failed = store.checkpoint(2)

    def full(name: str, parts: Any) -> None:
        raise DiskFull(name)

    with monkeypatch.context() as patch:
        patch.setattr(disk, "write_atomic", full)
        with pytest.raises(DiskFull):
            failed.run()
    with pytest.raises(RuntimeError, match="not written"):
        _ = failed.manifest
    assert ids_at(Store.open(disk, options, manifest, [collection]), 0, 9) == [b"a"]
    later = checkpoint(store, 2)
    with pytest.raises(RuntimeError, match="last checkpoint"):
        store.checkpointed(failed)
    assert ids_at(Store.open(disk, options, later.manifest, [collection]), 0, 9) == [b"a", b"b"]


def test_a_checkpoint_below_a_sealed_row_is_refused(
    store: Store, upsert: BlockMaker, seal: Seal
) -> None:
    store.apply(0, upsert(NINE), 5)
    seal(store, 5)
    with pytest.raises(ValueError, match="checkpoint at 4"):
        store.checkpoint(4)


def test_a_catalog_that_contradicts_the_files_is_refused(
    store: Store, disk: PosixDisk, options: StoreOptions, upsert: BlockMaker
) -> None:
    store.apply(0, upsert([b"a"]), 1)
    manifest = checkpoint(store, 1).manifest
    other = Collection(7, "animals", 8, Metric.COSINE, (0, 1))
    with pytest.raises(StorageCorrupt, match="dimension"):
        Store.open(disk, options, manifest, [other])
    with pytest.raises(StorageCorrupt, match="storage manifest"):
        Store.open(disk, options, {"format": 1}, [other])


def test_the_manifest_is_json_and_counts_no_row_twice_after_reopening_twice(
    store: Store, disk: PosixDisk, options: StoreOptions, collection: Collection,
    upsert: BlockMaker, seal: Seal,
) -> None:  # fmt: skip
    import json

    store.apply(0, upsert(NINE), 1)
    store.apply(0, upsert([b"n1", b"n1b"], 3), 2)
    manifest = json.loads(json.dumps(checkpoint(store, 2).manifest))
    for _ in range(2):
        store = Store.open(disk, options, manifest, [collection])
        seal(store, 2)
        manifest = checkpoint(store, 2).manifest
    assert store.count_all(7, (0, 1), 2) == 10
    reply = store.fetch(FetchRequest(7, (0,), 1, Blob.pack([b"n1"])))
    assert np.frombuffer(reply.versions, dtype="<i8").tolist() == [1]
