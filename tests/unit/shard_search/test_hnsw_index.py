"""The index on disk: it opens whole or not at all, and it obeys its mask."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from vector_db.common.model.collection import Metric
from vector_db.common.model.errors import NewerFormat, StorageCorrupt
from vector_db.common.model.rows import F32
from vector_db.shard.index.hnsw import (
    INDEX_FILE,
    META_FILE,
    HnswIndex,
    build_hnsw,
    keeps_neighbours_in_half,
    remove_index,
)

ROWS, DIMENSION = 1200, 24


@pytest.fixture(scope="module")
def vectors() -> F32:
    rng = np.random.default_rng(1)
    return (rng.normal(size=(ROWS, DIMENSION)) * rng.uniform(0.5, 2, (ROWS, 1))).astype(np.float32)


@pytest.fixture
def built(tmp_path: Path, vectors: F32) -> Path:
    build_hnsw(vectors, Metric.COSINE, tmp_path)
    return tmp_path


def reopen(directory: Path) -> HnswIndex:
    return HnswIndex.open(directory, Metric.COSINE, ROWS, DIMENSION)


def unit(vectors: F32) -> F32:
    scaled: F32 = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled


@pytest.mark.parametrize("metric", list(Metric))
def test_an_index_finds_the_best_rows_under_its_metric(
    metric: Metric, vectors: F32, tmp_path: Path
) -> None:
    build_hnsw(vectors, metric, tmp_path)
    index = HnswIndex.open(tmp_path, metric, ROWS, DIMENSION)
    queries = np.random.default_rng(2).normal(size=(50, DIMENSION)).astype(np.float32)
    match metric:
        case Metric.COSINE:
            queries = unit(queries)
            true = queries @ unit(vectors).T
        case Metric.DOT:
            true = queries @ vectors.T
        case Metric.EUCLIDEAN:
            true = -((queries[:, None] - vectors[None]) ** 2).sum(axis=2)
    scores, rows = index.search(queries, 10, None, 200)
    assert scores.shape == rows.shape == (50, 10)
    assert np.allclose(scores, np.take_along_axis(true, rows, axis=1), rtol=1e-2, atol=1e-2)
    best = np.argsort(-true, axis=1)[:, :10]
    found = [len(set(a) & set(b)) for a, b in zip(best.tolist(), rows.tolist(), strict=True)]
    assert sum(found) >= 0.97 * 500
    assert (np.diff(scores, axis=1) <= 0).all()


def test_only_live_rows_are_found_and_minus_one_fills_up(built: Path, vectors: F32) -> None:
    index = reopen(built)
    live = np.zeros(ROWS, dtype=np.bool_)
    live[[3, 5, 801]] = True
    _, rows = index.search(unit(vectors[:4]), 5, live, ROWS)
    assert set(rows.ravel().tolist()) == {3, 5, 801, -1}
    assert (rows[:, 3:] == -1).all()


def test_a_mask_of_fewer_rows_excludes_the_later_ones(built: Path, vectors: F32) -> None:
    for known in (1, 13, 1001):
        _, rows = reopen(built).search(unit(vectors[-3:]), 5, np.ones(known, np.bool_), ROWS)
        assert rows.max() < known
        assert (rows[:, 0] >= 0).all()


def test_no_index_opens_where_none_was_finished(built: Path) -> None:
    (built / META_FILE).unlink()
    with pytest.raises(FileNotFoundError):
        reopen(built)


@pytest.mark.parametrize("place", [0, 1000, -1])
def test_one_flipped_bit_is_noticed(built: Path, place: int) -> None:
    path = built / INDEX_FILE
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(StorageCorrupt, match=r"index\.faiss.*checksum"):
        reopen(built)


def test_a_file_cut_short_is_noticed(built: Path) -> None:
    path = built / INDEX_FILE
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(StorageCorrupt):
        reopen(built)


def test_a_newer_format_is_refused_by_number(built: Path) -> None:
    path = built / META_FILE
    meta = msgspec.json.decode(path.read_bytes())
    path.write_bytes(msgspec.json.encode(meta | {"version": 2, "unknown": 1}))
    with pytest.raises(NewerFormat, match="format 2"):
        reopen(built)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"{}", b'{"version":"1"}', b'{"version":1}'])
def test_a_description_that_is_no_description_is_corrupt(built: Path, text: bytes) -> None:
    (built / META_FILE).write_bytes(text)
    with pytest.raises(StorageCorrupt, match=r"index\.json"):
        reopen(built)


def test_the_index_of_another_segment_is_refused(built: Path) -> None:
    for metric, rows, dimension in (
        (Metric.DOT, ROWS, DIMENSION),
        (Metric.COSINE, ROWS + 1, DIMENSION),
        (Metric.COSINE, ROWS, DIMENSION - 1),
    ):
        with pytest.raises(StorageCorrupt, match="not the index of this segment"):
            HnswIndex.open(built, metric, rows, dimension)


def test_building_again_replaces_and_removing_leaves_nothing(built: Path, vectors: F32) -> None:
    build_hnsw(vectors, Metric.COSINE, built)
    assert sorted(p.name for p in built.iterdir()) == [INDEX_FILE, META_FILE]
    reopen(built)
    (built / f".{INDEX_FILE}.tmp").write_bytes(b"left by a build that died")
    remove_index(built)
    remove_index(built)
    assert list(built.iterdir()) == []


@pytest.mark.parametrize("metric", list(Metric))
def test_half_precision_is_used_only_where_it_keeps_neighbours(
    metric: Metric, vectors: F32, tmp_path: Path
) -> None:
    assert keeps_neighbours_in_half(vectors, metric)
    assert not keeps_neighbours_in_half(vectors * 1e-4 + 1, metric)
    if metric is not Metric.COSINE:
        assert not keeps_neighbours_in_half(vectors * 1e6, metric)
    assert not build_hnsw(vectors * 1e-4 + 1, metric, tmp_path).half


def test_identical_rows_count_as_kept_neighbours() -> None:
    assert keeps_neighbours_in_half(np.full((500, 4), 0.3, np.float32), Metric.EUCLIDEAN)
