"""The calls of the public gRPC API: decode, ask the database, encode.

Owns the invariants that every call ends with the request id in its trailing metadata and every
failure with a status from `errors.py`, and that a call with a transaction's token runs in it and
answers the next token. Requests arrive here as bytes, so that malformed protobuf is
answered like any other malformed request instead of by grpc itself.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from vector_db.common.model.collection import (
    RECALL_TARGET,
    Collection,
    IndexChange,
    IndexOptions,
)
from vector_db.common.model.errors import InvalidArgument, NotFound
from vector_db.common.model.ids import validate_collection_name, validate_id
from vector_db.common.model.limits import Limits
from vector_db.gateway.api import DatabaseApi, RowsApi, TransactionApi
from vector_db.gateway.core.request_hash import idempotency
from vector_db.gateway.core.requests import Idempotency, Upsert, WriteResult
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
            ("BeginTransaction", pb.BeginTransactionRequest, self._begin_transaction),
            ("CommitTransaction", pb.CommitTransactionRequest, self._commit_transaction),
            ("AbortTransaction", pb.AbortTransactionRequest, self._abort_transaction),
            ("GetTransaction", pb.GetTransactionRequest, self._get_transaction),
            ("CreateCollection", pb.CreateCollectionRequest, self._create_collection),
            ("ListCollections", pb.ListCollectionsRequest, self._list_collections),
            ("GetCollection", pb.GetCollectionRequest, self._get_collection),
            ("AlterCollection", pb.AlterCollectionRequest, self._alter_collection),
            ("DropCollection", pb.DropCollectionRequest, self._drop_collection),
            ("UpdateAliases", pb.UpdateAliasesRequest, self._update_aliases),
            ("ListAliases", pb.ListAliasesRequest, self._list_aliases),
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

    def _scope(self, request: Any) -> tuple[RowsApi, TransactionApi | None]:
        """Where the rows of a call are: the database, or the open transaction that it names."""
        if not request.transaction:
            return self._api, None
        transaction = self._api.resume(request.transaction)
        return transaction, transaction

    async def _insert_vectors(self, request: Any) -> Any:
        collection = decode.decode_collection_name(request.collection)
        upsert = decode.decode_upsert(collection, request.vectors, request.mode, self._limits)
        api, transaction = self._scope(request)
        key = _idempotency(request, transaction)
        with self._metrics.insert(EDGE) as insert:
            try:
                result = await api.write([upsert], key)
            except NotFound:
                # Collections are not part of transactions: there it exists, or there are no rows.
                if request.collection or transaction is not None or not _may_create(upsert):
                    raise
                result = await self._create_and_write(upsert, key)
            insert.rows = 0 if result.replayed else result.count
        return _answer(encode.encode_write(result), transaction)

    async def _create_and_write(self, upsert: Upsert, key: Idempotency | None) -> WriteResult:
        """The default collection is made by the first insert."""
        dimension = upsert.rows.vectors.shape[1]
        await self._api.create_collection(upsert.collection, dimension, "cosine", if_absent=True)
        return await self._api.write([upsert], key)

    async def _query_similar(self, request: Any) -> Any:
        query = decode.decode_query(request, self._limits)
        api, transaction = self._scope(request)
        _check_consistency(request, transaction)
        with self._metrics.query(EDGE):
            return _answer(encode.encode_query(await api.query(query)), transaction)

    async def _get(self, request: Any) -> Any:
        api, transaction = self._scope(request)
        _check_consistency(request, transaction)
        rows = await api.fetch(
            decode.decode_collection_name(request.collection),
            decode.decode_ids(request.ids, "ids", self._limits),
            decode.decode_consistency(request.consistency),
            include_vectors=not request.omit_dimensions,
        )
        return _answer(encode.encode_get(rows), transaction)

    async def _delete(self, request: Any) -> Any:
        collection = decode.decode_collection_name(request.collection)
        if bool(request.ids) == bool(request.filter):
            raise InvalidArgument("a delete has either ids or filter")
        if request.if_versions and not request.ids:
            raise InvalidArgument("if_versions: goes with ids only")
        api, transaction = self._scope(request)
        key = _idempotency(request, transaction)
        where = decode.decode_filter(request.filter, self._limits)
        if where is not None:
            with self._metrics.transaction(EDGE):
                result = await api.delete_where(collection, where, key)
            return _answer(encode.encode_write(result), transaction)
        ids = decode.decode_ids(request.ids, "ids", self._limits)
        delete = decode.decode_delete(collection, ids, request.if_versions)
        with self._metrics.transaction(EDGE):
            result = await api.write([delete], key)
        return _answer(encode.encode_write(result), transaction)

    async def _patch_metadata(self, request: Any) -> Any:
        collection = decode.decode_collection_name(request.collection)
        row_id = validate_id(request.id)
        patch = decode.decode_patch(request.patch, self._limits)
        version = None
        if request.HasField("if_version"):
            version = decode.decode_version(request.if_version, "if_version")
        api, transaction = self._scope(request)
        key = _idempotency(request, transaction)
        with self._metrics.transaction(EDGE):
            result = await api.patch_metadata(collection, row_id, patch, version, key)
        return _answer(encode.encode_write(result), transaction)

    async def _count(self, request: Any) -> Any:
        api, transaction = self._scope(request)
        _check_consistency(request, transaction)
        count, snapshot_ts = await api.count(
            decode.decode_collection_name(request.collection),
            decode.decode_filter(request.filter, self._limits),
            decode.decode_consistency(request.consistency),
        )
        return _answer(pb.CountResponse(count=count, snapshot_ts=snapshot_ts), transaction)

    async def _scroll(self, request: Any) -> Any:
        collection = decode.decode_collection_name(request.collection)
        where = decode.decode_filter(request.filter, self._limits)
        api, transaction = self._scope(request)
        _check_consistency(request, transaction)
        consistency = decode.decode_consistency(request.consistency)
        limit = decode.decode_scroll_limit(request, self._limits)
        if not request.omit_dimensions:
            dimension = (await self._api.collection(collection)).dimension
            limit = min(limit, max(1, SCROLL_PAGE_BYTES_MAX // (4 * dimension)))
        while True:
            page = await api.scroll(
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
                return _answer(response, transaction)
            # Ids and metadata took more than was left to them: ask for the part that fits.
            limit = max(1, min(rows - 1, rows * SCROLL_PAGE_BYTES_MAX // size))

    async def _commit(self, request: Any) -> Any:
        operations = decode.decode_operations(request.operations, self._limits)
        key = _idempotency(request, None)
        with self._metrics.transaction(EDGE):
            return encode.encode_write(await self._api.write(operations, key))

    async def _begin_transaction(self, request: Any) -> Any:
        isolation, timeout_s = decode.decode_begin(request)
        return encode.encode_begin(await self._api.begin(isolation, timeout_s))

    async def _commit_transaction(self, request: Any) -> Any:
        transaction = self._open_transaction(request)
        key = None
        if request.idempotency_key:
            # What is asked is the transaction, whichever of its tokens came.
            asked = (b"CommitTransaction", transaction.txn_id.encode())
            key = idempotency(request.idempotency_key, "idempotency_key", *asked)
        with self._metrics.transaction(EDGE):
            return encode.encode_write(await transaction.commit(key))

    async def _abort_transaction(self, request: Any) -> Any:
        await self._open_transaction(request).abort()
        return pb.AbortTransactionResponse()

    def _open_transaction(self, request: Any) -> TransactionApi:
        if not request.transaction:
            raise InvalidArgument("transaction: the token of an open transaction is needed")
        return self._api.resume(request.transaction)

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
            index=(decode.decode_index(request) or IndexChange()).of(IndexOptions()),
            recall_target=request.recall_target
            if request.HasField("recall_target")
            else RECALL_TARGET,
            fields=tuple(request.fields),
        )
        return self._shown(collection)

    async def _alter_collection(self, request: Any) -> Any:
        # An empty name changes nothing: the default collection must be named to change.
        name = validate_collection_name(request.name)
        return self._shown(await self._api.alter_collection(name, decode.decode_alter(request)))

    async def _update_aliases(self, request: Any) -> Any:
        commit_ts = await self._api.set_aliases(decode.decode_alias_changes(request))
        return pb.UpdateAliasesResponse(commit_ts=commit_ts)

    async def _list_aliases(self, request: Any) -> Any:
        return pb.ListAliasesResponse(aliases=await self._api.aliases())

    def _shown(self, collection: Collection) -> Any:
        api = self._api
        return encode.encode_collection(
            collection, api.aliases_of(collection), api.spreading(collection)
        )

    async def _list_collections(self, request: Any) -> Any:
        collections = await self._api.collections()
        return pb.ListCollectionsResponse(collections=[self._shown(c) for c in collections])

    async def _get_collection(self, request: Any) -> Any:
        name = decode.decode_collection_name(request.name, "name")
        collection = self._shown(await self._api.collection(name))
        if not request.include_stats:
            return pb.GetCollectionResponse(collection=collection)
        stats = encode.encode_stats(await self._api.stats(name))
        return pb.GetCollectionResponse(collection=collection, stats=stats)

    async def _drop_collection(self, request: Any) -> Any:
        # An empty name drops nothing: the default collection must be named to go.
        commit_ts = await self._api.drop_collection(validate_collection_name(request.name))
        return pb.DropCollectionResponse(commit_ts=commit_ts)


def _may_create(upsert: Upsert) -> bool:
    """Whether the rows could be the first of their collection."""
    return upsert.mode != "update" and upsert.if_version is None


def _idempotency(request: Any, transaction: TransactionApi | None) -> Idempotency | None:
    """The key of a write and the hash of its request.

    :raises InvalidArgument: a key in a transaction, or one that is malformed.
    """
    if not request.idempotency_key:
        return None
    if transaction is not None:
        raise InvalidArgument(
            "idempotency_key: has no meaning in a transaction; a key goes with its commit"
        )
    parts = (request.DESCRIPTOR.full_name.encode(), request.SerializeToString(deterministic=True))
    return idempotency(request.idempotency_key, "idempotency_key", *parts)


def _check_consistency(request: Any, transaction: TransactionApi | None) -> None:
    """:raises InvalidArgument: one was asked for, whatever it says, in a transaction."""
    if transaction is not None and request.consistency.WhichOneof("level") is not None:
        raise InvalidArgument("consistency: a transaction reads at its own snapshot")


def _answer(response: Any, transaction: TransactionApi | None) -> Any:
    """`response` with the token for the next call of the transaction."""
    if transaction is not None:
        response.transaction = transaction.token
    return response


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
