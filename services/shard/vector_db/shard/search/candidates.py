"""Candidates of one segment: the planner's choice carried out.

Owns the invariant that an exact way leaves out no row of the true best k, and that an index under a
mask never answers with fewer rows than there are: where its walk runs dry, the rows are scanned.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vector_db.common.model.collection import Metric
from vector_db.common.model.filters import Filter
from vector_db.shard.core.planner import Method, Plan, Wish, plan
from vector_db.shard.search.ranking import Pairs
from vector_db.shard.search.scan import Mask, Rows, gather, scan
from vector_db.shard.search.score import Queries
from vector_db.shard.views import SegmentView, VectorIndex

_NO_ROWS: Rows = np.empty(0, dtype=np.int64)
_SPARE = 4
"""Hits asked of an index beyond k: its scores are rounded, so the k-th may stand a little lower."""


def matching_mask(view: SegmentView, filter: Filter | None) -> Mask | None:
    """Which rows of the view are visible and match, bool[rows]; None: all."""
    if filter is None:
        return view.live
    matching = view.columns.mask(filter, view.rows)
    return matching if view.live is None else matching & view.live


class Found(NamedTuple):
    """Candidates of one view, how they were found, and how many rows are visible and match."""

    pairs: Pairs
    plan: Plan
    matching: int


def plan_for(view: SegmentView, matching: int, nq: int, k: int, metric: Metric, wish: Wish) -> Plan:
    return plan(
        rows=view.rows,
        matching=matching,
        indexed=0 if view.index is None or wish.exact else view.index.rows,
        queries=nq,
        k=k,
        dimension=view.vectors.shape[1],
        metric=metric,
    )


def candidates(
    view: SegmentView, filter: Filter | None, queries: Queries, k: int, wish: Wish
) -> Found:
    """Rows of one view that may be among the best `k` of each query, few beyond `k`."""
    mask = matching_mask(view, filter)
    matching = view.rows if mask is None else int(np.count_nonzero(mask))
    chosen = plan_for(view, matching, len(queries), k, queries.metric, wish)
    if not matching:
        return Found(Pairs.of([_NO_ROWS] * len(queries)), chosen, 0)
    if chosen.method is Method.INDEX and view.index is not None:
        pairs = _from_index(view, view.index, mask, matching, queries, k, chosen.ef)
    else:
        pairs = Pairs.of(_exactly(view, mask, queries, k, chosen.method))
    return Found(pairs, chosen, matching)


def _exactly(
    view: SegmentView, mask: Mask | None, queries: Queries, k: int, method: Method
) -> list[Rows]:
    if method is Method.ALL:
        every = np.arange(view.rows) if mask is None else np.flatnonzero(mask)
        return [every] * len(queries)
    if method is Method.GATHER and mask is not None:
        return gather(view, mask, queries, k)
    return scan(view, mask, queries, k)


def _from_index(
    view: SegmentView,
    index: VectorIndex,
    mask: Mask | None,
    matching: int,
    queries: Queries,
    k: int,
    ef: int,
) -> Pairs:
    nq = len(queries)
    width = min(k + _SPARE, matching)
    ef = max(ef, width)
    _, rows = index.search(queries.seeking, width, mask, ef)
    if mask is None and int(rows.max()) >= view.rows:
        # The index covers rows written after the snapshot.
        _, rows = index.search(queries.seeking, width, np.ones(view.rows, dtype=np.bool_), ef)
    # Rows come best first, and -1 after the last.
    if int(rows[0, -1] if nq == 1 else rows[:, -1].min()) >= 0:
        return Pairs.even(rows)
    per_query = [row[row >= 0] for row in rows]
    # The walk over rows that do not match ran dry: these queries are answered exactly.
    short = [q for q, found in enumerate(per_query) if len(found) < min(k, matching)]
    if short:
        again = queries.some(short)
        exact = plan(
            rows=view.rows,
            matching=matching,
            indexed=0,
            queries=len(short),
            k=k,
            dimension=view.vectors.shape[1],
            metric=queries.metric,
        )
        for q, found in zip(short, _exactly(view, mask, again, k, exact.method), strict=True):
            per_query[q] = found
    return Pairs.of(per_query)
