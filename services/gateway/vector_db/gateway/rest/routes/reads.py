"""Reading rows: similarity queries, fetch, scroll, count."""

from __future__ import annotations

from aiohttp import web

from vector_db.common.model.errors import NotFound
from vector_db.gateway.core.requests import Consistency
from vector_db.gateway.rest import answers, models
from vector_db.gateway.rest.decode import (
    consistency,
    consistency_parameters,
    include_parameter,
    path_id,
    query_string,
)
from vector_db.gateway.rest.edge import EDGE, Edge, Route, collection_of
from vector_db.gateway.rest.encode import page_answer, query_answer, rows_of
from vector_db.gateway.rest.headers import ETAG, TRANSACTION
from vector_db.gateway.rest.routes.writes import DEFAULT_COLLECTION

_COLLECTION = "/v1/collections/{collection}"
_GET_PARAMETERS = (
    ("include", "comma-separated: metadata, dimensions; both by default"),
    ("at_least", "the commit_ts of a write that must be seen"),
    ("strong", "true: everything acknowledged before this read began"),
    ("as_of", "the past: a commit_ts, or a time as RFC 3339 with its offset"),
)
_IN = (TRANSACTION,)


class Reads:
    """Handlers of reads."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge

    def routes(self) -> list[Route]:
        """All routes of this topic."""
        return [
            Route(
                "POST", "/query", self.query_default, "quick start",
                "The most similar rows of the collection `default`",
                answers.QueryAnswer, models.QueryRequest,
                example='{"vector": [0.1, 0.2, 0.3, 0.4], "k": 10}', headers=_IN, tells=_IN,
            ),
            Route(
                "POST", _COLLECTION + "/query", self.query, "search",
                "The most similar rows; a batch of queries answers `results`",
                answers.QueryAnswer, models.QueryRequest,
                example='{"vector": [1, 0], "k": 5, "filter": {"year": {"$gte": 2020}}, '
                '"include": ["metadata", "distance"]}', headers=_IN, tells=_IN,
            ),
            Route(
                "POST", _COLLECTION + "/vectors/fetch", self.fetch, "rows", "Rows by id",
                answers.FetchAnswer, models.FetchRequest, example='{"ids": ["a", "b"]}',
                headers=_IN, tells=_IN,
            ),
            Route(
                "GET", _COLLECTION + "/vectors/{id}", self.get, "rows",
                "One row; the id is percent-encoded, its slashes may stay",
                answers.RowAnswer, parameters=_GET_PARAMETERS, headers=_IN, tells=(*_IN, ETAG),
            ),
            Route(
                "POST", _COLLECTION + "/scroll", self.scroll, "rows",
                "All rows page by page, in id order, at one snapshot",
                answers.ScrollAnswer, models.ScrollRequest, example='{"limit": 100}',
                headers=_IN, tells=_IN,
            ),
            Route(
                "POST", _COLLECTION + "/count", self.count, "rows", "How many rows match",
                answers.CountAnswer, models.CountRequest,
                example='{"filter": {"lang": {"$in": ["en"]}}}', headers=_IN, tells=_IN,
            ),
        ]  # fmt: skip

    async def query(self, request: web.Request) -> web.Response:
        return await self._query(request, collection_of(request))

    async def query_default(self, request: web.Request) -> web.Response:
        try:
            return await self._query(request, DEFAULT_COLLECTION)
        except NotFound as error:
            try:
                await self._edge.api.collection(DEFAULT_COLLECTION)
            except NotFound:
                raise NotFound(
                    "there is no collection 'default' yet: insert vectors first, with POST /vectors"
                ) from None
            raise error from None

    async def _query(self, request: web.Request, collection: str) -> web.Response:
        edge, scope = self._edge, self._edge.scope(request)
        query, given = edge.decoder.query(collection, await edge.read_json(request))
        scope.check_consistency(given.consistency)
        with edge.meters.query(EDGE):
            result = await scope.rows.query(query)
        batch = given.vectors is not None
        return scope.answer(query_answer(result, batch, "distance" in given.include))

    async def fetch(self, request: web.Request) -> web.Response:
        name, scope = collection_of(request), self._edge.scope(request)
        given = await self._edge.read(request, models.FetchRequest)
        scope.check_consistency(given.consistency)
        rows = await scope.rows.fetch(
            name, given.ids, consistency(given.consistency), "dimensions" in given.include
        )
        return scope.answer(
            {"vectors": rows_of(rows, given.include), "snapshot_ts": rows.snapshot_ts}
        )

    async def get(self, request: web.Request) -> web.Response:
        query_string(request.query, tuple(name for name, _ in _GET_PARAMETERS))
        include = include_parameter(request.query)
        name, row_id, scope = collection_of(request), path_id(request), self._edge.scope(request)
        given = consistency_parameters(request.query)
        scope.check_consistency(given)
        rows = await scope.rows.fetch(
            name, [row_id], given or Consistency(), "dimensions" in include
        )
        if not rows.ids:
            raise NotFound(f"collection {name!r} has no row {row_id.decode()!r}")
        value = {**rows_of(rows, include)[0], "snapshot_ts": rows.snapshot_ts}
        return scope.answer(value, etag=rows.versions[0])

    async def scroll(self, request: web.Request) -> web.Response:
        name, scope = collection_of(request), self._edge.scope(request)
        given = await self._edge.read(request, models.ScrollRequest)
        scope.check_consistency(given.consistency)
        page = await scope.rows.scroll(
            name,
            given.limit,
            given.filter,
            given.cursor,
            consistency(given.consistency),
            "dimensions" in given.include,
        )
        return scope.answer(page_answer(page, given.include))

    async def count(self, request: web.Request) -> web.Response:
        name, scope = collection_of(request), self._edge.scope(request)
        given = await self._edge.read(request, models.CountRequest)
        scope.check_consistency(given.consistency)
        count, snapshot_ts = await scope.rows.count(
            name, given.filter, consistency(given.consistency)
        )
        return scope.answer({"count": count, "snapshot_ts": snapshot_ts})
