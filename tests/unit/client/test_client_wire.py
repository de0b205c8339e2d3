"""Rows on their way out: what metadata becomes, and who is at fault when it cannot."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vector_db_client.errors import InvalidArgument
from vector_db_client.values import Metadata
from vector_db_client.wire import metadata_texts

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
)


@given(st.lists(st.none() | st.dictionaries(st.text(max_size=3), values, max_size=3), max_size=6))
def test_metadata_is_written_as_each_object_alone(rows: list[dict[str, object] | None]) -> None:
    alone = [None if row is None else orjson.dumps(row) for row in rows]
    assert metadata_texts(rows) == alone


def test_text_that_looks_like_the_end_of_an_object_is_no_end() -> None:
    rows: list[Metadata | None] = [{"a": "},\n,{"}, {}, None, {"b": ["\n", {"c": ",\n,"}]}]
    assert metadata_texts(rows) == [None if row is None else orjson.dumps(row) for row in rows]
    raw: list[Metadata | None] = [{"a": orjson.Fragment(b"[1,\n,2]")}, {"b": 1}]
    assert metadata_texts(raw) == [b'{"a":[1,\n,2]}', b'{"b":1}']


def test_metadata_that_json_does_not_have_names_its_row() -> None:
    with pytest.raises(InvalidArgument, match=r"metadata\[2\]: "):
        metadata_texts([{"a": 1}, None, {"b": {1, 2}}])
