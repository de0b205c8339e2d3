"""The gateway service: the REST and gRPC edges over one `Database`."""

from __future__ import annotations

import asyncio
from typing import Any

from vector_db.common.model.errors import StartupError, Unavailable
from vector_db.common.service.config import Config
from vector_db.common.service.runtime import Runtime, Service
from vector_db.common.service.telemetry import metrics_response
from vector_db.gateway.cluster import ClusterView
from vector_db.gateway.copying import Copier
from vector_db.gateway.database import Database
from vector_db.gateway.grpc.server import GrpcServer
from vector_db.gateway.metrics import GatewayMetrics
from vector_db.gateway.reads import Reader
from vector_db.gateway.rest.app import build_app
from vector_db.gateway.rest.server import RestServer
from vector_db.gateway.transactions import Transactions

HEALTH_S = 0.5


class GatewayService:
    """One gateway."""

    name = "gateway"

    def __init__(self, runtime: Runtime, config: Config) -> None:
        self._config = config
        limits = config.limits_value()
        self._transactions = Transactions(
            runtime.bus, runtime.random.randbytes(16).hex(), runtime.random
        )
        self._view = ClusterView(runtime.bus, runtime.clock, self._transactions.on_outcome)
        reader = Reader(runtime.bus, self._view)
        database = Database(
            runtime.bus,
            self._view,
            self._transactions,
            reader,
            limits,
            config.performance.batch_size,
            config.transactions,
            runtime.random,
        )
        self._idempotent = database.idempotent
        self._copier = Copier(runtime.bus, self._view, self._transactions, reader)
        server = config.server
        key = server.api_key.get_secret_value() if server.api_key and server.auth_required else None
        meters = GatewayMetrics(runtime.metrics)
        self._rest = RestServer(
            build_app(
                database,
                limits,
                api_key=key,
                health=self.health,
                metrics=lambda: metrics_response(runtime.metrics),
                meters=meters,
            )
        )
        self._grpc = GrpcServer(database, limits, key, meters)
        self.http_port = 0
        self.grpc_port = 0

    async def start(self) -> None:
        """Return once a sequencer leads and both edges listen."""
        timeout_s = self._config.server.start_timeout_s
        try:
            await self._transactions.start(self._view)
            await self._view.start(timeout_s)
        except Unavailable as error:
            raise StartupError(f"no coordinator leads after {timeout_s:g} s") from error
        await self._copier.start()
        host = self._config.server.host
        self.http_port = await self._rest.start(host, self._config.server.http_port)
        self.grpc_port = await self._grpc.start(host, self._config.server.grpc_port)

    async def run(self) -> None:
        """Until cancelled: tell gRPC's health service, and sweep expired idempotency keys."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._tell_health(), name="gateway.health")
            tasks.create_task(self._idempotent.run_sweeps(), name="gateway.sweeps")

    async def _tell_health(self) -> None:
        """gRPC's health service says what `/readyz` says."""
        serving = True
        while True:
            if self._view.ready() != serving:
                serving = not serving
                await self._grpc.set_serving(serving)
            await asyncio.sleep(HEALTH_S)

    async def stop(self) -> None:
        """Let requests under way finish, then close both edges."""
        drain_s = self._config.server.drain_timeout_s / 2
        await asyncio.gather(self._rest.stop(drain_s), self._grpc.stop(drain_s))
        await self._copier.stop()
        await self._transactions.stop()
        await self._view.stop()

    def health(self) -> dict[str, Any]:
        """Ready while a sequencer is heard."""
        view = self._view
        return {
            "ready": view.ready(),
            "term": view.term,
            "stable_ts": view.stable_ts,
            "transactions_in_flight": self._transactions.in_flight(),
        }


def build(runtime: Runtime, config: Config) -> Service:
    """The gateway service."""
    return GatewayService(runtime, config)
