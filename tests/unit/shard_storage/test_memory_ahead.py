"""Memory is taken before rows come to it, and rows are not copied again and again as they grow."""

from __future__ import annotations

import itertools
import mmap
import os
import re
import resource
from collections.abc import Iterator

import numpy as np
import pytest

from tests.unit.shard_storage.conftest import BlockMaker
from vector_db.common.model.rows import F32, Blob, hash_ids
from vector_db.shard.heap import take_pages
from vector_db.shard.storage.growing import GrowingSegment
from vector_db.shard.storage.store import Store

KERNEL = tuple(int(n) for n in re.findall(r"\d+", os.uname().release)[:2])
PAGES = 512
MIB = 1024 * 1024
DIMENSION = 256
ROW_BYTES = 4 * DIMENSION
BATCH = 1000


def faults() -> int:
    """Pages that this thread was given so far."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt


def fill(segment: GrowingSegment, rows: int) -> Iterator[None]:
    """Append so many rows, a batch a step."""
    vectors = np.ones((BATCH, DIMENSION), dtype=np.float32)
    absent = np.full(BATCH, -1, dtype=np.int64)
    for ts in range(1, rows // BATCH + 1):
        ids = [b"%d-%d" % (ts, i) for i in range(BATCH)]
        segment.append(ids, Blob.pack(ids), hash_ids(ids), vectors, None, absent, ts)
        yield


@pytest.mark.skipif(KERNEL < (5, 14), reason="this kernel does not take pages ahead")
def test_pages_that_were_taken_cost_nothing_later_and_keep_what_they_hold() -> None:
    room = mmap.mmap(-1, PAGES * mmap.PAGESIZE)
    room.madvise(mmap.MADV_NOHUGEPAGE)
    array = np.frombuffer(room, dtype=np.uint8)
    half = len(array) // 2
    array[:half:100] = 7
    take_pages(array, 0, half + mmap.PAGESIZE * PAGES // 4)
    before = faults()
    array[half : half + half // 2] = 1
    assert faults() - before < PAGES // 16
    assert (array[:half:100] == 7).all()
    before = faults()
    array[half + half // 2 :] = 1
    assert faults() - before > PAGES // 8, "the rest was left alone"


def test_a_segment_of_full_size_is_copied_while_it_is_small_only() -> None:
    segment = GrowingSegment(DIMENSION, cosine=False)
    arrays: list[F32] = [segment.vectors]
    copied = 0
    for _ in fill(segment, 64 * MIB // ROW_BYTES):
        if segment.vectors is not arrays[-1]:
            copied += (segment.rows - BATCH) * ROW_BYTES
            arrays.append(segment.vectors)
    assert copied <= 16 * MIB
    assert segment.vectors.nbytes < 100 * MIB


def test_the_room_for_the_next_rows_is_named_before_they_come() -> None:
    segment = GrowingSegment(DIMENSION, cosine=False)
    named: list[tuple[int, int]] = []
    late = 0
    for _ in fill(segment, 20_000):
        used = segment.rows * ROW_BYTES
        if named and used > named[-1][1]:
            late += 1
        if (room := segment.room_ahead()) is not None:
            array, start, stop = room
            assert array is segment.vectors
            assert used <= start < stop <= array.nbytes
            assert stop - used <= used // 2, "a small segment does not take much"
            named.append((start, stop))
        assert segment.room_ahead() is None, "told once"
    assert late == 0
    assert all(stop == start for (_, stop), (start, _) in itertools.pairwise(named))


def test_a_store_names_each_room_once(store: Store, upsert: BlockMaker) -> None:
    rows = [b"%d" % i for i in range(200_000)]
    store.apply(0, upsert(rows), 1)
    store.apply(1, upsert([b"few"]), 1)
    ((array, start, stop),) = store.rooms_ahead()
    assert start == 16 * len(rows) < stop <= array.nbytes
    assert store.rooms_ahead() == []
