"""How to search one segment: by its index, or exactly, and over which rows.

Owns the recall promise: an index is asked with the effort that was measured to hold the recall,
more as fewer rows match, and where that costs more than an exact way, the exact one is taken. The
costs below are estimates of microseconds, fitted on AVX-512 hardware, and only their ratios matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum, auto
from functools import lru_cache
from typing import NamedTuple

from vector_db.common.model.collection import IndexKind


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


class Walk(NamedTuple):
    """What the index of a segment offers: its kind, the effort that the wish takes, and what that
    costs a query in microseconds."""

    kind: IndexKind
    effort: int
    cost_us: float


class Plan(NamedTuple):
    """A choice, the effort for INDEX, and its estimated cost for all queries; then what else there
    was, with its cost."""

    method: Method
    effort: int
    cost_us: float
    rejected: tuple[tuple[str, float], ...] = ()


BATCH_QUERIES_MIN = 6
"""From this many queries on, one matrix product beats a pass per query (one thread, 384-d)."""

_SELECTIVITY_EXPONENT = 1.25
"""Holds the recall on filters that correlate with the query; 1.0 does on random ones."""


def widened(kind: IndexKind, k: int, selectivity: float, effort: Callable[[float], int]) -> int:
    """The effort for the best `k` when this share of an index's rows is visible and matches.

    A beam walks over rows that do not match, so it widens by a power of what it passes. Lists are
    read whole: among fewer rows the k-th lies as far as a later one among all.

    :param effort: what was measured for the best k of all rows.
    """
    if kind is IndexKind.HNSW:
        return math.ceil(effort(k) * float(selectivity**-_SELECTIVITY_EXPONENT))
    return effort(k / selectivity)


@lru_cache(maxsize=4096)
def plan(
    *,
    rows: int,
    matching: int,
    queries: int,
    k: int,
    dimension: int,
    walk: Walk | None,
    listed: bool = False,
    coarse: bool = False,
) -> Plan:
    """The cheapest way to the best `k` of `matching` out of `rows` rows, for each query.

    :param listed: the numbers of the matching rows are known.
    :param coarse: a pass over all rows reads one byte a component.
    """
    if matching <= k:
        return Plan(Method.ALL, 0, queries * matching * (0.05 + 0.0005 * dimension))
    ways = [Plan(Method.SCAN, 0, scan_cost_us(rows, queries, dimension, coarse))]
    if matching < rows:
        looked_through = 0 if listed else rows
        cost_us = gather_cost_us(looked_through, matching, queries, dimension)
        ways.append(Plan(Method.GATHER, 0, cost_us))
    if walk is not None:
        ways.append(Plan(Method.INDEX, walk.effort, queries * walk.cost_us))
    best = min(ways, key=_cost)
    others = tuple((way.method.name.lower(), way.cost_us) for way in ways if way is not best)
    return best._replace(rejected=others)


def scan_cost_us(rows: int, queries: int, dimension: int, coarse: bool = False) -> float:
    """Streaming all rows once per query, or once for all of them as a matrix product."""
    if coarse and queries < BATCH_QUERIES_MIN:
        return 15 + queries * rows * (0.002 + dimension * 3e-5)
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


def _cost(plan: Plan) -> float:
    return plan.cost_us
