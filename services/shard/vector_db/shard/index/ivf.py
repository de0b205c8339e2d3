"""The IVF-PQ index of a sealed segment: quick to build, small, and scanned rather than walked.

Rows are spread over lists by their nearest centroid; a search looks into the `nprobe` lists nearest
to the query and compares 4-bit codes there, 32 rows at a time (FAISS's fast scan). Owns two
promises. A mask is obeyed inside the scan, and a search that finds fewer than `k` live rows in its
lists looks into more of them, so `k` rows come back wherever so many live. And a build from the
same rows, with as many threads, writes the same file: every seed is fixed.

Scores are of codes, for ordering candidates alone: ask for `refine_width(k)` of them and score
those again from the raw rows.

What was measured, one thread with AVX-512, 65,536 rows made from sentence embeddings of 384 and 128
dimensions (the latter their principal components), recall@10 after scoring again:

- Codes are of the rows, not of what remains after the centroid: equal recall from 64 dimensions
  on, and a Euclidean scan takes a third of the time. Few dimensions need the remainder (`_FEW`),
  and the inner product gets it free.
- Cosine is searched as the Euclidean distance of unit rows: the same order, and up to 0.08 more
  recall at the same cost in few dimensions, since the code's own length then counts.
- 2 dimensions a code (1 below 65): with 4, the nearest 40 codes hold 0.05 to 0.2 fewer of the true.
- A random rotation is worth 0.02 where few dimensions carry most of the spread, else nothing; its
  product costs dimension² per query.
- FAISS 1.15 obeys a selector in the fast scan, mapped files (`IO_FLAG_MMAP_IFC`) included.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import faiss as _faiss
import numpy as np
from numpy.typing import NDArray

from vector_db.common.model.collection import IndexKind, IndexOptions, Metric
from vector_db.common.model.errors import StorageCorrupt
from vector_db.common.model.rows import F32
from vector_db.shard.index.calls import Parameters, packed_bits, search_index, selector_of
from vector_db.shard.index.forms import indexed_form

faiss: Any = _faiss

ROWS_MIN = 4096
"""Below, scanning all rows takes no longer than the lists with their candidates."""
LENGTH_MAX = 1e18
"""Of a row: the square of a distance must be a float32."""
DIMENSION_MIN = 3
"""With fewer, codes do not tell the rows of a list apart: recall@10 is 0.8 at two."""

_ROWS_PER_LIST = 256
"""65,536 rows: 256 and 512 lists lie on one curve of recall over time, 256 build in two thirds. A
million: 4096 lists hold 0.993 in the time in which 1024 hold 0.970."""
_LISTS_PER_ROOT = 4
"""No more lists than this times the root of the rows: the time to train grows with their square."""
_SAMPLE_PER_LIST = 39
_SAMPLE_PER_LIST_MIN = 8
_SAMPLE_BYTES_MAX = 256 << 20
_ITERATIONS = 8
"""Of k-means; 20 gain nothing, 4 lose 0.01 of recall."""
_CODE_ITERATIONS = 10

_FLAT_LISTS_MAX = 2048
"""Up to here comparing all centroids beats walking a graph of them, and misses none."""
_GRAPH_NEIGHBOURS = 16
_GRAPH_BEAM_MIN = 32
_GRAPH_BEAM_PER_PROBE = 2
"""A beam of `nprobe` alone loses 0.01 of recall, 4 times as much costs a fifth more for 0.001."""

_BITS = 4
_BLOCK = 32
"""Rows that the fast scan takes at a time."""
_WIDE = 64
"""Dimensions up to which each has a code of its own."""
_FEW = 16
"""Below so many dimensions a code is of what remains after the centroid."""
_ROTATED_MAX = 512
"""Dimensions up to which a rotation costs less than it saves."""
_SKEW_MIN = 1.2
"""Sentence embeddings have 1.03, their principal components 1.5."""

_SEED = 1
_BLOCK_ROWS = 8192


def worth_ivf(rows: int, dimension: int) -> bool:
    """Whether a segment of this shape can have the index at all."""
    return rows >= ROWS_MIN and dimension >= DIMENSION_MIN


def list_count(rows: int, dimension: int, options: IndexOptions) -> int:
    """How many lists a segment gets: those asked for, as far as there are rows to train them."""
    asked = options.lists or min(rows // _ROWS_PER_LIST, _LISTS_PER_ROOT * math.isqrt(rows))
    return max(1, min(asked, _sample_rows_max(rows, dimension) // _SAMPLE_PER_LIST_MIN))


def refine_width(k: int, metric: Metric) -> int:
    """How many candidates to score again for the best `k`.

    Holds 0.99 of what the lists looked into have (k = 1 to 1000). Unequal lengths are hard on
    codes: for inner products 0.98, with log-normal lengths of sigma 0.3.
    """
    width = 4 * k + 20
    return 2 * width if metric is Metric.DOT else width


def ivf_bytes_per_row(dimension: int, options: IndexOptions, rows: int = 65_536) -> float:
    """Memory and file bytes a row of a segment of `rows` rows.

    Without the rotation of skewed rows, 4 x dimension² bytes a segment.
    """
    wide, codes = _shape(dimension)
    lists = list_count(rows, dimension, options)
    code_bytes = (codes + 1) // 2
    padding = lists * (_BLOCK - 1) / 2 * code_bytes
    graph = _GRAPH_NEIGHBOURS * 2 * 4 + 16 if lists > _FLAT_LISTS_MAX else 0
    codebook = (1 << _BITS) * wide * 4
    return code_bytes + 8 + (padding + lists * (4 * wide + graph) + codebook) / rows


def build_ivf(
    vectors: F32,
    metric: Metric,
    options: IndexOptions,
    path: Path,
    threads: int,
    progress: Callable[[int], None],
) -> None:
    """Build over `vectors` float32[rows, dimension], as the client sent them, and write `path`.

    Neither synced nor renamed. Holds the index, a training sample of at most 256 MiB (twice that
    while it is rotated) and one block of rows. `progress` hears how many rows are in.

    :raises ValueError: too few rows or dimensions, see `worth_ivf`; a row above `LENGTH_MAX` under
        another metric than cosine.
    :raises RuntimeError: the file could not be written.
    """
    rows, dimension = vectors.shape
    if not worth_ivf(rows, dimension):
        raise ValueError(
            f"no lists over {rows} x {dimension}: at least {ROWS_MIN} rows and"
            f" {DIMENSION_MIN} dimensions"
        )
    faiss.omp_set_num_threads(threads)
    lists = list_count(rows, dimension, options)
    sample = _sample(vectors, metric, lists)
    rotation = _rotation(sample)
    if rotation is not None:
        sample = rotation.apply(sample)
    index = _trained(sample, metric, lists)
    whole = index if rotation is None else faiss.IndexPreTransform(rotation, index)
    for start in range(0, rows, _BLOCK_ROWS):
        block = vectors[start : start + _BLOCK_ROWS]
        whole.add(_checked_form(block, metric))
        progress(start + len(block))
    faiss.write_index(whole, str(path))


def open_ivf(path: Path, metric: Metric, rows: int, dimension: int, mapped: bool) -> IvfIndex:
    """The index of a segment, from its file; `mapped`: its codes stay in the page cache.

    :raises FileNotFoundError: there is no file.
    :raises StorageCorrupt: damaged, or not of this segment; it can be built again.
    """
    path.stat()
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC if mapped else 0)
    except RuntimeError as error:
        raise StorageCorrupt(f"{path}: offset 0: {' '.join(str(error).split())}") from None
    rotated = isinstance(index, faiss.IndexPreTransform)
    lists = faiss.downcast_index(index.index) if rotated else index
    if not isinstance(lists, faiss.IndexIVFPQFastScan):
        raise StorageCorrupt(f"{path}: offset 0: not an index of lists")
    if (index.ntotal, index.d, lists.metric_type) != (rows, dimension, _kind(metric)):
        raise StorageCorrupt(
            f"{path}: offset 0: {metric} over {index.ntotal} x {index.d}, want {rows} x {dimension}"
        )
    return IvfIndex(index, lists, metric)


class IvfIndex:
    """`Searcher` over an open file. Any number of threads may search at once."""

    kind = IndexKind.IVF_PQ

    def __init__(self, index: Any, lists: Any, metric: Metric) -> None:
        """`lists` is the part of `index` behind its rotation, or `index` itself."""
        self._index = index
        self._metric = metric
        self._rotated = isinstance(index, faiss.IndexPreTransform)
        self._graph = isinstance(faiss.downcast_index(lists.quantizer), faiss.IndexHNSW)
        self._parameters = Parameters()
        self.lists = int(lists.nlist)

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return int(self._index.ntotal)

    @property
    def dimension(self) -> int:
        return int(self._index.d)

    @property
    def efforts(self) -> tuple[int, ...]:
        """The numbers of lists to look into that are worth measuring, the last one all."""
        return (*(1 << power for power in range((self.lists - 1).bit_length())), self.lists)

    @property
    def entry_row(self) -> int:
        return -1

    def without(self, rows: NDArray[np.int64], vectors: F32) -> AbstractContextManager[None]:
        """Rows have no links in lists."""
        return nullcontext()

    def width(self, k: int) -> int:
        """How many candidates to score again for the best `k`."""
        return refine_width(k, self._metric)

    def cost_us(self, effort: int) -> float:
        """Centroids are compared, then codes scanned. Fitted on 65,536 x 128 and x 384."""
        scanned = self.rows * min(effort, self.lists) / self.lists
        compared = _GRAPH_BEAM_PER_PROBE * effort * 16 if self._graph else self.lists
        return 25 + compared * self.dimension * 1.3e-4 + scanned * self.dimension * 1.2e-5

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
        bits where they are known; `effort` is how many lists each query looks into at least
        (`nprobe`). A query that codes cannot tell rows apart for finds none: zeros under the inner
        product, or so long that distances overflow.
        """
        if live is not None and packed is None:
            packed = packed_bits(live)
        effort = min(max(effort, 1), self.lists)
        scores, rows = self._scan(queries, k, packed, effort)
        there = None
        while effort < self.lists and (rows[:, -1] < 0).any():
            if there is None:
                there = min(k, self.rows if live is None else int(np.count_nonzero(live)))
            short = np.flatnonzero(np.count_nonzero(rows >= 0, axis=1) < there)
            if not len(short):
                break
            effort = min(4 * effort, self.lists)
            scores[short], rows[short] = self._scan(queries[short], k, packed, effort)
        return scores, rows

    def _scan(
        self, queries: F32, k: int, bits: NDArray[np.uint8] | None, effort: int
    ) -> tuple[F32, NDArray[np.int64]]:
        if bits is None:
            parameters = self._parameters.of(effort, self._looking_into)
        else:
            parameters = self._looking_into(effort, selector_of(bits))
        scores, rows = search_index(self._index, queries, k, parameters)
        if self._metric is Metric.COSINE:
            scores *= -0.5  # of unit rows: the square of their distance is 2 - 2 cosine
            scores += 1
        elif self._metric is Metric.EUCLIDEAN:
            np.negative(scores, out=scores)
        return scores, rows

    def _looking_into(self, nprobe: int, selector: Any = None) -> Any:
        parameters = faiss.SearchParametersIVF(nprobe=nprobe, sel=selector)
        if self._graph:
            beam = max(_GRAPH_BEAM_MIN, _GRAPH_BEAM_PER_PROBE * nprobe)
            parameters.quantizer_params = faiss.SearchParametersHNSW(efSearch=beam)
        return (
            faiss.SearchParametersPreTransform(index_params=parameters)
            if self._rotated
            else parameters
        )


def _kind(metric: Metric) -> int:
    return int(faiss.METRIC_INNER_PRODUCT if metric is Metric.DOT else faiss.METRIC_L2)


def _shape(dimension: int) -> tuple[int, int]:
    """Dimensions that are coded, one more where two share a code and one is left; and codes."""
    if dimension <= _WIDE:
        return dimension, dimension
    return dimension + dimension % 2, (dimension + 1) // 2


def _sample_rows_max(rows: int, dimension: int) -> int:
    return min(rows, _SAMPLE_BYTES_MAX // (4 * dimension))


def _sample(vectors: F32, metric: Metric, lists: int) -> F32:
    """Rows to train with, drawn from everywhere: neighbours in a file are often alike."""
    rows, dimension = vectors.shape
    count = min(_sample_rows_max(rows, dimension), max(ROWS_MIN, _SAMPLE_PER_LIST * lists))
    picked = np.random.default_rng(_SEED).choice(rows, count, replace=False, shuffle=True)
    sample = np.empty((count, dimension), dtype=np.float32)
    for start in range(0, count, _BLOCK_ROWS):
        some = picked[start : start + _BLOCK_ROWS]
        sample[start : start + len(some)] = _checked_form(vectors[np.sort(some)], metric)
    return sample


def _checked_form(block: F32, metric: Metric) -> F32:
    """FAISS ends the process where a distance overflows, or leaves the row out."""
    form = indexed_form(block, metric)
    if max(float(form.max()), -float(form.min())) > LENGTH_MAX / math.sqrt(form.shape[1]):
        raise ValueError(f"a row is longer than {LENGTH_MAX:g}: its distances overflow")
    return form


def _rotation(sample: F32) -> Any:
    """A random rotation for rows whose spread is uneven, or of a dimension that does not divide."""
    dimension = sample.shape[1]
    wide, _ = _shape(dimension)
    if wide == dimension and (dimension > _ROTATED_MAX or _skew(sample) < _SKEW_MIN):
        return None
    rotation = faiss.RandomRotationMatrix(dimension, wide)
    rotation.init(_SEED)
    return rotation


def _skew(sample: F32) -> float:
    """How unevenly a product's error falls on the dimensions, 1 where all have the same variance.

    The error of one dimension grows with its variance, and so does the weight that the query gives
    it: the mean of the squared variances over the square of their mean.
    """
    variance = sample.var(axis=0, dtype=np.float64)
    mean = float(variance.mean())
    return float(np.square(variance).mean()) / mean**2 if mean else 1.0


def _trained(sample: F32, metric: Metric, lists: int) -> Any:
    """An empty index whose centroids and codes are learned from `sample`."""
    dimension = sample.shape[1]
    kind = _kind(metric)
    if lists > _FLAT_LISTS_MAX:
        coarse = faiss.IndexHNSWFlat(dimension, _GRAPH_NEIGHBOURS, kind)
    else:
        coarse = faiss.IndexFlat(dimension, kind)
    coarse.add(_centroids(sample, metric, lists))
    _, codes = _shape(dimension)
    index = faiss.IndexIVFPQFastScan(coarse, dimension, lists, codes, _BITS, kind, _BLOCK)
    index.by_residual = metric is Metric.DOT or dimension < _FEW
    index.pq.cp.seed = _SEED
    index.pq.cp.niter = _CODE_ITERATIONS
    index.train(sample)
    return index


def _centroids(sample: F32, metric: Metric, lists: int) -> F32:
    """float32[lists, dimension] by k-means; for inner products directions of the mean length, so
    that the longest rows do not draw all others into their list."""
    dimension = sample.shape[1]
    clustering = faiss.Clustering(dimension, lists)
    clustering.niter = _ITERATIONS
    clustering.seed = _SEED
    clustering.spherical = metric is Metric.DOT
    clustering.min_points_per_centroid = 1
    clustering.max_points_per_centroid = len(sample)
    clustering.train(sample, faiss.IndexFlat(dimension, _kind(metric)))
    centroids: F32 = faiss.vector_to_array(clustering.centroids).reshape(lists, dimension)
    if metric is Metric.DOT:
        centroids *= np.linalg.norm(sample, axis=1).mean()
    return centroids
