"""Rows as the API wants them: fetched by id, or scrolled in the order of ids.

A scroll merges sorted runs of row numbers and stops at its limit; no page sorts what it does not
return, nor makes Python objects of it (a few rows of read-ahead per run excepted).
"""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vector_db.common.core.messages import RowsReply
from vector_db.common.model.rows import U32, Blob
from vector_db.shard.storage.growing import GrowingSegment
from vector_db.shard.storage.sealed import SealedSegment
from vector_db.shard.storage.segment import Segment
from vector_db.shard.storage.slice import Slice
from vector_db.shard.views import SegmentView

Place: TypeAlias = tuple[Segment, int]
RowMask: TypeAlias = Callable[[SegmentView], NDArray[np.bool_]]

_READ_AHEAD_ROWS = 64


def rows_reply(places: Sequence[Place], dimension: int, include_vectors: bool) -> RowsReply:
    """The rows at `places`, in that order; vectors float32[n, dimension] are bit-exact."""
    n = len(places)
    versions = np.zeros(n, dtype=np.int64)
    vectors = np.empty((n if include_vectors else 0, dimension), dtype=np.float32)
    ids, metadata = [b""] * n, [b""] * n
    by_segment: dict[int, list[int]] = {}
    for at, (segment, _) in enumerate(places):
        by_segment.setdefault(id(segment), []).append(at)
    for positions in by_segment.values():
        segment = places[positions[0]][0]
        rows = np.array([places[at][1] for at in positions], dtype=np.int64)
        versions[positions] = segment.begin_ts[rows]
        if include_vectors:
            vectors[positions] = segment.vectors[rows]
        texts = zip(positions, segment.ids.take(rows), segment.metadata.take(rows), strict=True)
        for at, row_id, text in texts:
            ids[at], metadata[at] = row_id, text
    return RowsReply(Blob.pack(ids), versions.tobytes(), Blob.pack(metadata), vectors.tobytes())


def locate(slices: Iterable[Slice], ids: Sequence[bytes], snapshot_ts: int) -> list[Place | None]:
    """Where each id is visible at the snapshot, None where it is not."""
    found: list[Place | None] = [None] * len(ids)
    pending = list(range(len(ids)))
    for part in slices:
        for at, place in part.locate(ids, pending, snapshot_ts).items():
            found[at] = place
        pending = [p for p in pending if found[p] is None]
    return found


def scroll_places(
    slices: Iterable[Slice], snapshot_ts: int, after: bytes, limit: int, mask: RowMask | None
) -> list[Place]:
    """The first `limit` visible rows with id > `after`, in the order of ids bytewise.

    :param mask: which rows of a view match, bool[rows]; visibility is added here.
    """
    streams: list[Iterator[tuple[bytes, int, Segment]]] = []
    for part in slices:
        for segment in part.segments():
            view = segment.view(snapshot_ts)
            if view is None:
                continue
            wanted = view.live
            if mask is not None:
                matching = mask(view)
                wanted = matching if wanted is None else wanted & matching
            for run in _sorted_runs(segment, view):
                streams.append(_walk(segment, run, view.rows, wanted, after))
    merged = heapq.merge(*streams, key=lambda item: item[0])
    return [(segment, row) for (_, row, segment), _ in zip(merged, range(limit), strict=False)]


def _sorted_runs(segment: Segment, view: SegmentView) -> list[U32]:
    if isinstance(segment, SealedSegment):
        return [segment.id_order]
    if isinstance(segment, GrowingSegment):
        return segment.order.runs(segment.ids, view.rows)
    raise TypeError(f"{type(segment).__name__} has no order of ids")


def _walk(
    segment: Segment,
    run: U32,
    rows: int,
    wanted: NDArray[np.bool_] | None,
    after: bytes,
) -> Iterator[tuple[bytes, int, Segment]]:
    """(id, row, segment) of the wanted rows below `rows` with id > `after`, in id order."""
    ids = segment.ids
    start = bisect.bisect_right(run, after, key=lambda row: ids.get(int(row))) if after else 0
    step = _READ_AHEAD_ROWS
    while start < len(run):
        chunk = run[start : start + step]
        start, step = start + step, min(2 * step, 4096)
        chunk = chunk[chunk < rows]
        if wanted is not None:
            chunk = chunk[wanted[chunk]]
        for row_id, row in zip(ids.take(chunk), chunk.tolist(), strict=True):
            yield row_id, row, segment
