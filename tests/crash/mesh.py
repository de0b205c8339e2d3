"""The services as separate processes over a nats-server, and the faults that they suffer.

Owns the invariant that every process is ended by the group it was started in, whatever state a
fault left it in: a stopped process is killed as well as a running one.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random

import aiohttp

from tests.support.processes import Service
from vector_db.common.adapters.nats_server import NatsServer

READY_WITHIN_S = 15.0
GIVE_UP_S = 90.0
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one process: killed and started again after `lasts_s`, or paused so long."""

    kind: str
    target: str
    after_s: float
    lasts_s: float

    def __str__(self) -> str:
        return f"{self.kind} {self.target} after {self.after_s:.2f} s for {self.lasts_s:.2f} s"


def schedule(random: Random, rounds: int, targets: list[str]) -> list[list[Fault]]:
    """The faults of each round, mostly one, sometimes two at once."""
    plan = []
    for _ in range(rounds):
        chosen = random.sample(targets, 2 if random.random() < 0.2 else 1)
        plan.append([_fault(random, target) for target in chosen])
    return plan


def _fault(random: Random, target: str) -> Fault:
    after_s = random.uniform(0.1, 0.6)
    if random.random() < 0.7:
        return Fault("kill", target, after_s, random.choice((0.0, random.uniform(0.05, 0.8))))
    # Some pauses outlast every lease: the process wakes up in a world that went on without it.
    lasts_s = random.uniform(1.5, 4.0) if random.random() < 0.25 else random.uniform(0.05, 0.8)
    return Fault("pause", target, after_s, lasts_s)


class Mesh:
    """nats-server, two coordinators, two shard workers, two gateways, by name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.nats = NatsServer(folder / "nats")
        self.services: dict[str, Service] = {}

    @property
    def targets(self) -> list[str]:
        """Whom a fault may hit."""
        return ["nats", *self.services]

    @property
    def gateways(self) -> list[Service]:
        """Both REST edges."""
        return [s for s in self.services.values() if s.which == "gateway"]

    async def start(self) -> None:
        """Everything, until it is ready.

        :raises RuntimeError: it does not get ready.
        """
        await self.nats.start()
        for which in ("coordinator", "shard", "gateway"):
            for number in range(2):
                name = f"{which}{number}"
                service = Service(which, self._folder / name, VECTOR_DB_NATS_URL=self.nats.url)
                self.services[name] = service
                service.spawn()
        async with aiohttp.ClientSession() as http:
            await self.wait_ready(http)

    async def stop(self) -> None:
        """Kill everything."""
        for service in self.services.values():
            service.kill()
        if self.nats.pid is not None:
            os.kill(self.nats.pid, signal.SIGKILL)
            await self.nats.wait()

    async def inflict(self, fault: Fault) -> None:
        """The whole of one fault, healing included.

        :raises RuntimeError: the process had ended before by itself.
        """
        await asyncio.sleep(fault.after_s)
        pid = self._pid(fault.target)
        if fault.kind == "pause":
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(fault.lasts_s)
            os.kill(pid, signal.SIGCONT)
        elif fault.target == "nats":
            os.kill(pid, signal.SIGKILL)
            await self.nats.wait()
            await asyncio.sleep(fault.lasts_s)
            await self.nats.start()
        else:
            service = self.services[fault.target]
            service.kill()
            await asyncio.sleep(fault.lasts_s)
            service.spawn()

    def _pid(self, target: str) -> int:
        if target == "nats":
            pid = self.nats.pid
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
        if target == "nats":
            return self.nats.log_path.read_text(errors="replace")[-3000:]
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
