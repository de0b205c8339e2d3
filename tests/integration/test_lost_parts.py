"""A shard worker away, without its files, or of another cluster: writes say so, or go on."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path

import orjson
import pytest

from tests.support.processes import HttpError, Service
from vector_db.common.adapters.nats_server import NatsServer
from vector_db.gateway.transactions import TXN_TIMEOUT_S

ROWS = [{"id": f"r{i}", "dimensions": [1.0, float(i)]} for i in range(50)]


def test_a_write_to_a_dead_shard_is_refused_soon_and_taken_once_it_is_back(tmp_path: Path) -> None:
    nats = NatsServer(tmp_path / "nats")
    with asyncio.Runner() as runner:
        runner.run(nats.start())
        settings = {"VECTOR_DB_NATS_URL": nats.url}
        shards = [Service("shard", tmp_path / f"shard{i}", **settings) for i in range(2)]
        coordinator = Service("coordinator", tmp_path / "coordinator", **settings)
        gateway = Service("gateway", tmp_path / "gateway", **settings)
        everyone = [*shards, coordinator, gateway]
        try:
            for service in everyone:
                service.spawn()
            for service in everyone:
                service.wait_ready()
            gateway.call("/v1/collections", {"name": "c", "dimension": 2, "metric": "dot"})
            gateway.call("/v1/collections/c/vectors", {"vectors": ROWS})
            shards[0].kill()
            started = time.monotonic()
            with pytest.raises(HttpError) as refused:
                gateway.call("/v1/collections/c/vectors", {"vectors": ROWS})
            # The deadline of a transaction that was sent before the silence was noticed.
            assert time.monotonic() - started < 2 * TXN_TIMEOUT_S
            assert refused.value.status == 503
            started = time.monotonic()
            with pytest.raises(HttpError) as refused:
                gateway.call("/v1/collections/c/vectors", {"vectors": ROWS})
            # Whoever still waits for the worker does so for the deadline of a transaction.
            assert time.monotonic() - started < TXN_TIMEOUT_S / 2, "the silence is known by now"
            assert b"nothing was written" in refused.value.body
            assert orjson.loads(refused.value.body)["error"]["retryable"] is True

            shards[0].start()
            gateway.call("/v1/collections/c/vectors", {"vectors": ROWS})
            assert gateway.call("/v1/collections/c/count", {})["count"] == len(ROWS)
        finally:
            for service in everyone:
                service.kill()
            runner.run(nats.stop())


def test_a_worker_of_another_cluster_on_the_same_broker_stops_nothing(tmp_path: Path) -> None:
    nats, other = NatsServer(tmp_path / "nats"), NatsServer(tmp_path / "other")
    with asyncio.Runner() as runner:
        runner.run(nats.start())
        runner.run(other.start())

        def service(which: str, name: str, broker: NatsServer) -> Service:
            return Service(which, tmp_path / name, VECTOR_DB_NATS_URL=broker.url)

        mine = [
            service("shard", "shard", nats),
            service("coordinator", "coordinator", nats),
            service("gateway", "gateway", nats),
        ]
        foreign = service("shard", "foreign", other)
        theirs = service("coordinator", "theirs", other)
        try:
            for one in [*mine, foreign, theirs]:
                one.spawn()
            for one in [*mine, foreign, theirs]:
                one.wait_ready()
            gateway = mine[2]
            gateway.call("/vectors", {"vectors": ROWS})
            term = gateway.call("/v1/cluster")["term"]
            theirs.kill()
            foreign.kill()
            foreign.settings["VECTOR_DB_NATS_URL"] = nats.url
            foreign.start()
            for row in ROWS[:20]:
                gateway.call("/vectors", {"vectors": [row]})
            assert gateway.call("/v1/cluster")["term"] == term
            assert len(gateway.call("/v1/cluster")["workers"]) == 1
        finally:
            for one in [*mine, foreign, theirs]:
                one.kill()
            runner.run(nats.stop())
            runner.run(other.stop())


def test_one_process_begins_anew_when_only_its_rows_were_removed(tmp_path: Path) -> None:
    server = Service("all", tmp_path)
    try:
        server.start()
        server.call("/vectors", {"vectors": ROWS})
        assert server.stop() == 0
        shutil.rmtree(tmp_path / "data" / "shard")
        server.start()
        assert server.call("/v1/collections")["collections"] == []
        server.call("/vectors", {"vectors": ROWS[:1]})
        assert server.call("/v1/collections/default/count", {})["count"] == 1
    finally:
        server.kill()
