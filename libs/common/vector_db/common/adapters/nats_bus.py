"""`ports.Bus` over NATS: core messages and requests, and logs as JetStream streams.

Owns the meaning of a log at the broker: one stream, one subject, file storage, never more than one
writer's truth (the broker may lose it whole; see docs/architecture.md, section 4).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
import structlog
from nats.aio.msg import Msg

from vector_db.common.adapters.nats_link import NatsLink
from vector_db.common.adapters.nats_maker import STREAM_EXISTS, LogMaker
from vector_db.common.adapters.nats_tail import API_TIMEOUT_S, STREAM_NOT_FOUND, NatsTail
from vector_db.common.core.codec import BadMessage, decode, encode
from vector_db.common.core.messages import AnyMessage
from vector_db.common.core.messages.base import ErrorReply
from vector_db.common.core.subjects import LogName
from vector_db.common.model.errors import (
    Internal,
    NewerFormat,
    StartupError,
    TooLarge,
    TooManyRequests,
    VectorDBError,
    error_from_code,
)
from vector_db.common.ports import (
    BusTimeout,
    BusUnavailable,
    GapHandler,
    LogMissing,
    MessageHandler,
    NoResponders,
    RecordHandler,
    RequestHandler,
    Subscription,
)

SERVED_AT_ONCE_MAX: Final = 1024
"""Requests that one `serve` works on at a time; more are answered with `TooManyRequests`."""
_LEADERLESS_S: Final = 10.0
"""A log that had no leader for so long, seen at each append, counts as gone."""
_PAUSE_S: Final = 0.1
_CLOSE_S: Final = 5.0

logger = structlog.get_logger(__name__)


class NatsBus:
    """Made by `connect`."""

    def __init__(
        self, link: NatsLink, *, replicas: int, heartbeat_s: float, tail_pending_msgs_max: int
    ) -> None:
        self._link = link
        self._maker = LogMaker(link, replicas)
        self._heartbeat_s = heartbeat_s
        self._tail_pending_msgs_max = tail_pending_msgs_max
        self._open: set[_Closing] = set()
        self._leaderless_since_s: dict[str, float] = {}
        """By stream; of those that the last append found so."""

    @classmethod
    async def connect(
        cls,
        url: str,
        name: str,
        *,
        timeout_s: float = 5.0,
        replicas: int = 1,
        heartbeat_s: float = 1.0,
        tail_pending_msgs_max: int = 512 * 1024,
    ) -> NatsBus:
        """Connect to the server at `url` (``nats://host:port``) under a name for its operator.

        Several URLs are separated by commas: when one server goes, another one is used.
        `replicas` is the number of copies of each new stream; for the others see `NatsTail`.

        :raises BusUnavailable: no NATS server answers within `timeout_s`, or it has no JetStream.
        :raises StartupError: replicas are asked of a server that is alone.
        """
        link = await NatsLink.connect(url, name, timeout_s)
        try:
            if replicas > 1 and not link.clustered:
                raise StartupError(
                    f"streams with {replicas} replicas need as many NATS servers in a cluster, and"
                    f" the one at {link.url} is alone (stream_replicas)"
                )
            await link.api("INFO", None, timeout_s)
        except BaseException:
            await link.close()
            raise
        return cls(
            link,
            replicas=replicas,
            heartbeat_s=heartbeat_s,
            tail_pending_msgs_max=tail_pending_msgs_max,
        )

    @property
    def connected(self) -> bool:
        """Whether the broker is reachable now; nats-py reconnects by itself, without end."""
        return self._link.connected

    def on_disconnect(self, hook: Callable[[], None]) -> None:
        """Call `hook` whenever the connection is lost."""
        self._link.on_disconnect.append(hook)

    def on_reconnect(self, hook: Callable[[], None]) -> None:
        """Call `hook` whenever the connection stands again."""
        self._link.on_reconnect.append(hook)

    async def close(self) -> None:
        """End every subscription, let handlers finish (bounded), send the rest, disconnect."""
        await asyncio.gather(*(subscription.close() for subscription in list(self._open)))
        await self._link.close()

    async def publish(self, subject: str, message: AnyMessage) -> None:
        """Send to every subscriber. See `ports.Bus.publish`."""
        await self._link.publish(subject, encode(message))

    async def request(self, subject: str, message: AnyMessage, timeout_s: float) -> AnyMessage:
        """Ask one server and wait for its answer. See `ports.Bus.request`.

        :raises TooLarge: the request is over `nats_link.MESSAGE_BYTES_MAX`.
        """
        reply = decode(await self._link.ask(subject, encode(message), timeout_s))
        if isinstance(reply, ErrorReply):
            raise error_from_code(reply.code, reply.message, reply.details)
        return reply

    async def serve(self, subject: str, handler: RequestHandler) -> Subscription:
        """Answer requests, at most `SERVED_AT_ONCE_MAX` at a time, in no particular order.

        Several servers of one subject share its requests. The broker knows it on return; while it
        is away, from the reconnect on.

        :raises BusUnavailable: the bus is closed.
        :raises BusTimeout: the broker did not confirm.
        """
        server = _Server(self._link, subject, handler)
        server.subscription = await self._link.subscribe(subject, server.on_message, queue="serve")
        return await self._opened(server.close)

    async def subscribe(self, subject: str, handler: MessageHandler) -> Subscription:
        """Receive messages in order of arrival; what a handler raises is logged.

        The broker knows it on return; while it is away, from the reconnect on.

        :raises BusUnavailable: the bus is closed.
        :raises BusTimeout: the broker did not confirm.
        """

        async def on_message(msg: Msg) -> None:
            try:
                handler(decode(msg.data))
            except Exception:
                logger.exception("a message could not be taken", subject=subject)

        subscription = await self._link.subscribe(subject, on_message)
        return await self._opened(lambda: self._link.unsubscribe(subscription))

    async def create_log(self, log: LogName) -> None:
        """Make the log where it does not exist. See `ports.Bus.create_log`.

        :raises BusTimeout: it may have been made.
        """
        # Made with other settings by an earlier release or another replica count: it serves.
        _raise_for_error(await self._maker.make(log), but=STREAM_EXISTS)

    async def delete_log(self, log: LogName) -> None:
        """Remove the log; a missing one is no error.

        :raises BusUnavailable: not connected.
        :raises BusTimeout: it may have been removed.
        """
        reply = await self._link.api(f"STREAM.DELETE.{log.stream}", None, API_TIMEOUT_S)
        _raise_for_error(reply, but=STREAM_NOT_FOUND)

    async def log_names(self) -> list[str]:
        """Streams that exist, by name, sorted.

        :raises BusUnavailable: not connected.
        :raises BusTimeout: no answer.
        """
        names: list[str] = []
        while True:
            reply = await self._link.api("STREAM.NAMES", {"offset": len(names)}, API_TIMEOUT_S)
            _raise_for_error(reply)
            page = reply.get("streams") or []
            names += page
            if not page or len(names) >= reply["total"]:
                return sorted(names)

    async def append(self, log: LogName, message: AnyMessage) -> None:
        """Append without waiting for the broker. See `ports.Bus.append`.

        :raises TooLarge: the record is over the broker's `max_payload`.
        """
        await self._link.publish(log.subject, encode(message))

    async def append_acked(self, log: LogName, message: AnyMessage, timeout_s: float) -> int:
        """Append and wait for the broker: the record's sequence. See `ports.Bus.append_acked`.

        A log of a cluster has nobody to store it while its servers elect a leader; one that has
        had none for `_LEADERLESS_S` counts as gone.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        while True:
            try:
                left_s = until - loop.time()
                reply = await self._link.ask_whole(log.subject, encode(message), left_s)
                break
            except NoResponders:
                await self._check_may_get_leader(log)
                if loop.time() + _PAUSE_S >= until:
                    raise BusUnavailable(f"nobody leads {log.stream} now") from None
            await asyncio.sleep(_PAUSE_S)
        self._leaderless_since_s.pop(log.stream, None)
        ack: dict[str, Any] = msgspec.json.decode(reply)
        _raise_for_error(ack)
        if ack["stream"] != log.stream:
            raise LogMissing(f"{log.stream}: {log.subject} belongs to {ack['stream']}")
        return int(ack["seq"])

    async def _check_may_get_leader(self, log: LogName) -> None:
        """:raises LogMissing: a log that nobody leads does not exist, or has had its time."""
        now_s = asyncio.get_running_loop().time()
        since_s = self._leaderless_since_s.setdefault(log.stream, now_s)
        if self._link.clustered and now_s - since_s < _LEADERLESS_S:
            try:
                reply = await self._link.api(f"STREAM.INFO.{log.stream}", None, _PAUSE_S)
            except BusTimeout:
                return
            if reply.get("error", {}).get("err_code") != STREAM_NOT_FOUND:
                return
        del self._leaderless_since_s[log.stream]
        raise LogMissing(log.stream)

    async def tail(
        self, log: LogName, after_seq: int, on_record: RecordHandler, on_gap: GapHandler
    ) -> Subscription:
        """Follow a log without a gap. See `ports.Bus.tail`.

        Returns at once; while the broker is away the tail waits for it. After `on_gap` nothing more
        is delivered. A record that `on_record` refuses by raising is a gap too: it is never passed
        over.
        """
        tail = NatsTail(
            self._link,
            log,
            after_seq,
            on_record,
            on_gap,
            heartbeat_s=self._heartbeat_s,
            pending_msgs_max=self._tail_pending_msgs_max,
        )
        tail.start()
        subscription = _Closing(self._open, tail.close)
        self._open.add(subscription)
        return subscription

    async def trim(self, log: LogName, up_to_seq: int) -> None:
        """Forget records up to and including `up_to_seq`, but never the last; no log, no error.

        :raises BusUnavailable: not connected.
        :raises BusTimeout: it may have been done.
        """
        info = await self._link.api(f"STREAM.INFO.{log.stream}", None, API_TIMEOUT_S)
        if _raise_for_error(info, but=STREAM_NOT_FOUND):
            return
        state = info["state"]
        keep_from = min(up_to_seq + 1, int(state["last_seq"]))
        if keep_from <= int(state["first_seq"]):
            return
        body = {"seq": keep_from}
        reply = await self._link.api(f"STREAM.PURGE.{log.stream}", body, API_TIMEOUT_S)
        _raise_for_error(reply, but=STREAM_NOT_FOUND)

    async def _opened(self, close: Callable[[], Awaitable[None]]) -> Subscription:
        """The subscription that `close` ends, once the broker knows of it."""
        subscription = _Closing(self._open, close)
        self._open.add(subscription)
        if self._link.connected:
            await self._link.barrier(API_TIMEOUT_S)
        return subscription


class _Closing:
    """A subscription that leaves the bus's list when it is closed."""

    def __init__(self, owner: set[_Closing], close: Callable[[], Awaitable[None]]) -> None:
        self._owner = owner
        self._close = close

    async def close(self) -> None:
        """Stop delivering; idempotent."""
        if self in self._owner:
            self._owner.discard(self)
            await self._close()


class _Server:
    """The requests of one subject, each in a task of its own, all owned here."""

    def __init__(self, link: NatsLink, subject: str, handler: RequestHandler) -> None:
        self.subscription: Any = None
        self._link = link
        self._subject = subject
        self._handler = handler
        self._tasks: set[asyncio.Task[None]] = set()

    async def on_message(self, msg: Msg) -> None:
        if len(self._tasks) >= SERVED_AT_ONCE_MAX:
            busy = TooManyRequests(f"{SERVED_AT_ONCE_MAX} requests are being served already")
            await self._reply(msg.reply, error_reply(busy))
            return
        task = asyncio.get_running_loop().create_task(self._answer(msg))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """No new requests; those under way have a few seconds to finish."""
        await self._link.unsubscribe(self.subscription)
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=_CLOSE_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _answer(self, msg: Msg) -> None:
        try:
            request, reply_to = await self._link.receive(msg)
        except (BusUnavailable, BusTimeout) as error:
            logger.warning("a request did not arrive whole", subject=self._subject, why=str(error))
            return
        try:
            reply = await self._handler(decode(request))
        except VectorDBError as error:
            reply = error_reply(error)
        except (BadMessage, NewerFormat) as error:
            reply = error_reply(Internal(f"{self._subject}: {error}"))
        except Exception:
            logger.exception("a request failed", subject=self._subject)
            reply = error_reply(Internal(f"{self._subject}: the request failed, see the log"))
        await self._reply(reply_to, reply)

    async def _reply(self, subject: str, reply: AnyMessage) -> None:
        if not subject:
            return
        try:
            await self._link.publish_parts(subject, encode(reply))
        except TooLarge as error:
            await self._reply(subject, error_reply(error))
        except BusUnavailable:
            logger.warning("a reply could not be sent", subject=self._subject)


def error_reply(error: VectorDBError) -> ErrorReply:
    """The error as it travels."""
    return ErrorReply(code=error.code, message=error.message, details=dict(error.details))


def _raise_for_error(reply: dict[str, Any], but: int = 0) -> bool:
    """Whether the reply is the error `but`.

    :raises LogMissing: the stream does not exist.
    :raises BusUnavailable: JetStream refused for another reason.
    """
    error = reply.get("error")
    if error is None:
        return False
    code = error.get("err_code", 0)
    if code == but:
        return True
    description = str(error.get("description", error))
    if code == STREAM_NOT_FOUND:
        raise LogMissing(description)
    raise BusUnavailable(f"JetStream: {description}")
