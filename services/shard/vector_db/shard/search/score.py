"""The one way in which similarities are computed, whatever found the candidates.

Owns the invariant that a similarity depends on nothing but the query and the row: float64 from the
raw vectors, each row by itself, so that batching, segments and indexes cannot change a bit of it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vector_db.common.model.collection import Metric
from vector_db.common.model.rows import F32

F64 = NDArray[np.float64]

_TINY = float(np.finfo(np.float64).tiny)
_VALUES_AT_ONCE = 1 << 21
"""Float64 values held at a time, 16 MiB."""


class Queries:
    """The queries of one request, in the forms that finding and scoring want.

    `raw` float64[nq, d]; `lengths` float64[nq]; `seeking` float32[nq, d], contiguous: of unit
    length unless the metric is euclidean (the length changes no order by cosine or inner product,
    and float32 is safe from its overflow so).
    """

    __slots__ = ("lengths", "metric", "raw", "seeking")

    def __init__(self, vectors: F32, metric: Metric) -> None:
        self.metric = metric
        self.raw: F64 = vectors.astype(np.float64)
        self.lengths: F64 = np.vecdot(self.raw, self.raw)
        np.sqrt(self.lengths, out=self.lengths)
        if metric is Metric.EUCLIDEAN:
            self.seeking: F32 = vectors.astype(np.float32)
        else:
            # A zero query has no direction; any will do: its inner products are all zero.
            unit = self.raw / np.maximum(self.lengths, _TINY)[:, None]
            self.seeking = unit.astype(np.float32)

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
    wanted = queries.raw[0] if one else queries.raw[asked]
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
