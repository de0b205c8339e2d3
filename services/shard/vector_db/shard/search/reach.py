"""How many candidates one segment is asked for: as many as the answer needs, and no more.

Owns two invariants. The candidates of a page hold all hits up to its end, those of the pages before
it too, since the order is known only once all are scored. And a search with a bound on similarity
asks for few first and for more only while all of them lie within the bound, so that it costs what
its answer costs and not what its `k` allows.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from vector_db.common.core.messages import SearchRequest
from vector_db.common.model.filters import Filter
from vector_db.shard.core.planner import Wish
from vector_db.shard.search.candidates import Found, candidates, matching_mask
from vector_db.shard.search.score import Queries, similarities
from vector_db.shard.views import SegmentView

FIRST_WIDTH = 64
WIDENED_BY = 4


def find(
    view: SegmentView,
    filter: Filter | None,
    queries: Queries,
    request: SearchRequest,
    wish: Wish,
) -> tuple[Found, int]:
    """The candidates of one view, and for how many the last search asked."""
    width = request.skip + request.k
    least = request.min_similarity
    if least is None or request.k <= FIRST_WIDTH:
        return candidates(view, filter, queries, width, wish), width
    return _within(masked(view, filter), queries, request.skip + FIRST_WIDTH, width, least, wish)


def masked(view: SegmentView, filter: Filter | None) -> SegmentView:
    """The view with only the rows that match visible, so that its filter is evaluated once."""
    if filter is None:
        return view
    return dataclasses.replace(view, live=matching_mask(view, filter))


def _within(
    view: SegmentView, queries: Queries, first: int, width: int, least: float, wish: Wish
) -> tuple[Found, int]:
    asked = first
    while True:
        found = candidates(view, None, queries, asked, wish)
        if asked >= width or found.matching <= asked:
            return found, asked
        if _most_within(view, queries, found, least) < asked:
            return found, asked
        asked = min(WIDENED_BY * asked, width)


def _most_within(view: SegmentView, queries: Queries, found: Found, least: float) -> int:
    """How many candidates lie within the bound, of the query with the most."""
    pairs = found.pairs
    inside = similarities(queries, pairs.asked, view.vectors, pairs.rows) >= least
    return int(np.bincount(pairs.asked[inside], minlength=len(queries)).max())
