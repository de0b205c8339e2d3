"""A mesh of real processes with a broker that counts: what each did is read from outside.

Owns the rule that nothing is timed by the wall where CPU seconds or counts can be read: the
machine may be busy with other things.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.common import BenchError
from bench.memory import bytes_on_disk, memory_of
from tests.support.meshes import Mesh
from tests.support.ports import free_ports
from tests.support.processes import Service
from vector_db.common.adapters.nats_server import NatsServer

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> tuple[float, float]:
    """User and system seconds of a process, and of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own, children = int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])
    return own / _TICKS_PER_S, children / _TICKS_PER_S


@dataclass(frozen=True, slots=True)
class Reading:
    """All counters at one moment; `cpu_s` sums over the processes of a kind."""

    at_s: float
    cpu_s: dict[str, float]
    build_s: float
    """Of the workers' builders that have ended."""
    messages: int
    bytes: int
    records: int
    """In the decision log."""

    def since(self, before: Reading) -> Reading:
        """What happened between."""
        return Reading(
            self.at_s - before.at_s,
            {kind: spent - before.cpu_s[kind] for kind, spent in self.cpu_s.items()},
            self.build_s - before.build_s,
            self.messages - before.messages,
            self.bytes - before.bytes,
            self.records - before.records,
        )


class CountedMesh:
    """Workers, coordinators, one gateway and a broker; see `counted_mesh`."""

    def __init__(self, mesh: Mesh, broker: NatsServer, monitor_port: int) -> None:
        self.mesh = mesh
        self._broker = broker
        self._monitor = f"http://127.0.0.1:{monitor_port}"

    @property
    def http_port(self) -> int:
        """Of the gateway."""
        return self.mesh.gateway.http_port

    @property
    def broker_url(self) -> str:
        """For other connections."""
        return self._broker.url

    def read(self) -> Reading:
        """All counters now."""
        varz, jsz = self._ask("varz"), self._ask("jsz?streams=1")
        broker_pid = self._broker.pid
        if broker_pid is None:
            raise BenchError("the broker ended")
        workers = [cpu_s(_pid(one)) for one in self.mesh.shards]
        return Reading(
            time.monotonic(),
            {
                "gateway": sum(cpu_s(_pid(one))[0] for one in self.mesh.gateways),
                "coordinator": sum(cpu_s(_pid(one))[0] for one in self.mesh.coordinators),
                "worker": sum(own for own, _ in workers),
                "broker": cpu_s(broker_pid)[0],
            },
            sum(children for _, children in workers),
            varz["in_msgs"] + varz["out_msgs"],
            varz["in_bytes"] + varz["out_bytes"],
            sum(n for name, n in _streams(jsz).items() if name.startswith("VDB_TXN_")),
        )

    def each_worker_s(self) -> list[float]:
        """CPU seconds of each worker."""
        return [cpu_s(_pid(one))[0] for one in self.mesh.shards]

    def worker_bytes(self) -> list[tuple[int, int]]:
        """(anonymous memory, bytes on disk) of each worker."""
        return [
            (memory_of(_pid(one)).anonymous, bytes_on_disk(one.folder)) for one in self.mesh.shards
        ]

    def _ask(self, what: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self._monitor}/{what}", timeout=10) as answer:
            decoded: dict[str, Any] = json.loads(answer.read())
            return decoded


def _streams(jsz: dict[str, Any]) -> dict[str, int]:
    accounts = jsz.get("account_details") or []
    return {
        one["name"]: int(one["state"]["last_seq"])
        for account in accounts
        for one in account.get("stream_detail") or []
    }


def _pid(service: Service) -> int:
    if service.process is None or service.process.poll() is not None:
        raise BenchError(f"a {service.which} ended: {service.log[-2000:]}")
    return service.process.pid


@asynccontextmanager
async def counted_mesh(
    folder: Path, workers: int, replicas: int, coordinators: int = 1
) -> AsyncIterator[CountedMesh]:
    """A mesh that is ready; it is killed at the end."""
    (monitor_port,) = free_ports(1)
    broker = NatsServer(folder / "nats", settings=f'http: "127.0.0.1:{monitor_port}"\n')
    await broker.start()
    mesh = Mesh(
        folder,
        broker.url,
        workers,
        1,
        coordinators,
        VECTOR_DB_REPLICATION_FACTOR=str(replicas),
        VECTOR_DB_LOG_LEVEL="warning",
    )
    try:
        await asyncio.to_thread(mesh.start)
        yield CountedMesh(mesh, broker, monitor_port)
    finally:
        mesh.kill()
        await broker.stop()
