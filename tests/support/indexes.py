"""Indexes of segments for tests: built in this process, or stood in for by an exact search."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vector_db.common.adapters.posix_disk import PosixDisk
from vector_db.common.model.collection import Encoding, IndexKind, IndexOptions, Metric
from vector_db.common.model.rows import F32
from vector_db.shard.building.task import run_task
from vector_db.shard.core.calibration import Calibration
from vector_db.shard.index.build import IndexSpec, build_index
from vector_db.shard.index.files import FORMAT_VERSION, IndexMeta
from vector_db.shard.index.opening import SegmentIndex, open_index
from vector_db.shard.storage.store import Store
from vector_db.shard.storage.upkeep import IndexJob

HNSW = IndexOptions(IndexKind.HNSW)


def build(
    vectors: F32, metric: Metric, directory: Path, options: IndexOptions = HNSW
) -> SegmentIndex:
    """Build the index of `options` into `directory`, in this thread, and open it in memory."""
    spec = IndexSpec(options.kind, metric, options)
    build_index(vectors, spec, directory, directory, 1, lambda _: None)
    rows, dimension = vectors.shape
    return open_index(directory, metric, rows, dimension, mapped=False)


def build_all_due(disk: PosixDisk, store: Store, mapped: bool = False) -> list[IndexJob]:
    """Build the index of every segment that is due for one, as a worker does; what was built."""
    done = []
    while (job := store.upkeep.final_due()) is not None:
        run_task(disk, job.task, 1, lambda _: None)
        segment, metric = job.segment, job.owner.collection.metric
        index = open_index(segment.directory, metric, segment.rows, segment.dimension, mapped)
        store.upkeep.indexed(job, index)
        done.append(job)
    return done


class ExactSearcher:
    """A `Searcher` that compares all rows; with `patience` it finds only rows below that number."""

    efforts = (40,)

    def __init__(
        self,
        vectors: F32,
        metric: Metric,
        patience: int | None = None,
        kind: IndexKind = IndexKind.HNSW,
    ) -> None:
        self.kind = kind
        self.vectors = vectors.astype(np.float64)
        self.rows, self.dimension = vectors.shape
        self.metric = metric
        self.patience = patience
        self.calls = 0
        self.last_effort = 0

    def width(self, k: int) -> int:
        return k + 2

    def cost_us(self, effort: int) -> float:
        return 10 + effort / 2

    @property
    def entry_row(self) -> int:
        return -1

    def without(self, rows: NDArray[np.int64], vectors: F32) -> AbstractContextManager[None]:
        return nullcontext()

    def search(
        self,
        queries: F32,
        k: int,
        live: NDArray[np.bool_] | None,
        effort: int,
        packed: NDArray[np.uint8] | None = None,
    ) -> tuple[F32, NDArray[np.int64]]:
        self.calls += 1
        self.last_effort = effort
        assert self.kind is not IndexKind.HNSW or effort >= k, "a beam narrower than the hits"
        q = queries.astype(np.float64)
        if self.metric is Metric.EUCLIDEAN:
            scores = -((q[:, None] - self.vectors[None]) ** 2).sum(axis=2)
        else:
            scores = q @ self.vectors.T
        if self.metric is Metric.COSINE:
            scores /= np.sqrt((self.vectors**2).sum(axis=1))
        if live is not None:
            assert packed is None or (np.packbits(live, bitorder="little") == packed).all()
            scores[:, : len(live)][:, ~live] = -np.inf
            scores[:, len(live) :] = -np.inf
        if self.patience is not None:
            scores[:, self.patience :] = -np.inf
        rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        best = np.take_along_axis(scores, rows, axis=1)
        return best.astype(np.float32), np.where(np.isinf(best), -1, rows)


def exact_index(
    vectors: F32,
    metric: Metric,
    options: IndexOptions = HNSW,
    mapped: bool = False,
    size_bytes: int = 1000,
) -> SegmentIndex:
    """An index that misses no row, said to have been built for `options`."""
    meta = IndexMeta(
        version=FORMAT_VERSION,
        kind=options.kind,
        metric=metric,
        rows=len(vectors),
        dimension=vectors.shape[1],
        options=options,
        encoding=Encoding.FLOAT32,
        quick=False,
        size_bytes=size_bytes,
        crc32c=0,
        calibration=Calibration(),
    )
    return SegmentIndex(ExactSearcher(vectors, metric, kind=options.kind), meta, mapped)
