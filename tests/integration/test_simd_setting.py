"""`VECTOR_DB_SIMD_ENABLED` in a real process, as `GET /v1/cluster` and its log show it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.processes import Service
from vector_db.shard.index.simd import GENERIC, simd_level
from vector_db.shard.native import native

HEARTBEAT_S_MAX = 10.0


def worker_level(service: Service) -> str:
    """What the worker's first heartbeat says, which may come after it is ready."""
    until = time.monotonic() + HEARTBEAT_S_MAX
    level = ""
    while not level and time.monotonic() < until:
        (worker,) = service.call("/v1/cluster")["workers"]
        level = worker["simd"]
    assert (worker["native"] == GENERIC) == (level == GENERIC) or native is None
    return level


@pytest.mark.parametrize("setting", ["false", "true"])
def test_the_setting_decides_what_the_worker_searches_with(setting: str, tmp_path: Path) -> None:
    service = Service("all", tmp_path, VECTOR_DB_SIMD_ENABLED=setting)
    expected = GENERIC if setting == "false" else simd_level()
    try:
        service.start()
        rows = [{"id": f"r{i}", "dimensions": [1.0, float(i)]} for i in range(50)]
        service.call("/vectors", {"vectors": rows})
        hits = service.call("/query", {"vector": [1.0, 49.0], "k": 3})["vectors"]
        assert [hit["id"] for hit in hits] == ["r49", "r48", "r47"]
        assert worker_level(service) == expected
        assert expected in service.log
    finally:
        service.kill()
