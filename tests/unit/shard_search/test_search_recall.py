"""Recall on real sentence embeddings holds whatever share of the rows matches."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.indexes import build
from tests.unit.shard_search.segments import make_view, request
from vector_db.common.model.collection import Metric
from vector_db.common.model.filters import parse_filter
from vector_db.common.model.limits import Limits
from vector_db.common.model.rows import F32
from vector_db.shard.core.planner import Method, Wish
from vector_db.shard.search.candidates import plan_for
from vector_db.shard.search.executor import search
from vector_db.shard.search.matching import matching
from vector_db.shard.views import SegmentView

SAMPLE = Path(__file__).parents[3] / "examples/dictionary"
QUERIES = 200


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[SegmentView, F32]:
    """Dictionary entries indexed, and queries that are entries left out of the index."""
    vectors = np.load(SAMPLE / "vectors.f16.npy").astype(np.float32)
    metadata = gzip.decompress((SAMPLE / "records.jsonl.gz").read_bytes()).splitlines()
    rows = len(vectors) - QUERIES
    directory = tmp_path_factory.mktemp("index")
    index = build(vectors[:rows], Metric.COSINE, directory)
    view = make_view(
        vectors[:rows],
        [str(i).encode() for i in range(rows)],
        Metric.COSINE,
        metadata[:rows],
        index=index,
    )
    return view, vectors[rows:]


def recall(
    view: SegmentView, queries: F32, filter: object, k: int = 10, target: float = 0.95
) -> float:
    parsed = parse_filter(filter, Limits())
    mask = matching(view, parsed).as_mask()
    assert mask is not None
    scores = queries @ view.vectors.T
    scores[:, ~mask] = -np.inf
    best: NDArray[np.int64] = np.argsort(-scores, axis=1)[:, : min(k, int(mask.sum()))]
    found = 0
    for query, rows in zip(queries, best.tolist(), strict=True):
        dimension = queries.shape[1]
        reply = search(
            [view], Metric.COSINE, dimension, request(query[None], k, recall=target), parsed
        )
        found += len(set(map(int, reply.ids.unpack())) & set(rows))
    return found / best.size


def test_an_unfiltered_query_walks_the_index_and_finds_the_nearest(
    sample: tuple[SegmentView, F32],
) -> None:
    view, queries = sample
    assert plan_for(view, view.rows, 1, 10, Wish(0.95)).method is Method.INDEX
    assert recall(view, queries, {}) >= 0.95


@pytest.mark.parametrize(
    "filter",
    [
        {"pos": "noun"},
        {"lexfile": {"$gte": 20}},
        {"pos": "verb"},
        {"lexfile": {"$lt": 4}},
        {"lexfile": 5},
        {"lexfile": 12},
    ],
)
def test_recall_holds_under_filters_that_correlate_with_the_query(
    sample: tuple[SegmentView, F32], filter: object
) -> None:
    assert recall(*sample, filter) >= 0.95


@pytest.mark.parametrize("share", [0.5, 0.25, 0.1, 0.01, 0.001])
def test_recall_holds_when_rows_are_dead(sample: tuple[SegmentView, F32], share: float) -> None:
    view, queries = sample
    live = np.random.default_rng(1).random(view.rows) < share
    half = make_view(
        view.vectors,
        view.ids.range(0, view.rows),
        Metric.COSINE,
        live=live,
        index=view.index,
    )
    assert recall(half, queries, {}) >= 0.95


def test_recall_holds_for_many_neighbours(sample: tuple[SegmentView, F32]) -> None:
    for k in (1, 50, 200, 1000):
        assert recall(*sample, {}, k) >= 0.95


@pytest.mark.parametrize("target", [0.8, 0.9, 0.95, 0.98, 0.99])
def test_recall_is_what_was_asked_and_costs_more_the_more_it_is(
    sample: tuple[SegmentView, F32], target: float
) -> None:
    view, queries = sample
    more = 1 - (1 - target) / 2
    plans = [plan_for(view, view.rows, 1, 10, Wish(recall)) for recall in (target, more)]
    assert [plan.method for plan in plans] == [Method.INDEX] * 2
    assert plans[0].effort < plans[1].effort
    assert recall(view, queries, {}, target=target) >= target - 0.01
