"""What filters mean, and how malformed ones are refused."""

from __future__ import annotations

from typing import Any

import pytest

from vector_db.common.model.errors import InvalidArgument
from vector_db.common.model.filters import matches, parse_filter
from vector_db.common.model.limits import Limits

LIMITS = Limits()


def holds(filter: object, metadata: dict[str, Any] | None) -> bool:
    return matches(parse_filter(filter, LIMITS), metadata)


@pytest.mark.parametrize(
    ("filter", "metadata", "expected"),
    [
        ({}, None, True),
        ({}, {"a": 1}, True),
        ({"a": 1}, {"a": 1.0}, True),
        ({"a": 1}, {"a": True}, False),
        ({"a": True}, {"a": 1}, False),
        ({"a": False}, {"a": False}, True),
        ({"a": "1"}, {"a": 1}, False),
        ({"a": None}, {"a": None}, True),
        ({"a": None}, {}, False),
        ({"a": None}, {"a": 0}, False),
        ({"year": {"$gte": 2020}, "lang": {"$in": ["en"]}}, {"year": 2020, "lang": "en"}, True),
        ({"year": {"$gte": 2020}, "lang": {"$in": ["en"]}}, {"year": 2020, "lang": "de"}, False),
        ({"a": {"$gt": 1, "$lt": 3}}, {"a": 2}, True),
        ({"a": {"$gt": 1, "$lt": 3}}, {"a": 3}, False),
        ({"a": {"$lte": 3}}, {"a": 3}, True),
        ({"a": {"$lt": "b"}}, {"a": "a"}, True),
        ({"a": {"$lt": "b"}}, {"a": 1}, False),
        ({"a": {"$lt": 1}}, {"a": False}, False),
        ({"a": {"$gte": 0}}, {"a": None}, False),
        ({"a": {"$gte": 0}}, {}, False),
        ({"a": {"$lt": 0}}, None, False),
        ({"a": {"$ne": 1}}, {}, True),
        ({"a": {"$ne": 1}}, None, True),
        ({"a": {"$ne": 1}}, {"a": 1}, False),
        ({"a": {"$ne": 1}}, {"a": "1"}, True),
        ({"a": {"$nin": [1, 2]}}, {}, True),
        ({"a": {"$nin": [1, 2]}}, {"a": 2}, False),
        ({"a": {"$in": []}}, {"a": 2}, False),
        ({"a": {"$nin": []}}, {"a": 2}, True),
        ({"a": {"$exists": True}}, {"a": None}, True),
        ({"a": {"$exists": True}}, {}, False),
        ({"a": {"$exists": False}}, None, True),
        ({"a": 2}, {"a": [1, 2]}, True),
        ({"a": {"$in": [2, "x"]}}, {"a": ["x"]}, True),
        ({"a": {"$ne": 2}}, {"a": [1, 2]}, False),
        ({"a": None}, {"a": [None]}, True),
        ({"a": 2}, {"a": [[2]]}, False),
        ({"a": {"$gt": 1}}, {"a": [2]}, False),
        ({"a.b": 1}, {"a": {"b": 1}}, True),
        ({"a.b": 1}, {"a": [{"b": 1}]}, False),
        ({"a.b": {"$ne": 1}}, {"a": 1}, True),
        ({"a.b": 1}, {"a.b": 1}, False),
        ({"$or": [{"a": 1}, {"b": 1}]}, {"b": 1}, True),
        ({"$and": [{"a": 1}, {"b": 1}]}, {"b": 1}, False),
        ({"$not": {"a": 1}}, {}, True),
        ({"$not": {"a": {"$gt": 1}}}, {"a": 2}, False),
        ({"a": {"$not": {"$gt": 1}}}, {"a": 1}, True),
        ({"a": {"$not": {"$gt": 1}}}, {}, True),
        ({"a": {"$not": {"$gt": 1, "$lt": 3}}}, {"a": 2}, False),
        ({"a": 2**53 + 1}, {"a": 2**53}, False),
        ({"a": 2**53 + 1}, {"a": float(2**53)}, False),
        ({"a": {"$gt": 2**53}}, {"a": 2**53 + 1}, True),
        ({"a": {"$lt": 2**63}}, {"a": 2**63 - 1}, True),
        ({"a": 0}, {"a": -0.0}, True),
    ],
)
def test_a_filter_matches_as_documented(
    filter: object, metadata: dict[str, Any] | None, expected: bool
) -> None:
    assert holds(filter, metadata) is expected


@pytest.mark.parametrize(
    ("filter", "place"),
    [
        (None, "filter:"),
        ([], "filter:"),
        ("a", "filter:"),
        ({"a": {}}, "filter.a:"),
        ({"a": []}, "filter.a:"),
        ({"a": {"b": 1}}, "filter.a.b:"),
        ({"a": {"$like": "x"}}, "filter.a.$like:"),
        ({"$nor": []}, "filter.$nor:"),
        ({"$and": []}, "filter.$and:"),
        ({"$or": {"a": 1}}, "filter.$or:"),
        ({"$or": [{"a": 1}, 5]}, "filter.$or[1]:"),
        ({"$not": [1]}, "filter.$not:"),
        ({"a": {"$not": 5}}, "filter.a.$not:"),
        ({"a": {"$not": {}}}, "filter.a.$not:"),
        ({"a": {"$eq": [1]}}, "filter.a.$eq:"),
        ({"a": {"$ne": {"x": 1}}}, "filter.a.$ne:"),
        ({"a": {"$in": 1}}, "filter.a.$in:"),
        ({"a": {"$in": [1, [2]]}}, "filter.a.$in[1]:"),
        ({"a": {"$gt": True}}, "filter.a.$gt:"),
        ({"a": {"$gte": None}}, "filter.a.$gte:"),
        ({"a": {"$lt": [1]}}, "filter.a.$lt:"),
        ({"a": {"$lt": float("nan")}}, "filter.a.$lt:"),
        ({"a": float("inf")}, "filter.a:"),
        ({"a": {"$exists": 1}}, "filter.a.$exists:"),
        ({"$and": [{"a": {"$bad": 1}}]}, "filter.$and[0].a.$bad:"),
        ({1: 2}, "filter.1:"),
    ],
)
def test_a_malformed_filter_is_refused_and_the_place_named(filter: object, place: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_filter(filter, LIMITS)
    assert caught.value.message.startswith(place)


def nested(depth: int) -> dict[str, Any]:
    filter: dict[str, Any] = {"a": 1}
    for _ in range(depth):
        filter = {"$not": filter}
    return filter


def test_nesting_is_bounded_and_the_limit_named() -> None:
    parse_filter(nested(LIMITS.filter_depth_max), LIMITS)
    for depth in (LIMITS.filter_depth_max + 1, 900):
        with pytest.raises(InvalidArgument, match="filter_depth_max = 16"):
            parse_filter(nested(depth), LIMITS)


def test_nesting_below_a_field_is_bounded_too() -> None:
    operators: dict[str, Any] = {"$gt": 1}
    for _ in range(17):
        operators = {"$not": operators}
    with pytest.raises(InvalidArgument, match="filter_depth_max"):
        parse_filter({"a": operators}, LIMITS)


def test_the_number_of_comparisons_is_bounded_and_the_limit_named() -> None:
    limits = Limits(filter_terms_max=3)
    parse_filter({"a": {"$in": [1, 2]}, "b": 1}, limits)
    for filter in (
        {"a": {"$in": [1, 2, 3, 4]}},
        {"a": 1, "b": 2, "c": 3, "d": 4},
        {"$or": [{"a": {"$exists": True}}] * 4},
    ):
        with pytest.raises(InvalidArgument, match="filter_terms_max = 3"):
            parse_filter(filter, limits)
