"""`ports.Bus` for services that share one process: local calls instead of messages.

Owns the invariant that a message that finds its server or subscriber in this process is passed as
the object it is: no bytes, no task, no broker. Logs always go through the broker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Generator
from typing import Any, Generic, TypeVar

import structlog

from vector_db.common.core.messages import AnyMessage
from vector_db.common.core.subjects import LogName
from vector_db.common.model.errors import Internal, VectorDBError
from vector_db.common.ports import (
    Bus,
    BusTimeout,
    GapHandler,
    MessageHandler,
    RecordHandler,
    RequestHandler,
    Subscription,
)

logger = structlog.get_logger(__name__)
_Handler = TypeVar("_Handler")


class _Stepped:
    """Awaits a handler under a timeout that is armed only if the handler has to wait.

    Most local answers are there at once, and a timer costs more than a short search's bookkeeping.
    """

    __slots__ = ("_answer", "_scope", "_timeout_s")

    def __init__(self, answer: Awaitable[AnyMessage], timeout_s: float) -> None:
        self._answer = answer
        self._timeout_s = timeout_s
        self._scope: asyncio.Timeout | None = None

    def expired(self) -> bool:
        """Whether the timeout ended it."""
        return self._scope is not None and self._scope.expired()

    def __await__(self) -> Generator[Any, Any, AnyMessage]:
        steps = self._answer.__await__()
        try:
            waits_for = next(steps)
        except StopIteration as end:
            answer: AnyMessage = end.value
            return answer
        return (yield from self._waiting(steps, waits_for).__await__())

    async def _waiting(self, steps: Generator[Any, Any, AnyMessage], first: Any) -> AnyMessage:
        self._scope = asyncio.timeout(self._timeout_s)
        async with self._scope:
            return await _Resumed(steps, first)


class _Resumed:
    """The rest of a handler that has taken its first step."""

    __slots__ = ("_first", "_steps")

    def __init__(self, steps: Generator[Any, Any, AnyMessage], first: Any) -> None:
        self._steps = steps
        self._first = first

    def __await__(self) -> Generator[Any, Any, AnyMessage]:
        try:
            yield self._first
        except BaseException as error:
            try:
                waits_for = self._steps.throw(error)
            except StopIteration as end:
                answer: AnyMessage = end.value
                return answer
            return (yield from _Resumed(self._steps, waits_for).__await__())
        return (yield from self._steps)


class LoopbackBus:
    """Wraps the bus that reaches the broker.

    `exclusive` says that this process is the whole cluster (``run all``): servers and subscribers
    are then known here only, and a publish that finds a local subscriber goes no further. Otherwise
    servers and subscribers are known at the broker too and every publish goes through it; requests
    still prefer a local server.

    A request to a local server runs in the asker's task: it is cancelled with it, and at the
    timeout. Subjects are taken literally, without wildcards. Sender and receiver share the message,
    so neither may change it.
    """

    def __init__(self, inner: Bus, *, exclusive: bool = True) -> None:
        self._inner = inner
        self._exclusive = exclusive
        self._servers: dict[str, list[RequestHandler]] = {}
        self._subscribers: dict[str, list[MessageHandler]] = {}

    async def publish(self, subject: str, message: AnyMessage) -> None:
        """Send to every subscriber; local ones have been called when this returns.

        :raises BusUnavailable: nobody local subscribes and the broker is not connected.
        """
        handlers = self._subscribers.get(subject)
        if handlers is None:
            await self._inner.publish(subject, message)
            return
        for handler in tuple(handlers):
            try:
                handler(message)
            except Exception:
                logger.exception("a message could not be taken", subject=subject)

    async def request(self, subject: str, message: AnyMessage, timeout_s: float) -> AnyMessage:
        """Ask one server, a local one if there is one. See `ports.Bus.request`."""
        handlers = self._servers.get(subject)
        if handlers is None:
            return await self._inner.request(subject, message, timeout_s)
        answer = _Stepped(handlers[0](message), timeout_s)
        try:
            return await answer
        except VectorDBError:
            raise
        except Exception as error:
            if answer.expired():
                raise BusTimeout(f"{subject}: no answer within {timeout_s:g} s") from error
            logger.exception("a request failed", subject=subject)
            raise Internal(f"{subject}: the request failed, see the log") from error

    async def serve(self, subject: str, handler: RequestHandler) -> Subscription:
        """Answer requests. See `ports.Bus.serve`."""
        outer = None if self._exclusive else await self._inner.serve(subject, handler)
        return _Local(self._servers, subject, handler, outer)

    async def subscribe(self, subject: str, handler: MessageHandler) -> Subscription:
        """Receive messages in order of arrival; what a handler raises is logged."""
        if not self._exclusive:
            return await self._inner.subscribe(subject, handler)
        return _Local(self._subscribers, subject, handler, None)

    async def create_log(self, log: LogName) -> None:
        """See `ports.Bus.create_log`."""
        await self._inner.create_log(log)

    async def delete_log(self, log: LogName) -> None:
        """See `ports.Bus.delete_log`."""
        await self._inner.delete_log(log)

    async def log_names(self) -> list[str]:
        """See `ports.Bus.log_names`."""
        return await self._inner.log_names()

    async def append(self, log: LogName, message: AnyMessage) -> None:
        """See `ports.Bus.append`."""
        await self._inner.append(log, message)

    async def append_acked(self, log: LogName, message: AnyMessage, timeout_s: float) -> int:
        """See `ports.Bus.append_acked`."""
        return await self._inner.append_acked(log, message, timeout_s)

    async def tail(
        self, log: LogName, after_seq: int, on_record: RecordHandler, on_gap: GapHandler
    ) -> Subscription:
        """See `ports.Bus.tail`."""
        return await self._inner.tail(log, after_seq, on_record, on_gap)

    async def trim(self, log: LogName, up_to_seq: int) -> None:
        """See `ports.Bus.trim`."""
        await self._inner.trim(log, up_to_seq)


class _Local(Generic[_Handler]):
    """One handler in a table, and its twin at the inner bus."""

    def __init__(
        self,
        table: dict[str, list[_Handler]],
        subject: str,
        handler: _Handler,
        outer: Subscription | None,
    ) -> None:
        self._table = table
        self._subject = subject
        self._handler = handler
        self._outer = outer
        self._open = True
        table.setdefault(subject, []).append(handler)

    async def close(self) -> None:
        """Stop delivering; idempotent."""
        if not self._open:
            return
        self._open = False
        handlers = self._table[self._subject]
        handlers.remove(self._handler)
        if not handlers:
            del self._table[self._subject]
        if self._outer is not None:
            await self._outer.close()
