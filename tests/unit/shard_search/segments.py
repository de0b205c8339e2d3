"""Segments made by hand, and the answers that a plain float64 loop over all rows gives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vector_db.common.core.messages.reads import SearchReply, SearchRequest
from vector_db.common.model.collection import Metric
from vector_db.common.model.rows import F32, I64, Blob
from vector_db.shard.search.columns import Columns
from vector_db.shard.views import SegmentView, VectorIndex


class ListColumn:
    """A `ByteColumn` over a list, which may grow."""

    def __init__(self, items: list[bytes]) -> None:
        self.items = items
        self.ranges: list[tuple[int, int]] = []

    def columns(self) -> tuple[I64, NDArray[np.uint8]]:
        offsets = np.cumsum([0, *map(len, self.items)], dtype=np.int64)
        return offsets, np.frombuffer(b"".join(self.items), dtype=np.uint8)

    def get(self, row: int) -> bytes:
        return self.items[row]

    def take(self, rows: Sequence[int] | NDArray[np.integer]) -> list[bytes]:
        return [self.items[r] for r in rows]

    def blob(self, rows: NDArray[np.int64]) -> Blob:
        return Blob.pack(self.take(rows))

    def range(self, start: int, stop: int) -> list[bytes]:
        self.ranges.append((start, stop))
        return self.items[start:stop]


def make_view(
    vectors: F32,
    ids: list[bytes],
    metric: Metric,
    metadata: list[bytes] | None = None,
    live: NDArray[np.bool_] | None = None,
    index: VectorIndex | None = None,
) -> SegmentView:
    payloads = ListColumn(metadata if metadata is not None else [b""] * len(ids))
    norms = None
    if metric is Metric.COSINE:
        wide = vectors.astype(np.float64)
        with np.errstate(over="ignore"):
            norms = (1 / np.sqrt((wide * wide).sum(axis=1))).astype(np.float32)
    return SegmentView(
        rows=len(ids),
        vectors=np.ascontiguousarray(vectors),
        inverse_norms=norms,
        versions=np.ones(len(ids), dtype=np.int64),
        live=live,
        ids=ListColumn(ids),
        metadata=payloads,
        columns=Columns(payloads),
        index=index,
    )


def request(queries: F32, k: int, **options: Any) -> SearchRequest:
    return SearchRequest(
        collection_id=1, shards=(0,), snapshot_ts=1, queries=queries.tobytes(), k=k, **options
    )


def unpack(reply: SearchReply) -> list[list[tuple[bytes, float]]]:
    ids = reply.ids.unpack()
    scores = np.frombuffer(reply.similarities, dtype="<f8").tolist()
    counts = np.frombuffer(reply.counts, dtype="<u4").tolist()
    assert len(ids) == len(scores) == sum(counts)
    hits = iter(zip(ids, scores, strict=True))
    return [[next(hits) for _ in range(n)] for n in counts]


def similarity(metric: Metric, query: F32, row: F32) -> float:
    q, x = query.astype(np.float64), row.astype(np.float64)
    match metric:
        case Metric.DOT:
            return float((q * x).sum())
        case Metric.EUCLIDEAN:
            return 1 / (1 + math.sqrt(float(((q - x) ** 2).sum())))
        case Metric.COSINE:
            scale = math.sqrt(float((x * x).sum())) * math.sqrt(float((q * q).sum()))
            return max(-1.0, min(1.0, float((q * x).sum()) / scale)) if scale else 0.0


def brute_force(
    views: Sequence[SegmentView],
    metric: Metric,
    queries: F32,
    k: int,
    masks: Sequence[NDArray[np.bool_]],
) -> list[list[tuple[bytes, float]]]:
    answers = []
    for query in queries:
        hits = [
            (view.ids.get(row), similarity(metric, query, view.vectors[row]))
            for view, mask in zip(views, masks, strict=True)
            for row in np.flatnonzero(mask).tolist()
        ]
        answers.append(sorted(hits, key=lambda h: (-h[1], h[0]))[:k])
    return answers
