"""A mesh of real processes over brokers of its own, for as long as a test needs it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.nats_cluster import NatsCluster
from tests.support.processes import Service
from vector_db.common.adapters.nats_server import NatsServer
from vector_db.common.core.subjects import log_term


class Mesh:
    """Shard workers, each in a zone of its own, coordinators and gateways."""

    def __init__(
        self,
        folder: Path,
        nats_url: str,
        shards: int,
        gateways: int,
        coordinators: int = 1,
        **settings: str,
    ) -> None:
        settings["VECTOR_DB_NATS_URL"] = nats_url
        self._folder, self._settings = folder, settings
        self.nats_url = nats_url
        self.shards = [self._shard(i) for i in range(shards)]
        self.coordinators = [
            Service("coordinator", folder / f"coordinator{i}", **settings)
            for i in range(coordinators)
        ]
        self.gateways = [
            Service("gateway", folder / f"gateway{i}", **settings) for i in range(gateways)
        ]

    @property
    def everyone(self) -> list[Service]:
        return [*self.shards, *self.coordinators, *self.gateways]

    @property
    def coordinator(self) -> Service:
        """The first one."""
        return self.coordinators[0]

    def _shard(self, number: int) -> Service:
        folder = self._folder / f"shard{number}"
        return Service("shard", folder, **{"VECTOR_DB_ZONE": f"z{number}"} | self._settings)

    def add_shard(self) -> Service:
        """One more shard worker, started."""
        added = self._shard(len(self.shards))
        self.shards.append(added)
        added.start()
        return added

    @property
    def gateway(self) -> Service:
        """The first one."""
        return self.gateways[0]

    def start(self) -> None:
        """Start everyone, and wait until they are ready."""
        for service in self.everyone:
            service.spawn()
        for service in self.everyone:
            service.wait_ready()

    def kill(self) -> None:
        """SIGKILL to everyone."""
        for service in reversed(self.everyone):
            service.kill()


@contextmanager
def running_mesh(
    folder: Path, shards: int = 2, gateways: int = 1, coordinators: int = 1, **settings: str
) -> Iterator[Mesh]:
    """A mesh that is ready; it is killed at the end."""
    nats = NatsServer(folder / "nats")
    with asyncio.Runner() as runner:
        runner.run(nats.start())
        mesh = Mesh(folder, nats.url, shards, gateways, coordinators, **settings)
        try:
            mesh.start()
            yield mesh
        finally:
            mesh.kill()
            runner.run(nats.stop())


class Brokers:
    """A cluster of three nats-servers for tests without an event loop."""

    def __init__(self, folder: Path) -> None:
        self.cluster = NatsCluster(folder)
        self._runner = asyncio.Runner()
        self._runner.run(self.cluster.start())

    def kill(self, index: int) -> None:
        """See `NatsCluster.kill`."""
        self._runner.run(self.cluster.kill(index))

    def start(self) -> None:
        """See `NatsCluster.start`."""
        self._runner.run(self.cluster.start())

    def decision_leader(self) -> int:
        """The index of the server that leads the newest decision log."""
        names = [s["config"]["name"] for s in self._runner.run(self.cluster.streams())]
        newest = max((n for n in names if n.startswith("VDB_TXN_")), key=log_term)
        return self._runner.run(self.cluster.leader_of(newest))

    def busiest(self) -> int:
        """The index of the server with most connections."""
        return self._runner.run(self.cluster.busiest())

    def close(self) -> None:
        """End the servers."""
        self._runner.run(self.cluster.stop())
        self._runner.close()


@contextmanager
def clustered_mesh(
    folder: Path, shards: int, gateways: int, coordinators: int, **settings: str
) -> Iterator[tuple[Mesh, Brokers]]:
    """A mesh that is ready over three nats-servers that hold every log together."""
    brokers = Brokers(folder)
    settings |= {"VECTOR_DB_STREAM_REPLICAS": "3"}
    mesh = Mesh(folder, brokers.cluster.url, shards, gateways, coordinators, **settings)
    try:
        mesh.start()
        yield mesh, brokers
    finally:
        mesh.kill()
        brokers.close()
