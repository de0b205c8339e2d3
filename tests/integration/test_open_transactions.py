"""Open transactions through two gateways, over a real broker, coordinator and two shard workers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from vector_db.common.adapters.nats_bus import NatsBus
from vector_db.common.adapters.nats_server import NatsServer
from vector_db.common.adapters.posix_disk import PosixDisk
from vector_db.common.adapters.system_clock import SystemClock
from vector_db.common.model.errors import (
    Aborted,
    AlreadyCommitted,
    AlreadyExists,
    Conflict,
    IdempotencyMismatch,
    InvalidArgument,
    TransactionExpired,
)
from vector_db.common.service.config import Config
from vector_db.common.service.runtime import Runtime, Service
from vector_db.coordinator.app import build as build_coordinator
from vector_db.gateway.cluster import ClusterView
from vector_db.gateway.core.requests import Consistency, Delete, Idempotency, Query, RowsIn, Upsert
from vector_db.gateway.database import Database
from vector_db.gateway.reads import Reader
from vector_db.gateway.transactions import Transactions
from vector_db.shard.app import build as build_shard

DIMENSION = 8
NOW = Consistency()


class Cluster:
    """One coordinator and two shard workers, each on a connection of its own, and two gateways."""

    def __init__(self, folder: Path) -> None:
        self.nats = NatsServer(folder / "nats")
        self._folder = folder
        self._services: list[tuple[Service, asyncio.Task[None]]] = []
        self._buses: list[NatsBus] = []
        self._edges: list[tuple[Transactions, ClusterView]] = []
        self.coordinator = -1
        self.databases: list[Database] = []

    async def start(self) -> None:
        await self.nats.start()
        await self._begin("shard0", build_shard)
        await self._begin("shard1", build_shard)
        self.coordinator = await self._begin("coordinator", build_coordinator)
        for name in ("g0", "g1"):
            self.databases.append(await self._gateway(name))
        await self.databases[0].create_collection("c", DIMENSION, "cosine", 2)

    async def _connect(self, name: str) -> NatsBus:
        bus = await NatsBus.connect(self.nats.url, name)
        self._buses.append(bus)
        return bus

    async def _begin(self, name: str, build: Callable[[Runtime, Config], Service]) -> int:
        disk = PosixDisk(self._folder / name)
        runtime = Runtime(
            await self._connect(name), SystemClock(), disk, CollectorRegistry(), sole=False
        )
        service = build(runtime, Config())
        await service.start()
        self._services.append((service, asyncio.create_task(service.run())))
        return len(self._services) - 1

    async def _gateway(self, name: str) -> Database:
        bus = await self._connect(name)
        config = Config()
        transactions = Transactions(bus, name)
        view = ClusterView(bus, SystemClock(), transactions.on_outcome)
        database = Database(
            bus, view, transactions, Reader(bus, view), config.limits_value(), 1000,
            config.transactions, Random(name),
        )  # fmt: skip
        await transactions.start(view)
        await view.start(20.0)
        self._edges.append((transactions, view))
        return database

    async def empty(self) -> None:
        """Nothing is left of an earlier test."""
        one = self.databases[0]
        for other in await one.collections():
            if other.name != "c":
                await one.drop_collection(other.name)
        page = await one.scroll("c", 1000, None, None, Consistency(strong=True))
        if page.rows.ids:
            await one.write([Delete("c", page.rows.ids)])

    async def take_over(self) -> None:
        """Another coordinator in the place of the first, and both gateways follow it."""
        before = self._edges[0][1].term
        service, task = self._services.pop(self.coordinator)
        await _end(task)
        await service.stop()
        self.coordinator = await self._begin("coordinator", build_coordinator)
        for _, view in self._edges:
            await view.wait_term(before + 1, 20.0)

    async def stop(self) -> None:
        for transactions, view in self._edges:
            await transactions.stop()
            await view.stop()
        for service, task in reversed(self._services):
            await _end(task)
            await service.stop()
        for bus in self._buses:
            await bus.close()
        await self.nats.stop()


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


Scenario = Callable[[Cluster], Coroutine[Any, Any, None]]
OnACluster = Callable[[Scenario], None]


@pytest.fixture(scope="module")
def on_a_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnACluster]:
    """Runs a test on the one cluster, whose only collection ``c`` is empty then."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    with asyncio.Runner() as runner:

        def run(scenario: Scenario) -> None:
            runner.run(cluster.empty())
            runner.run(scenario(cluster))

        try:
            runner.run(cluster.start())
            yield run
        finally:
            runner.run(cluster.stop())


def rows(*ids: str, seed: int = 0) -> RowsIn:
    vectors = np.random.default_rng(seed).standard_normal((len(ids), DIMENSION))
    return RowsIn([i.encode() for i in ids], vectors.astype(np.float32), None)


def upsert(*ids: str, seed: int = 0) -> Upsert:
    return Upsert("c", rows(*ids, seed=seed))


async def ids(database: Database, at_least: int) -> list[str]:
    page = await database.scroll("c", 1000, None, None, Consistency(at_least))
    return [row_id.decode() for row_id in page.rows.ids]


def test_statements_reads_and_the_commit_may_each_come_through_another_gateway(
    on_a_cluster: OnACluster,
) -> None:
    async def test(cluster: Cluster) -> None:
        one, two = cluster.databases
        base = await one.write([upsert(*(f"old{i}" for i in range(20)))])
        opened = await one.begin("snapshot")
        first = two.resume(opened.token)
        names = [f"new{i}" for i in range(50)]
        assert (await first.write([upsert(*names, seed=1)])).count == 50
        second = one.resume(first.token)
        assert (await second.write([Delete("c", [b"old0", b"absent"])])).count == 1
        with pytest.raises(AlreadyExists):
            await second.write([Upsert("c", rows("new3"), "insert")])
        inside = two.resume(second.token)
        assert (await inside.count("c", None, NOW))[0] == 20 + 50 - 1
        fetched = await inside.fetch("c", [b"new7", b"old0", b"old1"], NOW)
        assert fetched.ids == [b"new7", b"old1"]
        assert fetched.versions == [0, base.commit_ts]
        assert fetched.vectors is not None
        near = await inside.query(Query("c", fetched.vectors[:1], k=1))
        assert near.hits[0].ids == [b"new7"]
        assert (await two.transaction_status(opened.txn_id))["state"] == "pending"
        assert len(await ids(two, base.commit_ts)) == 20
        done = await inside.commit()
        assert done.count == 51
        assert await one.resume(second.token).commit() == done
        found = await ids(one, done.commit_ts)
        assert len(found) == 69 and "old0" not in found
        with pytest.raises(AlreadyCommitted):
            await one.resume(second.token).abort()
        with pytest.raises(AlreadyCommitted):
            await one.resume(second.token).write([upsert("late")])
        status = await one.transaction_status(opened.txn_id)
        assert status == {"state": "committed", "commit_ts": done.commit_ts}

    on_a_cluster(test)


def test_a_statement_sent_again_has_one_effect_and_an_aborted_one_none(
    on_a_cluster: OnACluster,
) -> None:
    async def test(cluster: Cluster) -> None:
        one, two = cluster.databases
        opened = await one.begin("snapshot")
        first, again = one.resume(opened.token), two.resume(opened.token)
        await first.write([upsert("a", "b")])
        await again.write([upsert("a", "b")])
        assert first.token == again.token
        done = await two.resume(again.token).commit()
        assert (done.count, await ids(one, done.commit_ts)) == (2, ["a", "b"])

        opened = await one.begin("snapshot")
        gone = one.resume(opened.token)
        await gone.write([upsert("x"), Delete("c", [b"a"])])
        await two.resume(gone.token).abort()
        await one.resume(gone.token).abort()
        for late in (
            two.resume(gone.token).commit(),
            one.resume(gone.token).write([upsert("y")]),
            one.resume(gone.token).count("c", None, NOW),
        ):
            with pytest.raises(Aborted):
                await late
        assert await ids(one, done.commit_ts) == ["a", "b"]
        assert (await two.transaction_status(opened.txn_id))["state"] == "aborted"

    on_a_cluster(test)


def test_a_statement_of_many_chunks_is_staged_whole(
    on_a_cluster: OnACluster,
) -> None:
    async def test(cluster: Cluster) -> None:
        one, two = cluster.databases
        await one.create_collection("wide", 1024, "dot", 2)
        ids_ = [b"r%05d" % i for i in range(6000)]
        vectors = np.random.default_rng(0).standard_normal((6000, 1024)).astype(np.float32)
        transaction = one.resume((await one.begin("snapshot")).token)
        for start in (0, 3000):
            some = RowsIn(ids_[start : start + 3000], vectors[start : start + 3000], None)
            await transaction.write([Upsert("wide", some)])
        inside = two.resume(transaction.token)
        assert (await inside.count("wide", None, NOW))[0] == 6000
        done = await inside.commit()
        assert done.count == 6000
        at = Consistency(done.commit_ts)
        assert (await one.count("wide", None, at))[0] == 6000
        sample = await one.fetch("wide", ids_[::999], at)
        assert sample.vectors is not None
        assert np.array_equal(sample.vectors, vectors[::999])

    on_a_cluster(test)


def test_serializable_refuses_write_skew_and_snapshot_permits_it(
    on_a_cluster: OnACluster,
) -> None:
    async def test(cluster: Cluster) -> None:
        one, two = cluster.databases
        for isolation in ("snapshot", "serializable"):
            a, b = f"a-{isolation}", f"b-{isolation}"
            done = await one.write([upsert(a, b)])
            await two.count("c", None, Consistency(done.commit_ts))
            skewed = []
            for database, reads, writes in ((one, a, b), (two, b, a)):
                opened = await database.begin(
                    "serializable" if isolation == "serializable" else "snapshot"
                )
                transaction = database.resume(opened.token)
                await transaction.fetch("c", [reads.encode()], NOW)
                await transaction.write([Delete("c", [writes.encode()])])
                skewed.append(transaction)
            answers = await asyncio.gather(*(t.commit() for t in skewed), return_exceptions=True)
            lost = [a for a in answers if isinstance(a, Conflict)]
            if isolation == "snapshot":
                assert lost == []
            else:
                assert lost, "both kept what the other one had read"

    on_a_cluster(test)


def test_a_takeover_voids_what_is_open_and_remembers_what_was_committed(
    on_a_cluster: OnACluster,
) -> None:
    async def test(cluster: Cluster) -> None:
        one, two = cluster.databases
        committed = one.resume((await one.begin("snapshot")).token)
        await committed.write([upsert("kept")])
        done = await committed.commit()
        opened = one.resume((await one.begin("snapshot")).token)
        await opened.write([upsert("lost")])
        await cluster.take_over()
        for late in (
            two.resume(opened.token).write([upsert("more")]),
            two.resume(opened.token).commit(),
        ):
            with pytest.raises(Conflict, match="begin the transaction again"):
                await late
        await two.resume(opened.token).abort()
        assert await two.resume(committed.token).commit() == done
        assert await ids(two, done.commit_ts) == ["kept"]

    on_a_cluster(test)


def test_an_expired_transaction_applies_nothing(
    on_a_cluster: OnACluster,
) -> None:
    async def test(cluster: Cluster) -> None:
        one, _ = cluster.databases
        # Time enough to write before it is over, also on a busy machine.
        opened = await one.begin("snapshot", 2.0)
        transaction = one.resume(opened.token)
        await transaction.write([upsert("a")])
        until = asyncio.get_running_loop().time() + 30
        while True:
            try:
                await transaction.count("c", None, NOW)
            except TransactionExpired:
                break
            assert asyncio.get_running_loop().time() < until
            await asyncio.sleep(0.05)
        with pytest.raises(TransactionExpired):
            await transaction.commit()
        assert await ids(one, 0) == []

    on_a_cluster(test)


def test_requests_at_once_under_one_key_are_one_write(
    on_a_cluster: OnACluster,
) -> None:
    async def test(cluster: Cluster) -> None:
        one, two = cluster.databases
        for i in range(5):
            key = Idempotency(b"k%d" % i, b"." * 16)
            write = [Upsert("c", rows(f"i{i}"), "insert")]
            answers = await asyncio.gather(*(d.write(write, key) for d in (one, two, one, two)))
            assert len({(a.count, a.commit_ts) for a in answers}) == 1
            assert sorted(a.replayed for a in answers) == [False, True, True, True]
            with pytest.raises(IdempotencyMismatch):
                await two.write(write, Idempotency(key.key, b"," * 16))
        transaction = one.resume((await one.begin("snapshot")).token)
        await transaction.write([upsert("t")])
        key = Idempotency(b"commit", b"." * 16)
        done = await transaction.commit(key)
        again = await two.resume(transaction.token).commit(key)
        assert (again.count, again.commit_ts) == (done.count, done.commit_ts)
        assert len(await ids(two, done.commit_ts)) == 6
        assert [c.name for c in await one.collections()] == ["c"]

    on_a_cluster(test)


def test_the_past_is_read_by_commit_and_by_time(
    on_a_cluster: OnACluster,
) -> None:
    async def test(cluster: Cluster) -> None:
        one, two = cluster.databases
        first = await one.write([upsert("a")])
        await asyncio.sleep(0.5)  # time itself is what is asked for
        wall_ms = SystemClock().wall_ms()
        await asyncio.sleep(0.5)
        second = await one.write([upsert("b")])
        at = Consistency(as_of=first.commit_ts)
        assert (await two.count("c", None, at)) == (1, first.commit_ts)
        assert (await two.count("c", None, Consistency(as_of_ms=wall_ms)))[0] == 1
        now_ms = SystemClock().wall_ms()
        assert (await two.count("c", None, Consistency(at_least=second.commit_ts)))[0] == 2
        assert now_ms > wall_ms
        with pytest.raises(InvalidArgument, match="future"):
            await one.count("c", None, Consistency(as_of=second.commit_ts + 1000))
        with pytest.raises(InvalidArgument, match="future"):
            await one.count("c", None, Consistency(as_of_ms=now_ms + 60_000))

    on_a_cluster(test)
