"""The life of a transaction at the client: its beginning, its token, its end and its outcome.

Owns three invariants. Statements are sequential, because each answer brings the token of the next
one, and a statement whose connection broke is sent again under the token that it had, so that the
server takes it for the same one. A transaction of which a statement was staged in part, or
perhaps, can only be aborted. And `OutcomeUnknown` is said only after the server was asked, for as
long as one call may take, what became of the commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from enum import Enum, auto
from types import TracebackType
from typing import Any, Self

from vector_db_client import calls
from vector_db_client.calls import Answer, Request
from vector_db_client.errors import (
    Aborted,
    AlreadyCommitted,
    Conflict,
    DeadlineExceeded,
    InternalError,
    InvalidArgument,
    OutcomeUnknown,
    TransactionEnded,
    TransactionExpired,
    Unavailable,
    VectorDatabaseError,
)
from vector_db_client.transport import Transport
from vector_db_client.values import IdempotencyKey, Isolation, WriteResult

ABANDON_TIMEOUT_S = 5.0
"""How long the end of a block that failed may take to tell the server; it forgets by itself."""

_BEGIN_PAUSE_S = (0.002, 0.05)
_REFUSALS = frozenset(
    (
        "invalid_argument",
        "unauthenticated",
        "not_found",
        "already_exists",
        "precondition_failed",
        "too_large",
    )
)
"""Answers that say that a statement was looked at and nothing of it was staged."""


class _State(Enum):
    NEW = auto()
    OPEN = auto()
    DOOMED = auto()
    """A statement failed in a way that leaves nothing but to abort."""
    COMMITTED = auto()
    ABORTED = auto()
    UNKNOWN = auto()
    """The commit was sent, and what became of it could not be found out."""


def _in_doubt(error: VectorDatabaseError) -> bool:
    """Whether a commit that was answered so may be applied nevertheless."""
    if isinstance(error, Unavailable):  # a proxy's word, unless it says that nothing was applied
        return not error.retryable
    return isinstance(error, OutcomeUnknown | DeadlineExceeded | InternalError)


def restartable(error: VectorDatabaseError) -> bool:
    """Whether the transaction that failed with `error` was not applied and may succeed anew."""
    # One that this side has aborted has status 0: that was the caller's will.
    return error.retryable or (isinstance(error, Aborted) and error.status > 0)


class TransactionLife:
    """What `AsyncTransaction` is besides its statements."""

    def __init__(self, transport: Transport, isolation: Isolation, timeout_s: float | None) -> None:
        self._transport = transport
        self._isolation: Isolation = isolation
        self._timeout_s = timeout_s
        self._lock = asyncio.Lock()
        self._state = _State.NEW
        self._failure: VectorDatabaseError | None = None
        self._id = ""
        self._token = ""
        self._snapshot_ts = 0
        self._commit_ts = 0
        self._staged = 0

    @property
    def id(self) -> str:
        """What the server knows it by, ``""`` before it began."""
        return self._id

    @property
    def isolation(self) -> Isolation:
        """``"snapshot"`` or ``"serializable"``."""
        return self._isolation

    @property
    def snapshot_ts(self) -> int:
        """What its reads see was committed at this timestamp or before; 0 before it began."""
        return self._snapshot_ts

    @property
    def commit_ts(self) -> int:
        """When its writes became visible; 0 before it is committed."""
        return self._commit_ts

    async def __aenter__(self) -> Self:
        await self.begin()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            await self._abandon(error)
        elif self._state in (_State.OPEN, _State.DOOMED):
            try:
                await self.commit()
            except BaseException as failure:
                await self._abandon(failure)
                raise

    # -- begin and end

    async def begin(self) -> None:
        """Begin, at a snapshot that has everything that this client has seen.

        ``async with`` does it.

        :raises InvalidArgument: no such isolation, or a timeout out of its limits.
        """
        async with self._lock:
            if self._state is not _State.NEW:
                raise TransactionEnded("a transaction begins once: make another one")
            body: dict[str, Any] = {"isolation": self._isolation}
            if self._timeout_s is not None:
                body["timeout_s"] = self._timeout_s
            timeout_s = self._transport.timeout_s
            try:
                async with asyncio.timeout(timeout_s):
                    opened = await self._begin(body)
            except TimeoutError as error:
                if isinstance(error, VectorDatabaseError):
                    raise
                raise DeadlineExceeded(
                    f"no gateway had what this client has seen within {timeout_s:g} s"
                ) from None
            self._id, self._token = opened["transaction"], opened["token"]
            self._snapshot_ts = opened["snapshot_ts"]
            self._state = _State.OPEN

    async def _begin(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        seen, pause_s = self._transport.token, _BEGIN_PAUSE_S[0]
        while True:
            opened: Mapping[str, Any] = await self._transport.json("POST", "/v1/transactions", body)
            # A gateway may lag a moment behind what this client has written or read. What was
            # begun needs no abort: nothing of it is stored.
            if opened["snapshot_ts"] >= seen:
                return opened
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _BEGIN_PAUSE_S[1])

    async def commit(self, *, idempotency_key: IdempotencyKey | None = None) -> WriteResult:
        """Make everything that was staged visible at once; `count` has the rows staged.

        When the connection breaks or the server does not know the outcome, it is asked for it, and
        the commit is sent again, for up to the client's `timeout_s`.

        :param idempotency_key: when a transaction was committed under it before, nothing of this
            one is applied, and the answer is the earlier one's, `replayed`.
        :raises Conflict: another transaction was first; nothing was applied.
        :raises OutcomeUnknown: what became of it could not be found out.
        """
        async with self._lock:
            self._check_open()
            try:
                result = await self._commit(calls.with_key(self._end("commit"), idempotency_key))
            except (OutcomeUnknown, asyncio.CancelledError):
                self._state = _State.UNKNOWN
                raise
            except VectorDatabaseError as error:
                if isinstance(error, Conflict | TransactionEnded):
                    self._doom(error, _State.ABORTED)
                raise
            self._state, self._commit_ts = _State.COMMITTED, result.commit_ts
            return result

    async def _commit(self, request: Request) -> WriteResult:
        try:
            return await self._send_commit(request)
        except VectorDatabaseError as error:
            if not _in_doubt(error):
                raise
            doubt = error
        last = [doubt]
        try:
            async with asyncio.timeout(self._transport.timeout_s):
                return await self._find_out(request, last)
        except TimeoutError:
            raise OutcomeUnknown(
                f"the commit of transaction {self._id} was sent and may or may not be applied; "
                f"the last answer: {last[-1].message}",
                details={"transaction": self._id},
            ) from doubt

    async def _find_out(self, request: Request, last: list[VectorDatabaseError]) -> WriteResult:
        """Ask and send again until it is decided; `last` has the newest failure at its end.

        :raises Aborted: nothing was applied.
        """
        attempt = 0
        while True:
            try:
                found = await self._transport.json("GET", f"/v1/transactions/{self._id}")
                if found.get("state") == "committed":
                    return WriteResult(self._staged, found["commit_ts"])
                if found.get("state") == "aborted":
                    reason = found.get("reason") or "no reason is known"
                    raise Aborted(
                        f"the transaction was aborted: {reason}", status=409, retryable=True
                    )
                # Undecided, or the commit never arrived: it may be sent again.
                return await self._send_commit(request)
            except Aborted:
                raise
            except VectorDatabaseError as error:
                # No word on the outcome, not even a Conflict: it may be about the repetition.
                last.append(error)
            await asyncio.sleep(self._transport.pause_s(attempt))
            attempt += 1

    async def _send_commit(self, request: Request) -> WriteResult:
        # A broken connection is for `_find_out`, which also asks what became of it.
        once = replace(request, repeatable=False)
        answer = await self._transport.send(once, repeat_conflicts=False)
        return calls.write_result(answer)

    async def abort(self) -> None:
        """Forget everything that was staged. Again is no error, nor is it after an expiry.

        :raises AlreadyCommitted: it is committed.
        """
        async with self._lock:
            if self._state is _State.ABORTED:
                return
            if self._state in (_State.NEW, _State.COMMITTED):
                self._check_open()
            try:
                await self._transport.send(self._end("abort"), repeat_conflicts=False)
            except (Conflict, TransactionExpired, Aborted):
                # Never committed, so this says that it is over; after a commit it says nothing.
                if self._state is _State.UNKNOWN:
                    raise
            self._state = _State.ABORTED

    async def _abandon(self, error: BaseException) -> None:
        """Abort because of `error`, which is what the caller shall see, whatever comes of it."""
        if self._state not in (_State.OPEN, _State.DOOMED):
            return
        try:
            async with asyncio.timeout(ABANDON_TIMEOUT_S):
                await self.abort()
        except (VectorDatabaseError, TimeoutError) as failure:
            error.add_note(f"the server could not be told to abort the transaction: {failure}")

    # -- statements

    async def _call(self, request: Request, *, stages: bool) -> Answer:
        async with self._lock:
            self._check_open()
            tagged = replace(self._tagged(request), repeatable=True)
            try:
                answer = await self._transport.send(tagged, repeat_conflicts=False)
            except BaseException as error:
                refused = isinstance(error, VectorDatabaseError) and error.code in _REFUSALS
                over = isinstance(error, Conflict | TransactionEnded)
                # A read leaves nothing behind. Of a write that nobody answered some may be staged,
                # and another one under the same token would be taken for it.
                if over or (stages and not refused):
                    self._doom(error)
                raise
            self._token = answer.token or self._token
            return answer

    def _end(self, how: str) -> Request:
        return self._tagged(Request("POST", f"/v1/transactions/{self._id}/{how}"))

    def _tagged(self, request: Request) -> Request:
        return replace(request, headers={**request.headers, "Transaction": self._token})

    def _doom(self, error: BaseException, state: _State = _State.DOOMED) -> None:
        if self._state is not _State.OPEN:
            return
        self._state = state
        if isinstance(error, VectorDatabaseError):
            self._failure = error
        else:
            self._failure = Aborted(f"a statement was interrupted ({type(error).__name__})")

    def _check_open(self) -> None:
        """:raises VectorDatabaseError: not begun yet, or at its end; tells why."""
        match self._state:
            case _State.OPEN:
                return
            case _State.NEW:
                raise InvalidArgument("the transaction has not begun: use it in a with block")
            case _State.COMMITTED:
                raise AlreadyCommitted("the transaction is committed and takes no more calls")
            case _State.UNKNOWN:
                raise TransactionEnded("the commit was sent, and its outcome is not known")
        failure = self._failure
        if failure is None:
            raise Aborted("the transaction was aborted and takes no more calls")
        text = f"the transaction can only be aborted, because a call failed: {failure.message}"
        if isinstance(failure, Conflict | TransactionEnded):
            raise type(failure)(
                text, status=failure.status, retryable=failure.retryable
            ) from failure
        raise Aborted(text, retryable=failure.retryable) from failure
