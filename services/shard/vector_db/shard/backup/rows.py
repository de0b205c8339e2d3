"""The rows of a backup, as they were at one commit.

Owns the rule which rows those are: born at or before the commit, and not dead then. Files hold
other versions beside them, also some that came after the backup's own commit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vector_db.common.model.collection import Collection, Metric
from vector_db.common.model.errors import StorageCorrupt
from vector_db.common.model.rows import F32, I64, Blob
from vector_db.common.ports import Disk
from vector_db.shard.backup.manifest import SliceEntry
from vector_db.shard.storage.image import read_deaths, read_image
from vector_db.shard.storage.sealed import SealedSegment
from vector_db.shard.storage.segment import Segment

BATCH_ROWS_MAX = 10_000
BATCH_BYTES_MAX = 3 * 1024 * 1024
"""Bytes of vectors, ids and metadata of a batch, unless one row alone has more."""


@dataclass(frozen=True, slots=True)
class Batch:
    """n rows: `vectors` float32[n, dimension]; metadata is JSON, empty where there is none."""

    ids: Blob
    vectors: F32
    metadata: Blob

    def __len__(self) -> int:
        return len(self.vectors)


def open_segments(disk: Disk, part: SliceEntry, collection: Collection) -> Iterator[Segment]:
    """The segments of a slice, one after another, oldest first, each verified.

    :raises StorageCorrupt: a file is missing or damaged, or of another collection.
    :raises NewerFormat: written by a newer program.
    """
    for entry in part.segments:
        segment = SealedSegment(disk.root, entry.directory)
        if segment.dimension != collection.dimension:
            raise StorageCorrupt(
                f"{entry.directory}: dimension {segment.dimension}, the catalog has "
                f"{collection.dimension} (offset 0)"
            )
        segment.verify()
        if entry.deaths is not None:
            segment.deaths = read_deaths(disk, entry.deaths, segment.rows)
        yield segment
    if part.image is not None:
        cosine = collection.metric == Metric.COSINE
        image, _ = read_image(disk, part.image, collection.dimension, cosine)
        yield image


def visible(segment: Segment, ts: int) -> I64:
    """The numbers of the rows that are visible at `ts`, ascending."""
    born = int(np.searchsorted(segment.begin_ts[: segment.rows], ts, side="right"))
    rows = np.arange(born, dtype=np.int64)
    return rows[segment.end_ts(rows) > ts]


def batches(segment: Segment, ts: int) -> Iterator[Batch]:
    """The rows visible at `ts`, in batches of bounded size."""
    rows = visible(segment, ts)
    for start, stop in _cuts(segment, rows):
        some = rows[start:stop]
        yield Batch(segment.ids.blob(some), segment.vectors[some], segment.metadata.blob(some))


def _cuts(segment: Segment, rows: I64) -> Iterator[tuple[int, int]]:
    row_bytes = np.full(len(rows), 4 * segment.vectors.shape[1], dtype=np.int64)
    for column in (segment.ids, segment.metadata):
        offsets, _ = column.columns()
        row_bytes += offsets.take(rows + 1) - offsets.take(rows)
    ends = np.cumsum(row_bytes)
    start = 0
    while start < len(rows):
        before = int(ends[start - 1]) if start else 0
        fits = int(np.searchsorted(ends, before + BATCH_BYTES_MAX, side="right"))
        stop = min(max(fits, start + 1), start + BATCH_ROWS_MAX)
        yield start, stop
        start = stop
