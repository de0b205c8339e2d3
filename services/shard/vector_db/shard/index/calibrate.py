"""Measures the recall of an index over its efforts, against exact search of the same rows.

The samples are rows, drawn at random, that the index is made to forget while it is measured: no
list or link leads to them. So they are what the next query from where the rows come from is: not
found for being itself, nor nearer to its neighbours than it would be. (Points made up beside rows
are too easy on some sets and too hard on others.) Runs in the build process; everything is seeded,
so the same rows give the same curve.
"""

from __future__ import annotations

from typing import Any

import faiss as _faiss
import numpy as np
from numpy.typing import NDArray

from vector_db.common.model.collection import IndexKind, Metric
from vector_db.common.model.rows import F32
from vector_db.shard.core.calibration import Calibration, Point
from vector_db.shard.index.forms import closeness, indexed_form
from vector_db.shard.views import Searcher

faiss: Any = _faiss

_SAMPLES = {10: 256, 100: 64, 1000: 24}
"""k → queries. Few for the large ones: each query tells of as many hits as it has."""
_QUICK_SAMPLES = {10: 96, 100: 24}
"""For an index that lives for seconds: measuring it fully takes longer than building it."""
_ENOUGH = 0.999
_WORTHWHILE = 0.001
"""Recall that three more efforts must gain: codes of one byte never find some of the best."""
_BLOCK_ROWS = 65_536
_SEED = 20_011
_TOLERANCE = 1e-6


def calibrate(index: Searcher, vectors: F32, metric: Metric, quick: bool = False) -> Calibration:
    """The curve of `index` over `vectors` float32[rows, dimension], as the client sent them.

    `index` must be in memory and nobody else's: it is changed meanwhile. `quick`: of fewer samples.
    """
    rows, samples = len(vectors), _QUICK_SAMPLES if quick else _SAMPLES
    random = np.random.default_rng(_SEED)
    picked = random.choice(rows, size=min(max(samples.values()), rows // 4), replace=False)
    picked = picked[picked != index.entry_row]
    points: list[Point] = []
    with index.without(picked, vectors):
        for k, count in samples.items():
            if 2 * k > rows - len(picked):
                break
            some = np.sort(picked[:count])
            queries = _as_queries(vectors[some], metric)
            exact = _kth(vectors, metric, queries, k, picked)
            points += _curve(index, vectors, metric, queries, exact, k, picked)
    return Calibration(tuple(points), len(picked) if points else 0)


def _curve(
    index: Searcher,
    vectors: F32,
    metric: Metric,
    queries: F32,
    exact: F32,
    k: int,
    forgotten: NDArray[np.int64],
) -> list[Point]:
    points: list[Point] = []
    width = min(index.width(k), index.rows)
    live = None
    if index.kind is not IndexKind.HNSW:  # lists have no links: leaving out is all there is to it
        live = np.ones(index.rows, dtype=np.bool_)
        live[forgotten] = False
    for effort in _grid(index, width):
        _, found = index.search(queries, width, live, effort)
        recalls = _recalls(vectors, metric, queries, found, exact, k)
        error = float(recalls.std() / np.sqrt(len(recalls)))
        point = Point(k, effort, float(recalls.mean()), error)
        # Between two measurements more effort cannot find less: what looks so is noise.
        if points and point.sure < points[-1].sure:
            point = Point(k, effort, points[-1].recall, points[-1].error)
        points.append(point)
        stalled = len(points) > 3 and point.recall - points[-4].recall < _WORTHWHILE
        if point.sure >= _ENOUGH or (stalled and effort > 4 * k):
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
        scores = closeness(queries[q : q + 1], indexed_form(vectors[rows], metric), metric)[0]
        bar = exact[q] - _TOLERANCE * max(1.0, abs(float(exact[q])))
        shares[q] = min(k, int(np.count_nonzero(scores >= bar))) / k
    return shares


def _as_queries(rows: F32, metric: Metric) -> F32:
    queries = indexed_form(rows, metric)
    if metric is Metric.DOT:
        # The length of a query changes no order.
        queries = queries / np.maximum(np.linalg.norm(queries, axis=1, keepdims=True), 1e-30)
    return np.ascontiguousarray(queries, dtype=np.float32)


def _kth(vectors: F32, metric: Metric, queries: F32, k: int, forgotten: NDArray[np.int64]) -> F32:
    """The score of the k-th best row of each query, `forgotten` ones left out; float32[nq]."""
    best = np.full((len(queries), k), -np.inf, dtype=np.float32)
    left_out = np.zeros(len(vectors), dtype=np.bool_)
    left_out[forgotten] = True
    for start in range(0, len(vectors), _BLOCK_ROWS):
        stop = start + _BLOCK_ROWS
        scores = closeness(queries, indexed_form(vectors[start:stop], metric), metric)
        scores[:, left_out[start:stop]] = -np.inf
        both = np.concatenate([best, scores], axis=1)
        best = np.partition(both, both.shape[1] - k, axis=1)[:, both.shape[1] - k :]
    kth: F32 = best.min(axis=1)
    return kth
