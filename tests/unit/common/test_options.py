"""The bounds of what a collection may want, and how a change merges."""

from __future__ import annotations

import math

import msgspec
import pytest

from vector_db.common.model.collection import Encoding, IndexChange, IndexKind, IndexOptions
from vector_db.common.model.errors import InvalidArgument
from vector_db.common.model.options import check_fields, check_index, check_recall_target


def test_a_change_leaves_what_it_does_not_name() -> None:
    options = IndexOptions(IndexKind.HNSW, Encoding.SQ8, 32, 200, 7)
    assert IndexChange().of(options) == options
    assert IndexChange(lists=0).of(options) == IndexOptions(IndexKind.HNSW, Encoding.SQ8, 32, 200)
    changed = IndexChange(IndexKind.IVF_PQ, Encoding.AUTO, 4, 16, 9).of(options)
    assert changed == IndexOptions(IndexKind.IVF_PQ, Encoding.AUTO, 4, 16, 9)


@pytest.mark.parametrize(
    ("name", "least", "most"), [("m", 4, 64), ("ef_construction", 16, 1000), ("lists", 0, 65_536)]
)
def test_numbers_of_an_index_have_bounds_that_the_message_names(
    name: str, least: int, most: int
) -> None:
    def given(value: int) -> IndexChange:
        return msgspec.structs.replace(IndexChange(), **{name: value})

    for value in (least, most):
        check_index(given(value))
        check_index(given(value).of(IndexOptions()))
    for value in (least - 1, most + 1):
        with pytest.raises(InvalidArgument, match=f"index.{name}: .*{least} and {most}"):
            check_index(given(value))
        with pytest.raises(InvalidArgument):
            check_index(given(value).of(IndexOptions()))


def test_a_recall_target_lies_between_a_half_and_almost_one() -> None:
    for value in (0.5, 0.95, 0.999):
        check_recall_target(value)
    for value in (0.499, 1.0, math.nan, -math.inf):
        with pytest.raises(InvalidArgument, match=r"0\.5 and 0\.999"):
            check_recall_target(value)


def test_fields_are_distinct_paths_that_a_filter_could_have() -> None:
    check_fields(())
    check_fields(("lang", "deep.er", "a b", "é", "a..b"))
    check_fields(tuple(f"f{i}" for i in range(64)))
    for paths, place in (
        (("",), r"fields\[0\]"),
        (("a", "$or"), r"fields\[1\]"),
        (("a", "b", "a"), r"fields\[2\]: 'a' is given already at 0"),
        (("\ud800",), "valid Unicode"),
        (("é" * 257,), "514 bytes, the limit field_path_bytes_max is 512"),
        (tuple(f"f{i}" for i in range(65)), "the limit indexed_fields_max is 64"),
    ):
        with pytest.raises(InvalidArgument, match=place):
            check_fields(paths)
