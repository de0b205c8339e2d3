"""What a call can raise: one base class, and one subclass per stable error code of the server.

Owns the mapping from a wire error (``code``, or the HTTP status where a proxy answered instead of
the server) to a class. Programs branch on the class or on `code`; people read `message`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class VectorDatabaseError(Exception):
    """Base of every error that this package raises on purpose.

    :ivar message: one sentence that names the limit, the place or the id at fault.
    :ivar code: stable identifier, such as ``"not_found"``.
    :ivar status: HTTP status, 0 when no answer came.
    :ivar retryable: whether the same call may succeed later. The client has retried already.
    :ivar request_id: what the server's log knows the request by, ``""`` when no answer came.
    :ivar details: small facts for programs.
    :ivar committed: for inserts of several batches: the ranges of input rows that are durable in
        spite of this error.
    """

    default_code: ClassVar[str] = "internal"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        status: int = 0,
        retryable: bool = False,
        request_id: str = "",
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.status = status
        self.retryable = retryable
        self.request_id = request_id
        self.details = dict(details or {})
        self.committed: tuple[range, ...] = ()

    def __str__(self) -> str:
        text = f"{self.code}: {self.message}"
        return f"{text} (request {self.request_id})" if self.request_id else text


class InvalidArgument(VectorDatabaseError, ValueError):
    """The request is malformed; found by the client before sending, or by the server."""

    default_code = "invalid_argument"


class Unauthenticated(VectorDatabaseError):
    """No API key, or a wrong one."""

    default_code = "unauthenticated"


class NotFound(VectorDatabaseError):
    """The collection, row or transaction does not exist."""

    default_code = "not_found"


class AlreadyExists(VectorDatabaseError):
    """The collection exists, or a row written with ``mode="insert"`` does."""

    default_code = "already_exists"


class Conflict(VectorDatabaseError):
    """Another transaction was first, retries included. `retryable`: begin a transaction again.

    In a transaction it also says that a new sequencer took over, which voids what was open.
    """

    default_code = "conflict"


class TransactionEnded(VectorDatabaseError):
    """The transaction takes no more calls; the subclasses say what became of it."""

    default_code = "transaction_ended"


class TransactionExpired(TransactionEnded):
    """The transaction was open for longer than its timeout: nothing of it was applied."""

    default_code = "transaction_expired"


class AlreadyCommitted(TransactionEnded):
    """The transaction is committed already."""

    default_code = "already_committed"


class Aborted(TransactionEnded):
    """The transaction was aborted: nothing of it was applied."""

    default_code = "aborted"


class SnapshotTooOld(VectorDatabaseError):
    """The snapshot asked for lies before the server's retention window."""

    default_code = "snapshot_too_old"


class PreconditionFailed(VectorDatabaseError):
    """`if_version` did not hold: the row has another version, or is gone. Read it again."""

    default_code = "precondition_failed"


class IdempotencyMismatch(InvalidArgument):
    """The idempotency key came with another request before; nothing was applied now."""

    default_code = "idempotency_mismatch"


class TooLarge(VectorDatabaseError):
    """A limit of the server was passed; the message names it."""

    default_code = "too_large"


class TooManyRequests(VectorDatabaseError):
    """The server is busy, and still was after the retries."""

    default_code = "too_many_requests"


class Unavailable(VectorDatabaseError):
    """No gateway answered, or a part that it needs did not.

    Nothing was applied, unless the message says that the connection broke.
    """

    default_code = "unavailable"


class OutcomeUnknown(VectorDatabaseError):
    """The write was sent and may or may not be applied: read the rows to find out.

    After the commit of a transaction, `details["transaction"]` is its id.
    """

    default_code = "outcome_unknown"


class StorageFull(VectorDatabaseError):
    """The server's disk is full; reads and deletes go on."""

    default_code = "storage_full"


class DeadlineExceeded(VectorDatabaseError, TimeoutError):
    """The call took longer than `timeout_s`; a write may or may not be applied."""

    default_code = "deadline_exceeded"


class InternalError(VectorDatabaseError):
    """A defect of the server, or an answer that is not the server's."""

    default_code = "internal"


_BY_CODE: dict[str, type[VectorDatabaseError]] = {
    cls.default_code: cls
    for cls in (
        InvalidArgument,
        Unauthenticated,
        NotFound,
        AlreadyExists,
        Conflict,
        TransactionEnded,
        TransactionExpired,
        AlreadyCommitted,
        Aborted,
        SnapshotTooOld,
        PreconditionFailed,
        IdempotencyMismatch,
        TooLarge,
        TooManyRequests,
        Unavailable,
        OutcomeUnknown,
        StorageFull,
        DeadlineExceeded,
        InternalError,
    )
}

_CODE_BY_STATUS = {
    400: "invalid_argument",
    401: "unauthenticated",
    403: "unauthenticated",
    404: "not_found",
    409: "conflict",
    410: "snapshot_too_old",
    412: "precondition_failed",
    413: "too_large",
    422: "invalid_argument",
    429: "too_many_requests",
    502: "unavailable",
    503: "unavailable",
    504: "unavailable",
    507: "storage_full",
}


def error_from_answer(status: int, body: object, request_id: str = "") -> VectorDatabaseError:
    """The error that an answer with a status of 400 or above stands for.

    `body` is the decoded JSON, or the raw text where it is none. An answer without the server's
    error object (a proxy's page) is classed by status and never called retryable: only the server
    knows that nothing was applied.
    """
    error = body.get("error") if isinstance(body, Mapping) else None
    if isinstance(error, Mapping):
        details = error.get("details")
        code = str(error.get("code") or _CODE_BY_STATUS.get(status, "internal"))
        return _BY_CODE.get(code, VectorDatabaseError)(
            str(error.get("message") or f"HTTP status {status}"),
            code=code,
            status=status,
            retryable=error.get("retryable") is True,
            request_id=str(error.get("request_id") or request_id),
            details=details if isinstance(details, Mapping) else None,
        )
    code = _CODE_BY_STATUS.get(status, "internal")
    excerpt = str(body).strip().replace("\n", " ")[:200]
    return _BY_CODE[code](
        f"HTTP status {status}, not an answer of vector-db: {excerpt}",
        code=code,
        status=status,
        request_id=request_id,
    )
