"""Predicted bytes of rows and indexes are within a tenth of what files and arrays really take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.indexes import build
from tests.support.sealed import write_rows
from vector_db.common.adapters.posix_disk import PosixDisk
from vector_db.common.model.collection import Encoding, IndexKind, IndexOptions, Metric
from vector_db.common.model.rows import F32
from vector_db.shard.core.calibration import Calibration
from vector_db.shard.core.footprint import column_bytes, index_bytes
from vector_db.shard.index import build as build_module
from vector_db.shard.index import hnsw

ROWS = 12_000
DIMENSIONS = (32, 128, 384)


@pytest.fixture(autouse=True)
def sizes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """How well an index finds is no question here."""
    monkeypatch.setattr(build_module, "calibrate", lambda *_: Calibration())
    monkeypatch.setattr(hnsw, "keeps_neighbours_in_half", lambda *_: True)


def vectors_of(dimension: int) -> F32:
    return np.random.default_rng(1).normal(size=(ROWS, dimension)).astype(np.float32)


@pytest.mark.parametrize("dimension", DIMENSIONS)
@pytest.mark.parametrize("encoding", [Encoding.FLOAT32, Encoding.FLOAT16, Encoding.SQ8])
def test_a_graph_takes_what_was_predicted(
    dimension: int, encoding: Encoding, tmp_path: Path
) -> None:
    for m in (8, 16):
        options = IndexOptions(IndexKind.HNSW, encoding, m, ef_construction=4)
        index = build(vectors_of(dimension), Metric.COSINE, tmp_path, options)
        predicted = ROWS * index_bytes(IndexKind.HNSW, encoding, m, dimension)
        assert index.resident_bytes == pytest.approx(predicted, rel=0.1)


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_lists_take_what_was_predicted(dimension: int, tmp_path: Path) -> None:
    options = IndexOptions(IndexKind.IVF_PQ)
    index = build(vectors_of(dimension), Metric.COSINE, tmp_path, options)
    predicted = ROWS * index_bytes(IndexKind.IVF_PQ, Encoding.AUTO, 16, dimension)
    assert index.resident_bytes == pytest.approx(predicted, rel=0.1)


@pytest.mark.parametrize("dimension", DIMENSIONS)
@pytest.mark.parametrize("cosine", [False, True])
def test_the_rows_of_a_segment_take_what_was_predicted(
    dimension: int, cosine: bool, tmp_path: Path
) -> None:
    metadata = [b'{"n":%d}' % n for n in range(ROWS)]
    segment = write_rows(PosixDisk(tmp_path), "s", vectors_of(dimension), cosine, metadata=metadata)
    segment.verify()
    payload = segment.payload_bytes / ROWS
    predicted = ROWS * column_bytes(dimension, cosine, payload)
    assert segment.mapped_bytes + segment.memory_bytes == pytest.approx(predicted, rel=0.1)
