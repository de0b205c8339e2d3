"""Transactions: begun, committed and aborted by their clients, or written whole in one call."""

from __future__ import annotations

import re

from aiohttp import web

from vector_db.common.model.errors import InvalidArgument
from vector_db.gateway.api import TransactionApi
from vector_db.gateway.rest import answers, headers, models
from vector_db.gateway.rest.decode import operations, query_string
from vector_db.gateway.rest.edge import EDGE, Edge, Route, Scope
from vector_db.gateway.rest.encode import json_response, open_transaction_answer
from vector_db.gateway.rest.headers import IDEMPOTENCY_KEY, REPLAYED, TRANSACTION, refusals

_TRANSACTION = "/v1/transactions/{id}"
_TXN_ID = re.compile(r"[A-Za-z0-9_-]{1,128}\Z")


class Transactions:
    """Handlers of transactions."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge

    def routes(self) -> list[Route]:
        """All routes of this topic."""
        return [
            Route(
                "POST", "/v1/transactions", self.begin, "transactions",
                "Begin a transaction: its calls carry the header `Transaction`",
                answers.BeginAnswer, models.BeginRequest, status=201, body_optional=True,
                example='{"isolation": "snapshot", "timeout_s": 30}',
                refuses=refusals((), transaction="a transaction cannot begin inside another"),
                tells=(TRANSACTION,),
            ),
            Route(
                "POST", _TRANSACTION + "/commit", self.commit_open, "transactions",
                "Commit an open transaction: all that it staged becomes visible at once",
                answers.CommitAnswer, models.EmptyRequest, body_optional=True,
                headers=(TRANSACTION, IDEMPOTENCY_KEY), needs=(TRANSACTION,), tells=(REPLAYED,),
                refuses=refusals((TRANSACTION, IDEMPOTENCY_KEY)),
            ),
            Route(
                "POST", _TRANSACTION + "/abort", self.abort, "transactions",
                "Abort an open transaction: all that it staged is forgotten",
                answers.AbortAnswer, models.EmptyRequest, body_optional=True,
                headers=(TRANSACTION,), needs=(TRANSACTION,), refuses=refusals((TRANSACTION,)),
            ),
            Route(
                "POST", "/v1/transactions/commit", self.commit, "transactions",
                "Write atomically over any collections and shards, in one call",
                answers.CommitAnswer, models.CommitRequest,
                example='{"operations": [{"collection": "words", "delete": ["old"]}, '
                '{"collection": "images", "upsert": [{"id": "b", "dimensions": [0, 1]}]}]}',
                headers=(IDEMPOTENCY_KEY,), tells=(REPLAYED,),
                refuses=refusals(
                    (IDEMPOTENCY_KEY,),
                    transaction="this commits the operations in its body; an open transaction is "
                    "committed by POST /v1/transactions/{id}/commit",
                ),
            ),
            Route(
                "GET", _TRANSACTION, self.transaction, "transactions",
                "What became of a transaction whose outcome was not known",
                answers.TransactionAnswer,
            ),
        ]  # fmt: skip

    async def begin(self, request: web.Request) -> web.Response:
        given = await self._edge.read_optional(request, models.BeginRequest)
        begun = await self._edge.api.begin(given.isolation, given.timeout_s)
        told = {TRANSACTION: begun.token}
        return json_response(open_transaction_answer(begun), status=201, headers=told)

    async def commit_open(self, request: web.Request) -> web.Response:
        transaction = self._transaction_of(request)
        await self._edge.read_optional(request, models.EmptyRequest)
        # What is asked is the transaction; the body says nothing.
        key = headers.idempotency_of(request, transaction.txn_id.encode())
        with self._edge.meters.transaction(EDGE):
            result = await transaction.commit(key)
        return Scope(self._edge.api, None).written(result)

    async def abort(self, request: web.Request) -> web.Response:
        transaction = self._transaction_of(request)
        await self._edge.read_optional(request, models.EmptyRequest)
        await transaction.abort()
        return json_response({"state": "aborted"})

    def _transaction_of(self, request: web.Request) -> TransactionApi:
        """The open transaction that the path and the header name."""
        txn_id = _id_of(request)
        transaction = self._edge.scope(request).transaction
        if transaction is None:
            raise InvalidArgument(f"header {TRANSACTION}: the transaction's token is needed")
        if transaction.txn_id != txn_id:
            raise InvalidArgument(
                f"header {TRANSACTION}: a token of transaction {transaction.txn_id}, not of the "
                "one in the path"
            )
        return transaction

    async def commit(self, request: web.Request) -> web.Response:
        body = await self._edge.read_json(request)
        given = self._edge.decoder.body(models.CommitRequest, body)
        scope = Scope(self._edge.api, None)
        key = scope.idempotency(request, body)
        with self._edge.meters.transaction(EDGE):
            result = await scope.rows.write(operations(given), key)
        return scope.written(result)

    async def transaction(self, request: web.Request) -> web.Response:
        query_string(request.query, ())
        return json_response(await self._edge.api.transaction_status(_id_of(request)))


def _id_of(request: web.Request) -> str:
    """The transaction id in the path, well-formed."""
    txn_id = request.match_info["id"]
    if not _TXN_ID.match(txn_id):
        raise InvalidArgument("transaction id in the path: must be letters, digits, '-' or '_'")
    return txn_id
