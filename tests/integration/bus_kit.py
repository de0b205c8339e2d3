"""A real nats-server per test, connections to it, and a tail that a test can wait for."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.support.nats_cluster import NatsCluster
from vector_db.common.adapters.nats_bus import NatsBus
from vector_db.common.adapters.nats_server import NatsServer
from vector_db.common.core.codec import decode
from vector_db.common.core.messages import AnyMessage
from vector_db.common.core.messages.reads import ConfirmRequest, SearchRequest, StrongReply
from vector_db.common.core.subjects import LogName
from vector_db.common.ports import Bus

LOG = LogName("TEST_LOG", "test.log")
WAIT_S = 10.0


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """One server for tests that leave no log behind."""
    server = NatsServer(tmp_path_factory.mktemp("nats_server"))
    with asyncio.Runner() as runner:
        runner.run(server.start())
        yield server
        runner.run(server.stop())


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    server = NatsServer(tmp_path / "nats")
    await server.start()
    yield server
    await server.stop()


@pytest.fixture(scope="module")
def nats_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsCluster]:
    """Three servers; a test that kills one starts it again."""
    cluster = NatsCluster(tmp_path_factory.mktemp("nats_cluster"))
    with asyncio.Runner() as runner:
        runner.run(cluster.start())
        yield cluster
        runner.run(cluster.stop())


Connect = Callable[..., Awaitable[NatsBus]]


@pytest.fixture
async def connect(server: NatsServer) -> AsyncIterator[Connect]:
    async with AsyncExitStack() as stack:

        async def connect(**options: object) -> NatsBus:
            bus = await NatsBus.connect(server.url, "test", heartbeat_s=0.1, **options)  # type: ignore[arg-type]
            stack.push_async_callback(bus.close)
            return bus

        yield connect


class Tail:
    """Collects what a tail delivers, and lets a test wait for it."""

    def __init__(self) -> None:
        self.records: list[tuple[int, AnyMessage]] = []
        self.gaps: list[str] = []
        self._changed = asyncio.Event()

    def on_record(self, seq: int, data: bytes) -> None:
        self.records.append((seq, decode(data)))
        self._changed.set()

    def on_gap(self, reason: str) -> None:
        self.gaps.append(reason)
        self._changed.set()

    @property
    def seqs(self) -> list[int]:
        return [seq for seq, _ in self.records]

    async def until(self, condition: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def until_count(self, count: int) -> None:
        await self.until(lambda: len(self.records) >= count)


def number(n: int) -> ConfirmRequest:
    return ConfirmRequest(term=n)


def bulk(size: int) -> SearchRequest:
    return SearchRequest(collection_id=1, shards=(0,), snapshot_ts=0, queries=os.urandom(size), k=1)


async def fill(bus: Bus, count: int, first: int = 1) -> None:
    for n in range(first, first + count):
        await bus.append_acked(LOG, number(n), WAIT_S)


async def answer_term(message: AnyMessage) -> AnyMessage:
    assert isinstance(message, ConfirmRequest)
    return StrongReply(term=message.term, stable_ts=7)
