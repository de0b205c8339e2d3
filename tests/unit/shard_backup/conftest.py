"""A small cluster that serves, for the tests of backups."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.unit.shard_backup.small_cluster import SmallCluster


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[SmallCluster]:
    with ThreadPoolExecutor(2) as pool:
        cluster = SmallCluster(tmp_path, pool)
        await cluster.serve()
        yield cluster
        for replica in cluster.replicas:
            replica.snapshots.close()
