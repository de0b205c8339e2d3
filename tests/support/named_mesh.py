"""The services as separate processes, each with a name, and the brokers between them.

Owns the invariant that every process is ended by the group it was started in, whatever state a
fault left it in: a stopped process is killed as well as a running one.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Mapping

import aiohttp

from tests.support.processes import Service
from vector_db.common.adapters.nats_server import NatsServer

GIVE_UP_S = 90.0
_POLL_S = 0.05


class NamedMesh:
    """Brokers, and some services of each kind: ``coordinator0``, ``shard0``, ``gateway0``, …"""

    def __init__(self, brokers: Mapping[str, NatsServer]) -> None:
        self.brokers = dict(brokers)
        self.services: dict[str, Service] = {}

    @property
    def targets(self) -> list[str]:
        """Whom a fault may hit."""
        return [*self.brokers, *self.services]

    @property
    def gateways(self) -> list[Service]:
        """All REST edges."""
        return [s for s in self.services.values() if s.which == "gateway"]

    @property
    def nats_url(self) -> str:
        """Of all brokers that were started."""
        return ",".join(broker.url for broker in self.brokers.values())

    async def start_brokers(self) -> None:
        """All brokers, until they are ready.

        :raises StartupError: one does not start.
        """
        await asyncio.gather(*(broker.start() for broker in self.brokers.values()))

    async def start_services(
        self, counts: Mapping[str, int], make: Callable[[str, str], Service]
    ) -> None:
        """Each kind of service so many times, until all are ready; `make`: one by kind and name.

        :raises RuntimeError: one does not get ready.
        """
        for which, count in counts.items():
            for number in range(count):
                name = f"{which}{number}"
                self.services[name] = make(which, name)
                self.services[name].spawn()
        async with aiohttp.ClientSession() as http:
            await self.wait_ready(http)

    async def stop(self) -> None:
        """Kill everything."""
        for service in self.services.values():
            service.kill()
        for name in self.brokers:
            await self.kill_broker(name)

    async def kill_broker(self, name: str) -> None:
        """SIGKILL; nothing if it does not run."""
        broker = self.brokers[name]
        if broker.pid is not None:
            os.kill(broker.pid, signal.SIGKILL)
            await broker.wait()

    def pid_of(self, target: str) -> int:
        """The process that a name stands for now.

        :raises RuntimeError: it ended by itself.
        """
        if target in self.brokers:
            pid = self.brokers[target].pid
        else:
            process = self.services[target].process
            pid = process.pid if process is not None and process.poll() is None else None
        if pid is None:
            raise RuntimeError(f"{target} ended by itself:\n{self.log_end(target)}")
        return pid

    def ended(self) -> list[str]:
        """Services that ended although nobody killed them."""
        return [
            name
            for name, service in self.services.items()
            if service.process is not None and service.process.poll() is not None
        ]

    def log_end(self, target: str) -> str:
        """The last words of a process."""
        if target in self.brokers:
            return self.brokers[target].log_path.read_text(errors="replace")[-3000:]
        return self.services[target].log[-3000:]

    async def wait_ready(self, http: aiohttp.ClientSession) -> float:
        """Until every service says that it is ready: seconds that this took.

        :raises RuntimeError: one ended, or is not ready after `GIVE_UP_S`.
        """
        started = time.monotonic()
        waiting = dict(self.services)
        while waiting:
            for name, service in list(waiting.items()):
                if name in self.ended():
                    raise RuntimeError(f"{name} ended by itself:\n{self.log_end(name)}")
                if await _is_ready(http, service):
                    del waiting[name]
            if waiting and time.monotonic() - started > GIVE_UP_S:
                name = next(iter(waiting))
                raise RuntimeError(f"{list(waiting)} not ready:\n{self.log_end(name)}")
            if waiting:
                await asyncio.sleep(_POLL_S)
        return time.monotonic() - started


async def _is_ready(http: aiohttp.ClientSession, service: Service) -> bool:
    port = service.http_port if service.which == "gateway" else service.admin_port
    try:
        async with http.get(
            f"http://127.0.0.1:{port}/readyz", timeout=aiohttp.ClientTimeout(total=5)
        ) as answer:
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False
