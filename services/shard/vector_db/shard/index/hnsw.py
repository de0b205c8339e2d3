"""The HNSW index of a sealed segment: built or extended over all its rows, and searched.

The graph stores half-precision copies of the vectors where that keeps their neighbours (it is
checked when building), else float32; or one byte a component where memory is short. Scores of hits
are for ordering candidates only; the executor scores them again from the raw vectors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import faiss as _faiss
import numpy as np
from numpy.typing import NDArray

from vector_db.common.model.collection import Encoding, IndexKind, IndexOptions, Metric
from vector_db.common.model.rows import F32
from vector_db.shard.index.calls import Parameters, array_of, packed_bits, search_index, selector_of
from vector_db.shard.index.forms import closeness, indexed_form
from vector_db.shard.index.links import rows_forgotten
from vector_db.shard.index.pages import use_huge_pages
from vector_db.shard.index.walk import walker_of

faiss: Any = _faiss
Progress = Callable[[int], None]

EFFORTS = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096)
"""Beams at which a graph is calibrated."""

_HALF_RECALL_MIN = 0.99
_SAMPLE_QUERIES = 64
_TRAIN_ROWS_MAX = 65_536
_BLOCK_ROWS = 8192
_ADD_ROWS = 1024
"""Rows added at a time, a fifth of a second: so soon a build does what it is told."""
_SPARE = 2
"""Hits asked beyond k: scores of copies are rounded, so the k-th may stand a little lower."""


def build_hnsw(
    vectors: F32, metric: Metric, options: IndexOptions, path: Path, progress: Progress
) -> Encoding:
    """Build over `vectors` float32[rows, dimension], as the client sent them; write it to `path`.

    FAISS uses as many threads as the caller allows. Returns the encoding of the copies.
    """
    dimension = vectors.shape[1]
    encoding = options.encoding
    if encoding is Encoding.AUTO:
        half = keeps_neighbours_in_half(vectors, metric)
        encoding = Encoding.FLOAT16 if half else Encoding.FLOAT32
    kind = faiss.METRIC_L2 if metric is Metric.EUCLIDEAN else faiss.METRIC_INNER_PRODUCT
    if encoding is Encoding.FLOAT32:
        index = faiss.IndexHNSWFlat(dimension, options.m, kind)
    else:
        code = faiss.ScalarQuantizer.QT_fp16
        if encoding is Encoding.SQ8:
            code = faiss.ScalarQuantizer.QT_8bit
        index = faiss.IndexHNSWSQ(dimension, code, options.m, kind)
        step = max(1, len(vectors) // _TRAIN_ROWS_MAX)
        index.train(indexed_form(vectors[::step], metric))
    index.hnsw.efConstruction = options.ef_construction
    _add(index, vectors, metric, path, progress)
    return encoding


def extend_hnsw(base: Path, vectors: F32, metric: Metric, path: Path, progress: Progress) -> None:
    """Add to the graph of `base`, which has the first of `vectors`, the rows that it lacks."""
    index = faiss.read_index(str(base))
    _add(index, vectors, metric, path, progress)


def _add(index: Any, vectors: F32, metric: Metric, path: Path, progress: Progress) -> None:
    progress(index.ntotal)
    for start in range(index.ntotal, len(vectors), _ADD_ROWS):
        index.add(indexed_form(vectors[start : start + _ADD_ROWS], metric))
        progress(index.ntotal)
    faiss.write_index(index, str(path))


class HnswIndex:
    """A graph, in memory or on a mapped file. Any number of threads may search at once."""

    kind = IndexKind.HNSW
    efforts = EFFORTS

    def __init__(self, index: Any, metric: Metric, encoding: Encoding) -> None:
        self._index = index
        self._metric = metric
        self._encoding = encoding
        self._parameters = Parameters()
        self._walker = walker_of(index, encoding)

    @classmethod
    def open(cls, path: Path, metric: Metric, encoding: Encoding, mapped: bool) -> HnswIndex:
        """:raises RuntimeError: not a graph of FAISS."""
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC if mapped else 0)
        if not isinstance(index, faiss.IndexHNSW):
            raise RuntimeError("not a graph")
        if mapped:
            return cls(index, metric, encoding)
        graph = index.hnsw
        for vector in (faiss.downcast_index(index.storage).codes, graph.neighbors, graph.offsets):
            array = array_of(vector)
            use_huge_pages(array.ctypes.data, array.nbytes)
        return cls(index, metric, encoding)

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return int(self._index.ntotal)

    @property
    def dimension(self) -> int:
        return int(self._index.d)

    @property
    def entry_row(self) -> int:
        return int(self._index.hnsw.entry_point)

    def without(self, rows: NDArray[np.int64], vectors: F32) -> AbstractContextManager[None]:
        """The graph knows nothing of `rows` while it is entered."""

        def distances(some: NDArray[np.int64]) -> F32:
            found = indexed_form(vectors[some], self._metric)
            return -closeness(found, found, self._metric)

        return rows_forgotten(self._index.hnsw, rows, self.rows, distances)

    def width(self, k: int) -> int:
        """How many hits to ask for, so that the best `k` are among them once scored exactly."""
        return k + max(8, k // 2) if self._encoding is Encoding.SQ8 else k + _SPARE

    def cost_us(self, effort: int) -> float:
        """Each step of the beam scores about a dozen neighbours; in a large graph they are far
        apart in memory. Fitted on compiled walks of 40,000 x 384, and of 100,000 and 1,000,000 x
        128."""
        far = 1 + 0.2 * math.log2(max(1.0, self.rows / 30_000))
        return 10 + effort * (0.1 + self.dimension * 0.0037) * far

    def search(
        self,
        queries: F32,
        k: int,
        live: NDArray[np.bool_] | None,
        effort: int,
        packed: NDArray[np.uint8] | None = None,
    ) -> tuple[F32, NDArray[np.int64]]:
        """Scores [nq, k] (higher is better) and rows [nq, k], -1 where there are fewer.

        `queries` float32[nq, dimension], contiguous, normalised where the metric is cosine; `live`
        is bool of the first rows (later ones are not live), or None for all, `packed` the same as
        bits where they are known; `effort` the beam.
        """
        bits = packed
        if bits is None and live is not None:
            bits = packed_bits(live)
        walker = self._walker
        if walker is not None and k <= effort <= walker.beam_max:
            return walker.search(queries, k, effort, bits)
        if bits is None:
            parameters = self._parameters.of(effort, _beam)
        else:
            parameters = _beam(effort)
            # Only looked at while bounded_queue is on, the default.
            parameters.sel = selector_of(bits)
        scores, rows = search_index(self._index, queries, k, parameters)
        if self._metric is Metric.EUCLIDEAN:
            np.negative(scores, out=scores)
        return scores, rows


def _beam(ef: int) -> Any:
    parameters = faiss.SearchParametersHNSW()
    parameters.efSearch = ef
    return parameters


def keeps_neighbours_in_half(vectors: F32, metric: Metric) -> bool:
    """Whether rounding to half precision leaves the nearest ten of sampled rows as they are.

    Compares by score, so that duplicates do not count as changes.
    """
    rows = len(vectors)
    sample = indexed_form(vectors[:: max(1, rows // _SAMPLE_QUERIES)][:_SAMPLE_QUERIES], metric)
    exact, rounded = [], []
    for start in range(0, rows, _BLOCK_ROWS):
        block = indexed_form(vectors[start : start + _BLOCK_ROWS], metric)
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
