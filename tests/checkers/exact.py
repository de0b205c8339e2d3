"""What a search, a filter and an order must give, worked out plainly over all rows.

Scores are float64 from the float32 values, as documented: the cosine, the inner product, or
1 / (1 + distance). Higher is better, ties go by id.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.checkers.history import Filter, Metric, Row, Search

TOLERANCE = 1e-9
"""Two ways to sum a few float64 products may differ by this much (of scores around 1)."""

_ORDERINGS: dict[str, Callable[[Any, Any], bool]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}


def matches(filter: Filter | None, metadata: Mapping[str, Any]) -> bool:
    """Whether scalars of `metadata` match: equality, ``$eq $ne $gt $gte $lt $lte $in``.

    :raises ValueError: an operator that this checker does not know.
    """
    return filter is None or all(
        _field(metadata.get(name), wanted) for name, wanted in filter.items()
    )


def _field(have: Any, wanted: Any) -> bool:
    tests = wanted if isinstance(wanted, dict) else {"$eq": wanted}
    return all(_test(name, have, value) for name, value in tests.items())


def _test(name: str, have: Any, wanted: Any) -> bool:
    if name == "$eq":
        return type(have) is type(wanted) and bool(have == wanted)
    if name == "$ne":
        return type(have) is not type(wanted) or bool(have != wanted)
    if name == "$in":
        return any(_test("$eq", have, one) for one in wanted)
    if name in _ORDERINGS:
        return type(have) is type(wanted) and _ORDERINGS[name](have, wanted)
    raise ValueError(f"unknown operator {name}")


def similarities(
    vectors: NDArray[np.float64], query: NDArray[np.float64], metric: Metric
) -> NDArray[np.float64]:
    """float64[n] of `vectors` float64[n, d] against `query` float64[d]."""
    if metric == "euclidean":
        scores: NDArray[np.float64] = 1.0 / (1.0 + np.sqrt(((vectors - query) ** 2).sum(axis=1)))
        return scores
    products: NDArray[np.float64] = (vectors * query).sum(axis=1)
    if metric == "cosine":
        lengths = np.sqrt((vectors**2).sum(axis=1)) * np.sqrt((query**2).sum())
        products = np.clip(products / lengths, -1.0, 1.0)
    return products


def wrong_hits(rows: Mapping[str, Row], search: Search) -> str | None:
    """What is wrong with the hits of a search over `rows`, None if nothing is."""
    ids = [i for i, row in rows.items() if matches(search.filter, row.metadata)]
    hits = search.hits
    if len(hits) != min(search.k, len(ids)):
        return f"{len(hits)} hits, k is {search.k}, {len(ids)} rows match"
    if not ids:
        return None
    vectors = np.array([rows[i].vector for i in ids], np.float32).astype(np.float64)
    query = np.array(search.vector, np.float32).astype(np.float64)
    exact = dict(zip(ids, similarities(vectors, query, search.metric).tolist(), strict=True))
    if len({i for i, _ in hits}) < len(hits):
        return "a row is there twice"
    for row_id, similarity in hits:
        if row_id not in exact:
            return f"{row_id} is no visible row that matches"
        if abs(exact[row_id] - similarity) > TOLERANCE * max(1.0, abs(similarity)):
            return f"{row_id} has {exact[row_id]}, told {similarity}"
    for (a, similar), (b, next_similar) in itertools.pairwise(hits):
        if (-similar, a.encode()) > (-next_similar, b.encode()):
            return f"{a} ({similar}) is before {b} ({next_similar})"
    there = {i for i, _ in hits}
    last_id, last = hits[-1]
    for row_id, similarity in exact.items():
        slack = TOLERANCE * max(1.0, abs(similarity))
        tie = similarity == exact[last_id] and row_id.encode() < last_id.encode()
        if row_id not in there and (similarity > last + slack or tie):
            return f"{row_id} ({similarity}) is missing, the last hit is {last_id} ({last})"
    return None
