"""`ports.Bus` in memory, for tests of one service: the test plays the others."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable

from vector_db.common.core.messages import AnyMessage
from vector_db.common.core.subjects import LogName
from vector_db.common.ports import (
    BusTimeout,
    BusUnavailable,
    GapHandler,
    MessageHandler,
    NoResponders,
    RecordHandler,
    RequestHandler,
    Subscription,
)


class MemoryBus:
    """Messages arrive at once, logs are lists; `up` false plays a broker that is away."""

    def __init__(self) -> None:
        self.up = True
        self.appends_left: int | None = None
        """After so many appends the broker is away."""
        self.logs: defaultdict[str, list[AnyMessage]] = defaultdict(list)
        self.requests: list[tuple[str, AnyMessage]] = []
        self._servers: dict[str, RequestHandler] = {}
        self._subscribers: defaultdict[str, list[MessageHandler]] = defaultdict(list)

    async def publish(self, subject: str, message: AnyMessage) -> None:
        self._check()
        for handler in tuple(self._subscribers[subject]):
            handler(message)

    async def request(self, subject: str, message: AnyMessage, timeout_s: float) -> AnyMessage:
        self._check()
        self.requests.append((subject, message))
        server = self._servers.get(subject)
        if server is None:
            raise NoResponders(subject)
        try:
            async with asyncio.timeout(timeout_s):
                return await server(message)
        except TimeoutError as error:
            raise BusTimeout(subject) from error

    async def serve(self, subject: str, handler: RequestHandler) -> Subscription:
        self._servers[subject] = handler
        return _Registered(lambda: self._servers.pop(subject, None))

    async def subscribe(self, subject: str, handler: MessageHandler) -> Subscription:
        handlers = self._subscribers[subject]
        handlers.append(handler)
        return _Registered(lambda: handlers.remove(handler))

    async def create_log(self, log: LogName) -> None:
        self._check()
        self.logs.setdefault(log.stream, [])

    async def delete_log(self, log: LogName) -> None:
        self._check()
        self.logs.pop(log.stream, None)

    async def log_names(self) -> list[str]:
        self._check()
        return list(self.logs)

    async def append(self, log: LogName, message: AnyMessage) -> None:
        self._check()
        if self.appends_left is not None:
            if not self.appends_left:
                raise BusUnavailable("the broker is away")
            self.appends_left -= 1
        self.logs[log.stream].append(message)

    async def append_acked(self, log: LogName, message: AnyMessage, timeout_s: float) -> int:
        await self.append(log, message)
        return len(self.logs[log.stream])

    async def tail(
        self, log: LogName, after_seq: int, on_record: RecordHandler, on_gap: GapHandler
    ) -> Subscription:
        raise NotImplementedError("no test of one service tails a log in memory")

    async def trim(self, log: LogName, up_to_seq: int) -> None:
        self._check()

    def _check(self) -> None:
        if not self.up:
            raise BusUnavailable("the broker is away")


class _Registered:
    def __init__(self, remove: Callable[[], object]) -> None:
        self._remove = remove
        self._open = True

    async def close(self) -> None:
        if self._open:
            self._open = False
            self._remove()
