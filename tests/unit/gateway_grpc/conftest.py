"""A real grpc.aio server on a free loopback port over a small database in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry

from tests.unit.gateway_grpc.memory_database import LIMITS, MemoryDatabase
from vector_db.gateway.grpc.server import GrpcServer
from vector_db.gateway.metrics import GatewayMetrics
from vector_db.v1 import vector_db_pb2_grpc as stubs


@pytest.fixture
def database() -> MemoryDatabase:
    return MemoryDatabase()


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
async def port(database: MemoryDatabase, registry: CollectorRegistry) -> AsyncIterator[int]:
    server = GrpcServer(database, LIMITS, None, GatewayMetrics(registry))
    yield await server.start("127.0.0.1", 0)
    await server.stop(1.0)


@pytest.fixture
async def channel(port: int) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel


@pytest.fixture
def stub(channel: Any) -> Any:
    return stubs.VectorDBStub(channel)
