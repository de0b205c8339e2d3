"""The one error hierarchy. Each error has a stable code, an HTTP and a gRPC status, `retryable`.

Errors are mapped to a transport once, at the edge (`gateway/rest`, `gateway/grpc`); over the bus
they travel as `ErrorReply` and are raised again on the asking side by `error_from_code`.
"""

from __future__ import annotations

from typing import ClassVar


class VectorDBError(Exception):
    """Base of all errors that a client may see.

    :param message: one clear sentence; it names the limit, the place or the id at fault.
    :param details: small JSON-able facts for programs (for example ``{"outcome": "unknown"}``).
    """

    code: ClassVar[str] = "internal"
    http_status: ClassVar[int] = 500
    grpc_status: ClassVar[str] = "INTERNAL"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, **details: object) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class InvalidArgument(VectorDBError):
    """The request is malformed; the message names the place."""

    code = "invalid_argument"
    http_status = 400
    grpc_status = "INVALID_ARGUMENT"


class Unauthenticated(VectorDBError):
    """No API key, or a wrong one."""

    code = "unauthenticated"
    http_status = 401
    grpc_status = "UNAUTHENTICATED"


class NotFound(VectorDBError):
    """A collection, row or transaction does not exist."""

    code = "not_found"
    http_status = 404
    grpc_status = "NOT_FOUND"


class MethodNotAllowed(VectorDBError):
    """The path exists, the HTTP method does not."""

    code = "method_not_allowed"
    http_status = 405
    grpc_status = "UNIMPLEMENTED"


class AlreadyExists(VectorDBError):
    """A collection, or a row written with ``mode=insert``, exists already."""

    code = "already_exists"
    http_status = 409
    grpc_status = "ALREADY_EXISTS"


class Conflict(VectorDBError):
    """Another transaction wrote the same key first; a retry may succeed."""

    code = "conflict"
    http_status = 409
    grpc_status = "ABORTED"
    retryable = True


class TransactionExpired(VectorDBError):
    """The transaction was open for longer than its timeout: nothing of it was applied."""

    code = "transaction_expired"
    http_status = 409
    grpc_status = "ABORTED"


class AlreadyCommitted(VectorDBError):
    """A committed transaction cannot be aborted."""

    code = "already_committed"
    http_status = 409
    grpc_status = "FAILED_PRECONDITION"


class Aborted(VectorDBError):
    """The transaction was aborted by its client; nothing of it was applied."""

    code = "aborted"
    http_status = 409
    grpc_status = "ABORTED"


class SnapshotTooOld(VectorDBError):
    """The asked snapshot lies before the retention window."""

    code = "snapshot_too_old"
    http_status = 410
    grpc_status = "OUT_OF_RANGE"


class PreconditionFailed(VectorDBError):
    """`if_version` did not hold."""

    code = "precondition_failed"
    http_status = 412
    grpc_status = "FAILED_PRECONDITION"


class TooLarge(VectorDBError):
    """A configured limit was passed; the message names it and its value."""

    code = "too_large"
    http_status = 413
    grpc_status = "RESOURCE_EXHAUSTED"


class UnsupportedMediaType(VectorDBError):
    """The content type is neither JSON nor an Arrow IPC stream."""

    code = "unsupported_media_type"
    http_status = 415
    grpc_status = "INVALID_ARGUMENT"


class IdempotencyMismatch(VectorDBError):
    """The idempotency key was used before, with another request; nothing was applied."""

    code = "idempotency_mismatch"
    http_status = 422
    grpc_status = "INVALID_ARGUMENT"


class TooManyRequests(VectorDBError):
    """Too many unacknowledged bytes or requests; come back shortly."""

    code = "too_many_requests"
    http_status = 429
    grpc_status = "RESOURCE_EXHAUSTED"
    retryable = True


class Unavailable(VectorDBError):
    """A part that is needed does not answer; nothing was applied."""

    code = "unavailable"
    http_status = 503
    grpc_status = "UNAVAILABLE"
    retryable = True


class Moved(Unavailable):
    """The shard is at another worker than the one that was asked. Gateways ask that one: no client
    sees it."""

    code = "moved"


class OutcomeUnknown(VectorDBError):
    """The write was sent and its outcome is not known yet: it may or may not be applied."""

    code = "outcome_unknown"
    http_status = 503
    grpc_status = "UNAVAILABLE"
    retryable = False


class StorageFull(VectorDBError):
    """The disk is full; reads and deletes go on."""

    code = "storage_full"
    http_status = 507
    grpc_status = "RESOURCE_EXHAUSTED"


class Internal(VectorDBError):
    """A defect of the server; the log has the request id."""


def _subclasses(cls: type[VectorDBError]) -> list[type[VectorDBError]]:
    return [cls, *(s for c in cls.__subclasses__() for s in _subclasses(c))]


_BY_CODE: dict[str, type[VectorDBError]] = {c.code: c for c in _subclasses(VectorDBError)}


def error_from_code(code: str, message: str, details: dict[str, object]) -> VectorDBError:
    """The error that `code` names, as it was raised on the far side of the bus."""
    return _BY_CODE.get(code, Internal)(message, **details)


class StorageCorrupt(Exception):
    """A file is damaged: the message names file and offset. The process refuses to serve."""


class NewerFormat(Exception):
    """A file or message carries a format version newer than this program knows."""


class StartupError(Exception):
    """The process cannot start; the message is the one line that the operator sees."""
