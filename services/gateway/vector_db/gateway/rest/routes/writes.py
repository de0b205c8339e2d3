"""Writing rows: inserts in JSON and Arrow, deletes, patches, atomic transactions."""

from __future__ import annotations

from aiohttp import web

from vector_db.common.model.collection import Collection, Metric
from vector_db.common.model.errors import NotFound
from vector_db.gateway.arrow import decode_arrow
from vector_db.gateway.core.requests import Delete, Upsert
from vector_db.gateway.core.rows import validate_rows
from vector_db.gateway.rest import answers, models
from vector_db.gateway.rest.body import is_arrow, read_body
from vector_db.gateway.rest.decode import mode_parameter, operations, path_id, query_string
from vector_db.gateway.rest.edge import EDGE, Edge, Route, collection_of
from vector_db.gateway.rest.encode import json_response, write_answer

DEFAULT_COLLECTION = "default"
_ROWS = "/v1/collections/{collection}/vectors"
_MODE = (("mode", "upsert (default), insert or update; for Arrow bodies only"),)


class Writes:
    """Handlers of writes."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge

    def routes(self) -> list[Route]:
        """All routes of this topic."""
        write = answers.WriteAnswer
        return [
            Route(
                "POST", "/vectors", self.insert_default, "quick start",
                "Insert rows into the collection `default`, which the first insert creates",
                write, models.InsertRequest, parameters=_MODE, arrow=True,
                example='{"vectors": [{"id": "vec1", "dimensions": [0.1, 0.2, 0.3, 0.4]}]}',
            ),
            Route(
                "POST", _ROWS, self.insert, "rows", "Insert, upsert or update rows",
                write, models.InsertRequest, parameters=_MODE, arrow=True,
                example='{"vectors": [{"id": "a", "dimensions": [1, 0], '
                '"metadata": {"year": 2024}}]}',
            ),
            Route(
                "POST", _ROWS + "/delete", self.delete_many, "rows",
                "Delete rows by id or by filter", write, models.DeleteRequest,
                example='{"filter": {"year": {"$lt": 2020}}}',
            ),
            Route(
                "DELETE", _ROWS + "/{id}", self.delete_one, "rows",
                "Delete a row; `count` says whether it was there", write,
            ),
            Route(
                "PATCH", _ROWS + "/{id}", self.patch, "rows",
                "Change a row's metadata, not its vector", write, models.PatchRequest,
                example='{"metadata": {"year": 2025, "draft": null}}',
            ),
            Route(
                "POST", "/v1/transactions/commit", self.commit, "transactions",
                "Write atomically over any collections and shards", write, models.CommitRequest,
                example='{"operations": [{"collection": "words", "delete": ["old"]}, '
                '{"collection": "images", "upsert": [{"id": "b", "dimensions": [0, 1]}]}]}',
            ),
        ]  # fmt: skip

    async def insert(self, request: web.Request) -> web.Response:
        name = collection_of(request)
        with self._edge.meters.insert(EDGE) as timed:
            result = await self._edge.api.write([await self._upsert(request, name)])
            timed.rows = result.count
        return json_response(write_answer(result))

    async def insert_default(self, request: web.Request) -> web.Response:
        with self._edge.meters.insert(EDGE) as timed:
            upsert = await self._upsert(request, DEFAULT_COLLECTION)
            await self._ensure_default(upsert)
            result = await self._edge.api.write([upsert])
            timed.rows = result.count
        return json_response(write_answer(result))

    async def _upsert(self, request: web.Request, collection: str) -> Upsert:
        """The write in a JSON or Arrow body."""
        if is_arrow(request):
            query_string(request.query, ("mode",))
            mode = mode_parameter(request.query)
            body = await read_body(request, self._edge.limits)
            return Upsert(collection, decode_arrow(body, self._edge.limits), mode)
        given = await self._edge.read(request, models.InsertRequest)
        return Upsert(collection, given.vectors, given.mode)

    async def _ensure_default(self, upsert: Upsert) -> None:
        """Create the default collection for rows that it will take, and only then."""
        api = self._edge.api
        try:
            await api.collection(DEFAULT_COLLECTION)
        except NotFound:
            if upsert.mode == "update":
                raise
            dimension = upsert.rows.vectors.shape[1]
            wanted = Collection(0, DEFAULT_COLLECTION, dimension, Metric.COSINE, ())
            validate_rows(upsert.rows, wanted, self._edge.limits, "vectors")
            await api.create_collection(
                DEFAULT_COLLECTION, dimension, Metric.COSINE.value, if_absent=True
            )

    async def delete_many(self, request: web.Request) -> web.Response:
        name = collection_of(request)
        given = await self._edge.read(request, models.DeleteRequest)
        with self._edge.meters.transaction(EDGE):
            if given.filter is not None:
                result = await self._edge.api.delete_where(name, given.filter)
            else:
                result = await self._edge.api.write([Delete(name, given.ids or [])])
        return json_response(write_answer(result))

    async def delete_one(self, request: web.Request) -> web.Response:
        query_string(request.query, ())
        name, row_id = collection_of(request), path_id(request)
        with self._edge.meters.transaction(EDGE):
            result = await self._edge.api.write([Delete(name, [row_id])])
        return json_response(write_answer(result))

    async def patch(self, request: web.Request) -> web.Response:
        name, row_id = collection_of(request), path_id(request)
        given = await self._edge.read(request, models.PatchRequest)
        with self._edge.meters.transaction(EDGE):
            result = await self._edge.api.patch_metadata(name, row_id, given.metadata)
        return json_response(write_answer(result))

    async def commit(self, request: web.Request) -> web.Response:
        given = await self._edge.read(request, models.CommitRequest)
        with self._edge.meters.transaction(EDGE):
            result = await self._edge.api.write(operations(given))
        return json_response(write_answer(result))
