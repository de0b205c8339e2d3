"""Filter masks over typed columns equal the reference, row by row."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.shard_search.metadata import DOCUMENTS, FILTERS, encode
from tests.unit.shard_search.segments import ListColumn
from vector_db.common.model.errors import StorageCorrupt
from vector_db.common.model.filters import matches, parse_filter
from vector_db.common.model.limits import Limits
from vector_db.shard.search.columns import PARSE_ROWS, PATHS_MAX, Columns


@settings(max_examples=300)
@given(st.lists(DOCUMENTS, max_size=25), st.lists(FILTERS, min_size=1, max_size=3), st.data())
def test_the_mask_equals_the_reference_while_rows_grow(
    documents: list[dict[str, Any] | None], filters: list[dict[str, Any]], data: st.DataObject
) -> None:
    column = ListColumn([])
    columns = Columns(column)
    for filter in filters:
        parsed = parse_filter(filter, Limits())
        more = data.draw(st.integers(len(column.items), len(documents)))
        column.items.extend(encode(d) for d in documents[len(column.items) : more])
        rows = data.draw(st.integers(0, more))
        expected = [matches(parsed, d) for d in documents[:rows]]
        mask = columns.mask(parsed, rows)
        assert mask.dtype == np.bool_
        assert mask.tolist() == expected


@pytest.mark.parametrize("operator", ["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"])
def test_numbers_compare_exactly_around_the_edges_of_float64(operator: str) -> None:
    edges = [m * 2**e + d for e in (53, 54, 63) for m in (-1, 1) for d in (-2, -1, 0, 1, 2)]
    stored = [n for n in edges if -(2**63) <= n < 2**64] + [2.0**53, 2.0**63, 2.0**64, -(2.0**64)]
    columns = Columns(ListColumn([encode({"a": n}) for n in stored]))
    for bound in (*edges, 2**64 - 1, 2**64, 2**64 + 1, -(2**64) - 1, 2.0**63, 0.5):
        parsed = parse_filter({"a": {operator: bound}}, Limits())
        expected = [matches(parsed, {"a": n}) for n in stored]
        assert columns.mask(parsed, len(stored)).tolist() == expected


def test_rows_are_parsed_once_for_the_paths_of_a_filter() -> None:
    column = ListColumn([b'{"a":1,"b":2}'] * (PARSE_ROWS + 10))
    columns = Columns(column)
    both = parse_filter({"a": 1, "b": 2}, Limits())
    assert columns.mask(both, PARSE_ROWS).all()
    assert column.ranges == [(0, PARSE_ROWS)]
    assert columns.mask(both, PARSE_ROWS + 10).all()
    assert columns.mask(parse_filter({"b": {"$gt": 1}}, Limits()), PARSE_ROWS + 10).all()
    assert column.ranges == [(0, PARSE_ROWS), (PARSE_ROWS, PARSE_ROWS + 10)]


def test_a_path_behind_catches_up_with_one_ahead() -> None:
    documents = [{"a": i, "b": -i} for i in range(PARSE_ROWS * 2)]
    columns = Columns(ListColumn([encode(d) for d in documents]))
    assert columns.mask(parse_filter({"a": {"$gte": 0}}, Limits()), 100).all()
    both = parse_filter({"a": {"$lt": 5000}, "b": {"$gt": -4500}}, Limits())
    assert int(columns.mask(both, len(documents)).sum()) == 4500


def test_a_mask_of_fewer_rows_than_known_is_a_prefix() -> None:
    columns = Columns(ListColumn([b'{"a":[1,2]}', b'{"a":"s"}', b'{"a":9007199254740993}', b""]))
    for operand in (1, "s", 2**53 + 1):
        parsed = parse_filter({"a": operand}, Limits())
        whole = columns.mask(parsed, 4)
        assert whole.any()
        for rows in range(4):
            assert columns.mask(parsed, rows).tolist() == whole[:rows].tolist()


def test_many_paths_do_not_grow_memory_without_bound() -> None:
    columns = Columns(ListColumn([b'{"a":1}'] * 3))
    for i in range(3 * PATHS_MAX):
        assert not columns.mask(parse_filter({f"p{i}": 1}, Limits()), 3).any()
    assert len(columns._columns) == PATHS_MAX
    wide = {f"q{i}": {"$exists": False} for i in range(2 * PATHS_MAX)}
    assert columns.mask(parse_filter(wide, Limits()), 3).all()
    assert columns.mask(parse_filter({"a": 1}, Limits()), 3).all()


def test_metadata_that_is_no_json_is_told_with_its_rows() -> None:
    columns = Columns(ListColumn([b'{"a":1}', b'{"a":']))
    with pytest.raises(StorageCorrupt, match="rows 0 to 2"):
        columns.mask(parse_filter({"a": 1}, Limits()), 2)


def test_threads_share_columns_while_rows_grow() -> None:
    column = ListColumn([])
    columns = Columns(column)
    filters = [parse_filter(f, Limits()) for f in ({"a": "v3"}, {"a": {"$gt": "v5"}}, {"b": 1})]
    documents = [{"a": f"v{i % 10}", "b": [i % 2]} for i in range(6000)]
    failures: list[str] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            rows = len(column.items)
            for parsed in filters:
                got = columns.mask(parsed, rows).tolist()
                if got != [matches(parsed, d) for d in documents[:rows]]:
                    failures.append(f"{parsed} at {rows}")

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for start in range(0, len(documents), 500):
        column.items.extend(encode(d) for d in documents[start : start + 500])
        columns.mask(filters[0], len(column.items))
    done.set()
    for reader in readers:
        reader.join(timeout=30)
    assert not failures
