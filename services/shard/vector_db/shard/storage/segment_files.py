"""Writes the files of a sealed segment.

Owns the layout that `sealed.py` reads: `vectors.f32` (raw float32, row after row) first, and
`columns.vdb` (the rest, and the checksum of the vectors) last, so that a segment whose columns
exist is complete. Vectors are streamed in blocks: a merge need not hold them in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from vector_db.common.model.rows import F32, I64, U64, Buffer
from vector_db.common.ports import Disk
from vector_db.shard.storage.fields import write_fields
from vector_db.shard.storage.growing import GrowingSegment
from vector_db.shard.storage.keys import build_keys
from vector_db.shard.storage.order import sorted_rows
from vector_db.shard.storage.payloads import GrowingBytes
from vector_db.shard.storage.table import as_buffer, crc32c, write_table

VECTORS_FILE = "vectors.f32"
COLUMNS_FILE = "columns.vdb"
SEGMENT_KIND = "segment"


@dataclass(frozen=True, slots=True)
class SegmentRows:
    """The rows of a segment to write, in commit order.

    `blocks` float32[≤ n, dimension] in turn; `hashes` uint64[n], `begin_ts` int64[n]; `norms`
    float32[n] where the metric is cosine, else None; `versions` int64[n], None where they are
    `begin_ts`.
    """

    dimension: int
    blocks: Iterable[F32]
    hashes: U64
    begin_ts: I64
    ids: GrowingBytes
    metadata: GrowingBytes
    norms: F32 | None
    versions: I64 | None = None


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
        growing.version_column(n),
    )
    write_segment(disk, name, rows, fields)


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
    if rows.versions is not None:
        columns["versions"] = rows.versions
    meta = {
        "rows": n,
        "dimension": rows.dimension,
        "cosine": rows.norms is not None,
        "vectors_crc32c": check,
    }
    write_table(disk, f"{name}/{COLUMNS_FILE}", SEGMENT_KIND, meta, columns)
