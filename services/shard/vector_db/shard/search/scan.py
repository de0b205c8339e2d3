"""Exact search of one segment: a float32 pass over its rows that leaves candidates to score.

Owns the invariant that no row of the true best k is missing from the candidates: every row within
the rounding error of the k-th approximate score is one, ties included. Where float32 cannot tell
(overflow, or rounding larger than the differences) rows are compared in float64.
"""

from __future__ import annotations

import math
from typing import Any

import faiss as _faiss
import numpy as np
from numpy.typing import NDArray

from vector_db.common.model.collection import Metric
from vector_db.common.model.rows import F32
from vector_db.shard.core.planner import BATCH_QUERIES_MIN
from vector_db.shard.search.score import Queries, similarities
from vector_db.shard.views import SegmentView

faiss: Any = _faiss
Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]

_ROUNDING = 2.0**-24
_EXACT = np.float32(1e-12)
"""More than float64 rounds off a squared distance, of the largest that it can be."""
_SAME = 3e-16
"""Distances so near each other have one similarity, 1 / (1 + distance), and are ordered by id."""
_BLOCK_QUERIES = 256
_BLOCK_SCORES = 1 << 22
"""Scores of one matrix product held at a time, 16 MiB."""

_TALL_QUERIES_MAX = 32
_MANY = 4096
_LOWEST = float(np.finfo(np.float32).min)


def rounding_error(dimension: int) -> float:
    """Bound of the relative error of a float32 sum of `dimension` products.

    Kernels sum in at least eight lanes, so a lane sees an eighth of the terms (Higham, Accuracy and
    Stability of Numerical Algorithms, section 3.1); a few more roundings join lanes and scale.
    """
    return _ROUNDING * (dimension / 8 + 16)


def scan(view: SegmentView, mask: Mask | None, queries: Queries, k: int) -> list[Rows]:
    """Per query, candidates for the best `k`, scoring every row of the view."""
    vectors = np.ascontiguousarray(view.vectors)
    if len(queries) >= BATCH_QUERIES_MIN:
        return _by_product(vectors, view.inverse_norms, mask, queries, k)
    return [_scan_one(view, vectors, mask, queries, q, k) for q in range(len(queries))]


def _scan_one(
    view: SegmentView, vectors: F32, mask: Mask | None, queries: Queries, q: int, k: int
) -> Rows:
    if view.coarse is not None:
        rows = view.coarse.candidates(vectors, mask, queries, q, k)
        if rows is not None:
            return _decide(rows, vectors, None, queries, q, k)
    scores = _pass(vectors, view.inverse_norms, queries, q)
    return _pick(scores, mask, vectors, None, queries, q, k)


def gather(view: SegmentView, mask: Mask, queries: Queries, k: int) -> list[Rows]:
    """Per query, candidates for the best `k`, scoring only the rows of the mask."""
    return gather_rows(view, np.flatnonzero(mask), queries, k)


def gather_rows(view: SegmentView, rows: Rows, queries: Queries, k: int) -> list[Rows]:
    """Per query, candidates for the best `k`, scoring only `rows`, more than `k`, ascending."""
    norms = None if view.inverse_norms is None else view.inverse_norms[rows]
    if len(queries) >= BATCH_QUERIES_MIN:
        copied = view.vectors.take(rows, axis=0)
        return [rows[c] for c in _by_product(copied, norms, None, queries, k)]
    vectors = np.ascontiguousarray(view.vectors)
    return [
        rows[
            _pick(_pass_over(vectors, rows, norms, queries, q), None, vectors, rows, queries, q, k)
        ]
        for q in range(len(queries))
    ]


def _pass(vectors: F32, norms: F32 | None, queries: Queries, q: int) -> F32:
    """Approximate scores of all rows, higher is better."""
    kernel = faiss.fvec_inner_products_ny  # a matrix-vector product without BLAS threads
    if queries.metric is Metric.EUCLIDEAN:
        kernel = faiss.fvec_L2sqr_ny
    scores = np.empty(len(vectors), dtype=np.float32)
    kernel(
        faiss.swig_ptr(scores),
        faiss.swig_ptr(queries.seeking[q]),
        faiss.swig_ptr(vectors),
        vectors.shape[1],
        len(vectors),
    )
    return _finish(scores, norms, queries.metric)


def _pass_over(vectors: F32, rows: Rows, norms: F32 | None, queries: Queries, q: int) -> F32:
    """Approximate scores of `rows`, read where they lie."""
    kernel = faiss.fvec_inner_products_by_idx
    if queries.metric is Metric.EUCLIDEAN:
        kernel = faiss.fvec_L2sqr_by_idx
    scores = np.empty(len(rows), dtype=np.float32)
    kernel(
        faiss.swig_ptr(scores),
        faiss.swig_ptr(queries.seeking[q]),
        faiss.swig_ptr(vectors),
        faiss.swig_ptr(rows),
        vectors.shape[1],
        1,
        len(rows),
    )
    return _finish(scores, norms, queries.metric)


def _finish(scores: F32, norms: F32 | None, metric: Metric) -> F32:
    """Products or squared distances made scores in place: higher is better."""
    if metric is Metric.EUCLIDEAN:
        return np.negative(scores, out=scores)
    if norms is None:
        return scores
    with np.errstate(over="ignore", invalid="ignore"):
        return np.multiply(scores, norms, out=scores)


def _pick(
    scores: F32,
    mask: Mask | None,
    vectors: F32,
    rows: Rows | None,
    queries: Queries,
    q: int,
    k: int,
) -> Rows:
    """Positions in `scores` of the candidates; more than `k` of them match the mask."""
    error = rounding_error(vectors.shape[1])
    with np.errstate(over="ignore", invalid="ignore"):
        told = math.isfinite(float(scores.sum()))
    if not told:
        every = np.arange(len(scores)) if mask is None else np.flatnonzero(mask)
        return _decide(every, vectors, rows, queries, q, k)
    if mask is not None:
        scores[~mask] = -np.inf
    kth = float(np.partition(scores, len(scores) - k)[len(scores) - k])
    match queries.metric:
        case Metric.COSINE:
            slack = 2 * error
        case Metric.EUCLIDEAN:
            slack = 2 * error * -kth + (2 * math.sqrt(-kth) + _SAME) * _SAME
        case Metric.DOT:
            # The error of a product scales with its row; those in question lie near the k-th.
            top = np.flatnonzero(scores >= kth)
            near = vectors.take(top if rows is None else rows[top], axis=0).astype(np.float64)
            slack = 2 * error * math.sqrt(float(np.vecdot(near, near).max()))
    # One step down: a bar between two float32 numbers must not exclude the lower.
    bar = np.nextafter(np.float32(max(kth - slack, _LOWEST)), np.float32(-np.inf))
    return _cut(np.flatnonzero(scores >= bar), vectors, rows, queries, q, k)


def _decide(
    positions: Rows, vectors: F32, rows: Rows | None, queries: Queries, q: int, k: int
) -> Rows:
    """Those of `positions` that are the best `k` in float64, ties included."""
    if len(positions) <= k:
        return positions
    at = positions if rows is None else rows[positions]
    true = similarities(queries, np.full(len(at), q, dtype=np.int64), vectors, at)
    best: Rows = positions[true >= np.partition(true, len(true) - k)[len(true) - k]]
    return best


def _by_product(
    vectors: F32, norms: F32 | None, mask: Mask | None, queries: Queries, k: int
) -> list[Rows]:
    """Per query, positions in `vectors` of the candidates, by matrix products over blocks."""
    found: list[Rows] = []
    for start in range(0, len(queries), _BLOCK_QUERIES):
        some = range(start, min(start + _BLOCK_QUERIES, len(queries)))
        found.extend(_by_product_of_some(vectors, norms, mask, queries, some, k))
    return found


def _by_product_of_some(
    vectors: F32, norms: F32 | None, mask: Mask | None, queries: Queries, some: range, k: int
) -> list[Rows]:
    step = _BLOCK_SCORES // len(some)
    best = [_Best(k) for _ in some]
    for a in range(0, len(vectors), step):
        b = min(a + step, len(vectors))
        block_norms = None if norms is None else norms[a:b]
        with np.errstate(over="ignore", invalid="ignore"):
            scores, errors = _products(vectors[a:b], block_norms, queries, some)
            told = math.isfinite(float(scores.sum())) and math.isfinite(float(errors.sum()))
        if not told:
            every = np.arange(len(vectors)) if mask is None else np.flatnonzero(mask)
            return [_decide(every, vectors, None, queries, q, k) for q in some]
        if mask is not None:
            scores[:, ~mask[a:b]] = -np.inf
        for i, one in enumerate(best):
            one.offer(a, scores[i], errors if errors.ndim < 2 else errors[i])
    return [
        _cut(one.positions(), vectors, None, queries, q, k)
        for one, q in zip(best, some, strict=True)
    ]


def _products(block: F32, norms: F32 | None, queries: Queries, some: range) -> tuple[F32, F32]:
    """Approximate scores [queries, rows] and bounds of their errors, of a shape to broadcast."""
    error = np.float32(2 * rounding_error(block.shape[1]))
    seeking = queries.seeking[some.start : some.stop]
    scores: F32
    if len(some) <= _TALL_QUERIES_MAX:  # BLAS copies the right operand: let that be the small one
        scores = np.ascontiguousarray((block @ seeking.T).T)
    else:
        scores = seeking @ block.T
    if norms is not None:
        scores *= norms
        return scores, np.full(1, error)
    lengths = np.sqrt(np.vecdot(block, block))
    if queries.metric is Metric.DOT:
        return scores, error * lengths
    # Maximising x.q - |x|^2 / 2 minimises the distance; what cancels is as large as these terms.
    scores -= 0.5 * lengths * lengths
    asked = queries.lengths[some.start : some.stop, None].astype(np.float32)
    apart = asked + lengths
    same = np.float32(_SAME)
    return scores, error * lengths * apart + _EXACT * apart * apart + same * (apart + same)


class _Best:
    """The candidates of one query over several blocks."""

    def __init__(self, k: int) -> None:
        self._k = k
        self._kept: list[tuple[Rows, F32, F32]] = []

    def offer(self, start: int, scores: F32, errors: F32) -> None:
        """Keep what may be among the best `k` of this block; -inf never is."""
        low, high = scores - errors, scores + errors
        at = np.flatnonzero(high >= self._bar(low))
        self._kept.append((at + start, low[at], high[at]))

    def positions(self) -> Rows:
        """What may be among the best `k` of all blocks."""
        if len(self._kept) == 1:
            return self._kept[0][0]
        at, low, high = (np.concatenate(column) for column in zip(*self._kept, strict=True))
        return at[high >= self._bar(low)]

    def _bar(self, low: F32) -> float:
        if len(low) <= self._k:
            return _LOWEST
        return max(_LOWEST, float(np.partition(low, len(low) - self._k)[len(low) - self._k]))


def _cut(
    positions: Rows, vectors: F32, rows: Rows | None, queries: Queries, q: int, k: int
) -> Rows:
    """The positions, cut down in float64 when they are many."""
    if len(positions) > 4 * k + _MANY:
        return _decide(positions, vectors, rows, queries, q, k)
    return positions
