"""What probes, scrapers and people ask of a process: health, metrics, the API's description."""

from __future__ import annotations

from collections.abc import Sequence

import orjson
from aiohttp import web

from vector_db.gateway.rest import answers
from vector_db.gateway.rest.docs import render_docs
from vector_db.gateway.rest.edge import Edge, Route
from vector_db.gateway.rest.encode import json_response
from vector_db.gateway.rest.openapi import describe


class Operations:
    """Handlers of operations. `described` are the other routes, shown by OpenAPI and the docs."""

    def __init__(self, edge: Edge, described: Sequence[Route]) -> None:
        self._edge = edge
        document = describe([*described, *self.routes()], edge.limits)
        self._openapi = orjson.dumps(document)
        self._docs = render_docs(document)

    def routes(self) -> list[Route]:
        """All routes of this topic."""
        return [
            Route(
                "GET", "/health", self.health, "operations",
                "Ready or not, with facts; 503 while not ready", answers.HealthAnswer,
            ),
            Route("GET", "/livez", self.livez, "operations", "The process answers"),
            Route(
                "GET", "/readyz", self.readyz, "operations",
                "200 when requests can be served, else 503",
            ),
            Route("GET", "/metrics", self.metrics, "operations", "Prometheus metrics"),
            Route("GET", "/openapi.json", self.openapi, "operations", "This API as OpenAPI 3.1"),
            Route("GET", "/docs", self.docs, "operations", "This API for people"),
        ]  # fmt: skip

    async def health(self, request: web.Request) -> web.Response:
        facts = self._edge.health()
        return json_response(facts, status=200 if facts.get("ready") else 503)

    async def livez(self, request: web.Request) -> web.Response:
        return json_response({"status": "alive"})

    async def readyz(self, request: web.Request) -> web.Response:
        ready = bool(self._edge.health().get("ready"))
        return json_response({"ready": ready}, status=200 if ready else 503)

    async def metrics(self, request: web.Request) -> web.Response:
        body, content_type = self._edge.metrics()
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def openapi(self, request: web.Request) -> web.Response:
        return web.Response(body=self._openapi, content_type="application/json")

    async def docs(self, request: web.Request) -> web.Response:
        return web.Response(body=self._docs, content_type="text/html", charset="utf-8")
