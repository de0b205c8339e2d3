"""A store that lives through random operations beside a dictionary that says what it must answer.

The dictionary keeps every version of every row in plain Python and is searched exactly in float64;
it knows nothing of segments. Rows are real: dictionary entries, their embeddings projected onto the
first principal components.
"""

from __future__ import annotations

import gzip
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from tests.support.real_rows import SAMPLE
from vector_db.common.adapters.posix_disk import PosixDisk
from vector_db.common.model.collection import (
    Collection,
    Encoding,
    IndexKind,
    IndexOptions,
    Metric,
)
from vector_db.common.model.rows import F32, Blob, RowBlock, hash_id, hash_ids
from vector_db.shard.building.task import BuildTask, drop_rows, run_task
from vector_db.shard.index.build import IndexSpec
from vector_db.shard.index.opening import SegmentIndex, open_index
from vector_db.shard.storage.sealed import SealedSegment
from vector_db.shard.storage.store import Idle, Store, StoreOptions
from vector_db.shard.storage.upkeep import IndexJob, MergeJob

COLLECTION_ID = 9
SHARDS = (2, 4)
Document = dict[str, Any]
Row = tuple[int, int]
"""(version, number of the real row)."""

KINDS = {
    "hnsw float32": IndexOptions(IndexKind.HNSW, Encoding.FLOAT32, 8, 40),
    "hnsw float16": IndexOptions(IndexKind.HNSW, Encoding.FLOAT16, 8, 40),
    "hnsw sq8": IndexOptions(IndexKind.HNSW, Encoding.SQ8, 8, 40),
    "hnsw": IndexOptions(IndexKind.HNSW, Encoding.AUTO, 8, 40),
    "ivf_pq": IndexOptions(IndexKind.IVF_PQ, lists=6),
    "auto": IndexOptions(IndexKind.AUTO, Encoding.AUTO, 8, 40),
    "exact": IndexOptions(IndexKind.EXACT),
}
FILTERS: list[tuple[Document, Callable[[Document], bool]]] = [
    ({"pos": "noun"}, lambda d: d["pos"] == "noun"),
    ({"pos": {"$ne": "noun"}}, lambda d: d["pos"] != "noun"),
    ({"lexfile": {"$lt": 12}}, lambda d: d["lexfile"] < 12),
    ({"lexfile": {"$in": [5, 6, 18]}}, lambda d: d["lexfile"] in (5, 6, 18)),
]


@lru_cache(maxsize=1)
def _real() -> tuple[NDArray[np.float64], list[bytes]]:
    vectors = np.load(SAMPLE / "vectors.f16.npy").astype(np.float64)
    centred = vectors - vectors.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    records = gzip.decompress((SAMPLE / "records.jsonl.gz").read_bytes()).splitlines()
    kept = [{k: v for k, v in orjson.loads(r).items() if k in ("pos", "lexfile")} for r in records]
    return centred @ axes[:, ::-1][:, :64], [orjson.dumps(record) for record in kept]


@lru_cache(maxsize=4)
def real_rows(dimension: int) -> tuple[F32, list[bytes]]:
    """float32[n, dimension] and the metadata of each."""
    vectors, texts = _real()
    return np.ascontiguousarray(vectors[:, :dimension], dtype=np.float32), texts


@dataclass
class Counts:
    """What was done, over all sequences."""

    done: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    """Of the true best rows, by kind of index, those found, and with `of` below how many."""
    of: Counter[str] = field(default_factory=Counter)

    def recall(self, kind: str) -> float:
        """Pooled over all searches of that kind."""
        return self.found[kind] / self.of[kind]


class World:
    """One sequence's store, and the versions of its rows."""

    def __init__(self, seed: int, counts: Counts) -> None:
        self.rng = rng = random.Random(seed)
        self.counts = counts
        self.root = Path(tempfile.mkdtemp(prefix="differential-"))
        self.disk = PosixDisk(self.root)
        self.kind = rng.choice(list(KINDS))
        self.metric = rng.choice(list(Metric))
        self.target = rng.choice([0.9, 0.95, 0.98])
        self.dimension = rng.choice([16, 32, 64])
        self.large = rng.random() < 0.15
        self.ids = [b"id-%04d" % n for n in range(4000 if self.large else 500)]
        """Few enough that many upserts overwrite."""
        self.vectors, self.texts = real_rows(self.dimension)
        self.documents: list[Document] = [orjson.loads(text) for text in self.texts]
        self.collection = Collection(
            COLLECTION_ID, "c", self.dimension, self.metric, SHARDS, KINDS[self.kind], self.target
        )
        self.options = StoreOptions(
            seal_rows=1000 if self.large else rng.choice([60, 120]),
            index_rows_min=rng.choice([24, 48]),
            idle_rows_min=5,
            quick_rows_min=rng.choice([80, 10_000]),
            merge_inline_bytes=0,
            hot_bytes=rng.choice([40_000, 400_000, 10_000_000]),
        )
        self.store = Store(self.disk, self.options)
        self.store.add_collection(self.collection)
        self.commits: list[tuple[int, list[RowBlock]]] = []
        self.versions: dict[bytes, list[tuple[int, Row | None]]] = {}
        self.now = self.stable = self.floor = self.saved_ts = 0
        self.manifest: dict[str, Any] | None = None
        self.jobs: list[IndexJob | MergeJob] = []

    def close(self) -> None:
        shutil.rmtree(self.root)

    # --- what the dictionary says ---------------------------------------------------------------

    def visible(self, ts: int) -> dict[bytes, Row]:
        """Every row of the snapshot."""
        rows: dict[bytes, Row] = {}
        for row_id, versions in self.versions.items():
            newest = next((row for born, row in reversed(versions) if born <= ts), None)
            if newest is not None:
                rows[row_id] = newest
        return rows

    def snapshot(self) -> int:
        """One that may be read; mostly the newest."""
        return self.now if self.rng.random() < 0.6 else self.rng.randint(self.floor, self.now)

    # --- writes ---------------------------------------------------------------------------------

    def write(self) -> None:
        """A transaction: upserts, deletes, or rows that are deleted and come again."""
        rng = self.rng
        self.now += rng.randint(1, 3)
        ids = rng.sample(self.ids, rng.randint(1, 700 if self.large else 90))
        match rng.choice(["upsert"] * 6 + ["delete"] * 2 + ["again", "update", "copy"]):
            case "delete":
                blocks = self._deletes(ids)
            case "again":
                blocks = self._deletes(ids) + self._upserts(ids[: len(ids) // 2])
            case "copy":
                blocks = self._upserts(ids, copied=True)
            case "update":
                known = list(self.visible(self.now)) or ids
                blocks = self._upserts(rng.sample(known, min(len(known), len(ids))))
            case _:
                blocks = self._upserts(ids)
        self.commits.append((self.now, blocks))
        self._apply(self.now, blocks)
        if rng.random() < 0.8:
            self.stable = self.now

    def _deletes(self, ids: list[bytes]) -> list[RowBlock]:
        for row_id in ids:
            self.versions.setdefault(row_id, []).append((self.now, None))
        return [
            RowBlock(
                COLLECTION_ID, self.dimension, Blob.pack(ids), hash_ids(ids).tobytes(), delete=True
            )
        ]

    def _upserts(self, ids: list[bytes], copied: bool = False) -> list[RowBlock]:
        """Written now; `copied`: from elsewhere, with the versions that they had there."""
        if not ids:
            return []
        picked = [self.rng.randrange(len(self.texts)) for _ in ids]
        had = [self.rng.randint(1, self.now) if copied else self.now for _ in ids]
        for row_id, version, number in zip(ids, had, picked, strict=True):
            self.versions.setdefault(row_id, []).append((self.now, (version, number)))
        return [
            RowBlock(
                COLLECTION_ID,
                self.dimension,
                Blob.pack(ids),
                hash_ids(ids).tobytes(),
                self.vectors[picked].tobytes(),
                Blob.pack([self.texts[number] for number in picked]),
                precondition="copied" if copied else "none",
                versions=np.array(had, dtype="<i8").tobytes() if copied else b"",
            )
        ]

    def _apply(self, ts: int, blocks: list[RowBlock]) -> None:
        for block in blocks:
            placed = np.array([SHARDS[hash_id(i) % 2] for i in block.ids.unpack()])
            for shard in SHARDS:
                rows = np.flatnonzero(placed == shard)
                if len(rows):
                    self.store.apply(shard, block.take(rows), ts)

    # --- what a worker does besides -------------------------------------------------------------

    def seal(self) -> None:
        """Everything that is due at a random idleness."""
        idle = self.rng.choice(list(Idle))
        while (job := self.store.seal_due(self.stable, idle)) is not None:
            job.run()
            self.store.sealed(job)
            self.counts.done["seals"] += 1

    def start_merge(self) -> None:
        """With a floor that rises at random."""
        if self.rng.random() < 0.7:
            self.floor = self.rng.randint(self.floor, self.stable)
        job = self.store.upkeep.merge_due(self.floor, self.rng.random() < 0.6)
        if job is not None:
            drop_rows(self.disk, job.task.name, job.dropped)
            self.jobs.append(job)

    def start_index(self) -> None:
        """The one that is wanted, a quick one, or one of another kind."""
        upkeep = self.store.upkeep
        job = self.rng.choice([upkeep.quick_due, upkeep.final_due])()
        if job is not None:
            self.jobs.append(job)
        elif (segment := upkeep.unwanted_index()) is not None:
            segment.index = None

    def finish_job(self) -> None:
        """One that was started, which writes may have overtaken."""
        if not self.jobs:
            return
        job = self.jobs.pop(self.rng.randrange(len(self.jobs)))
        if isinstance(job, MergeJob):
            self._finish_merge(job)
        else:
            self._finish_index(job)

    def _finish_merge(self, job: MergeJob) -> None:
        run_task(self.disk, job.task, 1, lambda _: None)
        merged = None
        if job.rows:
            merged = SealedSegment(self.root, job.task.name)
            if job.task.index is not None:
                merged.index = self._opened(merged)
        self.store.upkeep.merged(job, merged)
        self.store.upkeep.ended(job)
        self.counts.done["merges"] += 1
        self.counts.done["graphs extended"] += bool(job.task.index and job.task.index.base)
        self.counts.done["rows dropped"] += sum(map(len, job.dropped))

    def _finish_index(self, job: IndexJob) -> None:
        task, rows = job.task, job.segment.rows
        others = [o for o in KINDS.values() if o.kind in (IndexKind.HNSW, IndexKind.IVF_PQ)]
        if self.rng.random() < 0.15:
            options = self.rng.choice(others)
            if options.kind is IndexKind.HNSW or rows >= 64:
                task = BuildTask(task.name, index=IndexSpec(options.kind, self.metric, options))
        run_task(self.disk, task, 1, lambda _: None)
        self.store.upkeep.indexed(job, self._opened(job.segment))
        self.counts.done["indexes"] += 1

    def _opened(self, segment: SealedSegment) -> SegmentIndex:
        mapped = self.rng.random() < 0.3
        shape = segment.rows, segment.dimension
        return open_index(segment.directory, self.metric, *shape, mapped=mapped)

    def checkpoint(self) -> None:
        job = self.store.checkpoint(self.stable)
        job.run()
        self.manifest, self.saved_ts = job.manifest, job.ts
        self.store.checkpointed(job)

    def crash(self) -> None:
        """Open what the last checkpoint says, and apply what came after it."""
        self.jobs = []
        self.store = Store.open(self.disk, self.options, self.manifest, [self.collection])
        for ts, blocks in self.commits:
            if ts > self.saved_ts:
                self._apply(ts, blocks)
        for _, segment in self.store.sealed_segments():
            try:
                segment.index = self._opened(segment)
            except FileNotFoundError:
                continue
        self.counts.done["restarts"] += 1
