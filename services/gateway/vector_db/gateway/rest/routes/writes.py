"""Writing rows: inserts in JSON and Arrow, one row by PUT, deletes, patches."""

from __future__ import annotations

from aiohttp import web

from vector_db.common.model.collection import Collection, Metric
from vector_db.common.model.errors import InvalidArgument, NotFound
from vector_db.gateway.arrow import decode_arrow
from vector_db.gateway.core.requests import Delete, RowsIn, Upsert, WriteResult
from vector_db.gateway.core.rows import dump_metadata, validate_rows
from vector_db.gateway.rest import answers, models
from vector_db.gateway.rest.body import is_arrow, read_body
from vector_db.gateway.rest.decode import mode_parameter, path_id, query_string
from vector_db.gateway.rest.edge import EDGE, Edge, Route, collection_of
from vector_db.gateway.rest.headers import (
    IDEMPOTENCY_KEY,
    IF_MATCH,
    IF_NONE_MATCH,
    REPLAYED,
    TRANSACTION,
    if_match,
    if_none_match,
    refusals,
)

DEFAULT_COLLECTION = "default"
_ROWS = "/v1/collections/{collection}/vectors"
_MODE = (("mode", "upsert (default), insert or update; for Arrow bodies only"),)
_MANY = (TRANSACTION, IDEMPOTENCY_KEY)
_ONE = (*_MANY, IF_MATCH)
_PUT = (*_ONE, IF_NONE_MATCH)
_TELLS = (TRANSACTION, REPLAYED)


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
                headers=_MANY, refuses=refusals(_MANY), tells=_TELLS,
            ),
            Route(
                "POST", _ROWS, self.insert, "rows", "Insert, upsert or update rows",
                write, models.InsertRequest, parameters=_MODE, arrow=True,
                example='{"vectors": [{"id": "a", "dimensions": [1, 0], '
                '"metadata": {"year": 2024}}]}',
                headers=_MANY, refuses=refusals(_MANY), tells=_TELLS,
            ),
            Route(
                "POST", _ROWS + "/delete", self.delete_many, "rows",
                "Delete rows by id or by filter", write, models.DeleteRequest,
                example='{"filter": {"year": {"$lt": 2020}}}',
                headers=_MANY, refuses=refusals(_MANY), tells=_TELLS,
            ),
            Route(
                "PUT", _ROWS + "/{id}", self.put, "rows", "Write one row, whether it exists or not",
                write, models.PutRequest,
                example='{"dimensions": [1, 0], "metadata": {"year": 2024}}',
                headers=_PUT, refuses=refusals(_PUT), tells=_TELLS,
            ),
            Route(
                "DELETE", _ROWS + "/{id}", self.delete_one, "rows",
                "Delete a row; `count` says whether it was there", write,
                headers=_ONE, refuses=refusals(_ONE), tells=_TELLS,
            ),
            Route(
                "PATCH", _ROWS + "/{id}", self.patch, "rows",
                "Change a row's metadata, not its vector", write, models.PatchRequest,
                example='{"metadata": {"year": 2025, "draft": null}}',
                headers=_ONE, refuses=refusals(_ONE), tells=_TELLS,
            ),
        ]  # fmt: skip

    async def insert(self, request: web.Request) -> web.Response:
        name, scope = collection_of(request), self._edge.scope(request)
        with self._edge.meters.insert(EDGE) as timed:
            body, upsert = await self._upsert(request, name)
            result = await scope.rows.write([upsert], scope.idempotency(request, body))
            timed.rows = _rows_now(result)
        return scope.written(result)

    async def insert_default(self, request: web.Request) -> web.Response:
        scope = self._edge.scope(request)
        with self._edge.meters.insert(EDGE) as timed:
            body, upsert = await self._upsert(request, DEFAULT_COLLECTION)
            key = scope.idempotency(request, body)
            # Collections are not part of transactions: there it exists, or the write is a 404.
            if scope.transaction is None:
                await self._ensure_default(upsert)
            result = await scope.rows.write([upsert], key)
            timed.rows = _rows_now(result)
        return scope.written(result)

    async def _upsert(self, request: web.Request, collection: str) -> tuple[bytes, Upsert]:
        """A JSON or Arrow body, and the write in it."""
        if is_arrow(request):
            query_string(request.query, ("mode",))
            mode = mode_parameter(request.query)
            body = await read_body(request, self._edge.limits)
            rows, versions = decode_arrow(body, self._edge.limits)
            if versions is not None and mode != "upsert":
                raise InvalidArgument("give only one of mode and if_version")
            return body, Upsert(collection, rows, mode, versions)
        body = await self._edge.read_json(request)
        given = self._edge.decoder.body(models.InsertRequest, body)
        return body, Upsert(collection, given.vectors.rows, given.mode, given.vectors.if_version)

    async def _ensure_default(self, upsert: Upsert) -> None:
        """Create the default collection for rows that it will take, and only then."""
        api = self._edge.api
        try:
            await api.collection(DEFAULT_COLLECTION)
        except NotFound:
            if upsert.mode == "update" or upsert.if_version is not None:
                raise
            dimension = upsert.rows.vectors.shape[1]
            wanted = Collection(0, DEFAULT_COLLECTION, dimension, Metric.COSINE, ())
            validate_rows(upsert.rows, wanted, self._edge.limits, "vectors")
            await api.create_collection(
                DEFAULT_COLLECTION, dimension, Metric.COSINE.value, if_absent=True
            )

    async def put(self, request: web.Request) -> web.Response:
        name, row_id = collection_of(request), path_id(request)
        versions, absent = if_match(request), if_none_match(request)
        if versions is not None and absent:
            raise InvalidArgument(f"headers: give only one of {IF_MATCH} and {IF_NONE_MATCH}")
        scope = self._edge.scope(request)
        body = await self._edge.read_json(request)
        given = self._edge.decoder.body(models.PutRequest, body)
        metadata = dump_metadata(given.metadata, "metadata")
        row = RowsIn([row_id], given.dimensions.reshape(1, -1), [metadata] if metadata else None)
        upsert = Upsert(name, row, "insert" if absent else "upsert", versions)
        key = scope.idempotency(request, body)
        with self._edge.meters.transaction(EDGE):
            try:
                result = await scope.rows.write([upsert], key)
            except InvalidArgument as error:
                # The place in a batch of one is no place in this body.
                place = error.message.removeprefix("vectors[0].")
                raise InvalidArgument(place, **error.details) from None
        return scope.written(result)

    async def delete_many(self, request: web.Request) -> web.Response:
        name, scope = collection_of(request), self._edge.scope(request)
        body = await self._edge.read_json(request)
        given = self._edge.decoder.body(models.DeleteRequest, body)
        key = scope.idempotency(request, body)
        with self._edge.meters.transaction(EDGE):
            if given.filter is not None:
                result = await scope.rows.delete_where(name, given.filter, key)
            else:
                delete = Delete(name, given.ids or [], given.if_versions)
                result = await scope.rows.write([delete], key)
        return scope.written(result)

    async def delete_one(self, request: web.Request) -> web.Response:
        query_string(request.query, ())
        name, row_id = collection_of(request), path_id(request)
        delete, scope = Delete(name, [row_id], if_match(request)), self._edge.scope(request)
        key = scope.idempotency(request, b"")
        with self._edge.meters.transaction(EDGE):
            result = await scope.rows.write([delete], key)
        return scope.written(result)

    async def patch(self, request: web.Request) -> web.Response:
        name, row_id = collection_of(request), path_id(request)
        versions, scope = if_match(request), self._edge.scope(request)
        body = await self._edge.read_json(request)
        given = self._edge.decoder.body(models.PatchRequest, body)
        version = None if versions is None else int(versions[0])
        key = scope.idempotency(request, body)
        with self._edge.meters.transaction(EDGE):
            result = await scope.rows.patch_metadata(name, row_id, given.metadata, version, key)
        return scope.written(result)


def _rows_now(result: WriteResult) -> int:
    """The rows that this request wrote: none, when an earlier one with its key did."""
    return 0 if result.replayed else result.count
