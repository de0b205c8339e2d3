"""Services and brokers with a link between each two of them, and what faults do to them.

Owns the healing: whatever a fault did is undone when `inflict` returns, or raises.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from pathlib import Path

import aiohttp

from tests.mesh.faults import LEADER, Fault
from tests.mesh.links import CLEAR, HOST
from tests.mesh.proxy import Proxy
from tests.support.named_mesh import NamedMesh
from tests.support.nats_cluster import NatsCluster
from tests.support.processes import Service, tests_on_path
from tests.support.slow_process import CONTROL, SLOW_MODULE
from vector_db.common.adapters.nats_server import NatsServer

COUNTS = {"coordinator": 2, "shard": 3, "gateway": 2}
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
            "VECTOR_DB_REPLICATION_FACTOR": "3",
            "VECTOR_DB_STREAM_REPLICAS": "3" if self._cluster else "1",
            "VECTOR_DB_ZONE": name,
        }
        if which != "shard":
            return Service(which, self._folder / name, **settings)
        service = Service(which, self._folder / name, **settings, **tests_on_path())
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
