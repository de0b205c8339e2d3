"""A writer that overwrites, adds and deletes rows, beside whatever a test does to the mesh."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from vector_db_client import VectorDatabaseClient

IDS = 3000
ROWS_OF_A_BATCH = 30


class Churn:
    """In a thread of its own; `commits` and the first error are kept."""

    def __init__(self, url: str, collections: Sequence[str], dimension: int, seed: int) -> None:
        self._client = VectorDatabaseClient(url)
        self._collections = collections
        self._dimension = dimension
        self._rng = np.random.default_rng(seed)
        self._over = threading.Event()
        self._more = threading.Condition()
        self.commits: list[int] = []
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._write)

    def __enter__(self) -> Churn:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._client.close()

    def wait_for_more(self, commits: int) -> int:
        """Until so many more commits were made; the newest."""
        with self._more:
            wanted = len(self.commits) + commits
            done = self._more.wait_for(
                lambda: len(self.commits) >= wanted or self.error is not None, 60
            )
        assert done and self.error is None, self.error
        return self.commits[-1]

    def _write(self) -> None:
        try:
            while not self._over.is_set():
                self._one()
        except Exception as error:
            with self._more:
                self.error = error
                self._more.notify_all()

    def _one(self) -> None:
        rng, n = self._rng, ROWS_OF_A_BATCH
        collection = self._collections[len(self.commits) % len(self._collections)]
        ids = [f"r{i}" for i in rng.choice(IDS, n, replace=False)]
        if len(self.commits) % 5 == 4:
            done = self._client.delete(ids, collection=collection)
        else:
            vectors = rng.standard_normal((n, self._dimension), dtype=np.float32)
            metadata = [None if i % 5 == 0 else {"n": len(self.commits), "x": [i, "ä"]}
                        for i in range(n)]  # fmt: skip
            done = self._client.insert_vectors(ids, vectors, metadata, collection=collection)
        with self._more:
            self.commits.append(done.commit_ts)
            self._more.notify_all()
