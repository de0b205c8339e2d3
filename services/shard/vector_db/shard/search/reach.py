"""How many candidates one segment is asked for: as many as the answer needs, and no more.

Owns two invariants. A page is full unless no hit follows it: what an index missed for the pages
before and finds now lies before its place and must not make it short. And a search with a bound on
similarity asks for few first and for more only while all of them lie within the bound, so that it
costs what its answer costs and not what its `k` allows.
"""

from __future__ import annotations

import numpy as np

from vector_db.common.core.messages.reads import SearchRequest
from vector_db.common.model.filters import Filter
from vector_db.shard.core.planner import Method, Wish
from vector_db.shard.search.candidates import Found, candidates
from vector_db.shard.search.matching import matching
from vector_db.shard.search.ranking import comes_after
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
    """The candidates of one view, and for how many the last search asked.

    Those of a page are all hits up to its end, since their order is known only once all are scored.
    """
    bounded = request.min_similarity is not None and request.k > FIRST_WIDTH
    if bounded or request.after is not None:
        return _widening(masked(view, filter), queries, request, wish)
    return candidates(view, filter, queries, request.k, wish), request.k


def masked(view: SegmentView, filter: Filter | None) -> SegmentView:
    """The view with only the rows that match visible, so that its filter is evaluated once."""
    if filter is None:
        return view
    found = matching(view, filter)
    return view.showing(found.mask) if found.rows is None else view.showing_rows(found.rows)


def _widening(
    view: SegmentView, queries: Queries, request: SearchRequest, wish: Wish
) -> tuple[Found, int]:
    width = request.skip + request.k
    asked = width
    if request.min_similarity is not None:
        asked = min(width, request.skip + FIRST_WIDTH)
    while True:
        found = candidates(view, None, queries, asked, wish)
        if found.matching <= asked or _enough(view, queries, found, asked, request):
            return found, asked
        if asked < width:
            asked = min(WIDENED_BY * asked, width)
        else:
            asked += max(request.k, FIRST_WIDTH)


def _enough(
    view: SegmentView, queries: Queries, found: Found, asked: int, request: SearchRequest
) -> bool:
    """Whether the best `asked` hold all that the answer needs of this view."""
    whole = asked >= request.skip + request.k
    if whole and (request.after is None or found.plan.method is not Method.INDEX):
        return True
    pairs = found.pairs
    scores = similarities(queries, pairs.asked, view.vectors, pairs.rows)
    least = request.min_similarity
    if least is not None:
        within = np.bincount(pairs.asked[scores >= least], minlength=len(queries))
        if int(within.max()) < asked:
            return True
    if not whole or request.after is None:
        return False
    behind = comes_after(scores, request.after, lambda at: view.ids.take(pairs.rows[at].tolist()))
    return int(np.count_nonzero(behind)) >= request.k
