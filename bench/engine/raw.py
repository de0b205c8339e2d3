"""Raw FAISS on the same rows: the floor that every figure of the engine stands beside.

`IndexHNSWFlat` with the product's parameters, built once by a process with all cores and kept under
`bench/out`. Run as ``python -m bench.engine.raw ROWS_FILE ROWS DIMENSION INDEX_FILE``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss as _faiss
import numpy as np
from numpy.typing import NDArray

from bench.common import F32, OUT, ROOT, BenchError
from bench.generate import RowSet, recall

faiss: Any = _faiss
NEIGHBOURS = 16
EF_CONSTRUCTION = 128
K = 10
EFS = (10, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512, 768)
"""Beams in the order in which they are tried."""

_BLOCK_ROWS = 65_536

Search = Callable[[F32, int], NDArray[np.int64]]
"""(queries float32[nq, d], ef) → rows int64[nq, K]."""


class Raw:
    """The index, for any number of threads (each searches on its own thread alone)."""

    def __init__(self, index: Any, build_s: float) -> None:
        self._index = index
        self._parameters: dict[int, Any] = {}
        self.build_s = build_s
        """Seconds of the build with all cores; of an earlier run where it was kept."""

    def search(self, queries: F32, ef: int) -> NDArray[np.int64]:
        """The rows found, int64[nq, K]."""
        parameters = self._parameters.get(ef)
        if parameters is None:
            parameters = self._parameters[ef] = faiss.SearchParametersHNSW()
            parameters.efSearch = ef
        _, rows = self._index.search(queries, K, params=parameters)
        found: NDArray[np.int64] = rows
        return found


def build(rowset: RowSet) -> Raw:
    """The index of the set, from `bench/out` where an earlier run left it.

    :raises BenchError: the build failed.
    """
    path = OUT / "sets" / f"{rowset.key}-m{NEIGHBOURS}-ef{EF_CONSTRUCTION}.faiss"
    took = path.with_suffix(".seconds")
    if not took.exists():
        rows, dimension = rowset.rows.shape
        arguments = [str(rowset.path), str(rows), str(dimension), str(path)]
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "bench.engine.raw", *arguments], cwd=ROOT, check=False
        )
        if done.returncode != 0:
            raise BenchError(f"raw FAISS was not built: exit {done.returncode}")
        took.write_text(f"{time.perf_counter() - started:.3f}")
    faiss.omp_set_num_threads(1)
    return Raw(faiss.read_index(str(path)), float(took.read_text()))


def least_ef(search: Search, queries: F32, truth: NDArray[np.int64], target: float) -> int:
    """The least beam of `EFS` whose measured recall reaches `target`, else the widest."""
    for ef in EFS:
        if recall(search(queries, ef), truth) >= target:
            return ef
    return EFS[-1]


def main(arguments: list[str]) -> None:
    """The build process."""
    vectors, rows, dimension, path = arguments
    mapped = np.memmap(vectors, dtype="<f4", mode="r", shape=(int(rows), int(dimension)))
    faiss.omp_set_num_threads(len(os.sched_getaffinity(0)))
    index = faiss.IndexHNSWFlat(int(dimension), NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = EF_CONSTRUCTION
    for start in range(0, len(mapped), _BLOCK_ROWS):
        index.add(np.ascontiguousarray(mapped[start : start + _BLOCK_ROWS]))
        print(f"  raw FAISS: {index.ntotal:,} of {len(mapped):,} rows", flush=True)
    temporary = Path(f"{path}.part")
    faiss.write_index(index, str(temporary))
    temporary.replace(path)


if __name__ == "__main__":
    main(sys.argv[1:])
