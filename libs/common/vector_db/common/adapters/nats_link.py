"""One connection to NATS: publishing that fails fast, and requests with replies of any size.

Owns the mapping of nats-py's errors to those of `ports`, and the way a message that is larger than
one NATS message travels: as parts, each with the header ``Vdb-Part: index/count``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from random import shuffle
from typing import Any, Final

import msgspec
import nats.errors
import structlog
from nats.aio.msg import Msg

from vector_db.common.adapters.nats_client import NatsClient
from vector_db.common.adapters.nats_watch import watch
from vector_db.common.model.errors import TooLarge
from vector_db.common.model.limits import CHUNK_BYTES_MAX
from vector_db.common.model.urls import mask_url, split_urls
from vector_db.common.ports import BusTimeout, BusUnavailable, NoResponders

PART_HEADER: Final = "Vdb-Part"
_WHOLE_BYTES_MAX: Final = 1024 * 1024
_PART_BYTES: Final = CHUNK_BYTES_MAX
"""Smaller parts than the broker allows: nats-py is faster with them (its parser moves the rest of
its buffer at each message), and other messages come in between."""
MESSAGE_BYTES_MAX: Final = 512 * 1024 * 1024
"""Largest request or reply, all its parts together."""
_CONTINUE: Final = b"continue "
"""Asks for the other parts of a request; no message of ours begins so."""
_RECEIVE_S: Final = 10.0
_HEADER_ROOM: Final = 4096
_PING_INTERVAL_S: Final = 2
_RECONNECT_WAIT_S: Final = 0.05
_DRAIN_S: Final = 5

logger = structlog.get_logger(__name__)


class _Answer:
    """What comes to one inbox, put together from its parts; `reply` is where to answer it."""

    __slots__ = ("future", "parts", "reply")

    def __init__(self, future: asyncio.Future[bytes]) -> None:
        self.future = future
        self.parts: dict[int, bytes] = {}
        self.reply = ""

    def take(self, msg: Msg) -> None:
        """Resolve the future when this message completes the whole."""
        if self.future.done():
            return
        self.reply = msg.reply
        headers: dict[str, str] | None = msg.headers
        if not headers:
            self.future.set_result(msg.data)
        elif headers.get("Status") == "503":
            self.future.set_exception(NoResponders())
        elif (part := headers.get(PART_HEADER)) is None:
            self.future.set_result(msg.data)
        else:
            index, _, count = part.partition("/")
            self.parts[int(index)] = msg.data
            if len(self.parts) == int(count):
                self.future.set_result(b"".join(self.parts[i] for i in range(int(count))))


class NatsLink:
    """Made by `connect`; shared by the bus and its tails."""

    def __init__(self, url: str, client: NatsClient) -> None:
        self.url = mask_url(url)
        self.on_disconnect: list[Callable[[], None]] = []
        self.on_reconnect: list[Callable[[], None]] = []
        self._client = client
        self._up = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._inbox = f"{client.new_inbox()}."
        self._answers: dict[str, _Answer] = {}
        self._next_token = 0

    @classmethod
    async def connect(cls, url: str, name: str, timeout_s: float) -> NatsLink:
        """Connect to a server of `url` (several: comma-separated); later to any other of them.

        :raises BusUnavailable: no NATS server answers there in time.
        """
        client = NatsClient()
        link = cls(url, client)
        urls = split_urls(url)
        # From one to the next, so that the one that was just lost is tried last; shuffled, so that
        # not all begin at the same.
        shuffle(urls)
        last_error: list[Exception] = []

        async def on_error(error: Exception) -> None:
            last_error[:] = [error]
            if link.connected:
                logger.warning("nats error", url=link.url, error=repr(error))

        try:
            async with asyncio.timeout(timeout_s):
                await client.connect(
                    urls,
                    dont_randomize=True,
                    name=name,
                    pending_size=-1,  # publishing while disconnected raises, it is not kept
                    ping_interval=_PING_INTERVAL_S,
                    max_outstanding_pings=3,
                    reconnect_time_wait=_RECONNECT_WAIT_S,
                    max_reconnect_attempts=-1,
                    drain_timeout=_DRAIN_S,
                    error_cb=on_error,
                    disconnected_cb=link._lost,
                    reconnected_cb=link._found,
                )
                await link.subscribe(f"{link._inbox}*", link._on_answer, pending_bytes_max=0)
        except (TimeoutError, OSError, nats.errors.Error) as error:
            await client.close()
            reason = last_error[0] if last_error else error
            raise BusUnavailable(f"no NATS server at {link.url}: {reason or 'timeout'}") from error
        link._up.set()
        if len(urls) > 1:
            link._watching = asyncio.create_task(watch(link), name="nats.watch")
        return link

    @property
    def connected(self) -> bool:
        """Whether a publish would be accepted now."""
        return bool(self._client.is_connected)

    @property
    def clustered(self) -> bool:
        """Whether the server that was connected to last is a member of a cluster."""
        return "cluster" in self._client._server_info

    async def wait_connected(self) -> None:
        """Until the connection stands."""
        await self._up.wait()

    def bytes_moved(self) -> int:
        """Bytes sent and received since the beginning."""
        return int(self._client.stats["in_bytes"] + self._client.stats["out_bytes"])

    def abort(self) -> None:
        """Drop the connection as it is, with what is buffered; nats-py makes another one."""
        self._client.abort()

    async def close(self) -> None:
        """Send what is buffered, then disconnect; idempotent."""
        if self._watching is not None:
            self._watching.cancel()
        self._fail_answers("the connection was closed")
        if self._client.is_connected:
            await self._client.drain()
        elif not self._client.is_closed:
            await self._client.close()

    async def publish(
        self, subject: str, data: bytes, reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Hand one message to the connection, in the order of the calls. It may break under it:
        then the message is lost, or sent on the next one.

        :raises BusUnavailable: not connected; nothing was sent.
        :raises TooLarge: over the server's `max_payload`; nothing was sent.
        """
        try:
            await self._client.publish(subject, data, reply=reply, headers=headers)
        except nats.errors.MaxPayloadError:
            raise TooLarge(
                f"a message of {len(data)} bytes, the limit of the message bus (max_payload) is "
                f"{self._client.max_payload} bytes"
            ) from None
        except nats.errors.Error as error:
            raise BusUnavailable(f"not connected to {self.url}") from error

    async def publish_parts(self, subject: str, data: bytes) -> None:
        """Publish `data` as one message, or as numbered parts when it is too large for one.

        :raises BusUnavailable: not connected.
        :raises TooLarge: over `MESSAGE_BYTES_MAX`; nothing was sent.
        """
        if self._fits(data):
            await self.publish(subject, data)
            return
        for header, part in self._parts(data):
            await self.publish(subject, part, headers={PART_HEADER: header})
            await asyncio.sleep(0)  # let others publish in between

    async def subscribe(
        self,
        subject: str,
        handler: Callable[[Msg], Awaitable[None]],
        *,
        queue: str = "",
        pending_msgs_max: int = 512 * 1024,
        pending_bytes_max: int = 128 * 1024 * 1024,
    ) -> Any:
        """The nats-py subscription; made anew by nats-py after a reconnect.

        What overflows the two bounds (0 bytes: no bound) is dropped and logged.

        :raises BusUnavailable: the connection was closed.
        """
        try:
            return await self._client.subscribe(
                subject,
                queue=queue,
                cb=handler,
                pending_msgs_limit=pending_msgs_max,
                pending_bytes_limit=pending_bytes_max,
            )
        except nats.errors.Error as error:
            raise BusUnavailable(f"not connected to {self.url}") from error

    async def unsubscribe(self, subscription: Any) -> None:
        """Stop a subscription; one that is gone already is no error."""
        with contextlib.suppress(nats.errors.Error):
            await subscription.unsubscribe()

    def new_inbox(self) -> str:
        """A subject that nobody else uses."""
        return str(self._client.new_inbox())

    async def barrier(self, timeout_s: float) -> None:
        """Until the server has processed all that was sent before.

        A message to ourselves: the PING of nats-py's `flush` overtakes what is buffered.

        :raises BusUnavailable: not connected.
        :raises BusTimeout: no answer in time.
        """
        with self._expecting() as (inbox, answer):
            await self.publish(inbox, b"")
            await _within(answer.future, timeout_s, self.url)

    async def ask_whole(self, subject: str, data: bytes, timeout_s: float) -> bytes:
        """The reply to a request that must travel as one message, such as an append to a log.

        :raises TooLarge: it is over the broker's `max_payload`.
        """
        with self._expecting() as (inbox, answer):
            await self.publish(subject, data, reply=inbox)
            return await _within(answer.future, timeout_s, subject)

    async def ask(self, subject: str, data: bytes, timeout_s: float) -> bytes:
        """The whole reply to a request.

        Of a request too large for one message the first part is sent; whoever serves it names an
        inbox for the rest (`receive`), so that all parts reach the same server.

        :raises BusUnavailable: not connected; nothing was sent.
        :raises NoResponders: nobody listens on the subject.
        :raises BusTimeout: no reply in time, or the connection was lost meanwhile.
        :raises TooLarge: the request is over `MESSAGE_BYTES_MAX`.
        """
        if self._fits(data):
            return await self.ask_whole(subject, data, timeout_s)
        (header, part), *rest = self._parts(data)
        with self._expecting() as (inbox, answer):
            await self.publish(subject, part, reply=inbox, headers={PART_HEADER: header})
            go_on = await _within(answer.future, timeout_s, subject)
        if not go_on.startswith(_CONTINUE):
            return go_on
        with self._expecting() as (inbox, answer):
            rest_to = go_on.removeprefix(_CONTINUE).decode()
            for header, part in rest:
                await self.publish(rest_to, part, reply=inbox, headers={PART_HEADER: header})
                await asyncio.sleep(0)
            return await _within(answer.future, timeout_s, subject)

    async def receive(self, msg: Msg) -> tuple[bytes, str]:
        """(the whole request of which `msg` is the first or only part, where its reply goes).

        :raises BusUnavailable: not connected.
        :raises BusTimeout: the other parts did not come.
        """
        if not msg.headers or PART_HEADER not in msg.headers:
            return msg.data, msg.reply
        with self._expecting() as (inbox, answer):
            answer.take(msg)
            await self.publish(msg.reply, _CONTINUE + inbox.encode())
            data = await _within(answer.future, _RECEIVE_S, msg.subject)
            return data, answer.reply

    async def api(self, call: str, body: dict[str, Any] | None, timeout_s: float) -> dict[str, Any]:
        """The decoded reply of JetStream's API to ``$JS.API.<call>``; it may hold ``error``.

        :raises BusUnavailable: not connected, or the server has no JetStream.
        :raises BusTimeout: no reply in time; the call may have been carried out.
        """
        data = b"" if body is None else msgspec.json.encode(body)
        try:
            reply = await self.ask(f"$JS.API.{call}", data, timeout_s)
        except NoResponders:
            raise BusUnavailable(f"the NATS server at {self.url} offers no JetStream") from None
        decoded: dict[str, Any] = msgspec.json.decode(reply)
        return decoded

    @contextlib.contextmanager
    def _expecting(self) -> Iterator[tuple[str, _Answer]]:
        """(the subject of an inbox, what comes there) while the context lasts."""
        self._next_token += 1
        token = format(self._next_token, "x")
        answer = _Answer(asyncio.get_running_loop().create_future())
        self._answers[token] = answer
        try:
            yield self._inbox + token, answer
        finally:
            del self._answers[token]

    def _room(self) -> int:
        """Bytes that one message carries, by the server's own limit, headers set aside."""
        return int(self._client.max_payload) - _HEADER_ROOM

    def _fits(self, data: bytes) -> bool:
        return len(data) <= min(_WHOLE_BYTES_MAX, self._room())

    def _parts(self, data: bytes) -> list[tuple[str, bytes]]:
        if len(data) > MESSAGE_BYTES_MAX:
            raise TooLarge(
                f"a message of {len(data)} bytes, the limit between services is "
                f"{MESSAGE_BYTES_MAX} bytes"
            )
        size = min(_PART_BYTES, self._room())
        count = -(-len(data) // size)
        return [(f"{i}/{count}", data[i * size : (i + 1) * size]) for i in range(count)]

    async def _on_answer(self, msg: Msg) -> None:
        answer = self._answers.get(msg.subject[len(self._inbox) :])
        if answer is not None:
            answer.take(msg)

    async def _lost(self) -> None:
        self._up.clear()
        self._fail_answers("the connection was lost")
        for hook in self.on_disconnect:
            hook()

    async def _found(self) -> None:
        self._up.set()
        for hook in self.on_reconnect:
            hook()

    def _fail_answers(self, reason: str) -> None:
        for answer in self._answers.values():
            if not answer.future.done():
                answer.future.set_exception(BusTimeout(f"{self.url}: {reason}"))


async def _within(answer: asyncio.Future[bytes], timeout_s: float, where: str) -> bytes:
    timer = asyncio.get_running_loop().call_later(timeout_s, _expire, answer, where, timeout_s)
    try:
        return await answer
    except NoResponders:
        raise NoResponders(f"nobody serves {where}") from None
    finally:
        timer.cancel()


def _expire(answer: asyncio.Future[bytes], where: str, timeout_s: float) -> None:
    if not answer.done():
        answer.set_exception(BusTimeout(f"{where}: no answer within {timeout_s:g} s"))
