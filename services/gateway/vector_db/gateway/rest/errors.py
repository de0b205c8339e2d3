"""Errors as HTTP answers: the one place where REST maps them, and where requests get their ids.

Owns the invariant that every refusal carries
``{"error": {"code", "message", "retryable", "request_id", "details"?}}``, and that an exception
nobody foresaw is a 500 whose text stays in the log. (A probe's 503 is an answer, no refusal.)
"""

from __future__ import annotations

import hmac
import itertools
import logging
import re
import secrets
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import TypeAlias

import orjson
from aiohttp import web
from aiohttp.typedefs import Middleware

from vector_db.common.model.errors import (
    Internal,
    InvalidArgument,
    MethodNotAllowed,
    NotFound,
    TooLarge,
    Unauthenticated,
    VectorDBError,
)

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

REQUEST_ID_HEADER = "X-Request-Id"
OPEN_PATHS = frozenset(("/livez", "/readyz", "/health"))
"""Answered without an API key: probes have none."""

_MESSAGE_CHARS_MAX = 2_000
_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}\Z")
_log = logging.getLogger(__name__)


class RequestIds:
    """Ids for requests that bring none: a random prefix of this process and a count."""

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(6)
        self._count = itertools.count(1)

    def of(self, request: web.BaseRequest) -> str:
        """The client's `X-Request-Id` when it is fit for logs and headers, else a new id."""
        given = request.headers.get(REQUEST_ID_HEADER)
        if given is not None and _SANE_REQUEST_ID.match(given):
            return given
        return f"{self._prefix}-{next(self._count):x}"


def error_response(
    error: VectorDBError, request_id: str, status: int | None = None
) -> web.Response:
    """The JSON answer for `error`; `status` overrides its own."""
    body: dict[str, object] = {
        "code": error.code,
        "message": _bounded(error.message),
        "retryable": error.retryable,
        "request_id": request_id,
    }
    if error.details:
        body["details"] = error.details
    response = web.Response(
        body=orjson.dumps({"error": body}, default=str),
        status=status or error.http_status,
        content_type="application/json",
        headers={REQUEST_ID_HEADER: request_id},
    )
    if isinstance(error, Unauthenticated):
        response.headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, TooLarge):
        # What the client is still sending will not be read.
        response.force_close()
    return response


def edge_middleware(api_key: str | None, request_ids: RequestIds) -> Middleware:
    """Names the request, checks its API key and answers its errors."""
    key = None if api_key is None else api_key.encode()

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        request_id = request_ids.of(request)
        try:
            if key is not None and request.path not in OPEN_PATHS:
                _check_key(request, key)
            response = await handler(request)
        except VectorDBError as error:
            if isinstance(error, Internal):
                _log.error("request %s: %s", request_id, error.message)
            refused = error_response(error, request_id)
            if request.content.exception() is not None:
                # The transfer broke: where the next request would begin is unknown.
                refused.force_close()
            return refused
        except web.HTTPException as error:
            return _of_http(error, request_id)
        except ConnectionResetError:
            raise
        except Exception:
            _log.exception("request %s: %s %s", request_id, request.method, request.path)
            return error_response(
                Internal("internal error; the log has the request id"), request_id
            )
        response.headers[REQUEST_ID_HEADER] = request_id
        return response

    return middleware


def _check_key(request: web.Request, key: bytes) -> None:
    given = request.headers.get("X-Api-Key")
    if given is None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthenticated(
                "an API key is needed: 'Authorization: Bearer KEY' or 'X-Api-Key: KEY'"
            )
        given = token.strip()
    if not hmac.compare_digest(given.encode(errors="surrogateescape"), key):
        raise Unauthenticated("the API key is wrong")


def _of_http(error: web.HTTPException, request_id: str) -> web.StreamResponse:
    if error.status < 400:
        error.headers[REQUEST_ID_HEADER] = request_id
        return error
    mapped: VectorDBError
    match error:
        case web.HTTPNotFound():
            mapped = NotFound("no such path; GET /openapi.json or /docs lists them")
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            mapped = MethodNotAllowed(f"{error.method} is not allowed here; allowed: {allowed}")
        case web.HTTPRequestEntityTooLarge():
            mapped = TooLarge("the body is too large")
        case _ if error.status < 500:
            mapped = InvalidArgument(error.reason)
        case _:
            mapped = Internal(error.reason)
    response = error_response(mapped, request_id, error.status)
    if "Allow" in error.headers:
        response.headers["Allow"] = error.headers["Allow"]
    return response


def protocol_error(status: int, message: str | None, request_id: str) -> web.Response:
    """The answer to bytes that are no HTTP request; the connection ends."""
    if status >= 500:
        return error_response(Internal("internal error"), request_id, status)
    text = (message or HTTPStatus(status).phrase).split("\n", 1)[0].strip()
    response = error_response(InvalidArgument(f"not a valid HTTP request: {text}"), request_id)
    response.force_close()
    return response


def _bounded(message: str) -> str:
    if len(message) > _MESSAGE_CHARS_MAX:
        message = f"{message[:_MESSAGE_CHARS_MAX]}…"
    # A lone surrogate (from a path) cannot be written as UTF-8.
    return message.encode(errors="replace").decode()
