"""Three replicas of every shard: one worker may go at any time, and comes back with everything."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.meshes import Mesh, running_mesh
from tests.support.processes import HttpError, Service

ROWS_OF_A_BATCH = 20
READ_S_MAX = 2.0
CAUGHT_UP_S_MAX = 30.0


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path, shards=3, VECTOR_DB_REPLICATION_FACTOR="3") as mesh:
        yield mesh


class Load:
    """A writer and a reader in threads of their own; every error is kept."""

    def __init__(self, gateway: Service) -> None:
        self._gateway = gateway
        self._over = threading.Event()
        self.errors: list[str] = []
        self.written: dict[str, list[float]] = {}
        self.token = 0
        self.slowest_read_s = 0.0
        self._threads = [threading.Thread(target=t) for t in (self._write, self._read)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def wait_for_more(self, rows: int) -> None:
        """Until so many more rows were written."""
        wanted = len(self.written) + rows
        while len(self.written) < wanted and not self.errors:
            time.sleep(0.01)

    def _write(self) -> None:
        n = 0
        while not self._over.is_set():
            rows = {f"r{n + i}": [1.0, float(n + i), 0.5] for i in range(ROWS_OF_A_BATCH)}
            body = {"vectors": [{"id": i, "dimensions": v} for i, v in rows.items()]}
            try:
                answer = self._gateway.call("/v1/collections/c/vectors", body)
            except Exception as error:
                self.errors.append(f"write: {error}")
                return
            self.written |= rows
            self.token = answer["commit_ts"]
            n += ROWS_OF_A_BATCH

    def _read(self) -> None:
        while not self._over.is_set():
            wanted = len(self.written)
            started = time.monotonic()
            try:
                found = self._gateway.call("/v1/collections/c/count", {})["count"]
                hits = self._gateway.call(
                    "/v1/collections/c/query", {"vector": [1.0, 7.0, 0.5], "k": 5}
                )["vectors"]
            except Exception as error:
                self.errors.append(f"read: {error}")
                return
            self.slowest_read_s = max(self.slowest_read_s, time.monotonic() - started)
            if found < wanted or (wanted and not hits):
                self.errors.append(f"read: {found} rows and {len(hits)} hits of {wanted}")
                return


def rows_of(gateway: Service) -> dict[str, list[float]]:
    """Every row of the collection, as the gateway finds it."""
    found: dict[str, list[float]] = {}
    page: dict[str, Any] = {"limit": 1000, "include": ["dimensions"]}
    while True:
        answer = gateway.call("/v1/collections/c/scroll", page)
        found |= {row["id"]: row["dimensions"] for row in answer["vectors"]}
        if answer["cursor"] is None:
            return found
        page["cursor"] = answer["cursor"]


def wait_caught_up(gateway: Service, token: int) -> None:
    """Until every worker says that it has applied `token`."""
    until = time.monotonic() + CAUGHT_UP_S_MAX
    while True:
        workers = gateway.call("/v1/cluster")["workers"]
        if len(workers) == 3 and all(w["cursor"] >= token and w["ready"] for w in workers):
            return
        assert time.monotonic() < until, workers
        time.sleep(0.05)


def test_any_worker_may_be_killed_under_load_and_comes_back_with_everything(mesh: Mesh) -> None:
    mesh.gateway.call("/v1/collections", {"name": "c", "dimension": 3, "metric": "euclidean"})
    placed = mesh.gateway.call("/v1/cluster")["shards"]
    assert placed and all(len(set(replicas)) == 3 for replicas in placed.values())
    with Load(mesh.gateway) as load:
        load.wait_for_more(200)
        for victim in mesh.shards:
            victim.kill()
            load.wait_for_more(400)
            victim.start()
            load.wait_for_more(100)
            wait_caught_up(mesh.gateway, load.token)
    assert load.errors == []
    assert load.slowest_read_s < READ_S_MAX
    wait_caught_up(mesh.gateway, load.token)
    # What each of them has, it has alone.
    for only in mesh.shards:
        others = [shard for shard in mesh.shards if shard is not only]
        for other in others:
            other.kill()
        assert rows_of(mesh.gateway) == load.written
        for other in others:
            other.start()
        wait_caught_up(mesh.gateway, load.token)


def test_too_few_workers_for_the_replicas_is_told(tmp_path: Path) -> None:
    with (
        running_mesh(tmp_path, shards=1, VECTOR_DB_REPLICATION_FACTOR="2") as mesh,
        pytest.raises(HttpError, match="2 replicas need as many live workers, 1 are"),
    ):
        mesh.gateway.call("/v1/collections", {"name": "c", "dimension": 3})
