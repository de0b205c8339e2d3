"""Rows copied from another generation keep their versions, through all that becomes of them; where
there are none, nothing is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from vector_db.common.adapters.posix_disk import PosixDisk
from vector_db.common.core.messages.copies import SnapshotReply
from vector_db.common.core.messages.reads import FetchRequest
from vector_db.common.model.collection import Collection
from vector_db.common.model.rows import Blob, RowBlock
from vector_db.shard.building.task import drop_rows, run_task
from vector_db.shard.storage.arrival import Arrival
from vector_db.shard.storage.outgoing import OutgoingShard
from vector_db.shard.storage.sealed import SealedSegment
from vector_db.shard.storage.store import Store, StoreOptions

BlockMaker = Callable[..., RowBlock]
Seal = Callable[[Store, int], int]


def ids(start: int, stop: int) -> list[bytes]:
    return [b"n%03d" % n for n in range(start, stop)]


@pytest.fixture
def copied(upsert: BlockMaker) -> BlockMaker:
    """``copied({id: version})``"""

    def make(rows: dict[bytes, int]) -> RowBlock:
        stamps = np.array(list(rows.values()), dtype="<i8").tobytes()
        block = upsert(list(rows))
        return msgspec.structs.replace(block, precondition="copied", versions=stamps)

    return make


def versions(store: Store, ts: int) -> dict[bytes, int]:
    """What a fetch and what views say."""
    reply = store.fetch(FetchRequest(7, (0,), ts, Blob.pack(ids(0, 99))))
    stamps = np.frombuffer(reply.versions, dtype="<i8").tolist()
    fetched = dict(zip(reply.ids.unpack(), stamps, strict=True))
    seen: dict[bytes, int] = {}
    for view in store.views(7, (0,), ts):
        rows = range(view.rows) if view.live is None else np.flatnonzero(view.live).tolist()
        seen |= {view.ids.get(row): int(view.versions[row]) for row in rows}
    assert seen == fetched
    return fetched


def merge(disk: PosixDisk, store: Store, floor_ts: int) -> SealedSegment:
    job = store.upkeep.merge_due(floor_ts, True)
    assert job is not None
    drop_rows(disk, job.task.name, job.dropped)
    run_task(disk, job.task, 1, lambda _: None)
    segment = SealedSegment(disk.root, job.task.name)
    segment.verify()
    store.upkeep.merged(job, segment)
    store.upkeep.ended(job)
    return segment


def checkpoint(store: Store, ts: int) -> dict[str, Any]:
    job = store.checkpoint(ts)
    job.run()
    store.checkpointed(job)
    return job.manifest


def test_a_copied_row_is_born_at_its_commit_and_has_the_version_that_it_had(
    store: Store, copied: BlockMaker, upsert: BlockMaker
) -> None:
    store.apply(0, upsert(ids(0, 2)), 10)
    store.apply(0, copied({b"n002": 3, b"n003": 7}), 20)
    store.apply(0, upsert(ids(3, 5)), 30)
    assert versions(store, 19) == {b"n000": 10, b"n001": 10}
    assert versions(store, 20) == {b"n000": 10, b"n001": 10, b"n002": 3, b"n003": 7}
    assert versions(store, 30)[b"n003"] == 30
    latest = store.latest(0, upsert(ids(2, 4)))
    assert latest.version.tolist() == [3, 30]
    assert latest.changed_ts.tolist() == [20, 30], "what changed since is asked of commits"
    assert store.changed_ts(7, 0) == 30


def test_the_versions_of_a_condition_are_not_those_of_the_rows(
    store: Store, upsert: BlockMaker
) -> None:
    stamps = np.array([10], dtype="<i8").tobytes()
    store.apply(0, upsert([b"n000"]), 10)
    rows = msgspec.structs.replace(upsert([b"n000"]), precondition="version", versions=stamps)
    store.apply(0, rows, 20)
    assert versions(store, 20) == {b"n000": 20}


def test_versions_are_kept_through_seals_merges_checkpoints_and_restarts(
    store: Store, disk: PosixDisk, options: StoreOptions, collection: Collection,
    copied: BlockMaker, upsert: BlockMaker, seal: Seal,
) -> None:  # fmt: skip
    store.apply(0, upsert(ids(0, 9)), 10)
    assert seal(store, 10) == 1
    store.apply(0, copied({row_id: n + 1 for n, row_id in enumerate(ids(9, 18))}), 20)
    assert seal(store, 20) == 1
    store.apply(0, copied({b"n018": 5}), 30)
    expected = dict.fromkeys(ids(0, 9), 10) | {b: n + 1 for n, b in enumerate(ids(9, 18))}
    expected[b"n018"] = 5
    for _ in range(2):
        assert versions(store, 30) == expected
        assert versions(Store.open(disk, options, checkpoint(store, 30), [collection]), 30) == (
            expected
        )
        if len(store.sealed_segments()) == 2:
            assert merge(disk, store, 0).rows == 18
    store = Store.open(disk, options, checkpoint(store, 30), [collection])
    # An image that was opened is appended to, split, sealed and written again.
    store.apply(0, upsert(ids(19, 30)), 40)
    store.apply(0, copied({b"n031": 6}), 50)
    assert seal(store, 40) == 1
    expected |= dict.fromkeys(ids(19, 30), 40) | {b"n031": 6}
    assert versions(store, 50) == expected
    assert versions(Store.open(disk, options, checkpoint(store, 50), [collection]), 50) == expected


def test_an_undo_leaves_the_versions_of_the_rows_before(
    store: Store, copied: BlockMaker, upsert: BlockMaker
) -> None:
    store.apply(0, copied({b"n000": 5}), 10)
    store.apply(0, copied({b"n001": 6}), 20)
    (view,) = store.views(7, (0,), 20)
    store.undo_above(10)
    store.apply(0, upsert([b"n002"]), 30)
    assert view.versions.tolist() == [5, 6], "what was shown does not change"
    assert versions(store, 30) == {b"n000": 5, b"n002": 30}
    store.undo_above(0)
    store.apply(0, upsert([b"n003"]), 40)
    assert versions(store, 40) == {b"n003": 40}


def test_views_of_before_the_first_copied_row_do_not_change(
    store: Store, copied: BlockMaker, upsert: BlockMaker
) -> None:
    store.apply(0, upsert(ids(0, 3)), 10)
    (view,) = store.views(7, (0,), 10)
    store.apply(0, copied({b"n003": 5}), 20)
    assert view.versions.tolist() == [10, 10, 10]


def test_a_peer_gets_the_versions_from_memory_and_from_files(
    store: Store, disk: PosixDisk, tmp_path: Any, options: StoreOptions, collection: Collection,
    copied: BlockMaker, seal: Seal,
) -> None:  # fmt: skip
    store.apply(0, copied({row_id: n + 1 for n, row_id in enumerate(ids(0, 9))}), 20)
    assert seal(store, 20) == 1
    store.apply(0, copied({b"n009": 4}), 30)
    outgoing = OutgoingShard(disk, "x", store.slices_of(0), 30)
    outgoing.run()
    there = PosixDisk(tmp_path / "peer")
    peer = Store(there, options)
    peer.add_collection(collection)
    reply = SnapshotReply(
        snapshot="1", ts=30, files=tuple(outgoing.files), slices=tuple(outgoing.slices), worker="w",
        timeline=b"", decided=b"",
    )  # fmt: skip
    arrival = Arrival(there, peer, 0, reply)
    arrival.plan(None)
    for file in arrival.files:
        file.write(outgoing.read(file.number, 0, file.size_bytes).data)
        file.close()
    arrival.open()
    list(arrival.apply([copied({b"n010": 6})], 40))
    arrival.put()
    outgoing.close()
    assert versions(peer, 40) == versions(store, 30) | {b"n010": 6}
    assert versions(peer, 30)[b"n009"] == 4


def test_without_copied_rows_nothing_is_kept_of_versions(
    store: Store, disk: PosixDisk, options: StoreOptions, collection: Collection,
    upsert: BlockMaker, seal: Seal,
) -> None:  # fmt: skip
    store.apply(0, upsert(ids(0, 9)), 10)
    seal(store, 10)
    store.apply(0, upsert(ids(9, 12)), 20)
    store = Store.open(disk, options, checkpoint(store, 20), [collection])
    part = store.slice_of(7, 0)
    assert part is not None
    for segment in part.segments():
        assert segment.versions is segment.begin_ts
    assert not part.sealed[0].has_versions


def test_what_was_kept_of_versions_goes_with_the_last_row_that_needs_it(
    store: Store, disk: PosixDisk, copied: BlockMaker, upsert: BlockMaker, delete: BlockMaker,
    seal: Seal,
) -> None:  # fmt: skip
    store.apply(0, copied({b"n000": 5}), 10)
    store.apply(0, upsert(ids(1, 9)), 20)
    store.apply(0, upsert(ids(9, 18)), 30)
    seal(store, 20)
    part = store.slice_of(7, 0)
    assert part is not None
    assert part.sealed[0].has_versions
    assert part.growing.versions is part.growing.begin_ts, "nothing copied is left in memory"
    seal(store, 30)
    store.apply(0, delete([b"n000"]), 40)
    assert not merge(disk, store, 40).has_versions
