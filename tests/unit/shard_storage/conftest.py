"""Blocks, collections and stores on a real disk, for the tests of shard storage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from vector_db.common.adapters.posix_disk import PosixDisk
from vector_db.common.model.collection import Collection, Metric
from vector_db.common.model.rows import Blob, RowBlock, hash_ids
from vector_db.shard.storage.store import Idle, Store, StoreOptions

DIMENSION = 4
BlockMaker = Callable[..., RowBlock]


@pytest.fixture
def disk(tmp_path: Path) -> PosixDisk:
    return PosixDisk(tmp_path / "shard")


@pytest.fixture
def collection() -> Collection:
    return Collection(7, "animals", DIMENSION, Metric.COSINE, (0, 1))


@pytest.fixture
def options() -> StoreOptions:
    """Small enough that a test seals with a handful of rows."""
    return StoreOptions(seal_rows=8, index_rows_min=4)


@pytest.fixture
def store(disk: PosixDisk, collection: Collection, options: StoreOptions) -> Store:
    store = Store(disk, options)
    store.add_collection(collection)
    return store


@pytest.fixture
def upsert() -> BlockMaker:
    """``upsert(ids, seed=…, metadata=…)``: a block of rows whose vectors follow from the seed."""

    def make(
        ids: Sequence[bytes], seed: int = 0, metadata: Sequence[bytes] | None = None
    ) -> RowBlock:
        vectors = np.random.default_rng(seed).standard_normal((len(ids), DIMENSION))
        return RowBlock(
            collection_id=7,
            dimension=DIMENSION,
            ids=Blob.pack(ids),
            hashes=hash_ids(ids).tobytes(),
            vectors=vectors.astype(np.float32).tobytes(),
            metadata=None if metadata is None else Blob.pack(metadata),
        )

    return make


@pytest.fixture
def delete() -> BlockMaker:
    """``delete(ids)``: a block of keys to delete."""

    def make(ids: Sequence[bytes]) -> RowBlock:
        return RowBlock(7, DIMENSION, Blob.pack(ids), hash_ids(ids).tobytes(), delete=True)

    return make


@pytest.fixture
def seal() -> Callable[[Store, int], int]:
    """Seal everything up to a timestamp that is due, idle slices too; how many segments."""

    def run(store: Store, stable_ts: int) -> int:
        sealed = 0
        while (job := store.seal_due(stable_ts, Idle.SHORT)) is not None:
            job.run()
            store.sealed(job)
            sealed += 1
        return sealed

    return run
