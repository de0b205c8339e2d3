"""Rows to shards: which part of a write goes where, in records of bounded size. Pure.

Owns the invariant that the parts of a transaction hold each of its rows exactly once, and that the
vectors and metadata of a record do not pass `CHUNK_BYTES_MAX` (nor it with its keys twice that),
unless it is one row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from vector_db.common.core.messages.transactions import ReadSet
from vector_db.common.core.placement import shards_of_ids
from vector_db.common.model.collection import Collection
from vector_db.common.model.limits import CHUNK_BYTES_MAX
from vector_db.common.model.rows import Blob, RowBlock, hash_ids
from vector_db.gateway.core.requests import Delete, Upsert

_PRECONDITION = {"upsert": "none", "insert": "absent", "update": "present"}


@dataclass(slots=True)
class ShardPart:
    """One shard's part: `chunks` of blocks, all but the last sent as STAGE records, and what must
    not have changed there; one that is only read has no chunks."""

    shard: int
    chunks: list[tuple[RowBlock, ...]] = field(default_factory=list)
    size_bytes: int = 0
    reads: tuple[ReadSet, ...] = ()


@dataclass(frozen=True, slots=True)
class Routed:
    """The parts of a transaction by shard, and the catalog by which its rows were given to them:
    the PREPAREs name that one, whatever is known by the time that they are sent."""

    parts: dict[int, ShardPart]
    catalog_ts: int


def block_of(operation: Upsert | Delete, collection: Collection) -> RowBlock:
    """All rows of one operation as a block, vectors not copied where they are float32 already."""
    versions = operation.if_version
    if isinstance(operation, Delete):
        return RowBlock(
            collection_id=collection.id,
            dimension=collection.dimension,
            ids=Blob.pack(operation.ids),
            hashes=hash_ids(operation.ids).tobytes(),
            delete=True,
            precondition="none" if versions is None else "version",
            versions=b"" if versions is None else np.asarray(versions, dtype="<i8").tobytes(),
        )
    rows = operation.rows
    vectors = np.ascontiguousarray(rows.vectors, dtype="<f4")
    return RowBlock(
        collection_id=collection.id,
        dimension=collection.dimension,
        ids=Blob.pack(rows.ids),
        hashes=hash_ids(rows.ids).tobytes(),
        vectors=vectors.reshape(-1).view(np.uint8).data,
        metadata=None if rows.metadata is None else Blob.pack(rows.metadata),
        precondition=_PRECONDITION[operation.mode] if versions is None else "version",
        versions=b"" if versions is None else np.asarray(versions, dtype="<i8").tobytes(),
    )


def split_by_shard(block: RowBlock, shards: Sequence[int]) -> dict[int, RowBlock]:
    """The block's rows by the shard that their ids hash to."""
    if len(shards) == 1:
        return {shards[0]: block}
    homes = shards_of_ids(block.hash_array(), shards)
    if len(homes) == 1:
        return {int(homes[0]): block}
    order = np.argsort(homes, kind="stable")
    present, starts = np.unique(homes[order], return_index=True)
    bounds = [*starts.tolist(), len(order)]
    return {
        int(shard): block.take(order[bounds[i] : bounds[i + 1]])
        for i, shard in enumerate(present.tolist())
    }


def row_bytes(block: RowBlock) -> int:
    """About what the rows of a block take in a record."""
    return int(block.sizes().sum())


def split_by_size(block: RowBlock, bytes_max: int = CHUNK_BYTES_MAX) -> Iterator[RowBlock]:
    """The block in pieces of at most `bytes_max`, or of one row that is larger by itself."""
    if len(block) == 1:
        yield block
        return
    ends = np.cumsum(block.sizes())
    start, n = 0, len(ends)
    while start < n:
        before = int(ends[start - 1]) if start else 0
        stop = int(np.searchsorted(ends, before + bytes_max, side="right"))
        stop = max(stop, start + 1)
        yield block if (start, stop) == (0, n) else block.range(start, stop)
        start = stop


def partition(blocks: Sequence[tuple[RowBlock, Collection]]) -> dict[int, ShardPart]:
    """Every shard's part of a transaction, in the order of the operations."""
    parts: dict[int, ShardPart] = {}
    open_bytes: dict[int, int] = {}
    for block, collection in blocks:
        for shard, mine in split_by_shard(block, collection.shards).items():
            part = parts.setdefault(shard, ShardPart(shard))
            for piece in split_by_size(mine):
                size = row_bytes(piece)
                if part.chunks and open_bytes[shard] + size <= CHUNK_BYTES_MAX:
                    part.chunks[-1] = (*part.chunks[-1], piece)
                    open_bytes[shard] += size
                else:
                    part.chunks.append((piece,))
                    open_bytes[shard] = size
                part.size_bytes += size
    return parts
