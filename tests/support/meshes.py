"""A mesh of real processes over a broker of its own, for as long as a test needs it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.processes import Service
from vector_db.common.adapters.nats_server import NatsServer


class Mesh:
    """Shard workers, each in a zone of its own, a coordinator and gateways."""

    def __init__(
        self, folder: Path, nats_url: str, shards: int, gateways: int, **settings: str
    ) -> None:
        settings["VECTOR_DB_NATS_URL"] = nats_url
        self._folder, self._settings = folder, settings
        self.shards = [self._shard(i) for i in range(shards)]
        self.coordinator = Service("coordinator", folder / "coordinator", **settings)
        self.gateways = [
            Service("gateway", folder / f"gateway{i}", **settings) for i in range(gateways)
        ]

    @property
    def everyone(self) -> list[Service]:
        return [*self.shards, self.coordinator, *self.gateways]

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


@contextmanager
def running_mesh(
    folder: Path, shards: int = 2, gateways: int = 1, **settings: str
) -> Iterator[Mesh]:
    """A mesh that is ready; it is killed at the end."""
    nats = NatsServer(folder / "nats")
    with asyncio.Runner() as runner:
        runner.run(nats.start())
        mesh = Mesh(folder, nats.url, shards, gateways, **settings)
        try:
            for service in mesh.everyone:
                service.spawn()
            for service in mesh.everyone:
                service.wait_ready()
            yield mesh
        finally:
            for service in reversed(mesh.everyone):
                service.kill()
            runner.run(nats.stop())
