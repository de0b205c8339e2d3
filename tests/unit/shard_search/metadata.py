"""Metadata and filters at random: few distinct values, and among them all the awkward ones."""

from __future__ import annotations

from typing import Any

import orjson
from hypothesis import strategies as st

NUMBERS = [0, -0.0, 1, 1.0, 1.5, -3, 2**53, 2**53 + 1, 2.0**53, 2**63 - 1, 2**63, 2**64 - 1, 1e19]
STRINGS = ["", "a", "b", "é", "😀", "ab"]
SCALARS = st.sampled_from([None, True, False, *NUMBERS, *STRINGS])
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xy"), inner, max_size=2)
    ),
    max_leaves=4,
)
DOCUMENTS = st.none() | st.dictionaries(st.sampled_from("abx"), VALUES, max_size=3)
PATHS = st.sampled_from(["a", "b", "x", "a.x", "a.x.y", "b.y"])
BOUNDS = st.sampled_from([*NUMBERS, *STRINGS, -(2**70), 2**70, 10**400, -(10**400)])
OPERATORS = st.one_of(
    st.tuples(st.sampled_from(["$eq", "$ne"]), SCALARS),
    st.tuples(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), BOUNDS),
    st.tuples(st.sampled_from(["$in", "$nin"]), st.lists(SCALARS, max_size=4)),
    st.tuples(st.just("$exists"), st.booleans()),
)
FILTERS: st.SearchStrategy[dict[str, Any]] = st.recursive(
    st.dictionaries(PATHS, st.lists(OPERATORS, min_size=1, max_size=2).map(dict), max_size=2),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda f: {"$and": f}),
        st.lists(inner, min_size=1, max_size=3).map(lambda f: {"$or": f}),
        inner.map(lambda f: {"$not": f}),
    ),
    max_leaves=4,
)


def encode(document: dict[str, Any] | None) -> bytes:
    return b"" if document is None else orjson.dumps(document)
