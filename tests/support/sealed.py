"""Sealed segments on disk for tests, written from arrays."""

from __future__ import annotations

import numpy as np

from vector_db.common.model.rows import F32, I64, Blob, hash_ids
from vector_db.common.ports import Disk
from vector_db.shard.storage.payloads import GrowingBytes
from vector_db.shard.storage.sealed import SealedSegment
from vector_db.shard.storage.segment import inverse_norms
from vector_db.shard.storage.segment_files import SegmentRows, write_segment


def write_rows(
    disk: Disk,
    name: str,
    vectors: F32,
    cosine: bool = True,
    prefix: str = "row",
    begin_ts: I64 | None = None,
    metadata: list[bytes] | None = None,
) -> SealedSegment:
    """Write `vectors` float32[n, d] as the rows prefix-0, prefix-1, … of the segment `name`."""
    rows, dimension = vectors.shape
    ids, texts = GrowingBytes(), GrowingBytes()
    names = [f"{prefix}-{n}".encode() for n in range(rows)]
    ids.append(Blob.pack(names))
    texts.append(Blob.pack([b""] * rows if metadata is None else metadata))
    segment = SegmentRows(
        dimension,
        [vectors],
        hash_ids(names),
        np.ones(rows, dtype=np.int64) if begin_ts is None else begin_ts,
        ids,
        texts,
        inverse_norms(vectors) if cosine else None,
    )
    write_segment(disk, name, segment)
    return SealedSegment(disk.root, name)
