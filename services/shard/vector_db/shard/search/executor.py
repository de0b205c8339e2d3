"""Search over the segments of a snapshot: candidates of each, scored, ranked, answered.

Owns the invariants of an answer: exactly the best min(k, visible) rows that match, each row once (a
snapshot shows one version of a row, in one segment), ordered by (similarity descending, id
ascending), with similarities that depend on query and row alone. Only an index may miss a row.

Nothing here awaits; views are frozen, so a call may run in any thread.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vector_db.common.core.messages.reads import SearchReply, SearchRequest
from vector_db.common.model.collection import RECALL_TARGET, Metric
from vector_db.common.model.filters import Filter
from vector_db.shard.core.planner import Wish
from vector_db.shard.search.candidates import plan_for
from vector_db.shard.search.matching import matching
from vector_db.shard.search.ranking import FEW, Pairs, answer, answer_few
from vector_db.shard.search.reach import find
from vector_db.shard.search.score import Queries
from vector_db.shard.views import SegmentView

ANY_WISH = Wish(RECALL_TARGET)

__all__ = ["cost", "count", "rank", "search", "wish_of"]


def wish_of(request: SearchRequest, recall_target: float) -> Wish:
    """What the query asks for, or its collection where it does not say."""
    recall = request.recall or recall_target
    # A target of 1 means exact, unless the query says itself how hard to try.
    exact = request.exact or (recall >= 1 and not (request.ef or request.nprobe))
    return Wish(recall, request.ef, request.nprobe, exact)


def search(
    views: Sequence[SegmentView],
    metric: Metric,
    dimension: int,
    request: SearchRequest,
    filter: Filter | None,
    recall_target: float = RECALL_TARGET,
) -> SearchReply:
    """The best `request.k` visible, matching rows of `views` for each query.

    `filter` is `request.filter`, parsed; `recall_target` the collection's.
    """
    vectors = np.frombuffer(request.queries, dtype="<f4").reshape(-1, dimension)
    queries = Queries(vectors, metric)
    wish = wish_of(request, recall_target)
    found = [find(view, filter, queries, request, wish)[0].pairs for view in views]
    return rank(views, queries, found, request)


def rank(
    views: Sequence[SegmentView],
    queries: Queries,
    found: Sequence[Pairs],
    request: SearchRequest,
) -> SearchReply:
    """The answer, from the candidates of each view."""
    if len(queries) == 1 and sum(len(pairs.rows) for pairs in found) <= FEW:
        return answer_few(views, queries, found, request)
    return answer(views, queries, found, request)


def count(views: Sequence[SegmentView], filter: Filter | None) -> int:
    """How many visible rows match."""
    return sum(matching(view, filter).count for view in views)


def cost(
    views: Sequence[SegmentView],
    nq: int,
    k: int = 10,
    filter: Filter | None = None,
    wish: Wish = ANY_WISH,
) -> float:
    """Estimated milliseconds of a search, for the choice between inline and a pool.

    A filter whose columns do not tell counts as making them, which the first use of a path does.
    """
    total_us = 20.0 + 15.0 * nq
    for view in views:
        expected = view.matching
        if filter is not None:
            told = view.columns.estimate(filter, view.rows)
            total_us += 3.0 * view.rows if told is None else 50.0
            expected = min(expected, view.rows if told is None else told)
        total_us += 10 + plan_for(view, expected, nq, k, wish).cost_us
    return total_us / 1000
