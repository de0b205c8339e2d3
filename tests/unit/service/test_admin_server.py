"""The admin routes over real HTTP."""

from __future__ import annotations

import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Counter

from vector_db.common.service.health import AdminServer, health_response, readyz_response
from vector_db.common.service.telemetry import ReadCounter, metrics_response, new_registry


class Part:
    def __init__(self, name: str, ready: bool) -> None:
        self.name = name
        self.ready = ready

    def health(self) -> dict[str, Any]:
        return {"ready": self.ready, "shards": 3}


@asynccontextmanager
async def serving(*parts: Part) -> AsyncIterator[aiohttp.ClientSession]:
    server = AdminServer(parts, new_registry(), "127.0.0.1", 0)
    await server.start()
    try:
        async with aiohttp.ClientSession(server.url) as session:
            yield session
    finally:
        await server.stop()
        await server.stop()


async def test_ready_only_when_every_service_is() -> None:
    slow = Part("coordinator", ready=False)
    async with serving(Part("shard", ready=True), slow) as session:
        async with session.get("/readyz") as answer:
            assert answer.status == 503
            assert await answer.json() == {"ready": False, "waiting_for": ["coordinator"]}
        async with session.get("/health") as answer:
            assert answer.status == 503
        slow.ready = True
        async with session.get("/readyz") as answer:
            assert answer.status == 200
        async with session.get("/health") as answer:
            assert answer.status == 200
            body = await answer.json()
            assert body["ready"] is True
            assert body["services"]["shard"] == {"ready": True, "shards": 3}


async def test_alive_even_when_not_ready() -> None:
    async with serving(Part("shard", ready=False)) as session, session.get("/livez") as answer:
        assert answer.status == 200


async def test_metrics_are_in_prometheus_text_form() -> None:
    registry = new_registry()
    Counter("vector_db_insert", "Rows inserted", registry=registry).inc(2)
    body, content_type = metrics_response(registry)
    assert content_type.startswith("text/plain")
    assert b"vector_db_insert_total 2.0" in body
    assert b"vector_db_build_info{version=" in body
    async with serving(Part("shard", ready=True)) as session, session.get("/metrics") as answer:
        assert answer.content_type == "text/plain"
        assert re.search(r"^process_resident_memory_bytes \d", await answer.text(), re.MULTILINE)


def test_no_service_is_not_ready() -> None:
    assert health_response([])[0] == 503
    assert readyz_response([])[0] == 503


async def test_a_port_in_use_raises_and_leaves_nothing_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = AdminServer([], new_registry(), "127.0.0.1", taken.getsockname()[1])
        with pytest.raises(OSError, match="address already in use"):
            await server.start()
        await server.stop()


def test_a_counter_may_be_kept_elsewhere() -> None:
    registry = CollectorRegistry()
    kept = [0]
    ReadCounter("vector_db_kept", "Kept elsewhere", registry, lambda: kept[0])
    with pytest.raises(ValueError, match="Duplicated"):
        ReadCounter("vector_db_kept", "Again", registry, lambda: 0)
    for value in (0, 7):
        kept[0] = value
        body, _ = metrics_response(registry)
        assert b"# TYPE vector_db_kept_total counter" in body
        assert f"vector_db_kept_total {value}.0" in body.decode()
