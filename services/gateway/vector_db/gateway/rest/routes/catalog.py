"""Collections and their aliases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from vector_db.common.model.collection import Collection
from vector_db.gateway.core.requests import CollectionChange
from vector_db.gateway.rest import answers
from vector_db.gateway.rest import catalog_models as models
from vector_db.gateway.rest.decode import query_string
from vector_db.gateway.rest.edge import Edge, Route, alias_of, collection_of
from vector_db.gateway.rest.encode import collection_answer, json_response, stats_answer
from vector_db.gateway.rest.headers import TRANSACTION, refusals

_COLLECTIONS = "/v1/collections"
_COLLECTION = "/v1/collections/{collection}"
_ALIASES = "/v1/aliases"
_ALIAS = "/v1/aliases/{alias}"
_CHANGE = refusals(())
"""A change of the catalog takes no header of a write of rows."""
_READ = {TRANSACTION: _CHANGE[TRANSACTION]}


class Catalog:
    """Handlers of the catalog."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge

    def routes(self) -> list[Route]:
        """All routes of this topic."""
        return [
            Route(
                "POST", _COLLECTIONS, self.create, "collections", "Create a collection",
                answers.CollectionAnswer, models.CreateCollectionRequest, status=201,
                example='{"name": "words", "dimension": 384, "metric": "cosine", '
                '"index": {"kind": "hnsw", "m": 24}, "fields": ["lang"]}',
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
                "PATCH", _COLLECTION, self.alter, "collections",
                "Change what a collection wants of its indexes, or its number of shards, online",
                answers.CollectionAnswer, models.AlterCollectionRequest,
                example='{"index": {"kind": "ivf_pq"}, "recall_target": 0.9}', refuses=_CHANGE,
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
                "GET", _ALIASES, self.aliases, "aliases",
                "All aliases, each with its collection", answers.AliasesAnswer, refuses=_READ,
            ),
            Route(
                "POST", _ALIASES, self.change_aliases, "aliases",
                "Set, switch and remove aliases, all at once",
                answers.AliasesChangedAnswer, models.AliasesRequest,
                example='{"changes": {"current": "words", "previous": "images"}}',
                refuses=_CHANGE,
            ),
            Route(
                "PUT", _ALIAS, self.set_alias, "aliases",
                "Let an alias stand for a collection, from now on", answers.AliasesChangedAnswer,
                models.AliasRequest, example='{"collection": "words"}', refuses=_CHANGE,
            ),
            Route(
                "DELETE", _ALIAS, self.remove_alias, "aliases",
                "Remove an alias; its collection stays", answers.AliasesChangedAnswer,
                refuses=_CHANGE,
            ),
        ]  # fmt: skip

    async def create(self, request: web.Request) -> web.Response:
        given = await self._edge.read(request, models.CreateCollectionRequest)
        made = await self._edge.api.create_collection(
            given.name,
            given.dimension,
            given.metric,
            given.shards or 0,
            index=given.options(),
            recall_target=given.recall_target,
            fields=given.fields,
        )
        return json_response(self._shown(made), status=201)

    async def collections(self, request: web.Request) -> web.Response:
        query_string(request.query, ())
        all_of = sorted(await self._edge.api.collections(), key=lambda one: one.name)
        return json_response({"collections": [self._shown(one) for one in all_of]})

    async def collection(self, request: web.Request) -> web.Response:
        query_string(request.query, ())
        return json_response(self._shown(await self._edge.api.collection(collection_of(request))))

    async def alter(self, request: web.Request) -> web.Response:
        name = collection_of(request)
        given = await self._edge.read(request, models.AlterCollectionRequest)
        change = CollectionChange(
            None if given.index is None else given.index.change(),
            given.recall_target,
            given.fields,
            given.shards,
        )
        return json_response(self._shown(await self._edge.api.alter_collection(name, change)))

    def _shown(self, collection: Collection) -> dict[str, Any]:
        api = self._edge.api
        return collection_answer(collection, api.aliases_of(collection), api.spreading(collection))

    async def drop(self, request: web.Request) -> web.Response:
        query_string(request.query, ())
        dropped = await self._edge.api.drop_collection(collection_of(request))
        return json_response({"commit_ts": dropped})

    async def stats(self, request: web.Request) -> web.Response:
        query_string(request.query, ())
        return json_response(stats_answer(await self._edge.api.stats(collection_of(request))))

    async def aliases(self, request: web.Request) -> web.Response:
        query_string(request.query, ())
        return json_response({"aliases": await self._edge.api.aliases()})

    async def change_aliases(self, request: web.Request) -> web.Response:
        given = await self._edge.read(request, models.AliasesRequest)
        return await self._changed(given.changes)

    async def set_alias(self, request: web.Request) -> web.Response:
        alias = alias_of(request)
        given = await self._edge.read(request, models.AliasRequest)
        return await self._changed({alias: given.collection})

    async def remove_alias(self, request: web.Request) -> web.Response:
        query_string(request.query, ())
        return await self._changed({alias_of(request): None})

    async def _changed(self, changes: Mapping[str, str | None]) -> web.Response:
        return json_response({"commit_ts": await self._edge.api.set_aliases(changes)})
