"""The broker loses its logs, or goes back in time, under load: nothing acknowledged is lost.

Gateway, coordinator and two shard workers as processes; what happens is done to the nats-server
between them. Each time everyone finds back to work without help.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from tests.support.cluster import Cluster

BEFORE = 40
"""Batches that are acknowledged before anything happens."""


@pytest.fixture(scope="module")
def clusters() -> Iterator[list[Cluster]]:
    """The cluster in use, if there is one."""
    clusters: list[Cluster] = []
    yield clusters
    for cluster in clusters:
        cluster.close()


@pytest.fixture
def cluster(clusters: list[Cluster], tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """A cluster under load: the one of the test before, unless that failed."""
    if clusters and not clusters[0].is_sound:
        clusters.pop().close()
    if not clusters:
        clusters.append(Cluster(tmp_path_factory.mktemp("cluster")))
        clusters[0].start()
        clusters[0].load.create()
    clusters[0].work(BEFORE)
    return clusters[0]


def test_a_broker_that_comes_back_empty(cluster: Cluster) -> None:
    for _ in range(2):
        cluster.work(10)
        cluster.kill_broker()
        shutil.rmtree(cluster.store)
        cluster.start_broker()
        cluster.check_back("wiped")


def test_a_broker_that_comes_back_as_it_was_earlier(cluster: Cluster, tmp_path: Path) -> None:
    cluster.kill_broker()
    shutil.copytree(cluster.store, tmp_path / "old")
    cluster.start_broker()
    cluster.check_back("killed")
    cluster.work(BEFORE)
    cluster.kill_broker()
    shutil.rmtree(cluster.store)
    shutil.move(tmp_path / "old", cluster.store)
    cluster.start_broker()
    cluster.check_back("rolled back")


def blocks(store: Path) -> list[Path]:
    """The message blocks of all streams that hold something."""
    return sorted(path for path in store.rglob("msgs/*.blk") if path.stat().st_size)


def flip(path: Path, chance: Random) -> None:
    data = bytearray(path.read_bytes())
    at = chance.randrange(8 * len(data))
    data[at // 8] ^= 1 << at % 8
    path.write_bytes(data)


def cut(path: Path, chance: Random) -> None:
    os.truncate(path, chance.randrange(path.stat().st_size))


@pytest.mark.parametrize("damage", [flip, cut])
def test_a_broker_whose_logs_are_damaged(
    cluster: Cluster, damage: Callable[[Path, Random], None]
) -> None:
    chance = Random(7)
    cluster.kill_broker()
    damaged = blocks(cluster.store)
    assert len(damaged) >= 3, "the decision log and those of two shards"
    for path in damaged:
        damage(path, chance)
    cluster.start_broker()
    cluster.check_back(f"{damage.__name__} in {len(damaged)} blocks")


def test_a_broker_that_is_restarted_or_stands_still(cluster: Cluster) -> None:
    cluster.runner.run(cluster.nats.stop())
    cluster.start_broker()
    cluster.check_back("restarted")
    cluster.work(10)
    pid = cluster.nats.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    time.sleep(5)
    os.kill(pid, signal.SIGCONT)
    cluster.check_back("stood still for 5 s")
