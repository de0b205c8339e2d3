"""Opens the index of a segment, whatever its kind: held in memory, or on its mapped file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss as _faiss

from vector_db.common.model.collection import Encoding, IndexKind, Metric
from vector_db.common.model.errors import StorageCorrupt
from vector_db.shard.index.files import IndexMeta, check_file, read_meta
from vector_db.shard.index.hnsw import HnswIndex
from vector_db.shard.index.ivf import open_ivf
from vector_db.shard.views import Searcher

faiss: Any = _faiss
_MEMO_MAX = 256


class SegmentIndex:
    """`VectorIndex` of one segment: its searcher, and the efforts that were measured for it.

    `mapped`: served from the file's pages, which the kernel may take back; else held in memory.
    """

    def __init__(self, searcher: Searcher, meta: IndexMeta, mapped: bool) -> None:
        self._searcher = searcher
        self._efforts: dict[tuple[float, float], int] = {}
        self.meta = meta
        self.mapped = mapped
        self.kind = meta.kind
        self.rows = meta.rows
        self.search = searcher.search
        self.width = searcher.width
        self.cost_us = searcher.cost_us

    @property
    def resident_bytes(self) -> int:
        """Bytes held in memory for good."""
        return 0 if self.mapped else self.meta.size_bytes

    def effort(self, k: float, recall: float) -> int:
        """The least effort that holds `recall` for the best `k`."""
        effort = self._efforts.get((k, recall))
        if effort is None:
            found = self.meta.calibration.effort(k, recall)
            effort = found or self._searcher.efforts[-1]
            if len(self._efforts) >= _MEMO_MAX:
                self._efforts = {}
            self._efforts[k, recall] = effort
        return effort


def open_index(
    directory: Path, metric: Metric, rows: int, dimension: int, mapped: bool
) -> SegmentIndex:
    """Verify and open the index of a segment.

    :raises FileNotFoundError: there is no finished index.
    :raises NewerFormat: written by a newer program.
    :raises StorageCorrupt: damaged, or not of this segment; it can be built again.
    """
    meta = read_meta(directory, metric, rows, dimension)
    path = check_file(directory, meta)
    try:
        shape = (rows, dimension)
        searcher = open_searcher(path, meta.kind, metric, meta.encoding, shape, mapped)
    except RuntimeError as error:
        raise StorageCorrupt(f"{path}: offset 0: {error}") from None
    if (searcher.rows, searcher.dimension) != (rows, dimension):
        raise StorageCorrupt(
            f"{path}: offset 0: {searcher.rows} x {searcher.dimension}, want {rows} x {dimension}"
        )
    return SegmentIndex(searcher, meta, mapped)


def open_searcher(
    path: Path,
    kind: IndexKind,
    metric: Metric,
    encoding: Encoding,
    shape: tuple[int, int],
    mapped: bool,
) -> Searcher:
    """The index of one file, over rows x dimension.

    :raises RuntimeError: FAISS cannot read it.
    :raises StorageCorrupt: it is of another kind, metric or shape.
    """
    if kind is IndexKind.IVF_PQ:
        return open_ivf(path, metric, *shape, mapped=mapped)
    return HnswIndex.open(path, metric, encoding, mapped)


def use_one_faiss_thread() -> None:
    """FAISS shall not start threads of its own on behalf of the calling thread.

    The setting belongs to a thread: call it in each one that searches (the pool's `initializer`).
    """
    faiss.omp_set_num_threads(1)
