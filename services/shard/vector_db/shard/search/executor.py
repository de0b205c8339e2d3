"""Search over the segments of a snapshot: candidates of each, scored, ranked, answered.

Owns the invariants of an answer: exactly the best min(k, visible) rows that match, each row once (a
snapshot shows one version of a row, in one segment), ordered by (similarity descending, id
ascending), with similarities that depend on query and row alone. Only an index may miss a row.

Nothing here awaits; views are frozen, so a call may run in any thread.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vector_db.common.core.messages import SearchReply, SearchRequest
from vector_db.common.model.collection import RECALL_TARGET, Metric
from vector_db.common.model.filters import Filter
from vector_db.shard.core.planner import Wish
from vector_db.shard.search.candidates import candidates, matching_mask, plan_for
from vector_db.shard.search.matching import matching
from vector_db.shard.search.ranking import FEW, answer, answer_few
from vector_db.shard.search.score import Queries
from vector_db.shard.views import SegmentView

ANY_WISH = Wish(RECALL_TARGET)

__all__ = ["cost", "count", "matching_mask", "search"]


def search(
    views: Sequence[SegmentView],
    metric: Metric,
    dimension: int,
    request: SearchRequest,
    filter: Filter | None,
) -> SearchReply:
    """The best `request.k` visible, matching rows of `views` for each query.

    `filter` is `request.filter`, parsed.
    """
    vectors = np.frombuffer(request.queries, dtype="<f4").reshape(-1, dimension)
    queries = Queries(vectors, metric)
    wish = Wish(request.recall, request.ef, request.nprobe, request.exact)
    found = [candidates(view, filter, queries, request.k, wish).pairs for view in views]
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
    filtered: bool = False,
    metric: Metric = Metric.COSINE,
    wish: Wish = ANY_WISH,
) -> float:
    """Estimated milliseconds of a search, for the choice between inline and a pool.

    `filtered`: counts as making the filter's columns, which the first use of a path does.
    """
    total_us = 20.0 + 15.0 * nq
    for view in views:
        live = view.rows if view.live is None else int(np.count_nonzero(view.live))
        total_us += 10 + plan_for(view, live, nq, k, metric, wish).cost_us
        if filtered:
            total_us += 3.0 * view.rows
    return total_us / 1000
