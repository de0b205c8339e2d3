"""Which index a segment gets under every wish and budget, and whether it has what is wished now."""

from __future__ import annotations

import itertools

import pytest

from vector_db.common.model.collection import Collection, Encoding, IndexKind, IndexOptions, Metric
from vector_db.shard.core.footprint import index_bytes
from vector_db.shard.core.index_choice import (
    IVF_DIMENSION_MIN,
    IVF_ROWS_MIN,
    LISTS_RECALL_MAX,
    Choice,
    choose,
    lists_fit,
    satisfies,
)

ROWS, DIMENSION = 100_000, 128
PLENTY = 1e12


def wish(
    kind: IndexKind = IndexKind.AUTO,
    encoding: Encoding = Encoding.AUTO,
    recall: float = 0.95,
    dimension: int = DIMENSION,
    **more: int,
) -> Collection:
    options = IndexOptions(kind, encoding, **more)
    return Collection(7, "c", dimension, Metric.COSINE, (0,), options, recall)


def need(encoding: Encoding, m: int = 16) -> float:
    return ROWS * index_bytes(IndexKind.HNSW, encoding, m, DIMENSION)


@pytest.mark.parametrize("encoding", list(Encoding))
def test_a_named_kind_is_built_whatever_the_budget(encoding: Encoding) -> None:
    for kind in (IndexKind.HNSW, IndexKind.IVF_PQ, IndexKind.EXACT):
        asked = wish(kind, encoding)
        assert choose(asked, ROWS, 0.0) == choose(asked, ROWS, PLENTY) == (kind, asked.index)


def test_lists_that_are_not_worth_their_training_become_a_graph() -> None:
    for rows, dimension in ((IVF_ROWS_MIN - 1, DIMENSION), (ROWS, IVF_DIMENSION_MIN - 1)):
        assert not lists_fit(rows, dimension)
        got = choose(wish(IndexKind.IVF_PQ, dimension=dimension), rows, PLENTY)
        assert got.kind is IndexKind.HNSW
    assert lists_fit(IVF_ROWS_MIN, IVF_DIMENSION_MIN)


def test_auto_takes_the_fastest_that_fits() -> None:
    half, bytes_ = need(Encoding.FLOAT16), need(Encoding.SQ8)
    for budget, kind, encoding in (
        (half, IndexKind.HNSW, Encoding.AUTO),
        (half - 1, IndexKind.HNSW, Encoding.SQ8),
        (bytes_, IndexKind.HNSW, Encoding.SQ8),
        (bytes_ - 1, IndexKind.IVF_PQ, Encoding.AUTO),
        (-1.0, IndexKind.IVF_PQ, Encoding.AUTO),
    ):
        got = choose(wish(), ROWS, budget)
        assert (got.kind, got.options.encoding) == (kind, encoding), budget
        assert got.options.kind is kind


def test_auto_keeps_a_graph_where_lists_do_not_reach_the_recall_or_are_not_worth_it() -> None:
    high = wish(recall=LISTS_RECALL_MAX + 0.001)
    low = wish(recall=LISTS_RECALL_MAX)
    assert choose(low, ROWS, 0.0).kind is IndexKind.IVF_PQ
    for asked, rows in ((high, ROWS), (wish(), IVF_ROWS_MIN - 1)):
        got = choose(asked, rows, 0.0)
        assert (got.kind, got.options.encoding) == (IndexKind.HNSW, Encoding.SQ8)


@pytest.mark.parametrize("encoding", [Encoding.FLOAT32, Encoding.FLOAT16, Encoding.SQ8])
def test_auto_keeps_a_given_encoding(encoding: Encoding) -> None:
    assert choose(wish(encoding=encoding), ROWS, need(encoding)).options.encoding is encoding
    less = choose(wish(encoding=encoding), ROWS, need(encoding) - 1)
    assert less.kind is IndexKind.IVF_PQ
    high = choose(wish(encoding=encoding, recall=0.995), ROWS, 0.0)
    assert (high.kind, high.options.encoding) == (IndexKind.HNSW, encoding)


def test_other_options_are_passed_on() -> None:
    asked = wish(m=24, ef_construction=200, lists=77)
    for budget in (PLENTY, 0.0):
        options = choose(asked, ROWS, budget).options
        assert (options.m, options.ef_construction, options.lists) == (24, 200, 77)
    assert choose(asked, ROWS, need(Encoding.FLOAT16, m=24) - 1).options.encoding is Encoding.SQ8


# --- what is there already ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [IndexKind.AUTO, IndexKind.HNSW, IndexKind.IVF_PQ])
@pytest.mark.parametrize("encoding", list(Encoding))
@pytest.mark.parametrize("budget", [PLENTY, need(Encoding.SQ8), 0.0])
@pytest.mark.parametrize("rows", [ROWS, 500])
def test_what_was_chosen_satisfies_whoever_chose_it(
    kind: IndexKind, encoding: Encoding, budget: float, rows: int
) -> None:
    asked = wish(kind, encoding)
    built = choose(asked, rows, budget)
    became = built.options.encoding
    if built.kind is IndexKind.HNSW and became is Encoding.AUTO:
        became = Encoding.FLOAT16
    assert satisfies(built, became, False, asked, rows)
    assert not satisfies(built, became, True, asked, rows), "a quick one only bridges the time"
    exact = wish(IndexKind.EXACT)
    assert not satisfies(built, became, False, exact, rows)


GRAPH = Choice(IndexKind.HNSW, IndexOptions(IndexKind.HNSW, Encoding.AUTO))
LISTS = Choice(IndexKind.IVF_PQ, IndexOptions(IndexKind.IVF_PQ, lists=64))


@pytest.mark.parametrize(
    ("changed", "is_enough"),
    [
        (wish(IndexKind.HNSW), True),
        (wish(IndexKind.HNSW, Encoding.FLOAT16), True),
        (wish(IndexKind.HNSW, Encoding.FLOAT32), False),
        (wish(IndexKind.HNSW, Encoding.SQ8), False),
        (wish(IndexKind.HNSW, m=17), False),
        (wish(IndexKind.HNSW, ef_construction=129), False),
        (wish(IndexKind.HNSW, lists=9), True),
        (wish(IndexKind.HNSW, recall=0.999), True),
        (wish(IndexKind.AUTO), True),
        (wish(IndexKind.IVF_PQ), False),
        (wish(IndexKind.EXACT), False),
    ],
)
def test_a_graph_is_built_anew_only_when_a_change_concerns_it(
    changed: Collection, is_enough: bool
) -> None:
    assert satisfies(GRAPH, Encoding.FLOAT16, False, changed, ROWS) is is_enough


@pytest.mark.parametrize(
    ("changed", "is_enough"),
    [
        (wish(IndexKind.IVF_PQ, lists=64), True),
        (wish(IndexKind.IVF_PQ, Encoding.SQ8, lists=64), True),
        (wish(IndexKind.IVF_PQ, lists=65), False),
        (wish(IndexKind.IVF_PQ, lists=64, m=40), True),
        (wish(IndexKind.AUTO, lists=64), True),
        (wish(IndexKind.HNSW, lists=64), False),
        (wish(IndexKind.EXACT), False),
    ],
)
def test_lists_are_built_anew_only_when_a_change_concerns_them(
    changed: Collection, is_enough: bool
) -> None:
    assert satisfies(LISTS, Encoding.AUTO, False, changed, ROWS) is is_enough


def test_a_small_graph_in_place_of_lists_is_enough() -> None:
    few = IVF_ROWS_MIN - 1
    assert satisfies(GRAPH, Encoding.FLOAT16, False, wish(IndexKind.IVF_PQ), few)


def test_memory_a_row_grows_with_dimension_links_and_bytes_a_component() -> None:
    sizes = [
        index_bytes(IndexKind.HNSW, encoding, 16, DIMENSION)
        for encoding in (Encoding.SQ8, Encoding.FLOAT16, Encoding.FLOAT32)
    ]
    assert sizes == sorted(sizes) and len(set(sizes)) == 3
    for a, b in itertools.pairwise((4, 8, 16, 64)):
        small, large = (index_bytes(IndexKind.HNSW, Encoding.SQ8, m, DIMENSION) for m in (a, b))
        assert small < large
    assert index_bytes(IndexKind.IVF_PQ, Encoding.AUTO, 16, DIMENSION) < sizes[0] / 4
    assert index_bytes(IndexKind.EXACT, Encoding.AUTO, 16, DIMENSION) == 0
