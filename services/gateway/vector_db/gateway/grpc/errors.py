"""Errors to gRPC, once: a status, a message, and the facts for programs in trailing metadata.

Owns the invariant that a client sees nothing of an unexpected exception but the request id under
which it was logged.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass

import grpc

from vector_db.common.model.errors import Internal, VectorDBError

MESSAGE_CHARS_MAX = 2_000
"""gRPC clients refuse more than 8 KiB of headers and trailers together by default."""

DETAILS_BYTES_MAX = 2_000

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Failure:
    """What a failed call answers. `status` is the name of a `grpc.StatusCode`."""

    status: str
    message: str
    trailing: tuple[tuple[str, str], ...]

    @property
    def code(self) -> grpc.StatusCode:
        """The status as grpc wants it."""
        return grpc.StatusCode[self.status]


def failure_of(error: Exception, method: str, request_id: str) -> Failure:
    """What the client is told about `error`; an unexpected one is logged and told as internal."""
    if not isinstance(error, VectorDBError):
        _log.error(
            "unexpected error in gRPC %s, request %s",
            method,
            request_id,
            exc_info=(type(error), error, error.__traceback__),
        )
        error = Internal(f"internal error; the server's log has request {request_id}")
    trailing = [
        ("vector-db-code", error.code),
        ("vector-db-retryable", "true" if error.retryable else "false"),
        ("vector-db-request-id", request_id),
    ]
    if error.details:
        details = json.dumps(error.details, default=str)  # ASCII, as metadata values must be
        if len(details) <= DETAILS_BYTES_MAX:
            trailing.append(("vector-db-details", details))
    message = error.message
    if len(message) > MESSAGE_CHARS_MAX:
        message = message[:MESSAGE_CHARS_MAX] + "…"
    return Failure(error.grpc_status, message, tuple(trailing))
