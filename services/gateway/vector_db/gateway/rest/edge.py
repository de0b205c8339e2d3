"""What all routes share, and what a route is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from pydantic import BaseModel

from vector_db.common.model.errors import UnsupportedMediaType
from vector_db.common.model.ids import validate_collection_name
from vector_db.common.model.limits import Limits
from vector_db.gateway.api import DatabaseApi
from vector_db.gateway.metrics import GatewayMetrics
from vector_db.gateway.rest.body import is_arrow, read_body
from vector_db.gateway.rest.decode import Decoder, Model, query_string
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


@dataclass(frozen=True, slots=True)
class Route:
    """One operation: how it is served, and how OpenAPI and the docs show it.

    `parameters` are query parameters with their meaning.
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


def collection_of(request: web.Request) -> str:
    """The valid collection name in the path."""
    return validate_collection_name(request.match_info["collection"], "collection in the path")
