"""Collections, and the cluster."""

from __future__ import annotations

import dataclasses

from aiohttp import web

from vector_db.gateway.rest import answers, models
from vector_db.gateway.rest.decode import query_string
from vector_db.gateway.rest.edge import Edge, Route, collection_of
from vector_db.gateway.rest.encode import collection_answer, json_response
from vector_db.gateway.rest.headers import TRANSACTION, refusals

_COLLECTIONS = "/v1/collections"
_COLLECTION = "/v1/collections/{collection}"
_CHANGE = refusals(())
"""A change of the catalog takes no header of a write of rows."""
_READ = {TRANSACTION: _CHANGE[TRANSACTION]}


class Catalog:
    """Handlers of the catalog and the cluster."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge

    def routes(self) -> list[Route]:
        """All routes of this topic."""
        return [
            Route(
                "POST", _COLLECTIONS, self.create, "collections", "Create a collection",
                answers.CollectionAnswer, models.CreateCollectionRequest, status=201,
                example='{"name": "words", "dimension": 384, "metric": "cosine"}',
                refuses=_CHANGE,
            ),
            Route(
                "GET", _COLLECTIONS, self.collections, "collections", "All collections, by name",
                answers.CollectionsAnswer, refuses=_READ,
            ),
            Route(
                "GET", _COLLECTION, self.collection, "collections", "One collection",
                answers.CollectionAnswer, refuses=_READ,
            ),
            Route(
                "DELETE", _COLLECTION, self.drop, "collections",
                "Drop a collection with all its rows", answers.DropAnswer, refuses=_CHANGE,
            ),
            Route(
                "GET", _COLLECTION + "/stats", self.stats, "collections",
                "Rows, segments and sizes of a collection", answers.StatsAnswer, refuses=_READ,
            ),
            Route(
                "GET", "/v1/cluster", self.cluster, "operations",
                "Workers, placement and clock of the cluster", answers.ClusterAnswer,
            ),
        ]  # fmt: skip

    async def create(self, request: web.Request) -> web.Response:
        given = await self._edge.read(request, models.CreateCollectionRequest)
        made = await self._edge.api.create_collection(
            given.name, given.dimension, given.metric, given.shards or 0
        )
        return json_response(collection_answer(made), status=201)

    async def collections(self, request: web.Request) -> web.Response:
        query_string(request.query, ())
        all_of = sorted(await self._edge.api.collections(), key=lambda one: one.name)
        return json_response({"collections": [collection_answer(one) for one in all_of]})

    async def collection(self, request: web.Request) -> web.Response:
        query_string(request.query, ())
        return json_response(
            collection_answer(await self._edge.api.collection(collection_of(request)))
        )

    async def drop(self, request: web.Request) -> web.Response:
        query_string(request.query, ())
        dropped = await self._edge.api.drop_collection(collection_of(request))
        return json_response({"commit_ts": dropped})

    async def stats(self, request: web.Request) -> web.Response:
        query_string(request.query, ())
        stats = await self._edge.api.stats(collection_of(request))
        return json_response(dataclasses.asdict(stats))

    async def cluster(self, request: web.Request) -> web.Response:
        query_string(request.query, ())
        return json_response(await self._edge.api.cluster())
