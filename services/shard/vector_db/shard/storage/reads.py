"""Rows as the API wants them: fetched by id, or scrolled in the order of ids.

A scroll merges sorted runs of row numbers and stops at its limit; no page sorts what it does not
return, nor makes Python objects of it (a few rows of read-ahead per run excepted).
"""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vector_db.common.core.messages.reads import RowsReply
from vector_db.common.model.rows import U32, Blob
from vector_db.shard.storage.growing import GrowingSegment
from vector_db.shard.storage.overlay import Layer, StagedRows
from vector_db.shard.storage.payloads import BytesReader
from vector_db.shard.storage.sealed import SealedSegment
from vector_db.shard.storage.segment import Segment
from vector_db.shard.storage.slice import Slice
from vector_db.shard.views import SegmentView

Source: TypeAlias = Segment | StagedRows
Place: TypeAlias = tuple[Source, int]
RowMask: TypeAlias = Callable[[SegmentView], NDArray[np.bool_]]
Layers: TypeAlias = Mapping[int, Layer]
"""Shard → what the reading transaction has staged there itself."""

_READ_AHEAD_ROWS = 64


class Stretch(NamedTuple):
    """The rows below `rows` of one source that are wanted, bool[rows], None for all."""

    source: Source
    rows: int
    wanted: NDArray[np.bool_] | None


def rows_reply(places: Sequence[Place], dimension: int, include_vectors: bool) -> RowsReply:
    """The rows at `places`, in that order; vectors float32[n, dimension] are bit-exact.

    Staged rows have version 0.
    """
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
        if isinstance(segment, StagedRows):
            names, texts, raw = segment.take(rows, include_vectors)
        else:
            versions[positions] = segment.versions[rows]
            names, texts = segment.ids.take(rows), segment.metadata.take(rows)
            raw = segment.vectors[rows] if include_vectors else vectors
        if include_vectors:
            vectors[positions] = raw
        for at, row_id, text in zip(positions, names, texts, strict=True):
            ids[at], metadata[at] = row_id, text
    return RowsReply(Blob.pack(ids), versions.tobytes(), Blob.pack(metadata), vectors.tobytes())


def locate(
    slices: Mapping[int, Slice], ids: Sequence[bytes], snapshot_ts: int, over: Layers
) -> list[Place | None]:
    """Where each id is visible at the snapshot, under `over`; None where it is not."""
    found: list[Place | None] = [None] * len(ids)
    pending = list(range(len(ids)))
    for layer in over.values():
        undecided = []
        for at in pending:
            row = layer.find(ids[at])
            if row is None:
                undecided.append(at)
            elif row >= 0:
                found[at] = layer.staged, row
        pending = undecided
    for part in slices.values():
        for at, place in part.locate(ids, pending, snapshot_ts).items():
            found[at] = place
        pending = [p for p in pending if found[p] is None]
    return found


def pairs(
    slices: Mapping[int, Slice], snapshot_ts: int, over: Layers
) -> Iterator[tuple[Segment, SegmentView]]:
    """Every segment with a row visible at the snapshot, and its view under `over`.

    What `over` adds itself is not among them.
    """
    for shard, part in slices.items():
        layer = over.get(shard)
        for segment in part.segments():
            view = segment.view(snapshot_ts)
            if view is not None:
                yield segment, view if layer is None else layer.mask(segment, view)


def stretches(
    slices: Mapping[int, Slice], snapshot_ts: int, over: Layers, mask: RowMask | None
) -> Iterator[Stretch]:
    """All visible rows, those that `over` adds too.

    :param mask: which rows of a view match, bool[rows]; visibility is added here.
    """
    for segment, view in pairs(slices, snapshot_ts, over):
        yield _stretch(segment, view, mask)
    for layer in over.values():
        if mask is None:
            rows, live = layer.visible()
            yield Stretch(layer.staged, rows, live)
        elif (staged := layer.view()) is not None:
            yield _stretch(layer.staged, staged, mask)


def _stretch(source: Source, view: SegmentView, mask: RowMask | None) -> Stretch:
    wanted = view.live
    if mask is not None:
        matching = mask(view)
        wanted = matching if wanted is None else wanted & matching
    return Stretch(source, view.rows, wanted)


def scroll_places(found: Iterable[Stretch], after: bytes, limit: int) -> list[Place]:
    """The first `limit` wanted rows with id > `after`, in the order of ids bytewise."""
    streams: list[Iterator[tuple[bytes, int, Source]]] = []
    for stretch in found:
        ids, runs = _sorted_runs(stretch.source, stretch.rows)
        streams.extend(_walk(stretch, ids, run, after) for run in runs)
    merged = heapq.merge(*streams, key=lambda item: item[0])
    return [(source, row) for (_, row, source), _ in zip(merged, range(limit), strict=False)]


def _sorted_runs(source: Source, rows: int) -> tuple[BytesReader, list[U32]]:
    """The ids of the source, and its row numbers in their order, in one run or more."""
    if isinstance(source, SealedSegment):
        return source.ids, [source.id_order]
    if isinstance(source, StagedRows):
        source = source.keys
    if isinstance(source, GrowingSegment):
        return source.ids, source.order.runs(source.ids, rows)
    raise TypeError(f"{type(source).__name__} has no order of ids")


def _walk(
    stretch: Stretch, ids: BytesReader, run: U32, after: bytes
) -> Iterator[tuple[bytes, int, Source]]:
    """(id, row, source) of the wanted rows with id > `after`, in id order."""
    source, rows, wanted = stretch
    start = bisect.bisect_right(run, after, key=lambda row: ids.get(int(row))) if after else 0
    step = _READ_AHEAD_ROWS
    while start < len(run):
        chunk = run[start : start + step]
        start, step = start + step, min(2 * step, 4096)
        chunk = chunk[chunk < rows]
        if wanted is not None:
            chunk = chunk[wanted[chunk]]
        for row_id, row in zip(ids.take(chunk), chunk.tolist(), strict=True):
            yield row_id, row, source
