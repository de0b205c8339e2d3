"""The visible rows of a view that match: listed or masked, the same rows."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import orjson
import pytest

from tests.unit.shard_search.segments import make_view
from tests.unit.shard_search.test_postings import Declared
from vector_db.common.model.collection import Metric
from vector_db.common.model.filters import parse_filter
from vector_db.common.model.limits import Limits
from vector_db.shard.search.columns import Columns
from vector_db.shard.search.matching import matching
from vector_db.shard.search.postings import DeclaredColumns
from vector_db.shard.views import SegmentView

ROWS = 3000


def view_of(live: np.ndarray[Any, np.dtype[np.bool_]] | None, declared: bool) -> SegmentView:
    texts = [orjson.dumps({"n": n % 100, "m": n % 2}) for n in range(ROWS)]
    vectors = np.ones((ROWS, 2), dtype=np.float32)
    view = make_view(vectors, [b"%d" % n for n in range(ROWS)], Metric.DOT, texts, live)
    if not declared:
        return view
    columns = view.columns
    assert isinstance(columns, Columns)
    return dataclasses.replace(view, columns=DeclaredColumns(Declared(texts, {"n", "m"}), columns))


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("dead", [None, 7, 50])
@pytest.mark.parametrize("filter", [{"n": 7}, {"m": 1}, {"n": 7, "m": 0}, {"n": 7, "o": 1}, None])
def test_rows_and_mask_hold_the_visible_matches(
    filter: dict[str, Any] | None, dead: int | None, declared: bool
) -> None:
    numbers = np.arange(ROWS)
    live = None if dead is None else numbers % 60 != dead
    wanted = np.ones(ROWS, dtype=np.bool_) if live is None else live.copy()
    for field, modulus in (("n", 100), ("m", 2)):
        if filter is not None and field in filter:
            wanted &= numbers % modulus == filter[field]
    if filter is not None and "o" in filter:
        wanted[:] = False
    view = view_of(live, declared)
    found = matching(view, None if filter is None else parse_filter(filter, Limits()))
    assert found.count == np.count_nonzero(wanted)
    assert found.as_rows().tolist() == np.flatnonzero(wanted).tolist()
    mask = found.as_mask()
    assert (np.ones(ROWS, dtype=np.bool_) if mask is None else mask).tolist() == wanted.tolist()
    listed = declared and filter is not None and "n" in filter and "o" not in filter
    assert (found.rows is not None) is listed
    if live is not None:
        assert np.count_nonzero(live) == np.count_nonzero(numbers % 60 != dead)
