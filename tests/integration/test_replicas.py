"""Three replicas of every shard: one worker may go at any time, and comes back with everything."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.load import Load, rows_of
from tests.support.meshes import Mesh, running_mesh
from tests.support.processes import HttpError, Service

READ_S_MAX = 2.0
CAUGHT_UP_S_MAX = 30.0


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path, shards=3, VECTOR_DB_REPLICATION_FACTOR="3") as mesh:
        yield mesh


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
