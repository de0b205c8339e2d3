"""What was calibrated holds for queries that the index never saw, and extending costs no recall."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.indexes import build
from tests.support.real_rows import SAMPLE
from vector_db.common.model.collection import Encoding, IndexKind, IndexOptions, Metric
from vector_db.common.model.rows import F32
from vector_db.shard.index.build import IndexSpec, build_index
from vector_db.shard.index.files import INDEX_FILE
from vector_db.shard.index.forms import indexed_form
from vector_db.shard.index.opening import SegmentIndex, open_index

DIMENSION, QUERIES = 48, 400
OPTIONS = {
    "hnsw": IndexOptions(IndexKind.HNSW, m=8, ef_construction=60),
    "hnsw sq8": IndexOptions(IndexKind.HNSW, Encoding.SQ8, m=8, ef_construction=60),
    "ivf_pq": IndexOptions(IndexKind.IVF_PQ),
}


@pytest.fixture(scope="module")
def rows() -> tuple[F32, F32]:
    """Dictionary entries, and others as queries: their first principal components, of unequal
    lengths."""
    vectors = np.load(SAMPLE / "vectors.f16.npy").astype(np.float64)
    centred = vectors - vectors.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    rng = np.random.default_rng(4)
    scaled = centred @ axes[:, ::-1][:, :DIMENSION] * rng.lognormal(0, 0.1, (len(vectors), 1))
    mixed = rng.permutation(scaled).astype(np.float32)
    return np.ascontiguousarray(mixed[QUERIES:]), np.ascontiguousarray(mixed[:QUERIES])


def scores_of(metric: Metric, queries: F32, vectors: F32) -> NDArray[np.float64]:
    q, x = (indexed_form(a, metric).astype(np.float64) for a in (queries, vectors))
    scores: NDArray[np.float64] = q @ x.T
    if metric is Metric.EUCLIDEAN:
        scores = 2 * scores - (x * x).sum(axis=1)
    return scores


def recall(
    index: SegmentIndex, metric: Metric, rows: tuple[F32, F32], k: int, effort: int
) -> float:
    """Of the true best k, the share among the best k of the candidates, scored again."""
    vectors, queries = rows
    true = scores_of(metric, queries, vectors)
    width = index.width(k)
    _, found = index.search(indexed_form(queries, metric), width, None, max(effort, width))
    bar = np.partition(true, -k, axis=1)[:, -k, None] - 1e-9
    hits = np.take_along_axis(true, found, axis=1) >= bar
    return float(np.minimum(hits.sum(axis=1), k).mean() / k)


CASES = [
    *((kind, metric) for metric in Metric for kind in ("hnsw", "ivf_pq")),
    ("hnsw sq8", Metric.EUCLIDEAN),
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]} {case[1]}")
def case(request: pytest.FixtureRequest) -> tuple[str, Metric]:
    kind, metric = request.param
    return str(kind), Metric(metric)


@pytest.fixture(scope="module")
def index(
    case: tuple[str, Metric], rows: tuple[F32, F32], tmp_path_factory: pytest.TempPathFactory
) -> SegmentIndex:
    kind, metric = case
    return build(rows[0], metric, tmp_path_factory.mktemp("index"), OPTIONS[kind])


@pytest.mark.parametrize("target", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("k", [10, 40])
def test_the_effort_chosen_holds_the_recall_for_fresh_queries(
    index: SegmentIndex, rows: tuple[F32, F32], k: int, target: float
) -> None:
    effort = index.effort(k, target)
    assert recall(index, index.meta.metric, rows, k, effort) >= target - 0.01


@pytest.mark.parametrize(
    ("metric", "encoding"),
    [(Metric.COSINE, Encoding.AUTO), (Metric.DOT, Encoding.AUTO), (Metric.EUCLIDEAN, Encoding.SQ8)],
)
def test_an_extended_graph_finds_as_much_as_one_built_whole_under_the_same_numbers(
    metric: Metric, encoding: Encoding, rows: tuple[F32, F32], tmp_path: Path
) -> None:
    options = IndexOptions(IndexKind.HNSW, encoding, m=8, ef_construction=60)
    vectors, _ = rows
    folders = [tmp_path / name for name in ("base", "extended", "whole")]
    for folder in folders:
        folder.mkdir()
    base = build(vectors[:2500], metric, folders[0], options)
    spec = IndexSpec(
        IndexKind.HNSW, metric, options, base=folders[0].name, encoding=base.meta.encoding
    )
    before = (folders[0] / INDEX_FILE).read_bytes()
    build_index(vectors, spec, tmp_path, folders[1], 1, lambda _: None)
    assert (folders[0] / INDEX_FILE).read_bytes() == before
    extended = open_index(folders[1], metric, len(vectors), DIMENSION, mapped=False)
    whole = build(vectors, metric, folders[2], options)
    assert extended.meta.encoding is whole.meta.encoding
    for effort in (16, 64):
        grown, fresh = (recall(index, metric, rows, 10, effort) for index in (extended, whole))
        assert grown >= fresh - 0.02
    assert recall(extended, metric, rows, 10, 400) >= 0.99, "row numbers are those of the vectors"
