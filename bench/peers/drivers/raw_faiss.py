"""Raw FAISS HNSW: no database at all, the floor of the comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss as _faiss
import numpy as np

from bench.peers.drivers.harness import F32, FIELDS, K, OneWriter, Searcher, serve

faiss: Any = _faiss


class RawFaiss(OneWriter):
    """An `IndexHNSWFlat` in memory, written to a file once."""

    def open(self, directory: Path, dimension: int) -> None:
        self._directory = directory
        self._blocks: list[F32] = []
        self._index = faiss.IndexHNSWFlat(dimension, 16, faiss.METRIC_INNER_PRODUCT)
        self._index.hnsw.efConstruction = 128

    def insert(self, first: int, vectors: F32) -> None:
        self._blocks.append(vectors)

    def build(self) -> None:
        for block in self._blocks:
            self._index.add(block)
        self._blocks = []
        faiss.write_index(self._index, str(self._directory / "index.faiss"))
        percent = np.arange(self._index.ntotal) % FIELDS["percent"]
        self._bits = np.packbits(percent == 0, bitorder="little")

    def searcher(self) -> Searcher:
        selector = faiss.IDSelectorBitmap(len(self._bits), faiss.swig_ptr(self._bits))

        def search(query: F32, effort: int, filtered: bool) -> list[int]:
            faiss.omp_set_num_threads(1)
            parameters = faiss.SearchParametersHNSW()
            parameters.efSearch = effort
            if filtered:
                parameters.sel = selector
            _, rows = self._index.search(query[None], K, params=parameters)
            return [row for row in rows[0].tolist() if row >= 0]

        return search

    def close(self) -> None:
        self._index = None


if __name__ == "__main__":
    serve(RawFaiss())
