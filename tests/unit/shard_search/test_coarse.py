"""A search over codes of one byte leaves out no row of the true best k, whatever the rows are."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vector_db.common.model.collection import Metric
from vector_db.common.model.rows import F32, Blob, hash_ids
from vector_db.shard.native import native
from vector_db.shard.search.coarse import ROWS_MIN, CoarseRows
from vector_db.shard.search.score import Queries, similarities
from vector_db.shard.storage.growing import GrowingSegment

pytestmark = pytest.mark.skipif(native is None, reason="no C compiler when this was installed")


def best(
    queries: Queries, vectors: F32, live: NDArray[np.bool_] | None, q: int, k: int
) -> set[int]:
    """The best `k` of the live rows for one query, and what ties with the last of them."""
    every = np.arange(len(vectors)) if live is None else np.flatnonzero(live)
    true = similarities(queries, np.full(len(every), q), vectors, every)
    if len(every) <= k:
        return set(every.tolist())
    return set(every[true >= np.sort(true)[-k]].tolist())


def spread(kind: str, rng: np.random.Generator, n: int, dimension: int) -> F32:
    """Rows of a kind, none of them zero."""
    vectors = rng.normal(size=(n, dimension))
    match kind:
        case "whole":  # many ties
            vectors = np.round(2 * vectors)
        case "one line":
            vectors = np.ones((n, dimension)) * rng.integers(1, 5, (n, 1))
        case "one large":  # a step so wide that most components are lost
            vectors[:, 0] *= 1e6
        case "all sizes":
            vectors *= 10.0 ** rng.integers(-18, 15, (n, 1))
        case "tiny":
            vectors *= 1e-38
        case "near":
            vectors = 1 + 1e-6 * vectors
    vectors[~vectors.any(axis=1), 0] = 1e-30
    found: F32 = vectors.astype(np.float32)
    return found


KINDS = ("plain", "whole", "one line", "one large", "all sizes", "tiny", "near")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", list(Metric))
@given(seed=st.integers(0, 2**32), dimension=st.integers(1, 70), k=st.integers(1, 40))
def test_no_row_of_the_best_is_left_out(
    metric: Metric, kind: str, seed: int, dimension: int, k: int
) -> None:
    rng = np.random.default_rng(seed)
    vectors = spread(kind, rng, 300, dimension)
    like = rng.choice(KINDS)
    queries = Queries(spread(str(like), rng, 2, dimension), metric)
    live = None if seed % 2 else rng.random(300) < 0.5
    coarse = CoarseRows(dimension)
    for q in range(2):
        found = coarse.candidates(vectors, live, queries, q, k)
        assert found is not None
        assert best(queries, vectors, live, q, k) <= set(found.tolist())
        assert (np.diff(found) > 0).all()
        assert live is None or live[found].all()


@pytest.mark.parametrize("metric", list(Metric))
def test_few_rows_are_left_of_real_ones(metric: Metric) -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(20_000, 96)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    asked = vectors[:20] + rng.normal(size=(20, 96)) / 20
    queries = Queries(asked.astype(np.float32), metric)
    coarse = CoarseRows(96)
    counts = []
    for q in range(20):
        found = coarse.candidates(vectors, None, queries, q, 10)
        assert found is not None
        counts.append(len(found))
    assert np.median(counts) < 200


@pytest.mark.parametrize("metric", [Metric.DOT, Metric.EUCLIDEAN])
def test_what_float32_does_not_hold_is_not_told(metric: Metric) -> None:
    vectors = np.full((10, 64), 3e38, dtype=np.float32)
    vectors[5:] = 1
    queries = Queries(np.ones((1, 64), dtype=np.float32), metric)
    coarse = CoarseRows(64)
    assert coarse.candidates(vectors, None, queries, 0, 3) is None
    assert coarse.candidates(vectors[:0], None, queries, 0, 3) is not None


def test_rows_are_encoded_once_and_as_they_come() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(3 * ROWS_MIN, 16)).astype(np.float32)
    queries = Queries(rng.normal(size=(1, 16)).astype(np.float32), Metric.COSINE)
    whole = CoarseRows(16)
    want = whole.candidates(vectors, None, queries, 0, 10)
    by_and_by = CoarseRows(16)
    for rows in (1, 10, ROWS_MIN, ROWS_MIN + 1, 2 * ROWS_MIN, 3 * ROWS_MIN):
        by_and_by.candidates(vectors[:rows], None, queries, 0, 10)
        assert by_and_by.rows == rows
    found = by_and_by.candidates(vectors, None, queries, 0, 10)
    assert found is not None and want is not None and np.array_equal(found, want)
    again = by_and_by.candidates(vectors[:100], None, queries, 0, 10)
    assert again is not None and again.max() < 100
    assert by_and_by.memory_bytes == 3 * ROWS_MIN * (16 + 12)


def test_rows_that_were_undone_are_forgotten() -> None:
    """What takes their place is encoded, and what was read before stays as it was."""
    rng = np.random.default_rng(1)
    growing = GrowingSegment(4, cosine=False)

    def append(first: int, vectors: F32, ts: int) -> None:
        ids = [b"%d" % (first + i) for i in range(len(vectors))]
        previous = growing.find(ids)
        growing.append(ids, Blob.pack(ids), hash_ids(ids), vectors, None, previous, ts)

    def nearest() -> set[int]:
        view = growing.view(9)
        assert view is not None and view.coarse is not None
        queries = Queries(np.ones((1, 4), dtype=np.float32), Metric.DOT)
        found = view.coarse.candidates(view.vectors, None, queries, 0, 3)
        assert found is not None
        return set(found.tolist())

    kept = rng.normal(size=(ROWS_MIN, 4)).astype(np.float32)
    append(0, kept, 1)
    append(ROWS_MIN, 100 + rng.normal(size=(50, 4)).astype(np.float32), 2)
    assert min(nearest()) >= ROWS_MIN
    growing.undo_above(1)
    assert max(nearest()) < ROWS_MIN
    append(ROWS_MIN, np.zeros((49, 4), dtype=np.float32), 3)
    append(ROWS_MIN + 49, np.full((1, 4), 1000, dtype=np.float32), 3)
    assert ROWS_MIN + 49 in nearest()
    assert len(nearest()) < 10


def test_threads_may_ask_while_rows_come() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(20_000, 8)).astype(np.float32)
    queries = Queries(rng.normal(size=(1, 8)).astype(np.float32), Metric.DOT)
    coarse = CoarseRows(8)

    def ask(rows: int) -> bool:
        found = coarse.candidates(vectors[:rows], None, queries, 0, 5)
        assert found is not None
        return best(queries, vectors[:rows], None, 0, 5) <= set(found.tolist())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, rng.integers(10, 20_000, 200).tolist()))
