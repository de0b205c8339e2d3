"""When segments are sealed and indexed, and what readers see meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from tests.support.indexes import exact_index
from vector_db.common.adapters.posix_disk import PosixDisk
from vector_db.common.core.messages.reads import StatsRequest
from vector_db.common.model.collection import Collection, Metric
from vector_db.common.model.errors import NotFound
from vector_db.common.model.rows import RowBlock
from vector_db.shard.storage.store import Idle, Store, StoreOptions

BlockMaker = Callable[..., RowBlock]
Seal = Callable[[Store, int], int]
NINE = [b"n%d" % n for n in range(9)]


def test_rows_above_stable_stay_growing(store: Store, upsert: BlockMaker) -> None:
    store.apply(0, upsert(NINE), 1)
    store.apply(0, upsert([b"n0", b"new"]), 2)
    job = store.seal_due(1, Idle.NO)
    assert job is not None and job.rows == 9
    assert store.seal_due(2, Idle.SHORT) is None, "one seal at a time in a slice"
    job.run()
    store.sealed(job)
    store.undo_above(1)
    assert store.count_all(7, (0,), 9) == 9


def test_nothing_stable_is_nothing_to_seal(store: Store, upsert: BlockMaker) -> None:
    store.apply(0, upsert(NINE), 5)
    assert store.seal_due(4, Idle.SHORT) is None


def test_bytes_seal_too_and_idle_slices_at_the_size_worth_an_index(
    disk: PosixDisk, collection: Collection, upsert: BlockMaker
) -> None:
    options = StoreOptions(seal_rows=100, seal_bytes=500, index_rows_min=4)
    store = Store(disk, options)
    store.add_collection(collection)
    store.apply(0, upsert(NINE[:5]), 1)
    assert store.seal_due(1, Idle.NO) is None
    idle = store.seal_due(1, Idle.SHORT)
    assert idle is not None and idle.rows == 5
    store.apply(1, upsert([b"big"], metadata=[b'"%s"' % (b"x" * 500)]), 2)
    fat = store.seal_due(2, Idle.NO)
    assert fat is not None and fat.rows == 1


def test_idle_slices_with_many_segments_wait_for_their_full_size(
    disk: PosixDisk, collection: Collection, upsert: BlockMaker, seal: Seal
) -> None:
    store = Store(disk, StoreOptions(seal_rows=8, index_rows_min=2, idle_segments_max=2))
    store.add_collection(collection)
    for ts in range(1, 6):
        store.apply(0, upsert([b"%d" % ts, b"%d'" % ts]), ts)
        seal(store, ts)
    assert store.stats(StatsRequest(7, (0,))).segments == 2


def test_an_altered_collection_is_the_one_that_its_slices_go_by(
    store: Store, collection: Collection, upsert: BlockMaker
) -> None:
    store.apply(0, upsert(NINE), 1)
    altered = msgspec.structs.replace(collection, recall_target=0.9)
    store.add_collection(altered)
    store.apply(1, upsert(NINE), 2)
    for shard in (0, 1):
        part = store.slice_of(collection.id, shard)
        assert part is not None and part.collection is altered
    assert store.collection(collection.id) is altered
    assert store.count_all(collection.id, (0, 1), 2) == 18, "its rows are where they were"


def test_the_largest_segment_goes_when_memory_is_short(
    disk: PosixDisk, collection: Collection, upsert: BlockMaker
) -> None:
    store = Store(disk, StoreOptions(growing_bytes_max=150))
    store.add_collection(collection)
    store.apply(0, upsert([b"a"]), 1)
    store.apply(1, upsert(NINE), 2)
    assert store.seal_due(1, Idle.NO) is not None, "only shard 0 is stable"
    job = store.seal_due(2, Idle.NO)
    assert job is None or job.owner.shard == 1


def test_deaths_that_come_while_a_segment_is_written_are_carried_over(
    store: Store, upsert: BlockMaker, delete: BlockMaker
) -> None:
    store.apply(0, upsert(NINE), 1)
    store.apply(0, delete([b"n0"]), 2)
    job = store.seal_due(2, Idle.NO)
    assert job is not None
    worker = threading.Thread(target=job.run)
    worker.start()
    assert store.apply(0, delete([b"n1"]), 3) == 1
    assert store.apply(0, upsert([b"n2"]), 4) == 1
    assert store.count_all(7, (0,), 3) == 7
    worker.join()
    store.sealed(job)
    assert [store.count_all(7, (0,), ts) for ts in (1, 2, 3, 4)] == [9, 8, 7, 7]
    store.undo_above(2)
    assert store.count_all(7, (0,), 9) == 8


def test_a_sealed_row_is_never_undone(store: Store, upsert: BlockMaker, seal: Seal) -> None:
    store.apply(0, upsert(NINE), 3)
    seal(store, 3)
    with pytest.raises(RuntimeError, match="cannot be"):
        store.undo_above(2)


def test_each_segment_is_due_for_an_index_once_until_it_has_one(
    store: Store, upsert: BlockMaker, seal: Seal
) -> None:
    store.apply(0, upsert(NINE), 1)
    store.apply(1, upsert(NINE[:4]), 1)
    assert seal(store, 1) == 2
    upkeep = store.upkeep
    first, second = upkeep.final_due(), upkeep.final_due()
    assert first is not None and second is not None and upkeep.final_due() is None
    assert (first.rows, second.rows) == (9, 4)
    upkeep.indexed(second, None)
    again = upkeep.final_due()
    assert again is not None and again.segment is second.segment
    index = exact_index(np.asarray(first.segment.vectors), Metric.COSINE)
    upkeep.indexed(first, index)
    assert any(view.index is index for view in store.views(7, (0,), 1))
    stats = store.stats(StatsRequest(7, (0, 1)))
    assert (stats.rows, stats.rows_indexed, stats.segments) == (13, 9, 2)
    assert stats.kinds == {"hnsw": 9, "exact": 4}
    assert stats.bytes_disk > 9 * 16 and stats.bytes_memory > 0


def test_an_empty_growing_segment_allocates_next_to_nothing(
    store: Store, upsert: BlockMaker, seal: Seal
) -> None:
    store.apply(0, upsert(NINE), 1)
    full = store.stats(StatsRequest(7, (0,))).bytes_memory
    seal(store, 1)
    (part,) = store.all_slices()
    assert part.growing.memory_bytes < 64 < full


def test_unknown_collections_and_wrong_blocks_are_refused(store: Store, upsert: BlockMaker) -> None:
    with pytest.raises(NotFound):
        store.views(8, (0,), 1)
    assert store.views(7, (0,), 1) == []
    store.apply(0, upsert([b"a"]), 5)
    with pytest.raises(ValueError, match="after 5"):
        store.apply(0, upsert([b"b"]), 4)
    wrong = RowBlock(7, 3, upsert([b"c"]).ids, upsert([b"c"]).hashes, bytes(12))
    with pytest.raises(ValueError, match="dimension 3"):
        store.apply(0, wrong, 6)
