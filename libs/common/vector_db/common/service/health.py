"""Health over HTTP: the same four routes, and the same answers, on every process.

`/livez` says that the event loop turns; restart the process when it does not answer. `/readyz`
says that every service of the process serves; send it no traffic until then. `/health` tells a
person the same with facts. `/metrics` is for Prometheus. Owns the invariant that "ready" means
the same everywhere: every service of the process says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import orjson
from aiohttp import web
from prometheus_client import CollectorRegistry

from vector_db.common.service.telemetry import metrics_response, product_version


class Reporting(Protocol):
    """The part of a service that health needs."""

    name: str

    def health(self) -> dict[str, Any]:
        """``{"ready": bool, ...}``."""


def health_response(services: Sequence[Reporting]) -> tuple[int, dict[str, Any]]:
    """HTTP status and JSON body of ``/health``: 200, or 503 while any service is not ready."""
    reports = {service.name: service.health() for service in services}
    ready = bool(reports) and all(bool(report.get("ready")) for report in reports.values())
    return (200 if ready else 503), {
        "ready": ready,
        "version": product_version(),
        "services": reports,
    }


def readyz_response(services: Sequence[Reporting]) -> tuple[int, dict[str, Any]]:
    """HTTP status and JSON body of ``/readyz``; names the services that are not ready."""
    waiting = [service.name for service in services if not service.health().get("ready")]
    ready = bool(services) and not waiting
    return (200 if ready else 503), {"ready": ready, "waiting_for": waiting}


def livez_response() -> tuple[int, dict[str, Any]]:
    """HTTP status and JSON body of ``/livez``: an answer is the answer."""
    return 200, {"status": "alive"}


class AdminServer:
    """The four routes on a port of their own, for services without an HTTP edge.

    It serves from before the services start, so that a long recovery is seen as "not ready"
    instead of a refused connection.
    """

    def __init__(
        self, services: Sequence[Reporting], registry: CollectorRegistry, host: str, port: int
    ) -> None:
        self._services = services
        self._registry = registry
        self._host = host
        self._port = port
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Where it listens, once started (port 0 becomes the port that was free)."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    async def start(self) -> None:
        """:raises OSError: the address cannot be bound."""
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port, reuse_port=False).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner
        self._port = runner.addresses[0][1]

    async def stop(self) -> None:
        """Close the listener and its connections; idempotent."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _health(self, request: web.Request) -> web.Response:
        return _json(*health_response(self._services))

    async def _livez(self, request: web.Request) -> web.Response:
        return _json(*livez_response())

    async def _readyz(self, request: web.Request) -> web.Response:
        return _json(*readyz_response(self._services))

    async def _metrics(self, request: web.Request) -> web.Response:
        body, content_type = metrics_response(self._registry)
        return web.Response(body=body, headers={"Content-Type": content_type})


def _json(status: int, body: dict[str, Any]) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(body), content_type="application/json")
