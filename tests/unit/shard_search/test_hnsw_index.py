"""The graph finds the best rows under its metric, obeys its mask, and grows as if built whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.indexes import build
from vector_db.common.model.collection import Encoding, IndexKind, IndexOptions, Metric
from vector_db.common.model.rows import F32
from vector_db.shard.index.hnsw import keeps_neighbours_in_half
from vector_db.shard.index.opening import SegmentIndex, open_index

ROWS, DIMENSION = 1200, 24
ENCODINGS = (Encoding.FLOAT32, Encoding.FLOAT16, Encoding.SQ8)


@pytest.fixture(scope="module")
def vectors() -> F32:
    rng = np.random.default_rng(1)
    return (rng.normal(size=(ROWS, DIMENSION)) * rng.uniform(0.5, 2, (ROWS, 1))).astype(np.float32)


@pytest.fixture(scope="module")
def index(vectors: F32, tmp_path_factory: pytest.TempPathFactory) -> SegmentIndex:
    return build(vectors, Metric.COSINE, tmp_path_factory.mktemp("index"))


def unit(vectors: F32) -> F32:
    scaled: F32 = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled


def true_scores(metric: Metric, queries: F32, vectors: F32) -> NDArray[np.float64]:
    q, x = queries.astype(np.float64), vectors.astype(np.float64)
    if metric is Metric.COSINE:
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    scores: NDArray[np.float64] = q @ x.T
    if metric is Metric.EUCLIDEAN:
        scores = -((q[:, None] - x[None]) ** 2).sum(axis=2)
    return scores


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("metric", list(Metric))
def test_an_index_finds_the_best_rows_under_its_metric(
    metric: Metric, encoding: Encoding, vectors: F32, tmp_path: Path
) -> None:
    built = build(vectors, metric, tmp_path, IndexOptions(IndexKind.HNSW, encoding))
    assert built.meta.encoding is encoding
    queries = np.random.default_rng(2).normal(size=(50, DIMENSION)).astype(np.float32)
    if metric is Metric.COSINE:
        queries = unit(queries)
    true = true_scores(metric, queries, vectors)
    width = built.width(10)
    mapped = open_index(tmp_path, metric, ROWS, DIMENSION, mapped=True)
    scores, rows = built.search(queries, width, None, 200)
    again = mapped.search(queries, width, None, 200)
    assert np.array_equal(scores, again[0]) and np.array_equal(rows, again[1])
    assert scores.shape == rows.shape == (50, width)
    coarse = 0.2 if encoding is Encoding.SQ8 else 1e-2
    assert np.allclose(scores, np.take_along_axis(true, rows, axis=1), rtol=coarse, atol=coarse)
    best = np.argsort(-true, axis=1)[:, :10]
    found = [len(set(a) & set(b)) for a, b in zip(best.tolist(), rows.tolist(), strict=True)]
    assert sum(found) >= 0.97 * 500
    assert (np.diff(scores, axis=1) <= 0).all()


def test_only_live_rows_are_found_and_minus_one_fills_up(index: SegmentIndex, vectors: F32) -> None:
    live = np.zeros(ROWS, dtype=np.bool_)
    live[[3, 5, 801]] = True
    _, rows = index.search(unit(vectors[:4]), 5, live, ROWS)
    assert set(rows.ravel().tolist()) == {3, 5, 801, -1}
    assert (rows[:, 3:] == -1).all()


def test_a_mask_of_fewer_rows_excludes_the_later_ones(index: SegmentIndex, vectors: F32) -> None:
    for known in (1, 13, 1001):
        _, rows = index.search(unit(vectors[-3:]), 5, np.ones(known, np.bool_), ROWS)
        assert rows.max() < known
        assert (rows[:, 0] >= 0).all()


@pytest.mark.parametrize("metric", list(Metric))
def test_half_precision_is_used_only_where_it_keeps_neighbours(
    metric: Metric, vectors: F32, tmp_path: Path
) -> None:
    assert keeps_neighbours_in_half(vectors, metric)
    assert not keeps_neighbours_in_half(vectors * 1e-4 + 1, metric)
    if metric is not Metric.COSINE:
        assert not keeps_neighbours_in_half(vectors * 1e6, metric)
    assert build(vectors, metric, tmp_path).meta.encoding is Encoding.FLOAT16
    assert build(vectors * 1e-4 + 1, metric, tmp_path).meta.encoding is Encoding.FLOAT32


def test_identical_rows_count_as_kept_neighbours() -> None:
    assert keeps_neighbours_in_half(np.full((500, 4), 0.3, np.float32), Metric.EUCLIDEAN)
