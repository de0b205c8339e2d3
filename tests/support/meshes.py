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
        self.shards = [
            Service("shard", folder / f"shard{i}", VECTOR_DB_ZONE=f"z{i}", **settings)
            for i in range(shards)
        ]
        self.coordinator = Service("coordinator", folder / "coordinator", **settings)
        self.gateways = [
            Service("gateway", folder / f"gateway{i}", **settings) for i in range(gateways)
        ]
        self.everyone = [*self.shards, self.coordinator, *self.gateways]

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
