"""Images of the rows in memory, written at a checkpoint, and sidecars of the deaths of sealed rows.

Owns the invariant that an image at `ts` holds exactly what commits up to `ts` did: later rows are
left out and later deaths undone, so replaying the WAL above `ts` gives the state before the crash.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vector_db.common.model.errors import StorageCorrupt
from vector_db.common.model.ids import TS_NEVER
from vector_db.common.model.rows import F32, I64, U32, U64
from vector_db.common.ports import Disk
from vector_db.shard.storage.deaths import Deaths
from vector_db.shard.storage.growing import GrowingSegment
from vector_db.shard.storage.payloads import GrowingBytes
from vector_db.shard.storage.table import Table, write_table

_IMAGE = "image"
_DEATHS = "deaths"


@dataclass(frozen=True, slots=True)
class MemoryPart:
    """The first `rows` rows of a segment in memory, as they were when captured."""

    rows: int
    ids: GrowingBytes
    metadata: GrowingBytes
    vectors: F32
    norms: F32 | None
    hashes: U64
    begin_ts: I64
    end_ts: I64
    versions: I64 | None
    """None where they are `begin_ts`."""


def capture(segment: GrowingSegment, ts: int) -> MemoryPart:
    """References to what commits up to `ts` left in `segment`; `end_ts` is copied."""
    n = segment.prefix(ts)
    end = segment.end_column(n)
    end[end > ts] = TS_NEVER
    return MemoryPart(
        n, segment.ids, segment.metadata, segment.vectors[:n],
        segment.inverse_norm_column(n), segment.hashes[:n], segment.begin_ts[:n], end,
        segment.version_column(n),
    )  # fmt: skip


def write_image(disk: Disk, name: str, dimension: int, parts: Sequence[MemoryPart]) -> int:
    """Write the parts, oldest first, as one image; its size in bytes.

    :raises DiskFull: nothing of the file counts.
    """
    ids, metadata = GrowingBytes(), GrowingBytes()
    for part in parts:
        for column, source in ((ids, part.ids), (metadata, part.metadata)):
            offsets, data = source.columns()
            column.append_columns(offsets[: part.rows + 1], data)
    id_offsets, id_data = ids.columns()
    meta_offsets, meta_data = metadata.columns()
    rows = ids.rows
    columns = {
        "vectors": np.concatenate([p.vectors for p in parts]),
        "hashes": np.concatenate([p.hashes for p in parts]),
        "begin_ts": np.concatenate([p.begin_ts for p in parts]),
        "end_ts": np.concatenate([p.end_ts for p in parts]),
        "ids_offsets": id_offsets[: rows + 1],
        "ids_data": id_data[: id_offsets[rows]],
        "metadata_offsets": meta_offsets[: rows + 1],
        "metadata_data": meta_data[: meta_offsets[rows]],
    }
    norms = [p.norms for p in parts if p.norms is not None]
    if norms:
        columns["inverse_norms"] = np.concatenate(norms)
    if any(p.versions is not None for p in parts):
        columns["versions"] = np.concatenate(
            [p.begin_ts if p.versions is None else p.versions for p in parts]
        )
    meta = {"rows": rows, "dimension": dimension, "cosine": bool(norms)}
    return write_table(disk, name, _IMAGE, meta, columns)


def read_image(disk: Disk, name: str, dimension: int, cosine: bool) -> tuple[GrowingSegment, int]:
    """The image as a growing segment, and the size of its file.

    :raises StorageCorrupt: a damaged file, or not the image of such a collection.
    :raises NewerFormat: written by a newer program.
    """
    table = Table(disk.root, name, _IMAGE)
    rows = table.meta["rows"]
    if (table.meta["dimension"], table.meta["cosine"]) != (dimension, cosine):
        raise StorageCorrupt(f"{name}: dimension or metric differ from the catalog (offset 0)")

    def payload(column: str) -> GrowingBytes:
        payloads = GrowingBytes()
        payloads.append_columns(table.column(f"{column}_offsets"), table.column(f"{column}_data"))
        return payloads

    segment = GrowingSegment.from_columns(
        vectors=table.column("vectors").reshape(rows, dimension).copy(),
        hashes=table.column("hashes").copy(),
        begin_ts=table.column("begin_ts").copy(),
        end_ts=table.column("end_ts").copy(),
        norms=table.column("inverse_norms").copy() if cosine else None,
        ids=payload("ids"),
        metadata=payload("metadata"),
        versions=table.column("versions").copy() if table.has("versions") else None,
    )
    return segment, table.size_bytes


def write_deaths(disk: Disk, name: str, rows: U32, ts: I64) -> None:
    """Write the deaths of a sealed segment, in their order.

    :raises DiskFull: nothing of the file counts.
    """
    write_table(disk, name, _DEATHS, {"deaths": len(rows)}, {"rows": rows, "ts": ts})


def read_deaths(disk: Disk, name: str, total_rows: int) -> Deaths:
    """The deaths of a sealed segment of `total_rows` rows.

    :raises StorageCorrupt: a damaged file.
    :raises NewerFormat: written by a newer program.
    """
    table = Table(disk.root, name, _DEATHS)
    deaths = Deaths(total_rows)
    deaths.add(table.column("rows"), table.column("ts"))
    return deaths
