"""Lists of codes: they find the best rows, obey their mask whatever it leaves, and open mapped."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.real_rows import load
from vector_db.common.model.collection import IndexOptions, Metric
from vector_db.common.model.errors import StorageCorrupt
from vector_db.common.model.rows import F32
from vector_db.shard.index.files import INDEX_FILE
from vector_db.shard.index.hnsw import build_hnsw
from vector_db.shard.index.ivf import (
    ROWS_MIN,
    IvfIndex,
    build_ivf,
    ivf_bytes_per_row,
    list_count,
    open_ivf,
    refine_width,
    worth_ivf,
)
from vector_db.shard.index.opening import use_one_faiss_thread

ROWS, DIMENSION, K = 6000, 24, 10
DEFAULT = IndexOptions()


@pytest.fixture(scope="module")
def vectors() -> F32:
    """Clouds of unequal spread and rows of unequal length, so that a rotation is in use."""
    rng = np.random.default_rng(1)
    spread = np.linspace(2, 0.2, DIMENSION)
    clouds = rng.normal(size=(40, DIMENSION)) * spread
    near = clouds[rng.integers(0, 40, ROWS)] + rng.normal(size=(ROWS, DIMENSION)) * spread / 2
    return (near * rng.uniform(0.8, 1.25, (ROWS, 1))).astype(np.float32)


@pytest.fixture(scope="module")
def queries(vectors: F32) -> F32:
    rng = np.random.default_rng(2)
    noise = rng.normal(size=(50, DIMENSION)) * 0.1
    return (vectors[rng.choice(ROWS, 50, replace=False)] + noise).astype(np.float32)


@pytest.fixture(scope="module")
def euclidean(vectors: F32, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ivf") / "index.faiss"
    build(path, vectors, Metric.EUCLIDEAN)
    return path


def build(
    path: Path, vectors: F32, metric: Metric, options: IndexOptions = DEFAULT, mapped: bool = True
) -> IvfIndex:
    build_ivf(vectors, metric, options, path, 1, lambda rows: None)
    use_one_faiss_thread()
    rows, dimension = vectors.shape
    return open_ivf(path, metric, rows, dimension, mapped)


def reopen(path: Path, mapped: bool = True) -> IvfIndex:
    return open_ivf(path, Metric.EUCLIDEAN, ROWS, DIMENSION, mapped)


def unit(vectors: F32) -> F32:
    scaled: F32 = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled


def truth(vectors: F32, queries: F32, metric: Metric) -> NDArray[np.float64]:
    """Of each query with each row; `queries` are normalised where the metric is cosine."""
    rows = (unit(vectors) if metric is Metric.COSINE else vectors).astype(np.float64)
    products = queries.astype(np.float64) @ rows.T
    if metric is Metric.EUCLIDEAN:
        products = 2 * products - (rows**2).sum(axis=1) - (queries**2).sum(axis=1)[:, None]
    return products


def recall(rows: NDArray[np.int64], true: NDArray[np.float64]) -> float:
    """The share of the true best K among the candidates; equal scores count as found."""
    worst = np.sort(true, axis=1)[:, -K, None]
    hits = np.take_along_axis(true, np.maximum(rows, 0), axis=1) >= worst - 1e-9
    return float(np.minimum((hits & (rows >= 0)).sum(axis=1), K).mean() / K)


@pytest.mark.parametrize("metric", list(Metric))
def test_a_third_of_the_lists_holds_the_best_rows_under_each_metric(
    metric: Metric, vectors: F32, queries: F32, tmp_path: Path
) -> None:
    index = build(tmp_path / "i", vectors, metric)
    asked = unit(queries) if metric is Metric.COSINE else queries
    true = truth(vectors, asked, metric)
    width = refine_width(K, metric)
    scores, rows = index.search(asked, width, None, index.lists // 3)
    assert scores.shape == rows.shape == (50, width)
    assert recall(rows, true) >= 0.95
    assert (np.diff(scores, axis=1) <= 0).all()
    # Scores are of codes, but on the metric's own scale.
    of_hits = np.take_along_axis(true, rows, axis=1)
    assert np.corrcoef(scores.ravel(), of_hits.ravel())[0, 1] > 0.9
    assert abs(float(np.median(scores - of_hits))) < 0.1 * float(of_hits.std())


def test_more_lists_hold_more_of_real_rows_and_all_lists_nearly_all(tmp_path: Path) -> None:
    vectors = load(12_000).vectors
    asked = unit(vectors[::100] + np.roll(vectors, 1, axis=0)[::100] * 0.5)
    index = build(tmp_path / "i", vectors, Metric.COSINE)
    true = truth(vectors, asked, Metric.COSINE)
    width = refine_width(K, Metric.COSINE)
    found = [recall(index.search(asked, width, None, e)[1], true) for e in index.efforts]
    assert all(b >= a - 0.01 for a, b in pairwise(found))
    assert found[0] < 0.9
    assert found[-1] >= 0.99


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("share", [0.5, 0.1, 0.01])
def test_a_mask_yields_what_its_lists_have_among_live_rows(
    euclidean: Path, queries: F32, share: float, mapped: bool
) -> None:
    index = reopen(euclidean, mapped)
    live = np.random.default_rng(3).random(ROWS) < share
    scores, rows = index.search(queries, K, live, 8)
    assert (rows >= 0).all()
    assert live[rows].all()
    assert all(len(set(found)) == K for found in rows.tolist())
    # Without the mask, all that the same lists have; more lists can only better it.
    wide_scores, wide_rows = index._scan(queries, ROWS, None, 8)
    for got, everything, candidates in zip(scores, wide_scores, wide_rows, strict=True):
        best = everything[(candidates >= 0) & live[candidates]][:K]
        assert np.allclose(got[: len(best)], best, rtol=1e-5) or (got[: len(best)] >= best).all()
    if share > 0.1:
        bits = np.packbits(live, bitorder="little")
        assert np.allclose(scores, index._scan(queries, K, bits, 8)[0])


@pytest.mark.parametrize("metric", list(Metric))
def test_few_live_rows_are_all_found_and_minus_one_fills_up(
    metric: Metric, vectors: F32, tmp_path: Path
) -> None:
    index = build(tmp_path / "i", vectors, metric)
    live = np.zeros(ROWS, dtype=np.bool_)
    live[[3, 5, 5801]] = True
    _, rows = index.search(unit(vectors[:4]), 5, live, 1)
    assert [sorted(row) for row in rows.tolist()] == [[-1, -1, 3, 5, 5801]] * 4
    assert (rows[:, 3:] == -1).all()


def test_no_live_row_yields_none(euclidean: Path, queries: F32) -> None:
    _, rows = reopen(euclidean).search(queries, K, np.zeros(ROWS, np.bool_), 1)
    assert (rows == -1).all()


def test_more_than_there_are_yields_each_row_once(euclidean: Path, queries: F32) -> None:
    _, rows = reopen(euclidean).search(queries[:2], ROWS + 50, None, 1)
    assert (rows[:, ROWS:] == -1).all()
    assert (np.sort(rows[:, :ROWS], axis=1) == np.arange(ROWS)).all()


def test_a_mask_of_fewer_rows_excludes_the_later_ones(euclidean: Path, vectors: F32) -> None:
    for known in (1, 13, 1001):
        _, rows = reopen(euclidean).search(vectors[-3:], 5, np.ones(known, np.bool_), 4)
        assert rows.max() < known
        assert (rows >= 0).sum(axis=1).tolist() == [min(5, known)] * 3


@pytest.mark.parametrize(
    ("dimension", "metric"),
    [
        *((dimension, metric) for dimension in (3, 7, 65) for metric in Metric),
        (100, Metric.COSINE),
        (384, Metric.DOT),
        (515, Metric.EUCLIDEAN),
    ],
)
def test_any_dimension_works(metric: Metric, dimension: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    clouds = rng.normal(size=(50, dimension))
    rows = clouds[rng.integers(0, 50, ROWS_MIN)] + rng.normal(size=(ROWS_MIN, dimension)) * 0.5
    vectors = rows.astype(np.float32)
    index = build(tmp_path / "i", vectors, metric)
    asked = unit(vectors[:20]) if metric is Metric.COSINE else vectors[:20]
    _, found = index.search(asked, refine_width(K, metric), None, index.lists // 2)
    assert recall(found, truth(vectors, asked, metric)) >= 0.95


@pytest.mark.parametrize(("rows", "dimension"), [(ROWS_MIN, 1), (ROWS_MIN, 2), (ROWS_MIN - 1, 8)])
def test_what_is_too_small_is_refused(rows: int, dimension: int, tmp_path: Path) -> None:
    assert not worth_ivf(rows, dimension)
    with pytest.raises(ValueError, match=f"{rows} x {dimension}: at least 4096 rows and 3 dim"):
        build(tmp_path / "i", np.ones((rows, dimension), np.float32), Metric.DOT)
    assert not (tmp_path / "i").exists()
    assert worth_ivf(ROWS_MIN, 3)


@pytest.mark.parametrize("metric", list(Metric))
def test_identical_rows_are_all_found(metric: Metric, tmp_path: Path) -> None:
    index = build(tmp_path / "i", np.full((ROWS_MIN, 8), 0.25, np.float32), metric)
    query = np.full((1, 8), 8**-0.5, np.float32)
    _, rows = index.search(query, 100, None, 1)
    assert len(set(rows[0].tolist()) - {-1}) == 100


@pytest.mark.parametrize("metric", [Metric.DOT, Metric.EUCLIDEAN])
def test_zero_rows_do_no_harm(metric: Metric, vectors: F32, queries: F32, tmp_path: Path) -> None:
    some = vectors.copy()
    some[::2] = 0
    index = build(tmp_path / "i", some, metric)
    _, rows = index.search(queries, refine_width(K, metric), None, index.lists)
    assert recall(rows, truth(some, queries, metric)) >= 0.95


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_unit_of_measure_does_not_matter(
    metric: Metric, scale: float, vectors: F32, queries: F32, tmp_path: Path
) -> None:
    scaled = vectors * np.float32(scale)
    index = build(tmp_path / "i", scaled, metric)
    asked = unit(queries) if metric is Metric.COSINE else queries * np.float32(scale)
    _, rows = index.search(asked, refine_width(K, metric), None, index.lists // 3)
    assert recall(rows, truth(scaled, asked, metric)) >= 0.95


@pytest.mark.parametrize("metric", [Metric.DOT, Metric.EUCLIDEAN])
def test_a_row_whose_distances_overflow_is_refused_when_building(
    metric: Metric, vectors: F32, tmp_path: Path
) -> None:
    long = vectors.copy()
    long[-1] *= np.float32(1e19)
    with pytest.raises(ValueError, match="longer than 1e\\+18"):
        build(tmp_path / "i", long, metric)
    build(tmp_path / "i", long, Metric.COSINE)


def test_a_query_that_tells_no_rows_apart_finds_none(vectors: F32, tmp_path: Path) -> None:
    dot = build(tmp_path / "dot", vectors, Metric.DOT)
    far = build(tmp_path / "far", vectors, Metric.EUCLIDEAN)
    mixed = np.stack([np.zeros(DIMENSION), vectors[0]]).astype(np.float32)
    _, rows = dot.search(mixed, K, None, 4)
    assert (rows[0] == -1).all()
    assert (rows[1] >= 0).all()
    mixed[0] = 1e30
    _, rows = far.search(mixed, K, None, 4)
    assert (rows[0] == -1).all()
    assert rows[1, 0] >= 0


def test_codes_of_few_dimensions_tell_many_rows_apart(tmp_path: Path) -> None:
    vectors = np.random.default_rng(7).random((40_000, 3), dtype=np.float32)
    index = build(tmp_path / "i", vectors, Metric.EUCLIDEAN)
    _, rows = index.search(vectors[:50], refine_width(K, Metric.EUCLIDEAN), None, 32)
    assert recall(rows, truth(vectors, vectors[:50], Metric.EUCLIDEAN)) >= 0.98


def test_codes_hold_rows_that_spread_unevenly(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    vectors = (rng.normal(size=(ROWS, 96)) * np.geomspace(1, 0.02, 96)).astype(np.float32)
    index = build(tmp_path / "i", vectors, Metric.DOT)
    _, rows = index.search(vectors[:50], 30, None, index.lists)
    assert recall(rows, truth(vectors, vectors[:50], Metric.DOT)) >= 0.95


def test_concurrent_searches_answer_as_one_alone(euclidean: Path, queries: F32) -> None:
    index = reopen(euclidean)
    masks = [None, *(np.random.default_rng(s).random(ROWS) < 0.05 for s in range(3))]
    work = [(queries[i : i + 5], masks[i % 4], 1 + i % 7) for i in range(45)] * 4
    alone = [index.search(q, K, live, effort)[1] for q, live, effort in work]
    with ThreadPoolExecutor(4, initializer=use_one_faiss_thread) as pool:
        found = pool.map(lambda job: index.search(job[0], K, job[1], job[2])[1], work)
        assert all((a == b).all() for a, b in zip(alone, found, strict=True))


def test_a_graph_of_centroids_finds_and_obeys_the_mask(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(24_000, 8)).astype(np.float32)
    index = build(tmp_path / "i", vectors, Metric.EUCLIDEAN, IndexOptions(lists=3000))
    assert index.lists == 3000
    true = truth(vectors, vectors[:50], Metric.EUCLIDEAN)
    _, rows = index.search(vectors[:50], 60, None, 128)
    assert recall(rows, true) >= 0.95
    live = rng.random(24_000) < 0.001
    _, rows = index.search(vectors[:50], 40, live, 1)
    assert {row for row in rows.ravel().tolist() if row >= 0} == set(np.flatnonzero(live).tolist())


def test_a_file_answers_the_same_mapped_and_in_memory(euclidean: Path, queries: F32) -> None:
    where = str(euclidean)
    in_memory = reopen(euclidean, mapped=False)
    assert where not in Path("/proc/self/maps").read_text()
    mapped = reopen(euclidean)
    assert where in Path("/proc/self/maps").read_text()
    scores, rows = mapped.search(queries, K, None, 8)
    same_scores, same_rows = in_memory.search(queries, K, None, 8)
    assert np.array_equal(rows, same_rows)
    assert np.array_equal(scores, same_scores)


def test_the_same_rows_make_the_same_file_and_progress_is_told(
    euclidean: Path, vectors: F32, tmp_path: Path
) -> None:
    heard: list[int] = []
    large = np.concatenate([vectors] * 3)
    build_ivf(large, Metric.COSINE, DEFAULT, tmp_path / "a", 1, heard.append)
    assert heard == sorted(set(heard))
    assert len(heard) > 1
    assert heard[-1] == len(large)
    build_ivf(vectors, Metric.EUCLIDEAN, DEFAULT, tmp_path / "b", 1, heard.append)
    assert (tmp_path / "b").read_bytes() == euclidean.read_bytes()


@pytest.mark.parametrize("dimension", [48, 130])
def test_the_predicted_size_is_that_of_the_file(dimension: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    for options in (DEFAULT, IndexOptions(lists=200)):
        vectors = rng.normal(size=(10_000, dimension)).astype(np.float32)
        build(tmp_path / "i", vectors, Metric.DOT, options)
        size = (tmp_path / "i").stat().st_size / 10_000
        assert ivf_bytes_per_row(dimension, options, 10_000) == pytest.approx(size, rel=0.1)


def test_lists_grow_with_the_rows_unless_they_are_asked_for(euclidean: Path) -> None:
    assert [list_count(n, 128, DEFAULT) for n in (4096, 65_536, 1 << 20)] == [16, 256, 4096]
    assert list_count(1 << 24, 128, DEFAULT) == 4 << 12
    assert list_count(65_536, 128, IndexOptions(lists=100)) == 100
    assert list_count(65_536, 128, IndexOptions(lists=1 << 20)) == 65_536 // 8
    index = reopen(euclidean)
    assert index.efforts == (1, 2, 4, 8, 16, index.lists) == (1, 2, 4, 8, 16, 23)


def test_the_index_of_another_segment_is_refused(euclidean: Path) -> None:
    for metric, rows, dimension in (
        (Metric.DOT, ROWS, DIMENSION),
        (Metric.EUCLIDEAN, ROWS + 1, DIMENSION),
        (Metric.EUCLIDEAN, ROWS, DIMENSION - 1),
    ):
        with pytest.raises(StorageCorrupt, match="want"):
            open_ivf(euclidean, metric, rows, dimension, True)


@pytest.mark.parametrize("mapped", [True, False])
def test_what_is_no_index_of_lists_is_refused(
    euclidean: Path, vectors: F32, tmp_path: Path, mapped: bool
) -> None:
    with pytest.raises(FileNotFoundError):
        open_ivf(tmp_path / "absent", Metric.EUCLIDEAN, ROWS, DIMENSION, mapped)
    cut = tmp_path / "cut"
    whole = euclidean.read_bytes()
    for size in (0, 3, 200, len(whole) // 2, len(whole) - 8):
        cut.write_bytes(whole[:size])
        with pytest.raises(StorageCorrupt, match="offset 0"):
            reopen(cut, mapped)
    graph = tmp_path / INDEX_FILE
    build_hnsw(vectors[:100], Metric.EUCLIDEAN, IndexOptions(), graph, lambda rows: None)
    with pytest.raises(StorageCorrupt, match="not an index of lists"):
        open_ivf(graph, Metric.EUCLIDEAN, 100, DIMENSION, mapped)
