"""A server with an API key, as its clients meet it: nothing without the key, on both edges."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from tests.support.processes import HttpError, Service
from vector_db.v1 import vector_db_pb2, vector_db_pb2_grpc
from vector_db_client import Unauthenticated, VectorDatabaseClient

KEY = "s3cret"
ROWS = {"vectors": [{"id": "a", "dimensions": [1, 2]}]}


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A server that wants the key; it listens on loopback, where none is demanded."""
    service = Service("all", tmp_path_factory.mktemp("locked"), VECTOR_DB_API_KEY=KEY)
    service.start()
    yield service
    service.kill()


@pytest.mark.parametrize("headers", [{}, {"X-Api-Key": "wrong"}, {"Authorization": "Bearer wrong"}])
def test_rest_answers_nothing_without_the_key(locked: Service, headers: dict[str, str]) -> None:
    for path, body in (("/vectors", ROWS), ("/v1/collections", None), ("/v1/cluster", None)):
        with pytest.raises(HttpError) as refused:
            locked.call(path, body, headers=headers)
        assert refused.value.status == 401


@pytest.mark.parametrize("headers", [{"X-Api-Key": KEY}, {"Authorization": f"Bearer {KEY}"}])
def test_rest_serves_with_the_key(locked: Service, headers: dict[str, str]) -> None:
    assert locked.call("/vectors", ROWS, headers=headers)["count"] == 1


def test_probes_need_no_key(locked: Service) -> None:
    assert locked.call("/health")["ready"]
    assert locked.is_ready()


async def test_grpc_wants_the_key_too(locked: Service) -> None:
    request = vector_db_pb2.ListCollectionsRequest()
    async with grpc.aio.insecure_channel(locked.grpc_target) as channel:
        stub = vector_db_pb2_grpc.VectorDBStub(channel)
        for metadata in ((), (("authorization", "Bearer wrong"),)):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.ListCollections(request, metadata=metadata, timeout=10)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        key = (("authorization", f"Bearer {KEY}"),)
        await stub.ListCollections(request, metadata=key, timeout=10)


def test_the_sdk_brings_the_key(locked: Service) -> None:
    with (
        pytest.raises(Unauthenticated),
        VectorDatabaseClient.connect(locked.url) as stranger,
    ):
        stranger.list_collections()
    with VectorDatabaseClient.connect(locked.url, api_key=KEY) as client:
        client.list_collections()


def test_the_key_is_never_in_the_log(locked: Service) -> None:
    assert KEY not in locked.log
