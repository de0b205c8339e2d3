"""Two services of each kind over a nats-server, and the kills and pauses that they suffer."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.support.named_mesh import NamedMesh
from tests.support.processes import Service
from vector_db.common.adapters.nats_server import NatsServer

READY_WITHIN_S = 15.0


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


class Mesh(NamedMesh):
    """nats-server, two coordinators, two shard workers, two gateways, by name."""

    def __init__(self, folder: Path) -> None:
        super().__init__({"nats": NatsServer(folder / "nats")})
        self._folder = folder

    async def start(self) -> None:
        """Everything, until it is ready.

        :raises RuntimeError: it does not get ready.
        """
        await self.start_brokers()
        counts = {"coordinator": 2, "shard": 2, "gateway": 2}
        url = self.nats_url
        await self.start_services(
            counts, lambda which, name: Service(which, self._folder / name, VECTOR_DB_NATS_URL=url)
        )

    async def inflict(self, fault: Fault) -> None:
        """The whole of one fault, healing included.

        :raises RuntimeError: the process had ended before by itself.
        """
        await asyncio.sleep(fault.after_s)
        pid = self.pid_of(fault.target)
        if fault.kind == "pause":
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(fault.lasts_s)
            os.kill(pid, signal.SIGCONT)
        elif fault.target in self.brokers:
            await self.kill_broker(fault.target)
            await asyncio.sleep(fault.lasts_s)
            await self.brokers[fault.target].start()
        else:
            service = self.services[fault.target]
            service.kill()
            await asyncio.sleep(fault.lasts_s)
            service.spawn()
