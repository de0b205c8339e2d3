"""The calls of the public gRPC API: decode, ask the database, encode.

Owns the invariant that every call ends with the request id in its trailing metadata and every
failure with a status from `errors.py`. Requests arrive here as bytes, so that malformed protobuf is
answered like any other malformed request instead of by grpc itself.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from vector_db.common.model.errors import InvalidArgument, NotFound
from vector_db.common.model.ids import validate_collection_name, validate_id
from vector_db.common.model.limits import Limits
from vector_db.gateway.api import DatabaseApi
from vector_db.gateway.core.requests import Delete, Upsert, WriteResult
from vector_db.gateway.grpc import decode, encode
from vector_db.gateway.grpc.errors import failure_of
from vector_db.gateway.metrics import GatewayMetrics
from vector_db.v1 import vector_db_pb2 as pb

SERVICE_NAME = "vector_db.v1.VectorDB"
EDGE = "grpc"
"""The label of this edge in the metrics."""

SCROLL_PAGE_BYTES_MAX = 3 * 1024 * 1024
"""A page stays below the 4 MiB that gRPC clients accept by default."""

_REQUEST_ID_KEYS = ("vector-db-request-id", "x-request-id")
_REQUEST_ID_CHARS_MAX = 128

Call = Callable[[Any], Awaitable[Any]]


class Servicer:
    """The methods of `vector_db.v1.VectorDB` over a `DatabaseApi`."""

    def __init__(self, api: DatabaseApi, limits: Limits, metrics: GatewayMetrics) -> None:
        self._api = api
        self._limits = limits
        self._metrics = metrics

    def handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        """A handler per method name; requests and responses are bytes to grpc."""
        calls: list[tuple[str, type[Any], Call]] = [
            ("InsertVectors", pb.InsertVectorsRequest, self._insert_vectors),
            ("QuerySimilar", pb.QuerySimilarRequest, self._query_similar),
            ("Get", pb.GetRequest, self._get),
            ("Delete", pb.DeleteRequest, self._delete),
            ("PatchMetadata", pb.PatchMetadataRequest, self._patch_metadata),
            ("Count", pb.CountRequest, self._count),
            ("Scroll", pb.ScrollRequest, self._scroll),
            ("Commit", pb.CommitRequest, self._commit),
            ("GetTransaction", pb.GetTransactionRequest, self._get_transaction),
            ("CreateCollection", pb.CreateCollectionRequest, self._create_collection),
            ("ListCollections", pb.ListCollectionsRequest, self._list_collections),
            ("GetCollection", pb.GetCollectionRequest, self._get_collection),
            ("DropCollection", pb.DropCollectionRequest, self._drop_collection),
        ]
        return {
            name: grpc.unary_unary_rpc_method_handler(self._unary(name, request_type, call))
            for name, request_type, call in calls
        }

    def _unary(
        self, name: str, request_type: type[Any], call: Call
    ) -> Callable[[bytes, Any], Awaitable[bytes]]:
        async def handle(data: bytes, context: Any) -> bytes:
            request_id = request_id_of(context)
            try:
                response = await call(decode.decode_message(request_type, data))
                encoded: bytes = response.SerializeToString()
                context.set_trailing_metadata((("vector-db-request-id", request_id),))
            except Exception as error:
                failure = failure_of(error, name, request_id)
                await context.abort(failure.code, failure.message, failure.trailing)
                raise  # unreachable: abort raises
            return encoded

        return handle

    async def _insert_vectors(self, request: Any) -> Any:
        collection = decode.decode_collection_name(request.collection)
        upsert = decode.decode_upsert(collection, request.vectors, request.mode, self._limits)
        with self._metrics.insert(EDGE) as insert:
            result = await self._write_or_create(upsert, may_create=not request.collection)
            insert.rows = result.count
        return encode.encode_write(result)

    async def _write_or_create(self, upsert: Upsert, may_create: bool) -> WriteResult:
        """The default collection is made by the first insert; an update has nothing to update."""
        try:
            return await self._api.write([upsert])
        except NotFound:
            if not may_create or upsert.mode == "update":
                raise
        dimension = upsert.rows.vectors.shape[1]
        await self._api.create_collection(upsert.collection, dimension, "cosine", if_absent=True)
        return await self._api.write([upsert])

    async def _query_similar(self, request: Any) -> Any:
        query = decode.decode_query(request, self._limits)
        with self._metrics.query(EDGE):
            return encode.encode_query(await self._api.query(query))

    async def _get(self, request: Any) -> Any:
        rows = await self._api.fetch(
            decode.decode_collection_name(request.collection),
            decode.decode_ids(request.ids, "ids", self._limits),
            decode.decode_consistency(request.consistency),
            include_vectors=not request.omit_dimensions,
        )
        return encode.encode_get(rows)

    async def _delete(self, request: Any) -> Any:
        collection = decode.decode_collection_name(request.collection)
        if bool(request.ids) == bool(request.filter):
            raise InvalidArgument("a delete has either ids or filter")
        where = decode.decode_filter(request.filter, self._limits)
        if where is not None:
            with self._metrics.transaction(EDGE):
                return encode.encode_write(await self._api.delete_where(collection, where))
        ids = decode.decode_ids(request.ids, "ids", self._limits)
        with self._metrics.transaction(EDGE):
            return encode.encode_write(await self._api.write([Delete(collection, ids)]))

    async def _patch_metadata(self, request: Any) -> Any:
        collection = decode.decode_collection_name(request.collection)
        row_id = validate_id(request.id)
        patch = decode.decode_patch(request.patch, self._limits)
        with self._metrics.transaction(EDGE):
            return encode.encode_write(await self._api.patch_metadata(collection, row_id, patch))

    async def _count(self, request: Any) -> Any:
        count, snapshot_ts = await self._api.count(
            decode.decode_collection_name(request.collection),
            decode.decode_filter(request.filter, self._limits),
            decode.decode_consistency(request.consistency),
        )
        return pb.CountResponse(count=count, snapshot_ts=snapshot_ts)

    async def _scroll(self, request: Any) -> Any:
        collection = decode.decode_collection_name(request.collection)
        where = decode.decode_filter(request.filter, self._limits)
        consistency = decode.decode_consistency(request.consistency)
        limit = decode.decode_scroll_limit(request, self._limits)
        if not request.omit_dimensions:
            dimension = (await self._api.collection(collection)).dimension
            limit = min(limit, max(1, SCROLL_PAGE_BYTES_MAX // (4 * dimension)))
        while True:
            page = await self._api.scroll(
                collection,
                limit,
                where,
                request.cursor or None,
                consistency,
                include_vectors=not request.omit_dimensions,
            )
            response = encode.encode_scroll(page)
            rows, size = len(response.vectors), response.ByteSize()
            if size <= SCROLL_PAGE_BYTES_MAX or rows <= 1:
                return response
            # Ids and metadata took more than was left to them: ask for the part that fits.
            limit = max(1, min(rows - 1, rows * SCROLL_PAGE_BYTES_MAX // size))

    async def _commit(self, request: Any) -> Any:
        operations = decode.decode_operations(request.operations, self._limits)
        with self._metrics.transaction(EDGE):
            return encode.encode_write(await self._api.write(operations))

    async def _get_transaction(self, request: Any) -> Any:
        if not request.id:
            raise InvalidArgument("id: must not be empty")
        status = await self._api.transaction_status(request.id)
        return pb.GetTransactionResponse(
            state=status["state"],
            commit_ts=status.get("commit_ts", 0),
            reason=status.get("reason", ""),
        )

    async def _create_collection(self, request: Any) -> Any:
        name = validate_collection_name(request.name)
        if not 1 <= request.dimension <= self._limits.dimension_max:
            raise InvalidArgument(
                f"dimension: must be 1 to {self._limits.dimension_max} (dimension_max)"
            )
        collection = await self._api.create_collection(
            name,
            request.dimension,
            decode.decode_metric(request.metric),
            shards=request.shards,
            if_absent=request.if_absent,
        )
        return encode.encode_collection(collection)

    async def _list_collections(self, request: Any) -> Any:
        collections = await self._api.collections()
        return pb.ListCollectionsResponse(
            collections=[encode.encode_collection(c) for c in collections]
        )

    async def _get_collection(self, request: Any) -> Any:
        name = decode.decode_collection_name(request.name, "name")
        collection = encode.encode_collection(await self._api.collection(name))
        if not request.include_stats:
            return pb.GetCollectionResponse(collection=collection)
        stats = encode.encode_stats(await self._api.stats(name))
        return pb.GetCollectionResponse(collection=collection, stats=stats)

    async def _drop_collection(self, request: Any) -> Any:
        # An empty name drops nothing: the default collection must be named to go.
        commit_ts = await self._api.drop_collection(validate_collection_name(request.name))
        return pb.DropCollectionResponse(commit_ts=commit_ts)


def request_id_of(context: Any) -> str:
    """The client's own request id when it sent a usable one, else a new one."""
    for key, value in context.invocation_metadata() or ():
        if (
            key in _REQUEST_ID_KEYS
            and isinstance(value, str)
            and 0 < len(value) <= _REQUEST_ID_CHARS_MAX
            and value.isascii()
            and value.isprintable()
        ):
            return value
    return uuid.uuid4().hex
