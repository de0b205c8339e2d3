"""The form in which an index holds rows: what a metric makes of them before they are compared.

Owns the invariant that all indexes of a segment see the same rows: as the client sent them, or at
length one where only the direction counts.
"""

from __future__ import annotations

import numpy as np

from vector_db.common.model.collection import Metric
from vector_db.common.model.rows import F32


def indexed_form(block: F32, metric: Metric) -> F32:
    """Rows float32[n, dimension] as an index takes them: contiguous, and normalised for cosine.

    No row is of zero length where the metric is cosine: such rows are refused when written.
    """
    if metric is not Metric.COSINE:
        return np.ascontiguousarray(block)
    wide = block.astype(np.float64)
    wide /= np.sqrt(np.vecdot(wide, wide))[:, None]
    return wide.astype(np.float32)


def closeness(queries: F32, rows: F32, metric: Metric) -> F32:
    """float32[nq, n], higher is nearer: products, or minus the squared distance.

    Both as `indexed_form` makes them.
    """
    products: F32 = queries @ rows.T
    if metric is Metric.EUCLIDEAN:
        products = 2 * products
        products -= np.vecdot(rows, rows)
        products -= np.vecdot(queries, queries)[:, None]
    return products
