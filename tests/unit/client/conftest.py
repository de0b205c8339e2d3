"""Fixtures: an in-memory gateway, and clients of it that retry quickly."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.unit.client.fake_gateway import FakeGateway
from vector_db_client import AsyncVectorDatabaseClient, VectorDatabaseClient


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    fake = FakeGateway()
    fake.start()
    yield fake
    fake.stop()


@pytest.fixture
def client(gateway: FakeGateway) -> Iterator[VectorDatabaseClient]:
    with VectorDatabaseClient(gateway.url, backoff_s=0.001) as sync_client:
        yield sync_client


@pytest.fixture
async def aclient(gateway: FakeGateway) -> AsyncIterator[AsyncVectorDatabaseClient]:
    async with AsyncVectorDatabaseClient(gateway.url, backoff_s=0.001) as async_client:
        yield async_client
