"""A search that tells how it went: plans, estimates and timings of every segment.

Owns the invariant that an explained search finds what the plain one does, in the same way; only its
filter is evaluated apart, so that it can be timed. Nothing else reads a clock in a search.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter_ns
from typing import Any

import numpy as np

from vector_db.common.core.messages.reads import SearchReply, SearchRequest
from vector_db.common.model.collection import RECALL_TARGET, IndexKind, Metric
from vector_db.common.model.filters import Filter
from vector_db.shard.core.planner import Method
from vector_db.shard.search.candidates import Found
from vector_db.shard.search.executor import rank, wish_of
from vector_db.shard.search.reach import find, masked
from vector_db.shard.search.score import Queries
from vector_db.shard.views import SegmentView

MEMORY = "memory"
"""What the segment of rows in memory is called."""


def explain(
    views: Sequence[SegmentView],
    metric: Metric,
    dimension: int,
    request: SearchRequest,
    filter: Filter | None,
    recall_target: float = RECALL_TARGET,
) -> tuple[SearchReply, dict[str, Any]]:
    """`executor.search`, and what there is to tell of it: JSON-able, times in microseconds."""
    vectors = np.frombuffer(request.queries, dtype="<f4").reshape(-1, dimension)
    queries = Queries(vectors, metric)
    wish = wish_of(request, recall_target)
    pairs, segments = [], []
    for view in views:
        began = perf_counter_ns()
        seen = masked(view, filter)
        filtered = perf_counter_ns()
        found, width = find(seen, None, queries, request, wish)
        done = perf_counter_ns()
        pairs.append(found.pairs)
        timings = {"filter_us": (filtered - began) / 1000, "search_us": (done - filtered) / 1000}
        segments.append(_segment(view, found, width) | timings)
    began = perf_counter_ns()
    reply = rank(views, queries, pairs, request)
    told = {
        "recall": None if wish.exact else wish.recall,
        "exact": wish.exact,
        "score_us": (perf_counter_ns() - began) / 1000,
        "segments": segments,
    }
    return reply, told


def _segment(view: SegmentView, found: Found, width: int) -> dict[str, Any]:
    plan = found.plan
    kind = None if view.index is None else view.index.kind
    asked = kind if plan.method is Method.INDEX else None
    return {
        "name": view.name or MEMORY,
        "rows": view.rows,
        "matching": found.matching,
        "selectivity": found.matching / view.rows if view.rows else 0.0,
        "index": kind,
        "method": plan.method.name.lower(),
        "ef": plan.effort if asked is IndexKind.HNSW else 0,
        "nprobe": plan.effort if asked is IndexKind.IVF_PQ else 0,
        "width": width,
        "candidates": len(found.pairs.rows),
        "cost_us": plan.cost_us,
        "rejected": [{"method": method, "cost_us": cost_us} for method, cost_us in plan.rejected],
    }
