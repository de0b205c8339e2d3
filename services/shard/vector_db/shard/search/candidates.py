"""Candidates of one segment: the planner's choice carried out.

Owns the invariant that an exact way leaves out no row of the true best k, and that an index under a
mask never answers with fewer rows than there are: where its walk runs dry, the rows are scanned.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import numpy as np

from vector_db.common.model.collection import IndexKind
from vector_db.common.model.filters import Filter
from vector_db.shard.core.planner import Method, Plan, Walk, Wish, plan, widened
from vector_db.shard.search.matching import matching
from vector_db.shard.search.ranking import Pairs
from vector_db.shard.search.scan import Rows, gather, gather_rows, scan
from vector_db.shard.search.score import Queries
from vector_db.shard.views import SegmentView, VectorIndex

_PLANS_MAX = 256
"""Plans kept of one view: what they depend on comes from requests."""
_NO_ROWS: Rows = np.empty(0, dtype=np.int64)


class Found(NamedTuple):
    """Candidates of one view, how they were found, and how many rows are visible and match."""

    pairs: Pairs
    plan: Plan
    matching: int


def plan_for(
    view: SegmentView, matching: int, nq: int, k: int, wish: Wish, listed: bool = False
) -> Plan:
    """The way to the best `k` of the rows that match; `listed`: their numbers are known."""
    key = (matching, nq, k, wish, listed)
    known = view.plans.get(key)
    if known is None:
        if len(view.plans) >= _PLANS_MAX:
            view.plans.clear()
        known = view.plans[key] = plan(
            rows=view.rows,
            matching=matching,
            queries=nq,
            k=k,
            dimension=view.vectors.shape[1],
            walk=_walk(view.index, matching, k, wish),
            listed=listed,
            coarse=view.coarse is not None,
        )
    return cast(Plan, known)


def _walk(index: VectorIndex | None, matching: int, k: int, wish: Wish) -> Walk | None:
    if index is None or wish.exact or not matching:
        return None
    told = wish.ef if index.kind is IndexKind.HNSW else wish.nprobe
    if told:
        return Walk(index.kind, told, 0.0)
    if matching == index.rows:
        effort = index.effort(k, wish.recall)
    else:
        share = min(1.0, matching / index.rows)
        effort = widened(index.kind, k, share, lambda k: index.effort(k, wish.recall))
    return Walk(index.kind, effort, index.cost_us(effort))


def candidates(
    view: SegmentView, filter: Filter | None, queries: Queries, k: int, wish: Wish
) -> Found:
    """Rows of one view that may be among the best `k` of each query, few beyond `k`."""
    listed = view.listed
    if filter is not None:
        found = matching(view, filter)
        listed = found.rows
        if listed is None:
            view = view.showing(found.mask)
    count = view.matching if listed is None else len(listed)
    chosen = plan_for(view, count, len(queries), k, wish, listed is not None)
    if not count:
        return Found(Pairs.of([_NO_ROWS] * len(queries)), chosen, 0)
    if listed is not None and chosen.method in (Method.ALL, Method.GATHER):
        return Found(Pairs.of(_of_listed(view, listed, queries, k, chosen.method)), chosen, count)
    if listed is not None and view.listed is None:
        view = view.showing_rows(listed)
    if chosen.method is Method.INDEX and view.index is not None:
        pairs = _from_index(view, view.index, count, queries, k, chosen.effort)
    else:
        pairs = Pairs.of(_exactly(view, queries, k, chosen.method))
    return Found(pairs, chosen, count)


def _of_listed(
    view: SegmentView, listed: Rows, queries: Queries, k: int, method: Method
) -> list[Rows]:
    if method is Method.ALL:
        return [listed] * len(queries)
    return gather_rows(view, listed, queries, k)


def _exactly(view: SegmentView, queries: Queries, k: int, method: Method) -> list[Rows]:
    mask = view.live
    if method is Method.ALL:
        every = np.arange(view.rows) if mask is None else np.flatnonzero(mask)
        return [every] * len(queries)
    if method is Method.GATHER and mask is not None:
        return gather(view, mask, queries, k)
    return scan(view, mask, queries, k)


def _from_index(
    view: SegmentView,
    index: VectorIndex,
    matching: int,
    queries: Queries,
    k: int,
    effort: int,
) -> Pairs:
    nq = len(queries)
    width = min(index.width(k), matching)
    if index.kind is IndexKind.HNSW:
        effort = max(effort, width)
    mask = view.live
    _, rows = index.search(queries.seeking, width, mask, effort, view.packed)
    if mask is None and view.rows < index.rows and int(rows.max()) >= view.rows:
        # The index covers rows written after the snapshot.
        _, rows = index.search(queries.seeking, width, np.ones(view.rows, dtype=np.bool_), effort)
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
            queries=len(short),
            k=k,
            dimension=view.vectors.shape[1],
            walk=None,
            coarse=view.coarse is not None,
        )
        for q, found in zip(short, _exactly(view, again, k, exact.method), strict=True):
            per_query[q] = found
    return Pairs.of(per_query)
