"""What all routes share, what a route is, and where the rows of one request are.

Owns the invariant that a call with the header `Transaction` runs in that transaction and answers
its new token, and that none without it does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from pydantic import BaseModel

from vector_db.common.model.errors import InvalidArgument, UnsupportedMediaType
from vector_db.common.model.ids import validate_collection_name
from vector_db.common.model.limits import Limits
from vector_db.gateway.api import DatabaseApi, RowsApi, TransactionApi
from vector_db.gateway.core.requests import Idempotency, WriteResult
from vector_db.gateway.metrics import GatewayMetrics
from vector_db.gateway.rest import headers
from vector_db.gateway.rest.body import is_arrow, read_body
from vector_db.gateway.rest.decode import Decoder, Model, query_string
from vector_db.gateway.rest.encode import json_response, write_answer
from vector_db.gateway.rest.errors import Handler

EDGE = "rest"


@dataclass(frozen=True, slots=True)
class Edge:
    """The hands of every handler. `health` and `metrics` speak for the whole process."""

    api: DatabaseApi
    limits: Limits
    decoder: Decoder
    meters: GatewayMetrics
    health: Callable[[], dict[str, Any]]
    metrics: Callable[[], tuple[bytes, str]]

    async def read(self, request: web.Request, model: type[Model]) -> Model:
        """The JSON body as `model`; query parameters are refused."""
        return self.decoder.body(model, await self.read_json(request))

    async def read_json(self, request: web.Request) -> bytes:
        """The bytes of a JSON body; query parameters and other content types are refused."""
        if request.query_string:
            query_string(request.query, ())
        if is_arrow(request):
            raise UnsupportedMediaType("this path takes application/json only")
        return await read_body(request, self.limits)

    async def read_optional(self, request: web.Request, model: type[Model]) -> Model:
        """The JSON body as `model`; an empty one is ``{}``."""
        return self.decoder.body(model, await self.read_json(request) or b"{}")

    def scope(self, request: web.Request) -> Scope:
        """Where the rows of the request are."""
        token = headers.token_of(request)
        if token is None:
            return Scope(self.api, None)
        transaction = self.api.resume(token)
        return Scope(transaction, transaction)


@dataclass(frozen=True, slots=True)
class Scope:
    """Where one request reads and writes rows: the database, or an open transaction of it."""

    rows: RowsApi
    transaction: TransactionApi | None

    def idempotency(self, request: web.Request, body: bytes) -> Idempotency | None:
        """:raises InvalidArgument: a key in a transaction, or one that is malformed."""
        given = headers.idempotency_of(request, body)
        if given is not None and self.transaction is not None:
            raise InvalidArgument(
                f"header {headers.IDEMPOTENCY_KEY}: has no meaning in a transaction; a key goes "
                "with its commit"
            )
        return given

    def check_consistency(self, asked: object | None) -> None:
        """:raises InvalidArgument: one was asked for, whatever it says, in a transaction."""
        if asked is not None and self.transaction is not None:
            raise InvalidArgument("consistency: a transaction reads at its own snapshot")

    def answer(self, value: Any, etag: int | None = None) -> web.Response:
        """`value`, with what the headers tell. `etag`: the version of the one row in it."""
        told: dict[str, str] = {}
        if self.transaction is not None:
            told[headers.TRANSACTION] = self.transaction.token
        if etag is not None:
            told[headers.ETAG] = f'"{etag}"'
        return json_response(value, headers=told)

    def written(self, result: WriteResult) -> web.Response:
        """The answer of a write."""
        response = self.answer(write_answer(result, staged=self.transaction is not None))
        if result.replayed:
            response.headers[headers.REPLAYED] = "true"
        return response


@dataclass(frozen=True, slots=True)
class Route:
    """One operation: how it is served, and how OpenAPI and the docs show it.

    `parameters` are query parameters with their meaning; `headers` are those of
    `rest/headers.py` that it takes, `needs` those it cannot do without, `refuses` those that it
    answers with 400 and a hint, and `tells` the headers of its answer.
    """

    method: str
    path: str
    handler: Handler
    tag: str
    summary: str
    answer: type[BaseModel] | None = None
    request: type[BaseModel] | None = None
    status: int = 200
    parameters: tuple[tuple[str, str], ...] = ()
    arrow: bool = False
    example: str = ""
    headers: tuple[str, ...] = ()
    refuses: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    tells: tuple[str, ...] = ()
    body_optional: bool = False


def collection_of(request: web.Request) -> str:
    """The valid collection name in the path, be it an alias."""
    return validate_collection_name(request.match_info["collection"], "collection in the path")


def alias_of(request: web.Request) -> str:
    """The alias in the path, which obeys the rule of collection names."""
    return validate_collection_name(request.match_info["alias"], "alias in the path")
