"""Filters over declared fields equal the reference, whichever way they are answered."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.shard_search.metadata import DOCUMENTS, FILTERS, encode
from tests.unit.shard_search.segments import ListColumn
from vector_db.common.model.filters import Filter, Path, matches, parse_filter
from vector_db.common.model.limits import Limits
from vector_db.shard.search import postings
from vector_db.shard.search.columns import Columns
from vector_db.shard.search.postings import DeclaredColumns, few_rows
from vector_db.shard.search.ranked import RankedColumn, ranked
from vector_db.shard.search.selection import common, inverted, united

ALL_PATHS = ("a", "b", "x", "a.x", "a.x.y", "b.y")


class Declared:
    """The ranked columns of some paths, in memory."""

    def __init__(self, texts: list[bytes], paths: set[str]) -> None:
        wanted: set[Path] = {tuple(path.split(".")) for path in paths}
        columns = Columns(ListColumn(texts)).freeze(wanted, len(texts))
        self._columns = {path: ranked(column) for path, column in columns.items()}

    def column(self, path: Path) -> RankedColumn | None:
        return self._columns.get(path)


def declare(documents: list[Any], paths: set[str]) -> DeclaredColumns:
    texts = [encode(d) for d in documents]
    return DeclaredColumns(Declared(texts, paths), Columns(ListColumn(texts)))


def parse(filter: dict[str, Any]) -> Filter:
    return parse_filter(filter, Limits())


def check(columns: DeclaredColumns, filter: Filter, documents: list[Any], declared: bool) -> None:
    """The mask, the rows and the estimate, against the reference row by row."""
    rows = len(documents)
    expected = [at for at, document in enumerate(documents) if matches(filter, document)]
    mask = columns.mask(filter, rows)
    assert mask.dtype == np.bool_ and len(mask) == rows
    assert np.flatnonzero(mask).tolist() == expected
    picked, most = columns.rows(filter, rows), columns.estimate(filter, rows)
    if picked is not None:
        assert picked.dtype == np.int64 and picked.tolist() == expected
    if declared:
        assert most is not None and len(expected) <= most <= rows
        assert picked is not None or most > few_rows(rows)


@pytest.fixture(params=["few", "many"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every filter by its postings, or none that matches a row."""
    if request.param == "many":
        monkeypatch.setattr(postings, "_FEW_ROWS_MIN", 0)


@pytest.mark.usefixtures("way")
@settings(max_examples=200)
@given(
    st.lists(DOCUMENTS, max_size=25), st.lists(FILTERS, min_size=1, max_size=3),
    st.sets(st.sampled_from(ALL_PATHS)), st.data(),
)  # fmt: skip
def test_declared_and_lazy_paths_together_equal_the_reference(
    documents: list[Any], filters: list[dict[str, Any]], some: set[str], data: st.DataObject
) -> None:
    for declared in (set(ALL_PATHS), some):
        columns = declare(documents, declared)
        for filter in filters:
            rows = data.draw(st.integers(0, len(documents)))
            check(columns, parse(filter), documents[:rows], False)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("operator", ["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"])
def test_ranked_numbers_compare_exactly_around_the_edges_of_float64(operator: str) -> None:
    edges = [m * 2**e + d for e in (53, 54, 63) for m in (-1, 1) for d in (-2, -1, 0, 1, 2)]
    stored = [n for n in edges if -(2**63) <= n < 2**64] + [2**64 - 1, 2**64 - 1023, 2**64 - 1025]
    stored += [2.0**53, 2.0**63, 2.0**64, -(2.0**64), -0.0, 0]
    documents = [{"a": n} for n in stored]
    columns = declare(documents, {"a"})
    bounds = [2**64, 2**64 + 1, -(2**64) - 1, 2.0**63, 0.5, 0, 2**70 + 1, 10**400, -(10**400)]
    for bound in (*stored, *bounds):
        check(columns, parse({"a": {operator: bound}}), documents, True)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("distinct", [240, 260, 300])
def test_codes_of_any_width_hold_every_value(distinct: int) -> None:
    documents: list[Any] = [{"n": n % distinct, "s": f"v{n % distinct}"} for n in range(700)]
    documents += [{}, {"n": None}, {"n": True}, {"n": [1, 2, 1]}, {"n": {"a": 1}}, None]
    columns = declare(documents, {"n", "s"})
    last = distinct - 1
    for filter in (
        {"n": last}, {"n": {"$gt": last}}, {"n": {"$gte": last}}, {"n": {"$ne": last}},
        {"s": "v0"}, {"s": {"$gte": "v99"}}, {"s": {"$lt": ""}}, {"s": {"$gte": ""}},
        {"n": {"$exists": False}}, {"n": {"$exists": True}}, {"n": {"$in": [None, True, 1]}},
        {"n": {"$nin": [1, 5]}}, {"n": {"$in": [1, 2]}},
        {"n": {"$in": list(range(0, distinct, 2))}},
        {"n": {"$gte": 7, "$lt": 9}, "s": "v8"}, {"s": "\ud800"}, {"s": {"$lt": "\ud800"}},
    ):  # fmt: skip
        check(columns, parse(filter), documents, True)


def test_two_ends_of_an_interval_are_answered_as_one_range() -> None:
    documents = [{"n": n % 1000, "m": n} for n in range(8000)]
    columns = declare(documents, {"n", "m"})
    for filter in ({"n": {"$gte": 400, "$lt": 410}}, {"n": {"$not": {"$not": {"$gt": 989}}}},
                   {"$not": {"$or": [{"n": {"$lt": 300}}, {"n": {"$gte": 305}}]}}):  # fmt: skip
        check(columns, parse(filter), documents, True)
        assert columns.rows(parse(filter), 8000) is not None
    assert columns.estimate(parse({"n": {"$gte": 400, "$lt": 410}}), 8000) == 80


def test_a_conjunction_is_answered_from_its_smallest_part() -> None:
    documents = [{"rare": n % 500, "wide": n % 3, "tags": ["x", f"t{n % 7}"]} for n in range(4000)]
    columns = declare(documents, {"rare", "wide", "tags"})
    filter = parse({"rare": 4, "wide": {"$gte": 1}, "tags": "x", "$not": {"tags": "t3"}})
    check(columns, filter, documents, True)
    assert columns.estimate(filter, 4000) == 8
    assert columns.rows(filter, 4000) is not None
    assert columns.rows(parse({"wide": 1, "tags": "x"}), 4000) is None
    assert columns.rows(parse({"rare": 4, "other": 1}), 4000) is None
    assert columns.estimate(parse({"rare": 4, "other": 1}), 4000) is None


def test_few_rows_are_listed_without_reading_a_code_of_the_others() -> None:
    texts = [orjson.dumps({"n": n % 1000, "m": n % 2}) for n in range(5000)]
    declared = Declared(texts, {"n", "m"})
    columns = DeclaredColumns(declared, Columns(ListColumn(texts)))
    filter = parse({"n": {"$in": [3, 5]}, "m": 1})
    picked = columns.rows(filter, 5000)
    assert picked is not None and len(picked) == 10
    for path in (("n",), ("m",)):
        column = declared.column(path)
        assert column is not None
        others = np.setdiff1d(np.arange(5000), picked)
        column.codes[others] = 0  # as if they were damaged
    again = columns.rows(filter, 5000)
    assert again is not None and again.tolist() == picked.tolist()


def test_ranges_are_a_boolean_algebra() -> None:
    stop = 6
    every = [frozenset(c for c in range(stop) if bits >> c & 1) for bits in range(1 << stop)]

    def pairs(codes: frozenset[int]) -> list[tuple[int, int]]:
        return [(c, c + 1) for c in codes]

    ranges = {codes: united(pairs(codes)) for codes in every}
    assert len(set(ranges.values())) == len(every)
    for a in every:
        assert inverted(ranges[a], stop) == ranges[frozenset(range(stop)) - a]
        for b in every[::5]:
            assert common(ranges[a], ranges[b], stop) == ranges[a & b]
            assert united([*ranges[a], *ranges[b]]) == ranges[a | b]
