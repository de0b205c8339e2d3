"""The HNSW index of a sealed segment: built once over all its rows, opened mapped, searched.

Owns the index files: `index.faiss`, and `index.json` written after it, which says how it was made
and its checksum. Without a matching `index.json` there is no index, so a build that died midway
leaves nothing that opens.

The graph stores half-precision copies of the vectors where that keeps their neighbours (it is
checked when building), else float32: half the memory and a fifth less time at equal recall. Scores
of hits are for ordering candidates only; the executor scores them again from the raw vectors.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import faiss as _faiss
import google_crc32c
import msgspec
import numpy as np
from numpy.typing import NDArray

from vector_db.common.model.collection import Metric
from vector_db.common.model.errors import NewerFormat, StorageCorrupt
from vector_db.common.model.rows import F32
from vector_db.shard.index.forms import indexed_form as _indexed_form

faiss: Any = _faiss
INDEX_FILE = "index.faiss"
META_FILE = "index.json"
FORMAT_VERSION = 1

NEIGHBOURS = 16
"""M: links per node and level (twice that at the bottom)."""

EF_CONSTRUCTION = 128
"""Measured on 30,000 x 384 at ef 40: recall@10 0.976; 100 saves a fifth of the build for 0.001 of
recall, 200 costs half as much again for 0.003 more."""

_HALF_RECALL_MIN = 0.99
_SAMPLE_QUERIES = 64
_BLOCK_ROWS = 8192
_READ_BYTES = 1 << 20


class IndexMeta(msgspec.Struct, frozen=True):
    """What `index.json` says. `crc32c` is of the whole of `index.faiss`."""

    version: int
    metric: Metric
    rows: int
    dimension: int
    half: bool
    size_bytes: int
    crc32c: int


def use_one_faiss_thread() -> None:
    """FAISS shall not start threads of its own on behalf of the calling thread.

    The setting belongs to a thread: call it in each one that searches (the pool's `initializer`).
    """
    faiss.omp_set_num_threads(1)


def build_hnsw(vectors: F32, metric: Metric, directory: Path, threads: int = 1) -> IndexMeta:
    """Build over `vectors` float32[rows, dimension], as the client sent them, and write the files.

    :raises OSError: the files could not be written; nothing opens then.
    """
    rows, dimension = vectors.shape
    (directory / META_FILE).unlink(missing_ok=True)
    faiss.omp_set_num_threads(threads)
    half = keeps_neighbours_in_half(vectors, metric)
    kind = faiss.METRIC_L2 if metric is Metric.EUCLIDEAN else faiss.METRIC_INNER_PRODUCT
    if half:
        index = faiss.IndexHNSWSQ(dimension, faiss.ScalarQuantizer.QT_fp16, NEIGHBOURS, kind)
        index.is_trained = True  # half precision learns nothing from the data
    else:
        index = faiss.IndexHNSWFlat(dimension, NEIGHBOURS, kind)
    index.hnsw.efConstruction = EF_CONSTRUCTION
    for start in range(0, rows, _BLOCK_ROWS):
        index.add(_indexed_form(vectors[start : start + _BLOCK_ROWS], metric))
    temporary = directory / f".{INDEX_FILE}.tmp"
    faiss.write_index(index, str(temporary))
    _sync(temporary)
    meta = IndexMeta(
        version=FORMAT_VERSION,
        metric=metric,
        rows=rows,
        dimension=dimension,
        half=half,
        size_bytes=temporary.stat().st_size,
        crc32c=_checksum(temporary),
    )
    temporary.replace(directory / INDEX_FILE)
    temporary_meta = directory / f".{META_FILE}.tmp"
    temporary_meta.write_bytes(msgspec.json.encode(meta))
    _sync(temporary_meta)
    _sync(directory)
    temporary_meta.replace(directory / META_FILE)
    _sync(directory)
    return meta


def remove_index(directory: Path) -> None:
    """Remove an index and whatever a build left behind; none is no error."""
    for name in (META_FILE, INDEX_FILE, f".{META_FILE}.tmp", f".{INDEX_FILE}.tmp"):
        with contextlib.suppress(FileNotFoundError):
            (directory / name).unlink()


class HnswIndex:
    """`VectorIndex` over a mapped file. Any number of threads may search at once."""

    def __init__(self, index: Any, meta: IndexMeta) -> None:
        self._index = index
        self._parameters: dict[int, Any] = {}
        self.meta = meta

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return self.meta.rows

    @classmethod
    def open(cls, directory: Path, metric: Metric, rows: int, dimension: int) -> HnswIndex:
        """Map the index of a segment.

        :raises FileNotFoundError: there is no finished index.
        :raises NewerFormat: written by a newer program.
        :raises StorageCorrupt: damaged, or not of this segment; it can be built again.
        """
        meta = _read_meta(directory / META_FILE)
        if (meta.metric, meta.rows, meta.dimension) != (metric, rows, dimension):
            raise StorageCorrupt(
                f"{directory / META_FILE}: offset 0: not the index of this segment"
            )
        path = directory / INDEX_FILE
        if path.stat().st_size != meta.size_bytes or _checksum(path) != meta.crc32c:
            raise StorageCorrupt(f"{path}: offset 0: checksum or size differ from {META_FILE}")
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        if index.ntotal != rows or index.d != dimension:
            raise StorageCorrupt(
                f"{path}: offset 0: {index.ntotal} x {index.d}, want {rows} x {dimension}"
            )
        return cls(index, meta)

    def search(
        self, queries: F32, k: int, live: NDArray[np.bool_] | None, ef: int
    ) -> tuple[F32, NDArray[np.int64]]:
        """Scores [nq, k] (higher is better) and rows [nq, k], -1 where there are fewer.

        `queries` float32[nq, dimension], contiguous, normalised where the metric is cosine; `live`
        is bool of the first rows (later ones are not live), or None for all.
        """
        nq = len(queries)
        scores = np.empty((nq, k), dtype=np.float32)
        rows = np.empty((nq, k), dtype=np.int64)
        if live is None:
            parameters = self._unmasked(ef)
        else:
            bits = np.packbits(live, bitorder="little")
            selector = faiss.IDSelectorBitmap(len(bits), faiss.swig_ptr(bits))
            parameters = faiss.SearchParametersHNSW()
            parameters.efSearch = ef
            parameters.sel = selector  # only looked at while bounded_queue is on, the default
        self._index.search_c(
            nq,
            faiss.swig_ptr(queries),
            k,
            faiss.swig_ptr(scores),
            faiss.swig_ptr(rows),
            parameters,
        )
        if self.meta.metric is Metric.EUCLIDEAN:
            np.negative(scores, out=scores)
        return scores, rows

    def _unmasked(self, ef: int) -> Any:
        """Parameters are read only while searching, so threads share them."""
        parameters = self._parameters.get(ef)
        if parameters is None:
            parameters = faiss.SearchParametersHNSW()
            parameters.efSearch = ef
            if len(self._parameters) >= 64:  # few beams recur: one per k
                self._parameters = {}
            self._parameters[ef] = parameters
        return parameters


def keeps_neighbours_in_half(vectors: F32, metric: Metric) -> bool:
    """Whether rounding to half precision leaves the nearest ten of sampled rows as they are.

    Compares by score, so that duplicates do not count as changes.
    """
    rows = len(vectors)
    sample = _indexed_form(vectors[:: max(1, rows // _SAMPLE_QUERIES)][:_SAMPLE_QUERIES], metric)
    exact, rounded = [], []
    for start in range(0, rows, _BLOCK_ROWS):
        block = _indexed_form(vectors[start : start + _BLOCK_ROWS], metric)
        with np.errstate(over="ignore"):
            halved = block.astype(np.float16).astype(np.float32)
        if not np.isfinite(halved).all():
            return False
        exact.append(_similarities(sample, block, metric))
        rounded.append(_similarities(sample, halved, metric))
    true = np.concatenate(exact, axis=1)
    k = min(10, rows)
    picked = np.argpartition(-np.concatenate(rounded, axis=1), k - 1, axis=1)[:, :k]
    bar = np.partition(true, rows - k, axis=1)[:, rows - k, None]
    kept = np.take_along_axis(true, picked, axis=1) >= bar - 1e-12 * np.abs(bar)
    return bool(kept.mean() >= _HALF_RECALL_MIN)


def _similarities(queries: F32, block: F32, metric: Metric) -> NDArray[np.float64]:
    a, b = queries.astype(np.float64), block.astype(np.float64)
    products: NDArray[np.float64] = a @ b.T
    if metric is Metric.EUCLIDEAN:
        products -= 0.5 * np.vecdot(b, b)
    return products


def _read_meta(path: Path) -> IndexMeta:
    data = path.read_bytes()
    try:
        version = msgspec.json.decode(data)["version"]
        if version > FORMAT_VERSION:
            raise NewerFormat(
                f"{path}: offset 0: format {version}, this program knows up to {FORMAT_VERSION}"
            )
        if version < 1:
            raise StorageCorrupt(f"{path}: offset 0: format {version}")
        return msgspec.json.decode(data, type=IndexMeta)
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise StorageCorrupt(f"{path}: offset 0: {error}") from None


def _checksum(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(_READ_BYTES):
            crc = google_crc32c.extend(crc, chunk)
    return crc


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
