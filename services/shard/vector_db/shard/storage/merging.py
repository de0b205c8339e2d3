"""Merges sealed segments into one, without the rows that no read can see any more.

Owns the invariant that the rows of the sources stay in their order, oldest source first, so that
what is newest of an id is still the last. Rows are copied in blocks: the vectors are never in
memory as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vector_db.common.model.rows import F32, I64, U64
from vector_db.common.ports import Disk
from vector_db.shard.storage.payloads import BytesReader, GrowingBytes
from vector_db.shard.storage.sealed import SealedSegment
from vector_db.shard.storage.segment import own_versions
from vector_db.shard.storage.segment_files import SegmentRows, write_segment

_BLOCK_ROWS = 16_384


def write_merged(
    disk: Disk,
    name: str,
    sources: Sequence[SealedSegment],
    dropped: Sequence[NDArray[np.integer]],
    fields: Sequence[str] = (),
) -> int:
    """Write the rows of `sources`, oldest first, less those `dropped` of each, as one segment.

    :returns: how many rows it has; 0: nothing was written.
    :raises DiskFull: what was written so far is no segment.
    """
    kept = [_kept(source.rows, gone) for source, gone in zip(sources, dropped, strict=True)]
    pairs = [(s, rows) for s, rows in zip(sources, kept, strict=True) if rows is None or len(rows)]
    if not pairs:
        return 0
    ids, metadata = GrowingBytes(), GrowingBytes()
    for source, rows in pairs:
        _append(ids, source.ids, source.rows, rows)
        _append(metadata, source.metadata, source.rows, rows)
    first = pairs[0][0]
    norms = None
    if first.cosine:
        norms = np.concatenate([_pick(s.inverse_norms, rows) for s, rows in pairs])
    begin_ts = np.concatenate([_pick(s.begin_ts, rows) for s, rows in pairs])
    versions = None
    if any(s.has_versions for s, _ in pairs):
        kept_versions = np.concatenate([_pick(s.versions, rows) for s, rows in pairs])
        versions = own_versions(kept_versions, begin_ts)
    merged = SegmentRows(
        first.dimension,
        _blocks(pairs),
        np.concatenate([_pick(_row_hashes(s), rows) for s, rows in pairs]),
        begin_ts,
        ids,
        metadata,
        norms,
        versions,
    )
    write_segment(disk, name, merged, fields)
    return len(merged.hashes)


def _kept(rows: int, gone: NDArray[np.integer]) -> I64 | None:
    """The rows that stay, ascending; None for all."""
    if not len(gone):
        return None
    keep = np.ones(rows, dtype=np.bool_)
    keep[gone] = False
    return np.flatnonzero(keep)


def _pick(column: NDArray[Any] | None, rows: I64 | None) -> NDArray[Any]:
    if column is None:
        raise ValueError("a merged segment lacks a column that another has")
    return column if rows is None else column[rows]


def _row_hashes(source: SealedSegment) -> U64:
    """The key hash of each row, in row order."""
    hashes, rows = source.key_columns()
    by_row = np.empty(len(hashes), dtype=np.uint64)
    by_row[rows] = hashes
    return by_row


def _append(column: GrowingBytes, source: BytesReader, count: int, rows: I64 | None) -> None:
    """Append the items of `rows` of a source of `count` items; None: all of them."""
    if rows is None:
        offsets, data = source.columns()
        column.append_columns(offsets[: count + 1], data)
        return
    for start in range(0, len(rows), _BLOCK_ROWS):
        column.append(source.blob(rows[start : start + _BLOCK_ROWS]))


def _blocks(pairs: Iterable[tuple[SealedSegment, I64 | None]]) -> Iterator[F32]:
    for source, rows in pairs:
        count = source.rows if rows is None else len(rows)
        for start in range(0, count, _BLOCK_ROWS):
            span = slice(start, min(start + _BLOCK_ROWS, count))
            yield source.vectors[span] if rows is None else source.vectors[rows[span]]
