"""The index on disk: it opens whole or not at all, in memory and mapped, whatever its kind."""

from __future__ import annotations

from pathlib import Path

import google_crc32c
import msgspec
import numpy as np
import pytest

from tests.support.indexes import build
from vector_db.common.model.collection import IndexKind, IndexOptions, Metric
from vector_db.common.model.errors import NewerFormat, StorageCorrupt
from vector_db.common.model.rows import F32
from vector_db.shard.index.files import (
    FORMAT_VERSION,
    INDEX_FILE,
    META_FILE,
    index_size,
    remove_index,
    temporary_path,
)
from vector_db.shard.index.opening import SegmentIndex, open_index

ROWS, DIMENSION = 4096, 12
KINDS = (IndexKind.HNSW, IndexKind.IVF_PQ)


@pytest.fixture(scope="module")
def vectors() -> F32:
    return np.random.default_rng(1).normal(size=(ROWS, DIMENSION)).astype(np.float32)


@pytest.fixture(scope="module", params=KINDS)
def files(
    request: pytest.FixtureRequest, vectors: F32, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    directory = tmp_path_factory.mktemp("index")
    options = IndexOptions(request.param, m=8, ef_construction=20)
    assert build(vectors, Metric.COSINE, directory, options).kind is request.param
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture
def built(files: dict[str, bytes], tmp_path: Path) -> Path:
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def reopen(directory: Path, mapped: bool = False) -> SegmentIndex:
    return open_index(directory, Metric.COSINE, ROWS, DIMENSION, mapped)


def test_it_opens_in_memory_and_mapped_and_answers_the_same(built: Path, vectors: F32) -> None:
    held, mapped = reopen(built), reopen(built, mapped=True)
    queries = vectors[:5] / np.linalg.norm(vectors[:5], axis=1, keepdims=True)
    for effort in (1, 16):
        a, b = (index.search(queries, 10, None, 10 * effort) for index in (held, mapped))
        assert np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1])
    assert held.resident_bytes == held.meta.size_bytes == index_size(built)
    assert mapped.resident_bytes == 0
    assert held.meta == mapped.meta and held.rows == ROWS


def test_no_index_opens_where_none_was_finished(built: Path) -> None:
    (built / META_FILE).unlink()
    with pytest.raises(FileNotFoundError):
        reopen(built)


def test_a_description_without_its_file_opens_nothing(built: Path) -> None:
    (built / INDEX_FILE).unlink()
    with pytest.raises(FileNotFoundError):
        reopen(built)


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("place", [0, 1000, -1])
def test_one_flipped_bit_is_noticed(built: Path, place: int, mapped: bool) -> None:
    path = built / INDEX_FILE
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(StorageCorrupt, match=r"index\.faiss.*checksum"):
        reopen(built, mapped)


@pytest.mark.parametrize("mapped", [False, True])
def test_a_file_cut_short_is_noticed(built: Path, mapped: bool) -> None:
    path = built / INDEX_FILE
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(StorageCorrupt):
        reopen(built, mapped)


def change_description(directory: Path, **changed: object) -> None:
    """Write the description with other values, and the checksum that it then has."""
    path = directory / META_FILE
    meta = msgspec.json.decode(path.read_bytes().splitlines()[0])
    describe(directory, msgspec.json.encode(meta | changed))


def describe(directory: Path, text: bytes) -> None:
    crc = google_crc32c.value(text)
    (directory / META_FILE).write_bytes(b"%b\n%08x\n" % (text, crc))


@pytest.mark.parametrize("place", [0, 100, -1, -2, -10])
def test_a_flipped_bit_of_the_description_is_noticed(built: Path, place: int) -> None:
    path = built / META_FILE
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(StorageCorrupt, match=r"index\.json.*checksum"):
        reopen(built)


def test_a_newer_format_is_refused_by_number(built: Path) -> None:
    newer = FORMAT_VERSION + 1
    change_description(built, version=newer, unknown=1)
    with pytest.raises(NewerFormat, match=f"format {newer}"):
        reopen(built)


def test_an_older_format_is_built_anew(built: Path) -> None:
    change_description(built, version=FORMAT_VERSION - 1)
    with pytest.raises(StorageCorrupt, match=f"format {FORMAT_VERSION - 1}"):
        reopen(built)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"{}", b'{"version":"2"}', b'{"version":2}'])
def test_a_description_that_is_no_description_is_corrupt(built: Path, text: bytes) -> None:
    for write in ((built / META_FILE).write_bytes, lambda text: describe(built, text)):
        write(text)
        with pytest.raises(StorageCorrupt, match=r"index\.json"):
            reopen(built)


def test_the_index_of_another_segment_is_refused(built: Path) -> None:
    for metric, rows, dimension in (
        (Metric.DOT, ROWS, DIMENSION),
        (Metric.COSINE, ROWS + 1, DIMENSION),
        (Metric.COSINE, ROWS, DIMENSION - 1),
    ):
        with pytest.raises(StorageCorrupt, match="not the index of this segment"):
            open_index(built, metric, rows, dimension, mapped=False)


def test_a_description_of_another_kind_of_index_is_corrupt(built: Path) -> None:
    kind = reopen(built).kind
    change_description(built, kind=next(other for other in KINDS if other != kind))
    with pytest.raises(StorageCorrupt, match=r"index\.faiss"):
        reopen(built)


def test_building_again_replaces_and_removing_leaves_nothing(built: Path, vectors: F32) -> None:
    meta = reopen(built).meta
    build(vectors, Metric.COSINE, built, meta.options)
    assert sorted(p.name for p in built.iterdir()) == [INDEX_FILE, META_FILE]
    assert reopen(built).meta == meta, "the same rows make the same index"
    temporary_path(built).write_bytes(b"left by a build that died")
    remove_index(built)
    remove_index(built)
    assert list(built.iterdir()) == []
