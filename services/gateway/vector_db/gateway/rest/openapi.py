"""The API as an OpenAPI 3.1 document, generated from the routes and their models."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Sequence
from typing import Any

import orjson
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from vector_db.common.model.limits import HITS_PER_REQUEST_MAX, QUERY_DEPTH_MAX, Limits
from vector_db.gateway.rest import answers, models
from vector_db.gateway.rest.body import ARROW_TYPE
from vector_db.gateway.rest.edge import Route
from vector_db.gateway.rest.errors import OPEN_PATHS
from vector_db.gateway.rest.fields import LIMIT_KEY
from vector_db.gateway.rest.headers import MEANINGS, TOLD

_REFS = "#/components/schemas/{model}"
_INTRO = """\
A transactional, sharded vector database. Every write answers a `commit_ts`; give it to a read as
`consistency: {"at_least": commit_ts}` to see that write through any gateway. A write is all or
nothing.

`POST /v1/transactions` begins a transaction and answers its token. A call on rows that carries the
token in the header `Transaction` runs in it, and answers the token for the next call in the same
header; `POST /v1/transactions/{id}/commit` makes all of its writes visible at once. A write with
the header `Idempotency-Key` can be sent again: it is applied once. A row's `version` is the
`commit_ts` that wrote it; `If-Match` and `if_version` make a write depend on it.

Errors of every kind have the body `{"error": {"code", "message", "retryable",
"request_id"}}`."""


def describe(routes: Sequence[Route], limits: Limits) -> dict[str, Any]:
    """The document for `routes`, with the configured limits as maxima."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    schemas = _schemas(routes)
    _fill_limits(schemas, limits)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "vector-db",
            "version": _version(),
            "description": f"{_INTRO}\n\n{_limits_text(limits)}",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "tags": [{"name": tag} for tag in dict.fromkeys(route.tag for route in routes)],
        "security": [{"bearer": []}, {"apiKey": []}, {}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
            },
        },
    }


def _version() -> str:
    try:
        return importlib.metadata.version("vector-db-gateway")
    except importlib.metadata.PackageNotFoundError:
        return "0"


def _limits_text(limits: Limits) -> str:
    return (
        f"Limits: {limits.body_bytes_max} bytes a body (body_bytes_max), "
        f"{limits.rows_per_batch_max} rows a write (rows_per_batch_max), "
        f"{limits.queries_per_batch_max} queries a batch (queries_per_batch_max), "
        f"k {limits.k_max} (k_max), {HITS_PER_REQUEST_MAX} hits a batch (hits_per_request_max), "
        f"pages of a query to hit {QUERY_DEPTH_MAX} (query_depth_max), "
        f"dimension {limits.dimension_max} (dimension_max), "
        f"{limits.scroll_limit_max} rows a page (scroll_limit_max), "
        f"{limits.metadata_bytes_max} bytes of metadata a row (metadata_bytes_max), "
        f"filters {limits.filter_depth_max} operators deep (filter_depth_max) "
        f"with {limits.filter_terms_max} comparisons (filter_terms_max)."
    )


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": _operation_id(route),
        "summary": route.summary,
        "tags": [route.tag],
        "responses": {
            str(route.status): _response(route) | _told(route),
            "default": _json_response("An error", answers.ErrorAnswer),
        },
    }
    if route.path in OPEN_PATHS:
        operation["security"] = []
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", route.path)
    ]
    parameters += [
        {"name": name, "in": "query", "description": text, "schema": {"type": "string"}}
        for name, text in route.parameters
    ]
    parameters += [
        {
            "name": name,
            "in": "header",
            "required": name in route.needs,
            "description": MEANINGS[name],
            "schema": {"type": "string"},
        }
        for name in route.headers
    ]
    if parameters:
        operation["parameters"] = parameters
    if route.request is not None:
        operation["requestBody"] = _request_body(route, route.request)
    return operation


def _operation_id(route: Route) -> str:
    words = re.findall(r"\w+", route.path.replace("/v1", ""))
    return "_".join([route.method.lower(), *words]) if words else route.method.lower()


def _request_body(route: Route, model: type[BaseModel]) -> dict[str, Any]:
    media: dict[str, Any] = {"schema": {"$ref": _REFS.format(model=model.__name__)}}
    if route.example:
        media["example"] = orjson.loads(route.example)
    content: dict[str, Any] = {"application/json": media}
    if route.arrow:
        content[ARROW_TYPE] = {
            "schema": {
                "type": "string",
                "format": "binary",
                "description": "Columns: id (string), vector (list of float16, 32 or 64), "
                "metadata (JSON text, nullable; may be absent), if_version (int64; may be absent)",
            }
        }
    return {"required": not route.body_optional, "content": content}


def _response(route: Route) -> dict[str, Any]:
    if route.answer is None:
        return {"description": route.summary}
    if route.answer is answers.QueryAnswer:
        refs = [
            {"$ref": _REFS.format(model=model.__name__)}
            for model in (answers.QueryAnswer, answers.BatchQueryAnswer)
        ]
        return {
            "description": "Hits; `results` when the request had `vectors`",
            "content": {"application/json": {"schema": {"oneOf": refs}}},
        }
    return _json_response((route.answer.__doc__ or "").split("\n")[0], route.answer)


def _told(route: Route) -> dict[str, Any]:
    """The headers of its answer."""
    if not route.tells:
        return {}
    return {
        "headers": {
            name: {"description": TOLD[name], "schema": {"type": "string"}} for name in route.tells
        }
    }


def _json_response(description: str, model: type[BaseModel]) -> dict[str, Any]:
    schema = {"$ref": _REFS.format(model=model.__name__)}
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _schemas(routes: Sequence[Route]) -> dict[str, Any]:
    asked = {route.request for route in routes if route.request is not None} | {models.Row}
    answered = {route.answer for route in routes if route.answer is not None}
    answered |= {answers.ErrorAnswer, answers.BatchQueryAnswer}
    _, document = models_json_schema(
        [
            *((model, "validation") for model in sorted(asked, key=lambda m: m.__name__)),
            *((model, "serialization") for model in sorted(answered, key=lambda m: m.__name__)),
        ],
        ref_template=_REFS,
    )
    schemas: dict[str, Any] = document["$defs"]
    return dict(sorted(schemas.items()))


def _fill_limits(node: Any, limits: Limits) -> None:
    """Turn each `LIMIT_KEY` into the ``maximum`` that it names."""
    if isinstance(node, dict):
        name = node.pop(LIMIT_KEY, None)
        if name is not None:
            node["maximum"] = getattr(limits, name)
        for value in node.values():
            _fill_limits(value, limits)
    elif isinstance(node, list):
        for value in node:
            _fill_limits(value, limits)
