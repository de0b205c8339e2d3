"""The engine without its server: the rows that a stopped worker left, opened and searched here.

What is measured is the product's own path below the network: views of a snapshot, and the search
over them. The indexes are opened as the worker's background work opens them, before anything is
measured.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.common import F32, BenchError
from bench.dataset import ID_PREFIX
from bench.engine.raw import K
from vector_db.common.adapters.posix_disk import PosixDisk
from vector_db.common.core.messages.reads import SearchReply, SearchRequest
from vector_db.common.model.collection import Collection
from vector_db.common.model.filters import Filter
from vector_db.shard.index.opening import open_index, use_one_faiss_thread
from vector_db.shard.search import executor
from vector_db.shard.storage.recovery import recover
from vector_db.shard.storage.store import Store, StoreOptions


class Opened:
    """A worker's data directory; a context manager, so that its log is closed."""

    def __init__(self, data_dir: Path) -> None:
        """`data_dir`: of a server that was stopped in an orderly way.

        :raises BenchError: an index is missing.
        """
        use_one_faiss_thread()
        self._recovered = recover(PosixDisk(data_dir / "shard"), StoreOptions())
        self.store = self._recovered.store
        self.snapshot_ts = self._recovered.participant.stable_ts
        open_indexes(self.store)
        self.store.verify()

    def __enter__(self) -> Opened:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._recovered.wal.close()

    def engine(self, collection: str) -> Engine:
        """Searches of one collection.

        :raises BenchError: there is no such collection.
        """
        found = self._recovered.participant.state.by_name(collection)
        if found is None:
            raise BenchError(f"no collection {collection} in the data directory")
        return Engine(self, found)


class Engine:
    """Searches of one collection, from any number of threads."""

    def __init__(self, opened: Opened, collection: Collection) -> None:
        self._opened = opened
        self._collection = collection

    def search(self, queries: F32, filter: Filter | None = None, **wish: Any) -> SearchReply:
        """The best K of each query, as a worker answers.

        :param wish: `recall`, `ef`, `exact` of a `SearchRequest`.
        """
        collection, opened = self._collection, self._opened
        views = opened.store.views(collection.id, collection.shards, opened.snapshot_ts)
        request = SearchRequest(
            collection_id=collection.id,
            shards=collection.shards,
            snapshot_ts=opened.snapshot_ts,
            queries=queries.data.cast("B"),
            k=K,
            **wish,
        )
        return executor.search(views, collection.metric, collection.dimension, request, filter)

    def found(self, queries: F32, filter: Filter | None = None, **wish: Any) -> NDArray[np.int64]:
        """The rows found by single queries, int64[n, K]; -1 where there are fewer than K."""
        table = np.full((len(queries), K), -1, dtype=np.int64)
        for i in range(len(queries)):
            ids = self.search(queries[i : i + 1], filter, **wish).ids.unpack()
            table[i, : len(ids)] = [int(one[len(ID_PREFIX) :]) for one in ids]
        return table

    def segments(self) -> int:
        """How many segments a query of the collection sees."""
        found, opened = self._collection, self._opened
        return len(opened.store.views(found.id, found.shards, opened.snapshot_ts))


def open_indexes(store: Store) -> None:
    """Hold the index of every segment in memory, of those that have one.

    :raises BenchError: a segment that is worth an index has none.
    """
    for owner, segment in store.sealed_segments():
        metric, shape = owner.collection.metric, (segment.rows, segment.dimension)
        try:
            segment.index = open_index(segment.directory, metric, *shape, mapped=False)
        except FileNotFoundError:
            if store.upkeep.wants_index(owner.collection, segment.rows):
                raise BenchError(f"{segment.name} has no index: it was not built yet") from None


def pool(threads: int) -> ThreadPoolExecutor:
    """Threads like those of a worker."""
    return ThreadPoolExecutor(threads, initializer=use_one_faiss_thread)


def run_batches(
    threads: ThreadPoolExecutor, search: Callable[[F32], Any], batches: list[F32]
) -> None:
    """Search every batch, as many at once as there are threads."""
    for _ in threads.map(search, batches):
        pass
