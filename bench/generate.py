"""Sets of any size that keep the spectrum of real embeddings, and queries drawn the same way.

A row is a random real row in its first principal components plus Gaussian noise of half each
component's standard deviation, at length 1: it has neighbours to find, as i.i.d. Gaussians have
not. Owns two invariants: the same numbers give the same set, and what is drawn never grows with the
set (a block of rows at a time).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss as _faiss
import numpy as np
from numpy.typing import NDArray

from bench import dataset
from bench.common import F32, OUT, BenchError

faiss: Any = _faiss
BLOCK_ROWS = 16_384
COMPONENT_NOISE = 0.5
"""Of each principal component's standard deviation."""

SELECTIVITIES = {"half": 2, "tenth": 10, "percent": 100, "mille": 1_000}
"""Metadata field → m: `{field: 0}` matches exactly every m-th row."""

ROWS_STEP = 1_000
"""Sets have a multiple of so many rows, so that the shares above are exact."""

_ROWS, _QUERIES = 0, 1


class Spectrum:
    """Draws vectors like the real ones, by block number: any block, at any time, in any order."""

    def __init__(self, real: F32, dimension: int, seed: int) -> None:
        """`real` float32[n, d]; `dimension` at most d, or 2 d: two independent draws side by side.

        :raises BenchError: another dimension.
        """
        n, width = real.shape
        if dimension > width and dimension != 2 * width:
            raise BenchError(f"dimension {dimension}: at most {width}, or {2 * width}")
        self.dimension = dimension
        self._parts = 1 if dimension <= width else 2
        self._seed = seed
        kept = dimension // self._parts
        centred = (real - real.mean(axis=0)).astype(np.float64)
        variances, components = np.linalg.eigh(centred.T @ centred / n)
        variances, components = variances[::-1][:kept], components[:, ::-1][:, :kept]
        self._real = np.ascontiguousarray(real @ components.astype(np.float32))
        deviations = np.sqrt(np.maximum(variances, 0.0))
        self._noise = (COMPONENT_NOISE * deviations).astype(np.float32)

    def rows(self, block: int) -> F32:
        """Block `block` of the set, float32[BLOCK_ROWS, dimension] of length 1."""
        return self._draw(_ROWS, block, BLOCK_ROWS)

    def queries(self, block: int, count: int) -> F32:
        """float32[count, dimension] of length 1, none of them a row or a query of another block."""
        return self._draw(_QUERIES, block, count)

    def _draw(self, stream: int, block: int, count: int) -> F32:
        rng = np.random.default_rng((self._seed, stream, block))
        parts = [self._part(rng, count) for _ in range(self._parts)]
        return dataset.unit(np.concatenate(parts, axis=1))

    def _part(self, rng: np.random.Generator, count: int) -> F32:
        picked = rng.integers(0, len(self._real), count)
        noise = rng.standard_normal((count, self._real.shape[1]), dtype=np.float32)
        return dataset.unit(self._real[picked] + noise * self._noise)


class QueryStream:
    """Queries one after another: no query comes twice."""

    def __init__(self, spectrum: Spectrum) -> None:
        self._spectrum = spectrum
        self._taken = 0

    def take(self, count: int) -> F32:
        """float32[count, dimension] of length 1."""
        self._taken += 1
        return self._spectrum.queries(self._taken, count)


@dataclass(frozen=True, slots=True)
class RowSet:
    """`rows` float32[n, d], mapped from `path` (raw little-endian); `key` names the set."""

    rows: F32
    path: Path
    key: str
    source: str
    spectrum: Spectrum

    @property
    def dimension(self) -> int:
        """Components of a row."""
        return self.spectrum.dimension


def prepare(rows: int, dimension: int, seed: int, folder: Path | None = None) -> RowSet:
    """The set as a file under `bench/out/sets`, written once.

    :param folder: real rows from elsewhere, see `dataset.load`.
    :raises BenchError: `rows` is no multiple of `ROWS_STEP`, or see `Spectrum`.
    """
    if rows < ROWS_STEP or rows % ROWS_STEP:
        raise BenchError(f"{rows} rows: give a multiple of {ROWS_STEP:,}")
    real = dataset.load(folder)
    spectrum = Spectrum(real.rows, dimension, seed)
    name = "".join(c if c.isalnum() else "-" for c in real.source)
    key = f"{name}-{rows}x{dimension}-{seed}"
    path = OUT / "sets" / f"{key}.f32"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".part")
        with temporary.open("wb") as file:
            for block in blocks(spectrum, rows):
                file.write(block.astype("<f4").data)
        temporary.replace(path)
    mapped = np.memmap(path, dtype="<f4", mode="r", shape=(rows, dimension))
    return RowSet(mapped, path, key, real.source, spectrum)


def blocks(spectrum: Spectrum, rows: int) -> Iterator[F32]:
    """The set's rows in order, at most `BLOCK_ROWS` at a time."""
    for block, start in enumerate(range(0, rows, BLOCK_ROWS)):
        yield spectrum.rows(block)[: rows - start]


def metadata(first: int, count: int) -> list[str]:
    """JSON text of the rows `first` and on: each field's remainder."""
    return [
        json.dumps({field: row % step for field, step in SELECTIVITIES.items()})
        for row in range(first, first + count)
    ]


def nearest(rows: F32, queries: F32, k: int, step: int = 1) -> NDArray[np.int64]:
    """The true `k` nearest of every `step`-th row by inner product, int64[len(queries), k].

    FAISS scans a block of rows at a time; rows are numbered as in the whole set.

    :raises ValueError: there are fewer than `k` such rows.
    """
    if len(rows) < k * step:
        raise ValueError(f"{len(rows)} rows hold no {k} of every {step}")
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(len(os.sched_getaffinity(0)))
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    found = np.full((len(queries), k), -1, dtype=np.int64)
    for start in range(0, len(rows), BLOCK_ROWS * step):
        block = np.ascontiguousarray(rows[start : start + BLOCK_ROWS * step : step])
        flat = faiss.IndexFlatIP(block.shape[1])
        flat.add(block)
        more, labels = flat.search(queries, min(k, len(block)))
        scores = np.concatenate([scores, more], axis=1)
        found = np.concatenate([found, start + labels * step], axis=1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        scores = np.take_along_axis(scores, best, axis=1)
        found = np.take_along_axis(found, best, axis=1)
    faiss.omp_set_num_threads(threads)
    return found


def recall(found: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """The part of the true neighbours that was found; both int64[n, k]."""
    hits = sum(len(np.intersect1d(f, t)) for f, t in zip(found, truth, strict=True))
    return hits / truth.size
