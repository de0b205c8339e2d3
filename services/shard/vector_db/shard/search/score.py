"""The one way in which similarities are computed, whatever found the candidates.

Owns the invariant that a similarity depends on nothing but the query and the row: float64 from the
raw vectors, each row by itself, so that batching, segments and indexes cannot change a bit of it.
Compiled loops do it, or NumPy where they are missing; a process never mixes the two.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vector_db.common.model.collection import Metric
from vector_db.common.model.rows import F32
from vector_db.shard.native import native
from vector_db.shard.views import ByteColumn

F64 = NDArray[np.float64]
Key: TypeAlias = tuple[float, bytes, int, int]
"""A hit as it sorts: its similarity negated, its id; then its view and row."""

_TINY = float(np.finfo(np.float64).tiny)
_VALUES_AT_ONCE = 1 << 21
"""Float64 values held at a time, 16 MiB."""


METRIC_NUMBERS = {Metric.COSINE: 0, Metric.DOT: 1, Metric.EUCLIDEAN: 2}
"""As compiled loops know them."""


class Queries:
    """The queries of one request, in the forms that finding and scoring want.

    `raw` float32[nq, d], contiguous, as the client sent them; `lengths` float64[nq]; `seeking`
    float32[nq, d], contiguous: of unit length unless the metric is euclidean (the length changes no
    order by cosine or inner product, and float32 is safe from its overflow so).
    """

    __slots__ = ("lengths", "metric", "raw", "seeking")

    def __init__(self, vectors: F32, metric: Metric) -> None:
        self.metric = metric
        self.raw = vectors
        directed = metric is not Metric.EUCLIDEAN
        if native is None:
            wide = vectors.astype(np.float64)
            self.lengths: F64 = np.sqrt(np.vecdot(wide, wide))
            self.seeking = vectors
            if directed:
                # A zero query has no direction; any will do: its inner products are all zero.
                unit = wide / np.maximum(self.lengths, _TINY)[:, None]
                self.seeking = unit.astype(np.float32)
            return
        self.lengths = np.empty(len(vectors))
        self.seeking = np.empty(vectors.shape, dtype=np.float32) if directed else vectors
        native.prepare(vectors, self.lengths, self.seeking if directed else None)

    def some(self, numbers: list[int]) -> Queries:
        """The queries of these numbers, in that order."""
        fewer = Queries.__new__(Queries)
        fewer.metric = self.metric
        fewer.raw = self.raw[numbers]
        fewer.lengths = self.lengths[numbers]
        fewer.seeking = self.seeking[numbers]
        return fewer

    def __len__(self) -> int:
        return len(self.raw)


def similarities(
    queries: Queries, asked: NDArray[np.int64], vectors: F32, rows: NDArray[np.int64]
) -> F64:
    """Similarity of each pair (query `asked[i]`, row `rows[i]`), float64[len(rows)], never NaN.

    `vectors` float32[n, d] as the client sent them.
    """
    if native is not None:
        found = np.empty(len(rows))
        about = (METRIC_NUMBERS[queries.metric], queries.raw, queries.lengths, vectors, rows)
        native.similarities(*about, None if len(queries) == 1 else asked, found)
        return found
    n, dimension = len(rows), vectors.shape[1]
    step = max(1, _VALUES_AT_ONCE // dimension)
    if n <= step:
        return _pairs(queries, asked, vectors, rows)
    return np.concatenate(
        [
            _pairs(queries, asked[a : a + step], vectors, rows[a : a + step])
            for a in range(0, n, step)
        ]
    )


def _pairs(
    queries: Queries, asked: NDArray[np.int64], vectors: F32, rows: NDArray[np.int64]
) -> F64:
    found = vectors.take(rows, axis=0).astype(np.float64)
    one = len(queries) == 1
    wanted = (queries.raw[0] if one else queries.raw[asked]).astype(np.float64)
    if queries.metric is Metric.EUCLIDEAN:
        found -= wanted
        distance: F64 = np.sqrt(np.vecdot(found, found))
        return 1.0 / (1.0 + distance)
    products: F64 = np.vecdot(found, wanted)
    if queries.metric is Metric.DOT:
        return products
    lengths = queries.lengths[0] if one else queries.lengths[asked]
    scale = np.vecdot(found, found)
    np.sqrt(scale, out=scale)
    scale *= lengths
    np.maximum(scale, _TINY, out=scale)
    products /= scale
    np.minimum(products, 1.0, out=products)
    return np.maximum(products, -1.0, out=products)


def keys(
    queries: Queries, vectors: F32, rows: NDArray[np.int64], kept: int, ids: ByteColumn, number: int
) -> list[Key]:
    """The rows as hits of a single query, in the order of hits.

    :param kept: those beyond so many that do not tie with it may be left out; 0: all are wanted.
    :param number: of the view, for its keys.
    """
    if native is not None:
        about = (METRIC_NUMBERS[queries.metric], queries.raw, queries.lengths, vectors, rows)
        found: list[Key] = native.keys(*about, kept, *ids.columns(), number)
        return found
    scores = similarities(queries, np.zeros(len(rows), dtype=np.int64), vectors, rows)
    np.negative(scores, out=scores)
    ranked = sorted(zip(scores.tolist(), rows.tolist(), strict=True))
    if 0 < kept < len(ranked):
        # What ties with the last kept is still in: its id may be the smaller one.
        last = ranked[kept - 1][0]
        ranked = [pair for pair in ranked if pair[0] <= last]
    names = ids.take([row for _, row in ranked])
    return sorted((score, names[at], number, row) for at, (score, row) in enumerate(ranked))
