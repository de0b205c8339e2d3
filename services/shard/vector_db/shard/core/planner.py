"""How to search one segment: by its index, or exactly, and over which rows.

Owns the recall promise: the beam (`ef`) is the smallest measured to hold recall@10 >= 0.97 on real
sentence embeddings, and grows as fewer rows match, since the beam walks over rows that do not. The
cheapest way that keeps the promise wins; the costs below are estimates of microseconds, fitted on
AVX-512 hardware, and only their ratios matter.
"""

from __future__ import annotations

from enum import Enum, auto
from functools import lru_cache
from typing import NamedTuple

from vector_db.common.model.collection import Metric


class Method(Enum):
    """The ways to find the best k of a segment's matching rows."""

    ALL = auto()
    """Every matching row is a candidate: there are no more than asked for."""
    INDEX = auto()
    """Walk the graph index with the mask."""
    SCAN = auto()
    """Score every row, then drop those that do not match."""
    GATHER = auto()
    """Score the matching rows alone."""


class Wish(NamedTuple):
    """What a query asks: `recall`, the share of the true best k; `ef`, `nprobe`: the effort of a
    graph or of lists, 0 = as calibrated for the recall; `exact`: no index."""

    recall: float
    ef: int = 0
    nprobe: int = 0
    exact: bool = False


class Plan(NamedTuple):
    """A choice, the beam for INDEX, and its estimated cost for all queries."""

    method: Method
    ef: int
    cost_us: float


EF_MIN = 40
"""Measured on 30,000 x 384: recall@10 is 0.965 at 32, 0.976 at 40, 0.982 at 48."""

BATCH_QUERIES_MIN = 6
"""From this many queries on, one matrix product beats a pass per query (one thread, 384-d)."""

_DOT_BEAM = 1.6
"""Inner product without normalised rows: 0.955 at 40, 0.97 at 64 with log-normal lengths."""

_SELECTIVITY_EXPONENT = 1.25
"""Holds 0.975 on filters that correlate with the query; 1.0 does on random ones."""


def beam(k: int, selectivity: float, metric: Metric) -> int:
    """The `ef` that holds the recall promise for `k` hits when this share of the rows matches."""
    ef = max(EF_MIN, 26 + 1.4 * k)
    if metric is Metric.DOT:
        ef *= _DOT_BEAM
    return int(ef / selectivity**_SELECTIVITY_EXPONENT)


@lru_cache(maxsize=4096)
def plan(
    *,
    rows: int,
    matching: int,
    indexed: int,
    queries: int,
    k: int,
    dimension: int,
    metric: Metric,
) -> Plan:
    """The cheapest way to the best `k` of `matching` out of `rows` rows, for each query.

    :param indexed: how many rows the index has, 0 without one: more than `rows` where the snapshot
        lies before the newest of them.
    """
    if matching <= k:
        return Plan(Method.ALL, 0, queries * matching * (0.05 + 0.0005 * dimension))
    best = Plan(Method.SCAN, 0, scan_cost_us(rows, queries, dimension))
    if matching < rows:
        gather = Plan(Method.GATHER, 0, gather_cost_us(rows, matching, queries, dimension))
        best = min(best, gather, key=_cost)
    if indexed:
        ef = beam(k, matching / indexed, metric)
        walk = Plan(Method.INDEX, ef, index_cost_us(ef, queries, dimension))
        best = min(best, walk, key=_cost)
    return best


def scan_cost_us(rows: int, queries: int, dimension: int) -> float:
    """Streaming all rows once per query, or once for all of them as a matrix product."""
    select = queries * rows * 0.003
    if queries < BATCH_QUERIES_MIN:
        return 15 + queries * rows * dimension * 1.3e-4 + select
    return 30 + rows * dimension * (5.5e-4 + queries * 1.5e-5) + select


def gather_cost_us(rows: int, matching: int, queries: int, dimension: int) -> float:
    """Fetching matching rows out of line: dearer per row than streaming, but fewer rows."""
    find = 8 + rows * 0.0008
    if queries < BATCH_QUERIES_MIN:
        return find + queries * matching * (0.012 + dimension * 1.8e-4)
    copy = matching * dimension * 1.7e-4
    return find + copy + scan_cost_us(matching, queries, dimension)


def index_cost_us(ef: int, queries: int, dimension: int) -> float:
    """Each step of the beam scores about a dozen neighbours."""
    return queries * (10 + ef * (0.5 + dimension * 0.0035))


def _cost(plan: Plan) -> float:
    return plan.cost_us
