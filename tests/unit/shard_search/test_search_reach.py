"""Pages, bounds and explained searches: the hits of one exact search, cut or told of."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.unit.shard_search.segments import brute_force, make_view, request, unpack
from tests.unit.shard_search.test_search_executor import (
    Impatient,
    names,
    prefer_index,
    whole_numbers,
)
from vector_db.common.core.messages.reads import SearchRequest
from vector_db.common.model.collection import IndexKind, Metric
from vector_db.common.model.filters import parse_filter
from vector_db.common.model.limits import Limits
from vector_db.common.model.rows import F32
from vector_db.shard.core.planner import Wish, widened
from vector_db.shard.search import candidates as candidates_module
from vector_db.shard.search import executor, reach
from vector_db.shard.search.executor import search, wish_of
from vector_db.shard.search.explain import explain
from vector_db.shard.views import SegmentView

METRICS = list(Metric)
Masks = list[NDArray[np.bool_]]
Hit = tuple[bytes, float]


def tied_views(
    metric: Metric, sizes: list[int], share: float, rng: np.random.Generator
) -> tuple[list[SegmentView], Masks]:
    views, masks = [], []
    for number, n in enumerate(sizes):
        live = rng.random(n) < share
        rows = whole_numbers(rng, n, 3)
        views.append(make_view(rows, names(f"{number}-", n, rng), metric, live=live))
        masks.append(live)
    return views, masks


def pages(
    views: list[SegmentView], metric: Metric, query: F32, k: int, **options: Any
) -> list[Hit]:
    """All hits, page by page."""
    found: list[Hit] = []
    after = None
    while True:
        asked = request(query, k, after=after, skip=len(found), **options)
        (page,) = unpack(search(views, metric, query.shape[1], asked, None))
        assert all(after is None or (-s, i) > (-after[0], after[1]) for i, s in page)
        found += page
        if len(page) < k:
            return found
        after = (page[-1][1], page[-1][0])


@settings(max_examples=80)
@given(
    metric=st.sampled_from(METRICS),
    sizes=st.lists(st.integers(0, 50), min_size=1, max_size=3),
    k=st.sampled_from([1, 3, 7, 40]),
    share=st.sampled_from([0.3, 1.0]),
    few=st.sampled_from([0, 256]),
    seed=st.integers(0, 2**32),
)
def test_pages_together_are_one_exact_search(
    metric: Metric, sizes: list[int], k: int, share: float, few: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    views, masks = tied_views(metric, sizes, share, rng)
    query = whole_numbers(rng, 1, 3)
    (expected,) = brute_force(views, metric, query, 10_000, masks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executor, "FEW", few)
        assert pages(views, metric, query, k, exact=True) == expected
        if expected:
            least = expected[len(expected) // 2][1]
            within = [hit for hit in expected if hit[1] >= least]
            assert pages(views, metric, query, k, exact=True, min_similarity=least) == within


class Forgetful(Impatient):
    """An index that misses some rows, others for each width that it is asked for."""

    def search(
        self,
        queries: F32,
        k: int,
        live: NDArray[np.bool_] | None,
        effort: int,
        packed: NDArray[np.uint8] | None = None,
    ) -> tuple[F32, NDArray[np.int64]]:
        seen = np.asarray(np.random.default_rng(k).random(self.rows) < 0.9)
        if live is not None:
            np.logical_and(seen, live, out=seen)
        return super().search(queries, k, seen, max(effort, k))


@pytest.mark.parametrize("metric", METRICS)
def test_pages_of_an_index_that_misses_rows_repeat_none_and_stay_in_order(
    metric: Metric, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates_module, "plan", prefer_index)
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(600, 6)).astype(np.float32)
    view = make_view(rows, names("r", 600, rng), metric, index=Forgetful(rows, metric))
    found = pages([view], metric, rng.normal(size=(1, 6)).astype(np.float32), 17)
    assert len({row_id for row_id, _ in found}) == len(found) > 400
    assert found == sorted(found, key=lambda hit: (-hit[1], hit[0]))


@settings(max_examples=80)
@given(
    metric=st.sampled_from(METRICS),
    sizes=st.lists(st.integers(0, 80), min_size=1, max_size=3),
    nq=st.sampled_from([1, 2, 7]),
    k=st.sampled_from([5, 30, 1000]),
    quantile=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    seed=st.integers(0, 2**32),
)
def test_within_a_bound_are_exactly_the_rows_within_it_up_to_k(
    metric: Metric, sizes: list[int], nq: int, k: int, quantile: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    views, masks = tied_views(metric, sizes, 0.8, rng)
    queries = whole_numbers(rng, nq, 3)
    everything = brute_force(views, metric, queries, 10_000, masks)
    scores = sorted(s for hits in everything for _, s in hits)
    least = scores[int(quantile * (len(scores) - 1))] if scores else 0.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reach, "FIRST_WIDTH", 2)
        asked = request(queries, k, min_similarity=least, exact=True)
        got = unpack(search(views, metric, 3, asked, None))
    assert got == [[hit for hit in hits if hit[1] >= least][:k] for hits in everything]


def test_a_bound_that_few_rows_keep_costs_few_candidates_whatever_k_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(9_000, 8)).astype(np.float32)
    view = make_view(rows, names("r", 9_000, rng), Metric.EUCLIDEAN)
    widths = []
    real = candidates_module.candidates

    def spy(view: SegmentView, filter: Any, queries: Any, k: int, wish: Wish) -> Any:
        widths.append(k)
        return real(view, filter, queries, k, wish)

    monkeypatch.setattr(reach, "candidates", spy)
    (best,) = unpack(search([view], Metric.EUCLIDEAN, 8, request(rows[:1], 10_000), None))
    assert (len(best), widths) == (9_000, [10_000])
    for inside, expected in ((10, [64]), (64, [64, 256]), (1_000, [64, 256, 1024])):
        widths.clear()
        asked = request(rows[:1], 10_000, min_similarity=best[inside - 1][1])
        assert unpack(search([view], Metric.EUCLIDEAN, 8, asked, None)) == [best[:inside]]
        assert widths == expected
    widths.clear()
    deep = request(rows[:1], 500, min_similarity=best[800][1], after=best[699][::-1], skip=700)
    assert unpack(search([view], Metric.EUCLIDEAN, 8, deep, None)) == [best[700:801]]
    assert widths == [764, 1200], "what the pages before had is asked for, too"


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("nq", [1, 7])
def test_ten_thousand_hits_equal_brute_force_over_several_segments(metric: Metric, nq: int) -> None:
    rng = np.random.default_rng(6)
    views, masks = [], []
    for number, n in enumerate((7_000, 5_000, 300)):
        rows = rng.normal(size=(n, 5)).astype(np.float32)
        metadata = [orjson.dumps({"n": i % 10}) for i in range(n)]
        views.append(make_view(rows, names(f"{number}-", n, rng), metric, metadata))
        masks.append(np.arange(n) % 10 > 0)
    queries = rng.normal(size=(nq, 5)).astype(np.float32)
    parsed = parse_filter({"n": {"$gt": 0}}, Limits())
    got = unpack(search(views, metric, 5, request(queries, 10_000), parsed))
    expected = brute_force(views, metric, queries, 10_000, masks)
    for hits, wanted in zip(got, expected, strict=True):
        assert len(hits) == 10_000
        assert [i for i, _ in hits] == [i for i, _ in wanted]


@pytest.mark.parametrize("options", [{}, {"min_similarity": 0.1}, {"exact": True}])
def test_an_explained_search_finds_the_same_and_tells_of_every_segment(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates_module, "plan", prefer_index)
    rng = np.random.default_rng(8)
    views = []
    for number, n in enumerate((400, 300)):
        rows = rng.normal(size=(n, 4)).astype(np.float32)
        metadata = [orjson.dumps({"n": i}) for i in range(n)]
        walk = Impatient(rows, Metric.COSINE) if number == 0 else None
        live = np.arange(n) != 5
        views.append(
            make_view(rows, names(f"{number}-", n, rng), Metric.COSINE, metadata, live, walk)
        )
    asked = request(rng.normal(size=(1, 4)).astype(np.float32), 90, **options)
    parsed = parse_filter({"n": {"$lt": 200}}, Limits())
    reply, told = explain(views, Metric.COSINE, 4, asked, parsed, 0.9)
    assert reply == search(views, Metric.COSINE, 4, asked, parsed, 0.9)
    exact = "exact" in options
    assert (told["exact"], told["recall"]) == (exact, None if exact else 0.9)
    first, second = told["segments"]
    assert (first["name"], first["rows"], first["matching"]) == ("memory", 400, 199)
    assert first["selectivity"] == 199 / 400
    assert (first["index"], second["index"]) == ("hnsw", None)
    assert (first["method"], second["method"]) == ("scan" if exact else "index", "scan")
    beam = widened(IndexKind.HNSW, 90, 199 / 400, lambda k: 40)
    assert (first["ef"], second["ef"]) == (0 if exact else beam, 0)
    assert first["width"] in (64, 90) and first["candidates"] >= first["width"]
    assert first["cost_us"] == 1.0 and first["rejected"] == []
    timings = [first["filter_us"], first["search_us"], second["search_us"], told["score_us"]]
    assert all(us > 0 for us in timings)


@pytest.mark.parametrize(
    ("asked", "target", "wish"),
    [
        ({}, 0.9, Wish(0.9)),
        ({}, 1.0, Wish(1.0, exact=True)),
        ({"recall": 0.7}, 0.9, Wish(0.7)),
        ({"recall": 0.7}, 1.0, Wish(0.7)),
        ({"exact": True}, 0.9, Wish(0.9, exact=True)),
        ({"ef": 100, "nprobe": 7}, 0.9, Wish(0.9, 100, 7)),
        ({"ef": 100}, 1.0, Wish(1.0, 100)),
    ],
)
def test_what_a_query_does_not_say_its_collection_does(
    asked: dict[str, Any], target: float, wish: Wish
) -> None:
    one = SearchRequest(1, (0,), 1, b"", 1, **asked)
    assert wish_of(one, target) == wish
