"""Replicas move between real workers under load: added, drained, lost; no client sees an error."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.load import Load, rows_of
from tests.support.meshes import Mesh, running_mesh
from tests.support.processes import HttpError, Service

MOVED_S_MAX = 60.0
SHARDS = 8


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """One worker at first; whoever adds others to it needs no more than one later."""
    with running_mesh(tmp_path_factory.mktemp("mesh"), shards=1) as mesh:
        yield mesh


def wait_for(gateway: Service, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The cluster once it is as wanted."""
    until = time.monotonic() + MOVED_S_MAX
    while True:
        cluster = gateway.call("/v1/cluster")
        if holds(cluster):
            return cluster
        assert time.monotonic() < until, cluster
        time.sleep(0.05)


def wait_spread(gateway: Service, workers: int, replicas: int = 1) -> dict[str, Any]:
    """The cluster once so many workers share all shards evenly, and nothing is on its way."""
    return wait_for(gateway, lambda cluster: settled(cluster, workers, replicas))


def loads(cluster: dict[str, Any]) -> dict[str, int]:
    """Worker → replicas, of all that are heard."""
    found = {worker["id"]: 0 for worker in cluster["workers"]}
    for replicas in cluster["shards"].values():
        for worker in replicas:
            found[worker] = found.get(worker, 0) + 1
    return found


def settled(cluster: dict[str, Any], workers: int, replicas: int = 1) -> bool:
    """Whether so many workers share all shards evenly, and nothing is on its way."""
    shares = sorted(n for n in loads(cluster).values() if n)
    whole = all(len(r) == replicas for r in cluster["shards"].values())
    quiet = not cluster["joining"] and not cluster["leaving"]
    return whole and quiet and len(shares) == workers and shares[-1] - shares[0] <= 1


def replicas_of(cluster: dict[str, Any]) -> set[tuple[str, str]]:
    return {(s, w) for s, replicas in cluster["shards"].items() for w in replicas}


def create(gateway: Service, shards: int = SHARDS) -> None:
    body = {"name": "c", "dimension": 3, "metric": "euclidean", "shards": shards}
    gateway.call("/v1/collections", body)


def test_shards_spread_over_workers_that_come_and_leave_those_that_are_drained(
    mesh: Mesh,
) -> None:
    gateway = mesh.gateway
    create(gateway)
    with Load(gateway) as load:
        load.wait_for_more(400)
        before = wait_spread(gateway, 1)
        for count in (2, 3, 4):
            mesh.add_shard()
            after = wait_spread(gateway, count)
            moved = replicas_of(after) - replicas_of(before)
            assert len(moved) <= SHARDS // count + 1, moved
            before = after
            load.wait_for_more(200)
        for count in (3, 2, 1):
            leaver = next(w for w, n in loads(before).items() if n)
            gateway.call(f"/v1/cluster/workers/{leaver}", {"draining": True}, method="PUT")
            before = wait_spread(gateway, count)
            assert loads(before).get(leaver, 0) == 0
        load.wait_for_more(200)
    assert load.errors == []
    assert rows_of(gateway) == load.written


def test_a_worker_that_is_lost_is_replaced_by_another(tmp_path: Path) -> None:
    with running_mesh(
        tmp_path,
        shards=4,
        VECTOR_DB_REPLICATION_FACTOR="3",
        VECTOR_DB_FAILOVER_GRACE_S="3",
    ) as mesh:
        gateway = mesh.gateway
        create(gateway, 4)
        with Load(gateway) as load:
            load.wait_for_more(400)
            lost = mesh.shards[0]
            lost_id = lost.health()["services"]["shard"]["worker"]
            lost.kill()
            load.wait_for_more(200)
            after = wait_spread(gateway, 3, replicas=3)
            assert loads(after).get(lost_id, 0) == 0
            # It comes back with what it had, and takes its share again.
            lost.start()
            wait_spread(gateway, 4, replicas=3)
            load.wait_for_more(200)
        assert load.errors == []
        assert rows_of(gateway) == load.written


def test_a_worker_that_is_not_known_cannot_be_drained(mesh: Mesh) -> None:
    with pytest.raises(HttpError, match=r"nobody.* is not known"):
        mesh.gateway.call("/v1/cluster/workers/nobody", {"draining": True}, method="PUT")
