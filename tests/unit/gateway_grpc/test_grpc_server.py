"""The server itself: keys, health, reflection, ports, draining."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import CollectorRegistry

from tests.unit.gateway_grpc.memory_database import LIMITS, MemoryDatabase
from vector_db.common.model.errors import StartupError
from vector_db.gateway.grpc.server import GrpcServer
from vector_db.gateway.metrics import GatewayMetrics
from vector_db.v1 import vector_db_pb2 as pb
from vector_db.v1 import vector_db_pb2_grpc as stubs

KEY = "open sesame"
SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.fixture
async def locked(database: MemoryDatabase) -> AsyncIterator[Any]:
    """A channel to a server that asks for a key."""
    server = GrpcServer(database, LIMITS, KEY, GatewayMetrics(CollectorRegistry()))
    port = await server.start("127.0.0.1", 0)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(1.0)


async def list_collections(channel: Any, metadata: Any) -> Any:
    stub = stubs.VectorDBStub(channel)
    return await stub.ListCollections(pb.ListCollectionsRequest(), metadata=metadata)


def reflect(channel: Any) -> Any:
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    return reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([request]))


async def check(channel: Any, service: str) -> Any:
    stub = health_pb2_grpc.HealthStub(channel)
    return (await stub.Check(health_pb2.HealthCheckRequest(service=service))).status


@pytest.mark.parametrize(
    "metadata", [(("authorization", f"Bearer {KEY}"),), (("x-api-key", KEY),)], ids=str
)
async def test_the_key_opens_the_api(locked: Any, metadata: Any) -> None:
    assert not (await list_collections(locked, metadata)).collections


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("authorization", KEY),),
        (("authorization", "Bearer open"),),
        (("x-api-key", f"Bearer {KEY}"),),
        (("x-api-key", ""),),
    ],
    ids=str,
)
async def test_anything_else_is_unauthenticated(locked: Any, metadata: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await list_collections(locked, metadata)
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert dict(caught.value.trailing_metadata())["vector-db-code"] == "unauthenticated"


async def test_reflection_needs_the_key_too(locked: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in reflect(locked):
            pass
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


async def test_health_answers_without_the_key(locked: Any) -> None:
    assert await check(locked, "") == SERVING


async def test_health_follows_readiness(database: MemoryDatabase) -> None:
    server = GrpcServer(database, LIMITS, None, GatewayMetrics(CollectorRegistry()))
    port = await server.start("127.0.0.1", 0)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert await check(channel, "vector_db.v1.VectorDB") == SERVING
        await server.set_serving(False)
        assert await check(channel, "") == health_pb2.HealthCheckResponse.NOT_SERVING
        await server.set_serving(True)
        assert await check(channel, "") == SERVING
    await server.stop(1.0)


async def test_reflection_lists_the_public_api(channel: Any) -> None:
    async for answer in reflect(channel):
        names = {service.name for service in answer.list_services_response.service}
    assert {"vector_db.v1.VectorDB", "grpc.health.v1.Health"} <= names


async def test_every_method_of_the_proto_is_served(channel: Any) -> None:
    for method in pb.DESCRIPTOR.services_by_name["VectorDB"].methods:
        call = channel.unary_unary(f"/vector_db.v1.VectorDB/{method.name}")
        try:
            await call(b"")
        except grpc.aio.AioRpcError as error:
            assert error.code() != grpc.StatusCode.UNIMPLEMENTED, method.name


async def test_a_port_in_use_is_one_clear_error(port: int, database: MemoryDatabase) -> None:
    second = GrpcServer(database, LIMITS, None, GatewayMetrics(CollectorRegistry()))
    with pytest.raises(StartupError, match=str(port)):
        await second.start("127.0.0.1", port)


async def refuses_new_calls(port: int) -> None:
    """Return once a fresh connection gets no answer any more."""
    async with asyncio.timeout(5):
        while True:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as fresh:
                try:
                    await check(fresh, "")
                except grpc.aio.AioRpcError as error:
                    # A handshake that the end overtakes is cancelled.
                    refused = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
                    assert error.code() in refused
                    return


async def test_stop_lets_a_call_in_progress_finish(database: MemoryDatabase) -> None:
    entered, release = asyncio.Event(), asyncio.Event()

    async def slow() -> list[Any]:
        entered.set()
        await release.wait()
        return []

    database.collections = slow  # type: ignore[method-assign]
    server = GrpcServer(database, LIMITS, None, GatewayMetrics(CollectorRegistry()))
    port = await server.start("127.0.0.1", 0)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = asyncio.create_task(list_collections(channel, ()))
        await entered.wait()
        stopping = asyncio.create_task(server.stop(10.0))
        await refuses_new_calls(port)
        assert not stopping.done()
        release.set()
        assert not (await call).collections
        await stopping
    await server.stop(1.0)  # again is no error
