"""Two coordinators on one broker: one leads, and the other takes over when it dies."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from tests.support.processes import Service, call
from vector_db.common.adapters.nats_server import NatsServer

SETTLED_S_MAX = 20.0


def role(coordinator: Service) -> str:
    """What the coordinator says that it does."""
    health = call(f"http://127.0.0.1:{coordinator.admin_port}/health")
    answered: str = health["services"]["coordinator"]["role"]
    return answered


def by_role(coordinators: list[Service]) -> tuple[Service, Service]:
    """The one that leads and the one that stands by, once each says which it is."""
    until = time.monotonic() + SETTLED_S_MAX
    while True:
        roles = {role(each): each for each in coordinators}
        if roles.keys() == {"sequencer", "standby"}:
            return roles["sequencer"], roles["standby"]
        assert time.monotonic() < until, roles
        time.sleep(0.05)


def test_started_together_one_leads_and_the_other_takes_over_when_it_is_killed(
    tmp_path: Path,
) -> None:
    nats = NatsServer(tmp_path / "nats")
    with asyncio.Runner() as runner:
        runner.run(nats.start())
        settings = {"VECTOR_DB_NATS_URL": nats.url}
        coordinators = [
            Service("coordinator", tmp_path / f"coordinator{i}", **settings) for i in range(2)
        ]
        shard = Service("shard", tmp_path / "shard", **settings)
        gateway = Service("gateway", tmp_path / "gateway", **settings)
        everyone = [*coordinators, shard, gateway]
        try:
            for service in everyone:
                service.spawn()
            for service in everyone:
                service.wait_ready()
            body = {"vectors": [{"id": "a", "dimensions": [1.0, 0.0]}]}
            first = gateway.call("/vectors", body)
            leader, other = by_role(coordinators)
            leader.kill()
            other.wait_ready()
            gateway.wait_ready()
            second = gateway.call("/vectors", {"vectors": [{"id": "b", "dimensions": [0.0, 1.0]}]})
            assert second["commit_ts"] > first["commit_ts"]
            assert gateway.call("/v1/collections/default/count", {})["count"] == 2
        finally:
            for service in everyone:
                service.kill()
            runner.run(nats.stop())
