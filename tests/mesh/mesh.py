"""Services and brokers with a link between each two of them, and what faults do to them.

Owns the healing: whatever a fault did is undone when `inflict` returns, or raises.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

from tests.mesh.faults import LEADER, Fault
from tests.mesh.links import CLEAR, HOST
from tests.mesh.proxy import Proxy
from tests.support.named_mesh import NamedMesh
from tests.support.nats_cluster import NatsCluster
from tests.support.processes import Service, with_tests_on_path
from tests.support.slow_process import CONTROL, SLOW_MODULE
from vector_db.common.adapters.nats_server import NatsServer

COUNTS = {"coordinator": 2, "shard": 3, "gateway": 2}
REPLICAS = 3
GRACE_S = 6
"""Faults that last longer cost a worker its replicas, which it copies when it is back."""
WHOLE_WITHIN_S = 60.0
_TERM = "vector_db_coordinator_term "


class FaultyMesh(NamedMesh):
    """Three replicas of every shard, each service with links of its own to all brokers."""

    def __init__(
        self, folder: Path, seed: int, brokers: int = 1, counts: Mapping[str, int] = COUNTS
    ) -> None:
        self._cluster = NatsCluster(folder, brokers) if brokers > 1 else None
        servers = self._cluster.servers if self._cluster else [NatsServer(folder / "nats0")]
        super().__init__({f"broker{n}": server for n, server in enumerate(servers)})
        self._folder = folder
        self._counts = counts
        self._proxy = Proxy(seed)

    async def start(self) -> None:
        """Everything, until it is ready.

        :raises RuntimeError: it does not get ready.
        """
        await self.start_brokers()
        await self.brokers_settled()
        names = [f"{which}{n}" for which, count in self._counts.items() for n in range(count)]
        ports = {name: broker.port for name, broker in self.brokers.items()}
        await self._proxy.start(
            {_link(name, to): port for name in names for to, port in ports.items()}
        )
        await self.start_services(self._counts, self._service)

    def _service(self, which: str, name: str) -> Service:
        ports = (self._proxy.ports[_link(name, to)] for to in self.brokers)
        settings = {
            "VECTOR_DB_NATS_URL": ",".join(f"nats://{HOST}:{port}" for port in ports),
            "VECTOR_DB_REPLICATION_FACTOR": str(REPLICAS),
            "VECTOR_DB_FAILOVER_GRACE_S": str(GRACE_S),
            "VECTOR_DB_STREAM_REPLICAS": "3" if self._cluster else "1",
            "VECTOR_DB_ZONE": name,
        }
        if which != "shard":
            return Service(which, self._folder / name, **settings)
        service = Service(which, self._folder / name, **settings, **with_tests_on_path())
        service.module = SLOW_MODULE
        return service

    async def brokers_settled(self) -> None:
        """Until every log has all its copies.

        :raises TimeoutError: it does not get them in time.
        """
        if self._cluster is not None:
            await self._cluster.settled()

    async def stop(self) -> None:
        """Kill everything."""
        try:
            await super().stop()
        finally:
            await self._proxy.stop()

    async def leader(self, http: aiohttp.ClientSession) -> str:
        """The coordinator that leads, or any while none does."""
        names = [name for name, s in self.services.items() if s.which == "coordinator"]
        for name in names:
            port = self.services[name].admin_port
            try:
                async with http.get(f"http://{HOST}:{port}/metrics") as answer:
                    lines = (await answer.text()).splitlines()
            except (aiohttp.ClientError, TimeoutError):
                continue
            if any(line.startswith(_TERM) and float(line.split()[1]) > 0 for line in lines):
                return name
        return names[0]

    async def whole(self, http: aiohttp.ClientSession) -> None:
        """Until every shard has all of its replicas, at workers that are heard.

        :raises RuntimeError: it has not in time.
        """
        until = time.monotonic() + WHOLE_WITHIN_S
        while True:
            cluster = await self._cluster_view(http)
            heard = {worker["id"] for worker in cluster.get("workers", ())}
            moving = cluster.get("joining") or cluster.get("leaving")
            shards = cluster.get("shards", {}).values()
            there = all(len(r) == REPLICAS and heard.issuperset(r) for r in shards)
            if shards and there and not moving:
                return
            if time.monotonic() > until:
                raise RuntimeError(f"replicas are missing: {cluster}")
            await asyncio.sleep(0.1)

    async def _cluster_view(self, http: aiohttp.ClientSession) -> dict[str, Any]:
        """What a gateway says of the cluster; empty: none says anything now."""
        for gateway in self.gateways:
            try:
                timeout = aiohttp.ClientTimeout(total=5)
                async with http.get(gateway.url + "/v1/cluster", timeout=timeout) as answer:
                    if answer.status == 200:
                        said: dict[str, Any] = await answer.json()
                        return said
            except (aiohttp.ClientError, TimeoutError):
                continue
        return {}

    async def inflict(self, fault: Fault, http: aiohttp.ClientSession) -> str:
        """The whole of one fault, healing included: whom it hit.

        :raises RuntimeError: the process had ended before by itself.
        """
        target = await self.leader(http) if fault.target == LEADER else fault.target
        pid = self.pid_of(target)
        match fault.kind:
            case "kill" if target in self.brokers:
                await self.kill_broker(target)
                await asyncio.sleep(fault.lasts_s)
                await self.brokers[target].start()
            case "kill":
                self.services[target].kill()
                await asyncio.sleep(fault.lasts_s)
                self.services[target].spawn()
            case "lose":
                # Only one copy may be missing: what two workers acknowledged is on two disks.
                await self.whole(http)
                self.services[target].kill()
                shutil.rmtree(self.services[target].folder / "data")
                await asyncio.sleep(fault.lasts_s)
                self.services[target].spawn()
                await self.whole(http)
            case "pause":
                os.kill(pid, signal.SIGSTOP)
                try:
                    await asyncio.sleep(fault.lasts_s)
                finally:
                    os.kill(pid, signal.SIGCONT)
            case "slow disk":
                control = self.services[target].folder / CONTROL
                control.write_text(str(fault.sync_ms))
                try:
                    await asyncio.sleep(fault.lasts_s)
                finally:
                    control.unlink()
            case _:
                await self._network(target, fault)
        return target

    async def _network(self, target: str, fault: Fault) -> None:
        if target in self.brokers:
            links = [_link(service, target) for service in self.services]
        else:
            links = [_link(target, broker) for broker in self.brokers]
        try:
            for link in links:
                await self._proxy.set(link, fault.weather)
            await asyncio.sleep(fault.lasts_s)
        finally:
            for link in links:
                await self._proxy.set(link, CLEAR)


def _link(service: str, broker: str) -> str:
    return f"{service}>{broker}"
