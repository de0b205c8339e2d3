"""Three nats-servers hold the logs: any one of them may go, under load, and come back.

Nothing acknowledged is lost, reads hardly notice, and writes go on after an election.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from tests.support.load import Writing
from tests.support.meshes import clustered_mesh
from vector_db_client import VectorDatabaseClient

READ_S_MAX = 2.0
WRITE_S_MAX = 15.0
DIMENSION = 3
ROWS_OF_A_BATCH = 10
PAUSE_S = 0.02
"""Between two calls of a thread: the machine is for the services."""


class Load(Writing[np.ndarray]):
    """Writers and readers in threads of their own, each with a client; every error is kept."""

    def __init__(self, urls: list[str], writers: int = 2, readers: int = 2) -> None:
        work = [partial(self._work, "write", self._writer(n)) for n in range(writers)]
        work += [partial(self._work, "read", self._read) for _ in range(readers)]
        super().__init__(work)
        self._urls = urls
        self.slowest_s = {"write": 0.0, "read": 0.0}
        self.calls = {"write": 0, "read": 0}

    def _work(self, kind: str, step: Callable[[VectorDatabaseClient], None]) -> None:
        with VectorDatabaseClient(self._urls) as client:
            while not self.over.wait(PAUSE_S):
                started = time.monotonic()
                try:
                    step(client)
                except Exception as error:
                    self.errors.append(f"{kind} after {time.monotonic() - started:.1f} s: {error}")
                    return
                self.calls[kind] += 1
                self.slowest_s[kind] = max(self.slowest_s[kind], time.monotonic() - started)

    def _writer(self, number: int) -> Callable[[VectorDatabaseClient], None]:
        sent = 0

        def write(client: VectorDatabaseClient) -> None:
            nonlocal sent
            ids = [f"w{number}-{sent + i}" for i in range(ROWS_OF_A_BATCH)]
            vectors = np.random.default_rng((number, sent)).standard_normal(
                (ROWS_OF_A_BATCH, DIMENSION), dtype=np.float32
            )
            client.insert_vectors(ids, vectors, collection="c")
            self.written |= dict(zip(ids, vectors, strict=True))
            sent += ROWS_OF_A_BATCH

        return write

    def _read(self, client: VectorDatabaseClient) -> None:
        hits = client.query_similar([1.0, 0.5, 0.2], k=5, collection="c")
        if len(hits) != 5:
            raise AssertionError(f"{len(hits)} hits")


def test_any_nats_server_may_be_killed_under_load(tmp_path: Path) -> None:
    with clustered_mesh(
        tmp_path, shards=3, gateways=2, coordinators=2, VECTOR_DB_REPLICATION_FACTOR="3"
    ) as (mesh, brokers):
        urls = [gateway.url for gateway in mesh.gateways]
        with VectorDatabaseClient(urls) as client:
            client.create_collection("c", DIMENSION, "euclidean")
            client.insert_vectors(list("abcde"), np.zeros((5, DIMENSION)), collection="c")
        with Load(urls) as load:
            load.wait_for_more(200)
            chosen: list[Callable[[], int]] = [brokers.decision_leader, brokers.busiest]
            for choose in chosen:
                victim = choose()
                load.slowest_s = {"write": 0.0, "read": 0.0}
                brokers.kill(victim)
                load.wait_for_more(400)
                print(f"\nkilled server {victim}: the slowest calls took", load.slowest_s)
                brokers.start()
                load.wait_for_more(200)
                assert load.errors == []
                assert load.slowest_s["read"] < READ_S_MAX
                assert load.slowest_s["write"] < WRITE_S_MAX
        print(f"{load.calls} calls, {len(load.written)} rows")
        with VectorDatabaseClient(urls) as client:
            rows = client.scroll(collection="c", consistency="strong")
            found = {row.id: row.vector for row in rows}
        for row_id, vector in load.written.items():
            np.testing.assert_array_equal(found[row_id], vector)
