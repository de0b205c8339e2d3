"""What a worker tells of a collection: rows, how they are searched, and what they take.

Owns the meaning of `rows_indexed` (searched as the collection wants it, see `StatsReply`) and sets
the prediction of memory beside what is really taken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection as Sized
from collections.abc import Iterable

from vector_db.common.core.messages.reads import StatsReply
from vector_db.common.model.collection import Collection, IndexKind, Metric
from vector_db.common.model.ids import TS_NEVER
from vector_db.shard.core.footprint import column_bytes, index_bytes
from vector_db.shard.storage.growing import GrowingSegment
from vector_db.shard.storage.sealed import SealedSegment
from vector_db.shard.storage.slice import Slice
from vector_db.shard.storage.upkeep import Upkeep

_NOW = TS_NEVER - 1
_CALIBRATED_K = 10


def stats_of(collection: Collection, parts: Sized[Slice], upkeep: Upkeep) -> StatsReply:
    """Sizes of the collection's slices now."""
    sealed = [(part, segment) for part in parts for segment in part.sealed]
    memory = [m for part in parts for m in (part.growing, part.frozen) if m is not None]
    images = [part.image for part in parts if part.image is not None]
    alive = {segment.name: segment.count(_NOW) for _, segment in sealed}
    in_memory = [m.count(_NOW) for m in memory]
    settled = sum(alive[s.name] for part, s in sealed if upkeep.is_settled(part, s))
    settled += sum(
        rows for rows, m in zip(in_memory, memory, strict=True)
        if not upkeep.wants_index(collection, m.rows)
    )  # fmt: skip
    kinds: Counter[str] = Counter({IndexKind.EXACT.value: sum(in_memory)})
    for _, segment in sealed:
        kind = IndexKind.EXACT if segment.index is None else segment.index.kind
        kinds[kind.value] += alive[segment.name]
    recall, samples = _recall(collection, [segment for _, segment in sealed])
    held = sum(m.memory_bytes for m in memory) + sum(s.memory_bytes for _, s in sealed)
    mapped = sum(segment.mapped_bytes for _, segment in sealed)
    rows = sum(alive.values()) + sum(in_memory)
    versions = sum(m.rows for m in memory) + sum(s.rows for _, s in sealed)
    return StatsReply(
        rows=rows,
        rows_indexed=settled,
        segments=len(sealed),
        bytes_memory=held,
        bytes_disk=sum(s.disk_bytes for _, s in sealed) + sum(i.size_bytes for i in images),
        rows_dead=versions - rows,
        kinds={kind: count for kind, count in kinds.items() if count},
        recall=recall,
        recall_samples=samples,
        building=upkeep.progress_of(parts),
        bytes_predicted=int(_predicted(collection, sealed, memory)),
        bytes_resident=held + mapped,
    )


def _recall(collection: Collection, sealed: Iterable[SealedSegment]) -> tuple[float, int]:
    """Mean recall at the efforts in use, weighted by rows, and how many queries measured it."""
    total, rows, samples = 0.0, 0, 0
    for segment in sealed:
        if (index := segment.index) is None or not index.meta.calibration.samples:
            continue
        effort = index.effort(_CALIBRATED_K, collection.recall_target)
        measured = index.meta.calibration.recall(_CALIBRATED_K, effort)
        total, rows = total + measured * segment.rows, rows + segment.rows
        samples += index.meta.calibration.samples
    return (total / rows if rows else 0.0), samples


def _predicted(
    collection: Collection,
    sealed: Iterable[tuple[Slice, SealedSegment]],
    memory: Iterable[GrowingSegment],
) -> float:
    """What these rows should take, from their number, dimension and kind of index alone."""
    dimension, cosine = collection.dimension, collection.metric is Metric.COSINE
    total = 0.0
    for _, segment in sealed:
        payload = segment.payload_bytes / segment.rows
        a_row = column_bytes(dimension, cosine, payload)
        if (index := segment.index) is not None:
            meta = index.meta
            a_row += index_bytes(index.kind, meta.encoding, meta.options.m, dimension)
        total += segment.rows * a_row
    return total + sum(m.memory_bytes for m in memory)
