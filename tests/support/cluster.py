"""A whole cluster as real processes under load: shard workers, coordinator, gateway, broker."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from tests.support.acknowledged import COLLECTION, Load
from tests.support.processes import Service, with_tests_on_path
from vector_db.common.adapters.nats_server import NatsServer

BACK_S = 15.0
"""How soon writes go on after a loss."""
LOSSY_MODULE = "tests.support.lossy_process"
"""`Service.module` of a process over `LossyDisk`; it needs `with_tests_on_path`."""


class Cluster:
    """The processes, their broker, and a load on them; `lossy`: over `LossyDisk`.

    `settings` are variables of the environment of all of them.
    """

    def __init__(
        self, folder: Path, workers: int = 2, lossy: bool = False, **settings: str
    ) -> None:
        self.runner = asyncio.Runner()
        self.nats = NatsServer(folder / "nats")
        self.store = folder / "nats" / "jetstream"
        self.runner.run(self.nats.start())
        url = {"VECTOR_DB_NATS_URL": self.nats.url, **settings}
        if lossy:
            url |= with_tests_on_path()
        self.shards = [Service("shard", folder / f"shard{i}", **url) for i in range(workers)]
        self.coordinator = Service("coordinator", folder / "coordinator", **url)
        self.gateway = Service("gateway", folder / "gateway", **url)
        if lossy:
            for service in self.everyone:
                service.module = LOSSY_MODULE
        self.load = Load(self.gateway.url)
        self.is_sound = False
        """Whether the last check found everything."""

    @property
    def everyone(self) -> list[Service]:
        return [*self.shards, self.coordinator, self.gateway]

    def start(self) -> None:
        """Start them, and wait until they are ready."""
        for service in self.everyone:
            service.spawn()
        for service in self.everyone:
            service.wait_ready()

    def work(self, batches: int) -> None:
        """Put the load on, and let it get on a little."""
        self.is_sound = False
        self.load.start()
        self.load.wait_for(batches, 60)

    def kill_broker(self) -> None:
        """SIGKILL: it says no good-bye, and writes nothing more."""
        pid = self.nats.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        self.runner.run(self.nats.wait())

    def start_broker(self) -> None:
        self.runner.run(self.nats.start())

    def check_back(self, what: str) -> float:
        """Writes go on soon, and all that was acknowledged is there."""
        seconds = self.load.wait_for(1, BACK_S)
        self.load.wait_for(20, BACK_S)
        self.load.stop()
        rows = self.load.check()
        names = [c["name"] for c in self.gateway.call("/v1/collections")["collections"]]
        assert names == [COLLECTION]
        assert all(service.process is not None and service.process.poll() is None
                   for service in self.everyone), "a process ended"  # fmt: skip
        self.is_sound = True
        print(
            f"\n{what}: back after {seconds:.1f} s, {self.load.acknowledged} batches acknowledged, "
            f"{self.load.refused} not (the longest after {self.load.longest_refusal_s:.1f} s), "
            f"{rows} rows"
        )
        return seconds

    def kill_everything(self) -> None:
        """SIGKILL to everyone and the broker."""
        for service in self.everyone:
            service.kill()
        self.kill_broker()

    def close(self) -> None:
        self.load.abandon()
        for service in reversed(self.everyone):
            service.kill()
        self.runner.run(self.nats.stop())
        self.runner.close()
