"""Merges of sealed segments: what stays, what goes, whose graph is extended; the memory kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.support.indexes import build_all_due, exact_index
from vector_db.common.adapters.posix_disk import PosixDisk
from vector_db.common.core.messages.reads import FetchRequest, StatsRequest
from vector_db.common.model.collection import Collection, IndexKind, IndexOptions, Metric
from vector_db.common.model.rows import Blob, RowBlock
from vector_db.common.ports import DiskFull
from vector_db.shard.building.task import drop_rows, run_task
from vector_db.shard.index.opening import open_index
from vector_db.shard.storage import segment_files
from vector_db.shard.storage.sealed import SealedSegment
from vector_db.shard.storage.store import CheckpointJob, Store, StoreOptions
from vector_db.shard.storage.upkeep import MergeJob

BlockMaker = Callable[..., RowBlock]
Seal = Callable[[Store, int], int]


@pytest.fixture
def collection() -> Collection:
    return Collection(7, "animals", 4, Metric.COSINE, (0, 1), IndexOptions(IndexKind.EXACT))


@pytest.fixture
def indexed(collection: Collection) -> Collection:
    return msgspec.structs.replace(collection, index=IndexOptions(IndexKind.HNSW))


def ids(start: int, stop: int) -> list[bytes]:
    return [b"n%03d" % n for n in range(start, stop)]


def checkpoint(store: Store, ts: int) -> CheckpointJob:
    job = store.checkpoint(ts)
    job.run()
    store.checkpointed(job)
    return job


def run(disk: PosixDisk, job: MergeJob) -> SealedSegment | None:
    """What a worker does for a merge, up to the swap."""
    drop_rows(disk, job.task.name, job.dropped)
    run_task(disk, job.task, 1, lambda _: None)
    if not job.rows:
        return None
    segment = SealedSegment(disk.root, job.task.name)
    segment.verify()
    if job.task.index is not None:
        metric = job.owner.collection.metric
        segment.index = open_index(segment.directory, metric, segment.rows, 4, mapped=False)
    return segment


def merge(disk: PosixDisk, store: Store, floor_ts: int, idle: bool = False) -> MergeJob:
    job = store.upkeep.merge_due(floor_ts, idle)
    assert job is not None
    store.upkeep.merged(job, run(disk, job))
    store.upkeep.ended(job)
    return job


def segments(store: Store) -> list[int]:
    return [segment.rows for _, segment in store.sealed_segments()]


def versions(store: Store, ts: int, wanted: list[bytes]) -> dict[bytes, int]:
    reply = store.fetch(FetchRequest(7, (0,), ts, Blob.pack(wanted)))
    stamps = np.frombuffer(reply.versions, dtype="<i8").tolist()
    return dict(zip(reply.ids.unpack(), stamps, strict=True))


def test_equal_segments_become_one_that_answers_alike_after_a_restart_too(
    store: Store, disk: PosixDisk, options: StoreOptions, collection: Collection,
    upsert: BlockMaker, delete: BlockMaker, seal: Seal,
) -> None:  # fmt: skip
    for ts in (1, 2):
        store.apply(0, upsert(ids(10 * ts, 10 * ts + 9), ts, [b'{"n":%d}' % ts] * 9), ts)
        seal(store, ts)
    store.apply(0, delete([b"n010"]), 3)
    before = {ts: versions(store, ts, ids(0, 40)) for ts in range(5)}
    vectors = store.fetch(FetchRequest(7, (0,), 3, Blob.pack(ids(0, 40)))).vectors
    job = merge(disk, store, floor_ts=0)
    assert segments(store) == [18] and not any(map(len, job.dropped))
    for opened in (store, Store.open(disk, options, checkpoint(store, 3).manifest, [collection])):
        assert {ts: versions(opened, ts, ids(0, 40)) for ts in range(5)} == before
        assert opened.fetch(FetchRequest(7, (0,), 3, Blob.pack(ids(0, 40)))).vectors == vectors
        assert segments(opened) == [18]
    assert len(disk.names("segments/")) == 3, "two files and a sidecar, the sources are gone"


def test_deaths_that_come_while_segments_are_merged_are_carried_over(
    store: Store, disk: PosixDisk, upsert: BlockMaker, delete: BlockMaker, seal: Seal
) -> None:
    for ts in (1, 2):
        store.apply(0, upsert(ids(10 * ts, 10 * ts + 9)), ts)
        seal(store, ts)
    store.apply(0, delete([b"n010", b"n011", b"n020"]), 3)
    job = store.upkeep.merge_due(3, False)
    assert job is not None and [len(gone) for gone in job.dropped] == [2, 1]
    merged = run(disk, job)
    assert store.apply(0, delete([b"n012", b"n021"]), 4) == 2
    assert store.apply(0, upsert([b"n028", b"n010"]), 5) == 1
    before = {ts: versions(store, ts, ids(0, 40)) for ts in (3, 4, 5)}
    store.upkeep.merged(job, merged)
    store.upkeep.ended(job)
    assert {ts: versions(store, ts, ids(0, 40)) for ts in (3, 4, 5)} == before
    assert segments(store) == [15]
    store.undo_above(3)
    assert versions(store, 9, ids(0, 40)) == before[3], "carried over with their times"


def test_only_what_no_read_can_see_is_dropped(
    store: Store, disk: PosixDisk, upsert: BlockMaker, delete: BlockMaker, seal: Seal
) -> None:
    store.apply(0, upsert(ids(0, 10)), 1)
    seal(store, 1)
    for ts in range(2, 7):
        store.apply(0, delete([b"n%03d" % ts]), ts)
    at_floor = versions(store, 4, ids(0, 10))
    job = merge(disk, store, floor_ts=4)
    assert sorted(job.dropped[0].tolist()) == [2, 3, 4] and segments(store) == [7]
    assert versions(store, 4, ids(0, 10)) == at_floor
    assert [store.count_all(7, (0,), ts) for ts in (4, 5, 6)] == [7, 6, 5]


def test_a_segment_of_dead_rows_alone_leaves_nothing(
    store: Store, disk: PosixDisk, options: StoreOptions, collection: Collection,
    upsert: BlockMaker, delete: BlockMaker, seal: Seal,
) -> None:  # fmt: skip
    for ts in (1, 2):
        store.apply(0, upsert(ids(10 * ts, 10 * ts + 9)), ts)
        seal(store, ts)
    store.apply(0, delete(ids(0, 40)), 3)
    job = merge(disk, store, floor_ts=3)
    assert job.rows == 0 and segments(store) == []
    assert store.views(7, (0,), 3) == [] and store.count_all(7, (0,), 9) == 0
    manifest = checkpoint(store, 3).manifest
    assert disk.names("segments/") == []
    reopened = Store.open(disk, options, manifest, [collection])
    assert reopened.apply(0, upsert(ids(0, 3)), 4) == 0
    assert reopened.count_all(7, (0,), 4) == 3


def test_a_merge_whose_sources_were_dropped_with_their_collection_changes_nothing(
    store: Store, disk: PosixDisk, upsert: BlockMaker, seal: Seal
) -> None:
    for ts in (1, 2):
        store.apply(0, upsert(ids(10 * ts, 10 * ts + 9)), ts)
        seal(store, ts)
    checkpoint(store, 2)
    job = store.upkeep.merge_due(0, False)
    assert job is not None
    store.drop_collection(7)
    checkpoint(store, 3)
    names = disk.names("segments/")
    assert not any(source.name in name for source in job.sources for name in names)
    with pytest.raises(Exception, match="missing"):
        run(disk, job)
    store.upkeep.ended(job)
    checkpoint(store, 4)
    assert disk.names("segments/") == []


def test_a_merge_in_flight_outlives_the_sweep_of_a_checkpoint(
    store: Store, disk: PosixDisk, upsert: BlockMaker, seal: Seal
) -> None:
    for ts in (1, 2):
        store.apply(0, upsert(ids(10 * ts, 10 * ts + 9)), ts)
        seal(store, ts)
    job = store.upkeep.merge_due(0, False)
    assert job is not None
    drop_rows(disk, job.task.name, job.dropped)
    checkpoint(store, 2)
    run_task(disk, job.task, 1, lambda _: None)
    checkpoint(store, 2)
    store.upkeep.merged(job, SealedSegment(disk.root, job.task.name))
    store.upkeep.ended(job)
    assert versions(store, 2, ids(0, 40)) == versions(store, 9, ids(0, 40))
    assert store.count_all(7, (0,), 2) == 18


def test_a_merge_that_failed_is_a_leftover_and_is_due_again(
    store: Store, disk: PosixDisk, upsert: BlockMaker, seal: Seal, monkeypatch: pytest.MonkeyPatch
) -> None:
    for ts in (1, 2):
        store.apply(0, upsert(ids(10 * ts, 10 * ts + 9)), ts)
        seal(store, ts)
    job = store.upkeep.merge_due(0, False)
    assert job is not None and store.upkeep.merge_due(0, True) is None, "its segments are busy"
    drop_rows(disk, job.task.name, job.dropped)

    def full(*_: Any) -> None:
        raise DiskFull("no room for the columns")

    with monkeypatch.context() as patch, pytest.raises(DiskFull):
        patch.setattr(segment_files, "write_table", full)
        run_task(disk, job.task, 1, lambda _: None)
    store.upkeep.ended(job)
    assert segments(store) == [9, 9] and store.count_all(7, (0,), 2) == 18
    checkpoint(store, 2)
    assert not any(job.task.name in name for name in disk.names())
    again = merge(disk, store, floor_ts=0)
    assert again.task.name != job.task.name and segments(store) == [18]


# --- indexes ------------------------------------------------------------------------------------


@pytest.fixture
def graphs(disk: PosixDisk, indexed: Collection, upsert: BlockMaker, seal: Seal) -> Store:
    """40 rows with a graph, and 40 newer ones without."""
    store = Store(disk, StoreOptions(seal_rows=40, index_rows_min=30))
    store.add_collection(indexed)
    store.apply(0, upsert(ids(0, 40), 1), 1)
    seal(store, 1)
    assert len(build_all_due(disk, store)) == 1
    store.apply(0, upsert(ids(40, 80), 2), 2)
    seal(store, 2)
    return store


def test_the_graph_of_the_oldest_is_extended_and_its_few_dead_rows_stay(
    graphs: Store, disk: PosixDisk, delete: BlockMaker
) -> None:
    graphs.apply(0, delete([b"n001", b"n050"]), 3)
    first, _ = (segment.name for _, segment in graphs.sealed_segments())
    job = merge(disk, graphs, floor_ts=3)
    assert job.task.index is not None and job.task.index.base == first
    assert [gone.tolist() for gone in job.dropped] == [[], [10]]
    ((part, merged),) = graphs.sealed_segments()
    assert merged.rows == 79 and merged.index is not None and merged.index.rows == 79
    assert graphs.upkeep.is_settled(part, merged)
    assert graphs.count_all(7, (0,), 3) == 78
    queries = np.asarray(merged.vectors) / np.linalg.norm(merged.vectors, axis=1, keepdims=True)
    _, rows = merged.index.search(queries.astype(np.float32), 1, None, 79)
    assert np.count_nonzero(rows[:, 0] == np.arange(79)) >= 77, "rows have the graph's numbers"


def test_a_littered_oldest_is_written_anew_with_a_graph_of_its_own(
    graphs: Store, disk: PosixDisk, delete: BlockMaker
) -> None:
    graphs.apply(0, delete(ids(0, 8)), 3)
    job = merge(disk, graphs, floor_ts=3)
    assert job.task.index is not None and job.task.index.base == ""
    assert [len(gone) for gone in job.dropped] == [8, 0] and segments(graphs) == [72]


def test_a_segment_waits_for_the_merge_while_its_graph_is_built(
    graphs: Store, disk: PosixDisk
) -> None:
    job = graphs.upkeep.final_due()
    assert job is not None and graphs.upkeep.merge_due(0, True) is None
    graphs.upkeep.indexed(job, None)
    assert graphs.upkeep.merge_due(0, False) is not None


def test_an_index_that_is_not_wanted_any_more_is_told(
    graphs: Store, collection: Collection
) -> None:
    ((owner, first), _) = graphs.sealed_segments()
    assert graphs.upkeep.unwanted_index() is None
    owner.collection = collection
    assert graphs.upkeep.unwanted_index() is first


# --- memory -------------------------------------------------------------------------------------


def filled(
    disk: PosixDisk, indexed: Collection, upsert: BlockMaker, seal: Seal, hot_bytes: int
) -> Store:
    store = Store(disk, StoreOptions(seal_rows=40, index_rows_min=30, hot_bytes=hot_bytes))
    store.add_collection(indexed)
    for ts, shard in ((1, 0), (2, 1)):
        store.apply(shard, upsert(ids(0, 40), ts), ts)
        seal(store, ts)
    return store


def test_past_the_budget_indexes_are_served_from_files_and_rows_are_still_taken(
    disk: PosixDisk, indexed: Collection, upsert: BlockMaker, seal: Seal
) -> None:
    store = filled(disk, indexed, upsert, seal, hot_bytes=6000)
    upkeep = store.upkeep
    while (job := upkeep.final_due()) is not None:
        metric, segment = job.owner.collection.metric, job.segment
        run_task(disk, job.task, 1, lambda _: None)
        probe = open_index(segment.directory, metric, segment.rows, 4, mapped=True)
        mapped = not upkeep.fits(probe.meta.size_bytes)
        assert mapped, "a graph of 40 rows takes more"
        upkeep.indexed(job, open_index(segment.directory, metric, segment.rows, 4, mapped))
        assert store.bytes_held() <= 6000
    assert upkeep.reopen_due() is None
    stats = store.stats(StatsRequest(7, (0, 1)))
    assert stats.rows_indexed == 80 and stats.bytes_resident > stats.bytes_memory
    assert store.apply(0, upsert(ids(40, 60)), 3) == 0


def test_indexes_move_to_files_when_rows_come_and_back_when_there_is_room(
    disk: PosixDisk, indexed: Collection, upsert: BlockMaker, seal: Seal
) -> None:
    store = filled(disk, indexed, upsert, seal, hot_bytes=1_000_000)
    upkeep, budget = store.upkeep, 1_000_000
    for _, segment in store.sealed_segments():
        vectors = np.asarray(segment.vectors)
        segment.index = exact_index(vectors, Metric.COSINE, size_bytes=400_000)
    assert store.bytes_held() < budget and upkeep.reopen_due() is None
    store.apply(0, upsert([b"x"], metadata=[b'"%s"' % (b"x" * 300_000)]), 3)
    assert store.bytes_held() > budget

    def move() -> bool:
        due = upkeep.reopen_due()
        if due is None:
            return False
        _, segment, mapped = due
        vectors = np.asarray(segment.vectors)
        segment.index = exact_index(vectors, Metric.COSINE, mapped=mapped, size_bytes=400_000)
        return True

    assert move() and not move() and store.bytes_held() <= budget
    store.undo_above(2)
    assert move() and not move() and store.bytes_held() <= budget
    assert all(s.index is not None and not s.index.mapped for _, s in store.sealed_segments())
