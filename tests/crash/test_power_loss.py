"""The power goes: processes are killed over disks that lose what was not synced.

The control is the same with a `sync` that forgets: it must lose acknowledged writes, else the test
above it shows nothing. `VECTOR_DB_TEST_POWER_CUTS` sets the number of cuts, and lets the tests of
single workers run, too.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support.acknowledged import Load, Lost
from tests.support.cluster import LOSSY_MODULE, Cluster
from tests.support.processes import Service, with_tests_on_path

CUTS = int(os.environ.get("VECTOR_DB_TEST_POWER_CUTS", "0"))
BATCHES = 40
"""Acknowledged between two power cuts."""


def everything(folder: Path, **settings: str) -> Service:
    """The whole product in one process, with its broker, over a lossy disk."""
    server = Service("all", folder, **with_tests_on_path(), **settings)
    server.module = LOSSY_MODULE
    return server


def cut_the_power(server: Service, load: Load) -> None:
    """Kill everything in the middle of the load; the broker does not sync, so its logs are gone."""
    load.start()
    load.wait_for(BATCHES, 60)
    server.kill()
    load.stop()
    shutil.rmtree(server.folder / "data" / "nats" / "jetstream")
    server.start()


def test_what_was_acknowledged_survives_power_cuts(tmp_path: Path) -> None:
    server = everything(tmp_path)
    load = Load(server.url)
    try:
        server.start()
        load.create()
        for _ in range(CUTS or 2):
            cut_the_power(server, load)
            rows = load.check()
            assert rows >= BATCHES
        print(f"\n{load.acknowledged} batches acknowledged, {load.refused} not, {rows} rows")
    finally:
        load.abandon()
        server.kill()


def test_the_same_without_syncs_loses_what_was_acknowledged(tmp_path: Path) -> None:
    server = everything(tmp_path, LOSSY_DISK="forgets")
    load = Load(server.url)
    try:
        server.start()
        load.create()
        cut_the_power(server, load)
        with pytest.raises(Lost):
            load.check()
    finally:
        load.abandon()
        server.kill()


@pytest.mark.skipif(not CUTS, reason="long: set VECTOR_DB_TEST_POWER_CUTS")
def test_single_workers_lose_nothing_in_power_cuts(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, lossy=True)
    try:
        cluster.start()
        cluster.load.create()
        for number in range(CUTS):
            cluster.work(BATCHES)
            victim = cluster.shards[number % 2]
            victim.kill()
            victim.start()
            cluster.check_back("a worker without power")
    finally:
        cluster.close()
