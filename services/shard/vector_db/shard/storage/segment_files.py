"""Writes the files of a sealed segment: of rows in memory, or merged from other sealed segments.

Owns the layout that `sealed.py` reads: `vectors.f32` (raw float32, row after row) first, and
`columns.vdb` (the rest, and the checksum of the vectors) last, so that a segment whose columns
exist is complete. Vectors are streamed in blocks: a merge never holds them in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vector_db.common.model.rows import F32, I64, U64, Buffer
from vector_db.common.ports import Disk
from vector_db.shard.storage.fields import write_fields
from vector_db.shard.storage.keys import build_keys
from vector_db.shard.storage.order import sorted_rows
from vector_db.shard.storage.payloads import Bytes, GrowingBytes
from vector_db.shard.storage.table import as_buffer, crc32c, write_table

if TYPE_CHECKING:
    from vector_db.shard.storage.growing import GrowingSegment
    from vector_db.shard.storage.sealed import SealedSegment

VECTORS_FILE = "vectors.f32"
COLUMNS_FILE = "columns.vdb"
SEGMENT_KIND = "segment"
_BLOCK_ROWS = 16_384


@dataclass(frozen=True, slots=True)
class SegmentRows:
    """The rows of a segment to write, in commit order.

    `blocks` float32[≤ n, dimension] in turn; `hashes` uint64[n], `begin_ts` int64[n]; `norms`
    float32[n] where the metric is cosine, else None.
    """

    dimension: int
    blocks: Iterable[F32]
    hashes: U64
    begin_ts: I64
    ids: GrowingBytes
    metadata: GrowingBytes
    norms: F32 | None


def write_sealed(
    disk: Disk, name: str, growing: GrowingSegment, fields: Sequence[str] = ()
) -> None:
    """Write all rows of `growing` durably as the segment `name`, from any thread.

    :param fields: dotted metadata paths that get typed columns and postings.
    :raises DiskFull: what was written so far is no segment.
    """
    n = growing.rows
    rows = SegmentRows(
        growing.dimension,
        [growing.vectors[:n]],
        growing.hashes[:n],
        growing.begin_ts[:n],
        growing.ids,
        growing.metadata,
        growing.inverse_norm_column(n),
    )
    write_segment(disk, name, rows, fields)


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
        _append(ids, source.ids.columns(), source.rows, rows)
        _append(metadata, source.metadata.columns(), source.rows, rows)
    first = pairs[0][0]
    norms = None
    if first.cosine:
        norms = np.concatenate([_pick(s.inverse_norms, rows) for s, rows in pairs])
    merged = SegmentRows(
        first.dimension,
        _blocks(pairs),
        np.concatenate([_pick(_row_hashes(s), rows) for s, rows in pairs]),
        np.concatenate([_pick(s.begin_ts, rows) for s, rows in pairs]),
        ids,
        metadata,
        norms,
    )
    write_segment(disk, name, merged, fields)
    return len(merged.hashes)


def write_segment(disk: Disk, name: str, rows: SegmentRows, fields: Sequence[str] = ()) -> None:
    """Write the files of one segment durably.

    :raises DiskFull: what was written so far is no segment.
    """
    n = len(rows.hashes)
    check = 0

    def vectors() -> Iterator[Buffer]:
        nonlocal check
        for block in rows.blocks:
            buffer = as_buffer(block)
            check = crc32c(buffer, check)
            yield buffer

    disk.write_atomic(f"{name}/{VECTORS_FILE}", vectors())
    if fields:
        write_fields(disk, name, fields, rows.metadata, n)
    key_hashes, key_rows = build_keys(rows.hashes)
    id_offsets, id_data = rows.ids.columns()
    meta_offsets, meta_data = rows.metadata.columns()
    columns: dict[str, NDArray[Any]] = {
        "begin_ts": rows.begin_ts,
        "key_hashes": key_hashes,
        "key_rows": key_rows,
        "id_order": sorted_rows(rows.ids, 0, n),
        "ids_offsets": id_offsets[: n + 1],
        "ids_data": id_data[: id_offsets[n]],
        "metadata_offsets": meta_offsets[: n + 1],
        "metadata_data": meta_data[: meta_offsets[n]],
    }
    if rows.norms is not None:
        columns["inverse_norms"] = rows.norms
    meta = {
        "rows": n,
        "dimension": rows.dimension,
        "cosine": rows.norms is not None,
        "vectors_crc32c": check,
    }
    write_table(disk, f"{name}/{COLUMNS_FILE}", SEGMENT_KIND, meta, columns)


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


def _append(column: GrowingBytes, source: tuple[I64, Bytes], count: int, rows: I64 | None) -> None:
    """Append the items of `rows` of a source of `count` items; None: all of them."""
    offsets, data = source
    if rows is None:
        column.append_columns(offsets[: count + 1], data)
        return
    for start in range(0, len(rows), _BLOCK_ROWS):
        some = rows[start : start + _BLOCK_ROWS]
        starts, lengths = offsets[some], offsets[some + 1] - offsets[some]
        cuts = np.concatenate(([0], np.cumsum(lengths)))
        shift = np.repeat(starts - cuts[:-1], lengths)
        column.append_columns(cuts, data[np.arange(cuts[-1]) + shift])


def _blocks(pairs: Iterable[tuple[SealedSegment, I64 | None]]) -> Iterator[F32]:
    for source, rows in pairs:
        count = source.rows if rows is None else len(rows)
        for start in range(0, count, _BLOCK_ROWS):
            span = slice(start, min(start + _BLOCK_ROWS, count))
            yield source.vectors[span] if rows is None else source.vectors[rows[span]]
