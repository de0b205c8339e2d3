"""Measures the recall of an index over its efforts, against exact search of the same rows.

The samples are no rows of the index but points beside them: the fourth corner of a parallelogram of
a row and two of its neighbours. They lie where the rows lie, as far from the nearest as rows do,
and nothing is found for being itself.
Runs in the build process; everything is seeded, so the same rows give the same curve.
"""

from __future__ import annotations

from typing import Any

import faiss as _faiss
import numpy as np
from numpy.typing import NDArray

from vector_db.common.model.collection import IndexKind, Metric
from vector_db.common.model.rows import F32
from vector_db.shard.core.calibration import Calibration, Point
from vector_db.shard.index.forms import indexed_form
from vector_db.shard.views import Searcher

faiss: Any = _faiss

_SAMPLES = {10: 256, 100: 64, 1000: 24}
"""k → queries. Few for the large ones: each query tells of as many hits as it has."""
_QUICK_SAMPLES = {10: 96, 100: 24}
"""For an index that lives for seconds: measuring it fully takes longer than building it."""
_NEIGHBOURS = 32
"""As hard as queries that the index never saw: of sentence embeddings, from 0.95 on, recall@10 of
the samples is at most 0.01 above theirs and recall@100 below it. Rows moved by half the difference
of two neighbours, say, stay so near to a row that their recall is 0.04 above."""
_ENOUGH = 0.999
_BLOCK_ROWS = 65_536
_SEED = 20_011
_TOLERANCE = 1e-6


def calibrate(index: Searcher, vectors: F32, metric: Metric, quick: bool = False) -> Calibration:
    """The curve of `index` over `vectors` float32[rows, dimension], as the client sent them.

    `quick`: of fewer samples.
    """
    rows, samples = len(vectors), _QUICK_SAMPLES if quick else _SAMPLES
    queries = _samples(vectors, metric, max(samples.values()))
    points: list[Point] = []
    for k, count in samples.items():
        if 2 * k > rows:
            break
        some = queries[:count]
        exact, _ = _exact(vectors, metric, some, k)
        points += _curve(index, vectors, metric, some, exact, k)
    return Calibration(tuple(points), len(queries))


def _curve(
    index: Searcher, vectors: F32, metric: Metric, queries: F32, exact: F32, k: int
) -> list[Point]:
    points: list[Point] = []
    width = min(index.width(k), index.rows)
    for effort in _grid(index, width):
        _, found = index.search(queries, width, None, effort)
        recalls = _recalls(vectors, metric, queries, found, exact, k)
        error = float(recalls.std() / np.sqrt(len(recalls)))
        point = Point(k, effort, float(recalls.mean()), error)
        # Between two measurements more effort cannot find less: what looks so is noise.
        if points and point.sure < points[-1].sure:
            point = Point(k, effort, points[-1].recall, points[-1].error)
        points.append(point)
        if point.sure >= _ENOUGH:
            break
    return points


def _grid(index: Searcher, width: int) -> list[int]:
    """The efforts to measure. A beam is never narrower than what is asked of it."""
    if index.kind is not IndexKind.HNSW:
        return [effort for effort in index.efforts if effort <= index.rows]
    return [width, *(effort for effort in index.efforts if width < effort <= index.rows)]


def _recalls(
    vectors: F32, metric: Metric, queries: F32, found: NDArray[np.int64], exact: F32, k: int
) -> NDArray[np.float64]:
    """The share of the best `k` among the rows found, per query, by score: ties count as found."""
    shares = np.empty(len(queries))
    for q, rows in enumerate(found):
        rows = np.unique(rows[rows >= 0])
        scores = _scores(queries[q : q + 1], indexed_form(vectors[rows], metric), metric)[0]
        bar = exact[q, k - 1] - _TOLERANCE * max(1.0, abs(float(exact[q, k - 1])))
        shares[q] = min(k, int(np.count_nonzero(scores >= bar))) / k
    return shares


def _samples(vectors: F32, metric: Metric, count: int) -> F32:
    random = np.random.default_rng(_SEED)
    rows = len(vectors)
    picked = np.sort(random.choice(rows, size=min(count, rows), replace=False))
    base = indexed_form(vectors[picked], metric)
    _, near = _exact(vectors, metric, base, min(1 + _NEIGHBOURS, rows))
    at, first = np.arange(len(picked)), min(1, rows - 1)
    one = near[at, random.integers(first, near.shape[1], len(picked))]
    two = near[at, random.integers(first, near.shape[1], len(picked))]
    moved = indexed_form(vectors[one], metric) + indexed_form(vectors[two], metric) - base
    if metric is Metric.COSINE:
        lengths = np.linalg.norm(moved, axis=1, keepdims=True)
        moved = np.where(lengths > 0, moved / np.maximum(lengths, 1e-30), base)
    elif metric is Metric.DOT:
        # As queries are: their length changes no order.
        moved = moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-30)
    samples: F32 = np.ascontiguousarray(random.permutation(moved), dtype=np.float32)
    return samples


def _exact(vectors: F32, metric: Metric, queries: F32, k: int) -> tuple[F32, NDArray[np.int64]]:
    """(scores, rows) of the best `k` of each query, best first."""
    nq = len(queries)
    scores = np.full((nq, k), -np.inf, dtype=np.float32)
    rows = np.full((nq, k), -1, dtype=np.int64)
    for start in range(0, len(vectors), _BLOCK_ROWS):
        block = _scores(queries, indexed_form(vectors[start : start + _BLOCK_ROWS], metric), metric)
        both = np.concatenate([scores, block], axis=1)
        numbers = np.broadcast_to(np.arange(start, start + block.shape[1]), block.shape)
        names = np.concatenate([rows, numbers], axis=1)
        best = np.argpartition(-both, k - 1, axis=1)[:, :k]
        scores, rows = np.take_along_axis(both, best, 1), np.take_along_axis(names, best, 1)
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)


def _scores(queries: F32, block: F32, metric: Metric) -> F32:
    """[nq, rows], higher is better: products, or minus the squared distance."""
    products: F32 = queries @ block.T
    if metric is Metric.EUCLIDEAN:
        products = 2 * products
        products -= np.vecdot(block, block)
        products -= np.vecdot(queries, queries)[:, None]
    return products
