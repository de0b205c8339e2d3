"""The cluster: its workers, where shards lie and move to, and workers that shall hold nothing."""

from __future__ import annotations

from aiohttp import web

from vector_db.gateway.rest import answers
from vector_db.gateway.rest import catalog_models as models
from vector_db.gateway.rest.decode import query_string
from vector_db.gateway.rest.edge import Edge, Route
from vector_db.gateway.rest.encode import json_response
from vector_db.gateway.rest.headers import refusals


class Cluster:
    """Handlers of the cluster."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge

    def routes(self) -> list[Route]:
        """All routes of this topic."""
        return [
            Route(
                "GET", "/v1/cluster", self.cluster, "operations",
                "Workers, placement, moves and clock of the cluster", answers.ClusterAnswer,
            ),
            Route(
                "PUT", "/v1/cluster/workers/{worker}", self.change, "operations",
                "Let a shard worker give up all it holds, or take that back",
                answers.ClusterAnswer, models.WorkerRequest, example='{"draining": true}',
                refuses=refusals(()),
            ),
        ]  # fmt: skip

    async def cluster(self, request: web.Request) -> web.Response:
        query_string(request.query, ())
        return json_response(await self._edge.api.cluster())

    async def change(self, request: web.Request) -> web.Response:
        worker = request.match_info["worker"]
        given = await self._edge.read(request, models.WorkerRequest)
        await self._edge.api.drain(worker, given.draining)
        return json_response(await self._edge.api.cluster())
