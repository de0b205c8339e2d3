"""Generated sets are what the benchmarks say: seeded, real in spectrum, exactly filtered."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bench.common import F32, BenchError
from bench.generate import (
    BLOCK_ROWS,
    SELECTIVITIES,
    QueryStream,
    Spectrum,
    blocks,
    metadata,
    nearest,
    recall,
)

WIDTH = 24


@pytest.fixture(scope="module")
def real() -> F32:
    """Rows of length 1 whose components fall off, as those of embeddings do."""
    rng = np.random.default_rng(7)
    rows = rng.standard_normal((2_000, WIDTH)) * 0.8 ** np.arange(WIDTH)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32)


def test_the_same_seed_draws_the_same_rows_and_another_seed_others(real: F32) -> None:
    first, again = Spectrum(real, 16, 1).rows(3), Spectrum(real, 16, 1).rows(3)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, Spectrum(real, 16, 2).rows(3))


def test_a_larger_set_begins_with_the_smaller_one(real: F32) -> None:
    spectrum = Spectrum(real, 8, 1)
    small = np.concatenate(list(blocks(spectrum, 1_000)))
    large = list(blocks(spectrum, BLOCK_ROWS + 500))
    assert np.array_equal(small, large[0][:1_000])
    assert [len(block) for block in large] == [BLOCK_ROWS, 500]


@pytest.mark.parametrize("dimension", [8, WIDTH, 2 * WIDTH])
def test_rows_and_queries_have_length_one(real: F32, dimension: int) -> None:
    spectrum = Spectrum(real, dimension, 1)
    for vectors in (spectrum.rows(0), spectrum.queries(0, 10)):
        assert vectors.shape[1] == dimension and vectors.dtype == np.float32
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_dimensions_between_the_real_one_and_its_double_are_refused(real: F32) -> None:
    with pytest.raises(BenchError, match=str(2 * WIDTH)):
        Spectrum(real, WIDTH + 1, 1)


def test_rows_keep_the_spectrum_of_the_real_ones(real: F32) -> None:
    drawn = Spectrum(real, WIDTH, 1).rows(0)
    of_real = np.sqrt(np.linalg.eigvalsh(np.cov(real.T)))
    of_drawn = np.sqrt(np.linalg.eigvalsh(np.cov(drawn.T)))
    assert np.allclose(of_drawn / of_real, 1, atol=0.15)


def test_a_query_has_nearer_neighbours_than_one_without_structure(real: F32) -> None:
    spectrum = Spectrum(real, WIDTH, 1)
    rows = spectrum.rows(0)
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((50, WIDTH)).astype(np.float32)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    structured = (spectrum.queries(0, 50) @ rows.T).max(axis=1).mean()
    assert structured > (noise @ rows.T).max(axis=1).mean() + 0.1


def test_no_query_comes_twice(real: F32) -> None:
    stream = QueryStream(Spectrum(real, 16, 1))
    taken = np.concatenate([stream.take(300) for _ in range(4)])
    assert len(np.unique(taken, axis=0)) == len(taken)


def test_filters_match_exactly_the_share_that_they_name() -> None:
    rows = [json.loads(text) for text in metadata(0, 3_000)]
    for name, step in SELECTIVITIES.items():
        matching = [i for i, row in enumerate(rows) if row[name] == 0]
        assert matching == list(range(0, 3_000, step))
    assert json.loads(metadata(1_017, 1)[0]) == rows[1_017]


@pytest.mark.parametrize("step", [1, 10])
def test_the_truth_is_the_best_of_every_block(real: F32, step: int) -> None:
    spectrum = Spectrum(real, 8, 1)
    rows = np.concatenate(list(blocks(spectrum, BLOCK_ROWS * step + 3_000)))
    queries = spectrum.queries(0, 20)
    scores = queries @ rows[::step].T
    expected = step * np.argsort(-scores, axis=1, kind="stable")[:, :5]
    assert recall(nearest(rows, queries, 5, step), expected) == 1.0


def test_recall_is_the_share_of_true_neighbours_that_were_found() -> None:
    truth = np.array([[1, 2], [3, 4]])
    assert recall(np.array([[2, 9], [4, 3]]), truth) == 0.75
    assert recall(np.array([[-1, -1], [-1, -1]]), truth) == 0.0
