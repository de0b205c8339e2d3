"""Several nats-servers as one cluster, to kill and to start again one by one."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

from tests.support.ports import free_ports
from tests.support.processes import call
from vector_db.common.adapters.nats_link import NatsLink
from vector_db.common.adapters.nats_server import NatsServer
from vector_db.common.ports import BusTimeout, BusUnavailable

READY_S = 30.0
_ASK_S = 1.0
_PAUSE_S = 0.05


class NatsCluster:
    """Servers that know each other; started, they have a leader and hold streams together."""

    def __init__(self, folder: Path, size: int = 3) -> None:
        ports = free_ports(3 * size)
        clients, routes, self._monitors = ports[:size], ports[size : 2 * size], ports[2 * size :]
        joined = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
        self.folders = [folder / f"nats{i}" for i in range(size)]
        self.servers = [
            NatsServer(
                self.folders[i],
                clients[i],
                f'server_name: "n{i}"\nhttp: "127.0.0.1:{self._monitors[i]}"\n'
                f'cluster {{ name: "test", listen: "127.0.0.1:{routes[i]}", '
                # Who reaches a server through a proxy must not hear where it really listens.
                f"routes: [{joined}], no_advertise: true }}\n",
            )
            for i in range(size)
        ]

    @property
    def url(self) -> str:
        """All of them, comma-separated."""
        return ",".join(server.url for server in self.servers)

    async def start(self) -> None:
        """Start those that do not run, and wait until the cluster can hold streams."""
        await asyncio.gather(*(s.start() for s in self.servers if s.pid is None))
        await self.settled()

    async def stop(self) -> None:
        """End all that run."""
        await asyncio.gather(*(server.stop() for server in self.servers))

    async def kill(self, index: int) -> None:
        """SIGKILL: it says no good-bye, and writes nothing more."""
        server = self.servers[index]
        if server.pid is not None:
            os.kill(server.pid, signal.SIGKILL)
            await server.wait()

    async def settled(self) -> None:
        """Until somebody leads and every stream has all its replicas, up to date."""
        async with asyncio.timeout(READY_S):
            while True:
                if all(_is_whole(stream) for stream in await self.streams()):
                    return
                await asyncio.sleep(_PAUSE_S)

    async def streams(self) -> list[dict[str, Any]]:
        """What the cluster says of each stream."""
        reply = await self._ask("STREAM.LIST", {"offset": 0})
        streams: list[dict[str, Any]] = reply.get("streams") or []
        return streams

    async def leader_of(self, stream: str) -> int:
        """The index of the server that leads `stream`."""
        async with asyncio.timeout(READY_S):
            while True:
                reply = await self._ask(f"STREAM.INFO.{stream}", None)
                leader = reply.get("cluster", {}).get("leader", "")
                if leader:
                    return int(leader.removeprefix("n"))
                await asyncio.sleep(_PAUSE_S)

    async def meta_leader(self) -> int:
        """The index of the server that places streams and consumers."""
        async with asyncio.timeout(READY_S):
            while True:
                told = await self._monitored(self._alive()[0], "jsz")
                leader = told.get("meta_cluster", {}).get("leader")
                if leader:
                    return int(leader.removeprefix("n"))
                await asyncio.sleep(_PAUSE_S)

    async def busiest(self) -> int:
        """The index of the server with most connections."""
        told = {i: (await self._monitored(i, "varz"))["connections"] for i in self._alive()}
        return max(told, key=lambda i: int(told[i]))

    def _alive(self) -> list[int]:
        return [i for i, server in enumerate(self.servers) if server.pid is not None]

    async def _monitored(self, index: int, page: str) -> dict[str, Any]:
        return await asyncio.to_thread(call, f"http://127.0.0.1:{self._monitors[index]}/{page}")

    async def _ask(self, what: str, body: dict[str, Any] | None) -> dict[str, Any]:
        """The answer of JetStream once there is one without an error."""
        async with asyncio.timeout(READY_S):
            while True:
                try:
                    link = await NatsLink.connect(self.url, "test", _ASK_S)
                except BusUnavailable:
                    await asyncio.sleep(_PAUSE_S)
                    continue
                try:
                    reply = await link.api(what, body, _ASK_S)
                    if "error" not in reply:
                        return reply
                    await asyncio.sleep(_PAUSE_S)
                except (BusTimeout, BusUnavailable):
                    await asyncio.sleep(_PAUSE_S)
                finally:
                    await link.close()


def _is_whole(stream: dict[str, Any]) -> bool:
    cluster = stream.get("cluster") or {}
    replicas = cluster.get("replicas") or []
    wanted = int(stream["config"]["num_replicas"]) - 1
    current = [r for r in replicas if r.get("current") and not r.get("offline")]
    return bool(cluster.get("leader")) and len(current) == wanted
