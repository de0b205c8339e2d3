"""Search answers what a plain loop over all rows answers, whichever way it went."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.indexes import ExactSearcher, exact_index
from tests.unit.shard_search.segments import brute_force, make_view, request, unpack
from vector_db.common.model.collection import Metric
from vector_db.common.model.filters import matches, parse_filter
from vector_db.common.model.limits import Limits
from vector_db.common.model.rows import F32
from vector_db.shard.core.planner import Method, Plan, Walk, widened
from vector_db.shard.search import candidates as candidates_module
from vector_db.shard.search import scan as scan_module
from vector_db.shard.search.executor import cost, count, search
from vector_db.shard.search.ranking import FEW
from vector_db.shard.views import SegmentView

METRICS = list(Metric)


class Impatient(ExactSearcher):
    """A `VectorIndex` that takes the same effort for everything."""

    def effort(self, k: float, recall: float) -> int:
        return 40


def names(prefix: str, n: int, rng: np.random.Generator) -> list[bytes]:
    return [f"{prefix}{i}".encode() for i in rng.permutation(n).tolist()]


def prefer_index(*, walk: Walk | None, matching: int, k: int, **_: Any) -> Plan:
    """Small segments would be scanned; here the walk is what is tried."""
    if matching <= k:
        return Plan(Method.ALL, 0, 1.0)
    if walk is None:
        return Plan(Method.SCAN, 0, 1.0)
    return Plan(Method.INDEX, walk.effort, 1.0)


def whole_numbers(rng: np.random.Generator, n: int, d: int) -> F32:
    """Few distinct small vectors: many exact ties, and sums that no order of adding changes."""
    vectors = rng.integers(-2, 3, size=(n, d)).astype(np.float32)
    vectors[~vectors.any(axis=1)] = 1
    return vectors


@settings(max_examples=150)
@given(
    metric=st.sampled_from(METRICS),
    sizes=st.lists(st.integers(0, 60), min_size=0, max_size=4),
    nq=st.sampled_from([1, 2, 3, 7]),
    k=st.sampled_from([1, 3, 10, 100]),
    share=st.sampled_from([0.0, 0.1, 0.6, 1.0]),
    indexed=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_hits_equal_brute_force_with_ties_by_id(
    metric: Metric,
    sizes: list[int],
    nq: int,
    k: int,
    share: float,
    indexed: bool,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    views, masks = [], []
    for number, n in enumerate(sizes):
        vectors = whole_numbers(rng, n, 3)
        live = None if share == 1.0 else rng.random(n) < share
        index = exact_index(vectors, metric) if indexed and n else None
        views.append(
            make_view(vectors, names(f"{number}-", n, rng), metric, live=live, index=index)
        )
        masks.append(np.ones(n, dtype=np.bool_) if live is None else live)
    queries = whole_numbers(rng, nq, 3)
    with pytest.MonkeyPatch.context() as patch:
        if indexed:
            patch.setattr(candidates_module, "plan", prefer_index)
        got = unpack(search(views, metric, 3, request(queries, k), None))
    expected = brute_force(views, metric, queries, k, masks)
    if indexed:  # which of the rows that tie at the k-th place an index finds is its own choice
        assert [[s for _, s in hits] for hits in got] == [[s for _, s in h] for h in expected]
    else:
        assert got == expected
    assert all(len({i for i, _ in hits}) == len(hits) for hits in got)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("method", [Method.SCAN, Method.GATHER])
@pytest.mark.parametrize("nq", [1, 2, 8])
def test_each_exact_way_equals_brute_force_on_real_numbers(
    metric: Metric, method: Method, nq: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(7)
    vectors = rng.normal(size=(3000, 40)).astype(np.float32)
    vectors[::7] *= 30
    live = rng.random(3000) < 0.3
    view = make_view(vectors, names("r", 3000, rng), metric, live=live)
    queries = rng.normal(size=(nq, 40)).astype(np.float32)
    only = Plan(method, 0, 1.0)
    monkeypatch.setattr(candidates_module, "plan", lambda **_: only)
    monkeypatch.setattr(scan_module, "_BLOCK_SCORES", 1000 * nq)
    got = unpack(search([view], metric, 40, request(queries, 20), None))
    expected = brute_force([view], metric, queries, 20, [live])
    for hits, wanted in zip(got, expected, strict=True):
        assert [i for i, _ in hits] == [i for i, _ in wanted]
        assert [s for _, s in hits] == pytest.approx([s for _, s in wanted], rel=1e-12)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("scale", "offset"), [(1e-3, 1000.0), (1e30, 0.0), (1e38, 0.0), (1e-30, 0.0), (1e-42, 0.0)]
)
@pytest.mark.parametrize("nq", [1, 8])
def test_what_float32_cannot_tell_apart_is_decided_in_float64(
    metric: Metric, scale: float, offset: float, nq: int
) -> None:
    rng = np.random.default_rng(3)
    vectors = (rng.uniform(-1, 1, size=(500, 8)) * scale + offset).astype(np.float32)
    queries = (rng.uniform(-1, 1, size=(nq, 8)) * scale + offset).astype(np.float32)
    view = make_view(vectors, names("r", 500, rng), metric)
    every = np.ones(500, dtype=np.bool_)
    got = unpack(search([view], metric, 8, request(queries, 5), None))
    expected = brute_force([view], metric, queries, 5, [every])
    for hits, wanted in zip(got, expected, strict=True):
        assert [s for _, s in hits] == pytest.approx([s for _, s in wanted], rel=1e-9, abs=0)


@pytest.mark.parametrize("metric", METRICS)
def test_similarities_do_not_depend_on_batch_segment_or_mask(metric: Metric) -> None:
    rng = np.random.default_rng(11)
    vectors = rng.normal(size=(600, 33)).astype(np.float32)
    ids = names("r", 600, rng)
    queries = rng.normal(size=(9, 33)).astype(np.float32)
    whole = make_view(vectors, ids, metric)
    parts = [make_view(vectors[a:b], ids[a:b], metric) for a, b in ((0, 1), (1, 250), (250, 600))]
    walked = make_view(vectors, ids, metric, index=exact_index(vectors, metric))
    alone = [unpack(search([whole], metric, 33, request(q[None], 10), None))[0] for q in queries]
    for views in ([whole], parts, parts[::-1], [walked]):
        assert unpack(search(views, metric, 33, request(queries, 10), None)) == alone
        for q, hits in zip(queries, alone, strict=True):
            assert unpack(search(views, metric, 33, request(q[None], 10), None)) == [hits]


def test_many_candidates_rank_as_few_do() -> None:
    rng = np.random.default_rng(5)
    vectors = whole_numbers(rng, 4 * FEW, 4)
    views = [
        make_view(vectors[i::3], names(f"{i}-", len(vectors[i::3]), rng), Metric.DOT)
        for i in range(3)
    ]
    masks = [np.ones(v.rows, dtype=np.bool_) for v in views]
    queries = whole_numbers(rng, 1, 4)
    for k in (FEW - 1, FEW, FEW + 1, 2 * FEW, 10 * FEW):
        got = unpack(search(views, Metric.DOT, 4, request(queries, k), None))
        assert got == brute_force(views, Metric.DOT, queries, k, masks)


def filtered_view(metric: Metric, index: bool) -> tuple[SegmentView, list[dict[str, Any] | None]]:
    rng = np.random.default_rng(2)
    vectors = rng.normal(size=(2000, 16)).astype(np.float32)
    documents = [None if i % 5 == 0 else {"n": i, "tag": "abc"[i % 3]} for i in range(2000)]
    metadata = [b"" if d is None else orjson.dumps(d) for d in documents]
    walk = Impatient(vectors, metric, patience=20) if index else None
    live = rng.random(2000) < 0.9
    view = make_view(vectors, names("r", 2000, rng), metric, metadata, live, walk)
    return view, documents


@pytest.mark.parametrize("index", [False, True])
@pytest.mark.parametrize("nq", [1, 8])
@pytest.mark.parametrize(
    "filter", [{"n": {"$gte": 1000}}, {"tag": "b"}, {"n": {"$in": [7, 8, 9]}}, {"tag": {"$ne": 1}}]
)
def test_hits_are_visible_rows_that_match_and_as_many_as_there_are(
    filter: dict[str, Any], nq: int, index: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    view, documents = filtered_view(Metric.COSINE, index)
    monkeypatch.setattr(candidates_module, "plan", prefer_index)
    parsed = parse_filter(filter, Limits())
    assert view.live is not None
    mask = np.array([matches(parsed, d) for d in documents]) & view.live
    queries = np.random.default_rng(4).normal(size=(nq, 16)).astype(np.float32)
    got = unpack(search([view], Metric.COSINE, 16, request(queries, 30), parsed))
    expected = brute_force([view], Metric.COSINE, queries, 30, [mask])
    assert [[i for i, _ in h] for h in got] == [[i for i, _ in h] for h in expected]
    assert count([view, view], parsed) == 2 * int(mask.sum())


def test_an_index_whose_walk_ran_dry_is_not_believed() -> None:
    rng = np.random.default_rng(9)
    vectors = rng.normal(size=(20_000, 8)).astype(np.float32)
    walk = Impatient(vectors, Metric.COSINE, patience=6)
    view = make_view(vectors, names("r", 20_000, rng), Metric.COSINE, index=walk)
    queries = rng.normal(size=(3, 8)).astype(np.float32)
    got = unpack(search([view], Metric.COSINE, 8, request(queries, 10), None))
    every = np.ones(20_000, dtype=np.bool_)
    assert walk.calls == 1
    assert [[i for i, _ in hits] for hits in got] == [
        [i for i, _ in hits] for hits in brute_force([view], Metric.COSINE, queries, 10, [every])
    ]


def test_rows_of_the_index_after_the_snapshot_are_not_hits() -> None:
    rng = np.random.default_rng(9)
    vectors = rng.normal(size=(20_000, 8)).astype(np.float32)
    walk = Impatient(vectors, Metric.DOT)
    older = make_view(vectors[:15_000], names("r", 15_000, rng), Metric.DOT, index=walk)
    queries = vectors[15_000:15_002] * 2
    got = unpack(search([older], Metric.DOT, 8, request(queries, 5), None))
    every = np.ones(15_000, dtype=np.bool_)
    assert walk.calls > 0
    wide, plain = (widened(walk.kind, 5, share, lambda _: 40) for share in (0.75, 1.0))
    assert walk.last_effort == wide > plain, "a quarter is walked past"
    for hits, wanted in zip(
        got, brute_force([older], Metric.DOT, queries, 5, [every]), strict=True
    ):
        assert [i for i, _ in hits] == [i for i, _ in wanted]


def test_identical_rows_tie_by_id_however_many_they_are() -> None:
    vectors = np.full((9000, 4), 0.3, dtype=np.float32)
    ids = names("r", 9000, np.random.default_rng(1))
    for metric, nq in itertools.product(METRICS, (1, 8)):
        view = make_view(vectors, ids, metric)
        queries = np.full((nq, 4), 0.7, dtype=np.float32)
        for hits in unpack(search([view], metric, 4, request(queries, 3), None)):
            assert [i for i, _ in hits] == sorted(ids)[:3]


@pytest.mark.parametrize("nq", [1, 3])
def test_min_similarity_drops_what_lies_below(nq: int) -> None:
    vectors = np.array([[1, 0], [1, 1], [0, 1], [-1, 0]], dtype=np.float32)
    view = make_view(vectors, [b"a", b"b", b"c", b"d"], Metric.COSINE)
    queries = np.array([[2, 0]] * nq, dtype=np.float32)
    for least, expected in ((0.0, [b"a", b"b", b"c"]), (0.9, [b"a"]), (1.0, [b"a"]), (1.1, [])):
        reply = search([view], Metric.COSINE, 2, request(queries, 4, min_similarity=least), None)
        assert [[i for i, _ in hits] for hits in unpack(reply)] == [expected] * nq


@pytest.mark.parametrize("nq", [1, 3])
def test_payloads_come_with_the_hits_bit_for_bit(nq: int) -> None:
    rng = np.random.default_rng(6)
    vectors = rng.normal(size=(40, 5)).astype(np.float32)
    ids = names("r", 40, rng)
    metadata = [b"" if i % 4 == 0 else orjson.dumps({"i": i}) for i in range(40)]
    views = [
        make_view(vectors[a:b], ids[a:b], Metric.EUCLIDEAN, metadata[a:b])
        for a, b in ((0, 15), (15, 40))
    ]
    asked = request(vectors[:nq], 7, include_metadata=True, include_vectors=True)
    for chosen in (views, views[:1]):
        reply = search(chosen, Metric.EUCLIDEAN, 5, asked, None)
        rows = [ids.index(i) for i in reply.ids.unpack()]
        assert reply.metadata is not None
        assert reply.metadata.unpack() == [metadata[r] for r in rows]
        assert reply.vectors == vectors[rows].tobytes()


@pytest.mark.parametrize("metric", METRICS)
def test_a_zero_query_gets_numbers_not_nan(metric: Metric) -> None:
    view = make_view(np.eye(4, dtype=np.float32), [b"a", b"b", b"c", b"d"], metric)
    for nq in (1, 8):
        for hits in unpack(
            search([view], metric, 4, request(np.zeros((nq, 4), np.float32), 2), None)
        ):
            assert [i for i, _ in hits] == [b"a", b"b"]
            assert all(np.isfinite(s) for _, s in hits)


def test_the_cost_tells_a_walk_from_a_scan_and_one_from_many() -> None:
    vectors = np.ones((30_000, 128), dtype=np.float32)
    ids = [b"x"] * 30_000
    plain = make_view(vectors, ids, Metric.COSINE)
    walked = make_view(vectors, ids, Metric.COSINE, index=Impatient(vectors[:1], Metric.COSINE))
    assert 0 < cost([walked], 1) < 0.25 < cost([plain], 1) < cost([plain], 64)
    assert cost([walked], 64) > cost([walked], 1)
    assert cost([walked], 1, filter=parse_filter({"n": 1}, Limits())) > 10 * cost([walked], 1)
