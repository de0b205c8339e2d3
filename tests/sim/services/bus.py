"""A broker and its connections in virtual time, as hostile as NATS JetStream can be.

Every message passes through the real codec, so nothing is shared between services. Core messages
are at most once, in order per connection and subject. Logs are ordered streams with sequences;
what a tail delivers has no gap that it was told nothing of, unless the broker itself lost records
and gave their sequences again, which real ones were seen to do. Owns the invariant that delays and
faults come from the seed alone.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.sim.services.loop import OWNER, Owner
from vector_db.common.core.codec import BadMessage, decode, encode
from vector_db.common.core.messages import AnyMessage
from vector_db.common.core.messages.base import ErrorReply
from vector_db.common.core.subjects import LogName
from vector_db.common.model.errors import (
    Internal,
    NewerFormat,
    StorageCorrupt,
    TooLarge,
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

API_TIMEOUT_S = 5.0
RECONNECT_S = 0.5
"""How long a connection may take to find a broker that is back."""


@dataclass(slots=True)
class Weather:
    """How messages fare. Probabilities a message; delays in seconds."""

    delay_s: tuple[float, float] = (0.0001, 0.001)
    slow: float = 0.0
    """Probability of a delay up to `slow_s`."""
    slow_s: float = 0.2
    loss: float = 0.0
    repeat: float = 0.0


@dataclass(slots=True)
class Stream:
    """A log at the broker. `records[0]` has sequence `first`."""

    log: LogName
    created: int
    first: int = 1
    records: list[bytes] = field(default_factory=list)
    tails: list[_Tail] = field(default_factory=list)

    @property
    def last(self) -> int:
        return self.first + len(self.records) - 1

    def copy(self) -> Stream:
        return Stream(self.log, self.created, self.first, list(self.records))


Copy = dict[str, Stream]


class Broker:
    """The one broker, with every connection to it."""

    def __init__(
        self,
        random: Random,
        note: Callable[[str], None],
        violation: Callable[[str], None],
        payload_bytes_max: int = 8 * 1024 * 1024,
    ) -> None:
        self.random = random
        self.note = note
        self.violation = violation
        self.payload_bytes_max = payload_bytes_max
        self.weather = Weather()
        self.up = True
        self.counts: dict[str, int] = {}
        self.streams: dict[str, Stream] = {}
        self.links: dict[str, SimBus] = {}
        self.subscribers: dict[str, list[_Subscriber]] = {}
        self.servers: dict[str, list[_Server]] = {}
        self._by_subject: dict[str, str] = {}
        self._streams_made = 0
        self._last_due: dict[tuple[str, str, str], float] = {}

    # --- faults -------------------------------------------------------------------------------

    def stop(self) -> None:
        """The broker is gone; connections notice at once or not at once."""
        self.note("broker down")
        self.up = False
        for link in self.links.values():
            link.lose(self.random.random() * 0.5)

    def start(self) -> None:
        """The broker is back with what it holds; each connection finds it in its own time."""
        self.note(f"broker up, {len(self.streams)} streams")
        self.up = True
        for link in list(self.links.values()):
            delay_s = self.random.random() * RECONNECT_S
            asyncio.get_running_loop().call_later(delay_s, link.regain)

    def copy(self) -> Copy:
        """What a backup of its files holds now."""
        return {name: stream.copy() for name, stream in self.streams.items()}

    def replace(self, streams: Copy) -> None:
        """Its files are others now: wiped, or an older copy. Only while it is down."""
        self.streams = {name: stream.copy() for name, stream in streams.items()}
        self._by_subject = {s.log.subject: name for name, s in self.streams.items()}

    def damage(self) -> str:
        """A flipped bit, as nats-server 2.15.1 was seen to mend it: records from it on are dropped
        silently and their sequences given again. Only while it is down."""
        filled = [s for s in self.streams.values() if len(s.records) > 1]
        if not filled:
            return ""
        stream = self.random.choice(filled)
        lost = self.random.randint(1, min(8, len(stream.records) - 1))
        del stream.records[-lost:]
        return f"{stream.log.stream} lost {lost}"

    def spoil(self) -> str:
        """One record's frame is damaged where it lies."""
        filled = [s for s in self.streams.values() if s.records]
        if not filled:
            return ""
        stream = self.random.choice(filled)
        index = self.random.randrange(len(stream.records))
        stream.records[index] = b"\0" + stream.records[index][1:]
        return f"{stream.log.stream} {stream.first + index}"

    # --- moving messages ----------------------------------------------------------------------

    def due(self, source: str, target: str, subject: str) -> float:
        """When a message arrives, in order per connection and subject."""
        weather, random = self.weather, self.random
        low, high = weather.delay_s
        delay_s = low + (high - low) * random.random()
        if weather.slow and random.random() < weather.slow:
            delay_s += weather.slow_s * random.random()
        key = (source, target, subject)
        # Strictly later than the one before: timers of one moment have no order.
        at = max(self._now() + delay_s, self._last_due.get(key, 0.0) + 1e-7)
        self._last_due[key] = at
        return at

    def lost(self) -> bool:
        """Whether this message never arrives."""
        if self.weather.loss and self.random.random() < self.weather.loss:
            self.count("messages lost")
            return True
        return False

    def repeated(self) -> bool:
        if self.weather.repeat and self.random.random() < self.weather.repeat:
            self.count("messages repeated")
            return True
        return False

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    # --- logs ---------------------------------------------------------------------------------

    def create(self, log: LogName) -> None:
        if log.stream not in self.streams:
            self._streams_made += 1
            self.streams[log.stream] = Stream(log, self._streams_made)
            self._by_subject[log.subject] = log.stream

    def delete(self, log: LogName) -> None:
        stream = self.streams.pop(log.stream, None)
        if stream is not None:
            self._by_subject.pop(stream.log.subject, None)
            for tail in tuple(stream.tails):
                tail.check_soon()

    def store(self, log: LogName, data: bytes) -> int:
        """The record's sequence; 0: the log is missing."""
        stream = self.streams.get(self._by_subject.get(log.subject, ""))
        if stream is None:
            return 0
        stream.records.append(data)
        self.note(f"log {stream.log.stream} {stream.last} {len(data)}")
        for tail in tuple(stream.tails):
            tail.push(stream.last, data)
        return stream.last

    def trim(self, log: LogName, up_to_seq: int) -> None:
        stream = self.streams.get(log.stream)
        if stream is None or not stream.records:
            return
        keep_from = min(up_to_seq + 1, stream.last)
        if keep_from > stream.first:
            del stream.records[: keep_from - stream.first]
            stream.first = keep_from


class SimBus:
    """`ports.Bus` of one life of one node."""

    def __init__(self, broker: Broker, name: str, owner: Owner | None = None) -> None:
        self.name = name
        self._broker = broker
        self._owner = owner
        self._context = contextvars.copy_context()
        if owner is not None:
            self._context.run(OWNER.set, owner)
        self.silent = False
        """Nothing passes, and nobody has noticed."""
        self.connected = broker.up
        self.closed = False
        self.damaged = False
        """Whether this node's files are damaged, so that it may find that out in any request."""
        self._held: list[Callable[[], None]] = []
        self._subscriptions: list[_Subscriber | _Server | _Tail] = []
        self._tasks: dict[asyncio.Task[None], None] = {}
        broker.links[name] = self

    # --- faults -------------------------------------------------------------------------------

    @property
    def passes(self) -> bool:
        """Whether messages get through now."""
        return self._broker.up and self.connected and not self.silent and not self.closed

    def lose(self, notice_s: float) -> None:
        """The way to the broker is cut; this side notices after a while."""
        if self.closed or self.silent or not self.connected:
            return
        self.silent = True

        def notice() -> None:
            if self.silent and not self.closed:
                self.silent = False
                self.connected = False

        asyncio.get_running_loop().call_later(notice_s, notice)

    def regain(self) -> None:
        """The way is free again: what was held is sent, tails look where they stand."""
        if self.closed or not self._broker.up:
            return
        self.silent = False
        self.connected = True
        held, self._held = self._held, []
        for send in held:
            send()
        for subscription in tuple(self._subscriptions):
            if isinstance(subscription, _Tail):
                subscription.check_soon()

    def die(self) -> None:
        """The process is gone: the broker forgets it."""
        self.closed = True
        self._held.clear()
        self._broker.links.pop(self.name, None)
        for subscription in tuple(self._subscriptions):
            subscription.drop()

    # --- sending ------------------------------------------------------------------------------

    def _check(self) -> None:
        if self.closed or (not self.connected and not self.silent):
            raise BusUnavailable("the broker is not connected")

    def _send(self, arrive: Callable[[], None], target: str, subject: str) -> None:
        """One message to the broker; it may be lost, or held until the way is free."""
        broker = self._broker
        if not self.passes:
            if broker.random.random() < 0.5:
                self._held.append(lambda: self._send(arrive, target, subject))
            else:
                broker.count("messages lost")
            return
        if broker.lost():
            return

        def land() -> None:
            if broker.up:
                arrive()
            else:
                broker.count("messages lost")

        at = broker.due(self.name, target, subject)
        asyncio.get_running_loop().call_at(at, land, context=contextvars.Context())

    async def publish(self, subject: str, message: AnyMessage) -> None:
        """See `ports.Bus.publish`."""
        self._check()
        data = encode(message)
        broker = self._broker
        broker.note(f"{self.name} > {subject} {type(message).__name__} {len(data)}")
        # The broker's part and the receiver's connection share one delay and one chance of loss.
        for subscriber in tuple(broker.subscribers.get(subject, ())):
            for _ in range(2 if broker.repeated() else 1):
                self._send(subscriber.taker(data), subscriber.bus.name, subject)

    async def request(self, subject: str, message: AnyMessage, timeout_s: float) -> AnyMessage:
        """See `ports.Bus.request`."""
        self._check()
        data = encode(message)
        broker = self._broker
        broker.note(f"{self.name} ? {subject} {type(message).__name__} {len(data)}")
        future: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()

        def answer(reply: bytes | None) -> None:
            if not future.done():
                future.set_result(reply)

        def arrive() -> None:
            servers = broker.servers.get(subject)
            if servers:
                broker.random.choice(servers).ask(data, self, answer)
            else:
                self.receive("broker", subject, lambda: answer(None))

        self._send(arrive, "", subject)
        try:
            async with asyncio.timeout(timeout_s):
                reply = await future
        except TimeoutError as error:
            raise BusTimeout(f"{subject}: no answer within {timeout_s:g} s") from error
        if reply is None:
            raise NoResponders(subject)
        decoded = decode(reply)
        if isinstance(decoded, ErrorReply):
            raise error_from_code(decoded.code, decoded.message, decoded.details)
        return decoded

    def receive(self, source: str, subject: str, take: Callable[[], None]) -> None:
        """One message from the broker to this side; it may be lost on the way."""
        broker = self._broker
        if broker.lost():
            return

        def land() -> None:
            if self.passes:
                take()
            else:
                broker.count("messages lost")

        at = broker.due(source, self.name, subject)
        asyncio.get_running_loop().call_at(at, land, context=self._context)

    # --- receiving ----------------------------------------------------------------------------

    async def serve(self, subject: str, handler: RequestHandler) -> Subscription:
        """See `ports.Bus.serve`."""
        return self._opened(_Server(self, self._broker, subject, handler))

    async def subscribe(self, subject: str, handler: MessageHandler) -> Subscription:
        """See `ports.Bus.subscribe`."""
        return self._opened(_Subscriber(self, self._broker, subject, handler))

    def _opened(self, subscription: _Server | _Subscriber | _Tail) -> Subscription:
        if self.closed:
            raise BusUnavailable("the bus is closed")
        self._subscriptions.append(subscription)
        subscription.open()
        return subscription

    def gone(self, subscription: _Server | _Subscriber | _Tail) -> None:
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    # --- logs ---------------------------------------------------------------------------------

    async def _api(self, what: str, act: Callable[[], Any], timeout_s: float) -> Any:
        """A question to the broker itself.

        :raises BusTimeout: it may have been done.
        """
        self._check()
        broker = self._broker
        broker.note(f"{self.name} ! {what}")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def arrive() -> None:
            result = act()

            def take() -> None:
                if not future.done():
                    future.set_result(result)

            self.receive("broker", what, take)

        # One subject for all of a log's records keeps the order of a caller's appends.
        self._send(arrive, "", what)
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError as error:
            raise BusTimeout(f"{what}: no answer within {timeout_s:g} s") from error

    async def create_log(self, log: LogName) -> None:
        """See `ports.Bus.create_log`."""
        await self._api(f"create {log.stream}", lambda: self._broker.create(log), API_TIMEOUT_S)

    async def delete_log(self, log: LogName) -> None:
        """See `ports.Bus.delete_log`."""
        await self._api(f"delete {log.stream}", lambda: self._broker.delete(log), API_TIMEOUT_S)

    async def log_names(self) -> list[str]:
        """See `ports.Bus.log_names`."""
        names: list[str] = await self._api(
            "names", lambda: sorted(self._broker.streams), API_TIMEOUT_S
        )
        return names

    async def append(self, log: LogName, message: AnyMessage) -> None:
        """See `ports.Bus.append`."""
        self._check()
        data = self._record(log, message)
        for _ in range(2 if self._broker.repeated() else 1):
            self._send(lambda: self._store(log, data), "", f"append {log.stream}")

    async def append_acked(self, log: LogName, message: AnyMessage, timeout_s: float) -> int:
        """See `ports.Bus.append_acked`."""
        data = self._record(log, message)
        name = f"append {log.stream}"
        seq: int = await self._api(name, lambda: self._broker.store(log, data), timeout_s)
        if not seq:
            raise LogMissing(log.stream)
        return seq

    def _store(self, log: LogName, data: bytes) -> None:
        self._broker.store(log, data)

    def _record(self, log: LogName, message: AnyMessage) -> bytes:
        data = encode(message)
        if len(data) > self._broker.payload_bytes_max:
            limit = self._broker.payload_bytes_max
            raise TooLarge(f"a record of {len(data)} bytes, max_payload is {limit}")
        self._broker.note(f"{self.name} + {log.stream} {type(message).__name__} {len(data)}")
        return data

    async def tail(
        self, log: LogName, after_seq: int, on_record: RecordHandler, on_gap: GapHandler
    ) -> Subscription:
        """See `ports.Bus.tail`."""
        return self._opened(_Tail(self, self._broker, log, after_seq, on_record, on_gap))

    async def trim(self, log: LogName, up_to_seq: int) -> None:
        """See `ports.Bus.trim`."""
        await self._api(
            f"trim {log.stream}", lambda: self._broker.trim(log, up_to_seq), API_TIMEOUT_S
        )


class _Subscriber:
    def __init__(self, bus: SimBus, broker: Broker, subject: str, handler: MessageHandler) -> None:
        self.bus = bus
        self._broker = broker
        self._subject = subject
        self._handler = handler
        self._open = False

    def open(self) -> None:
        self._open = True
        self._broker.subscribers.setdefault(self._subject, []).append(self)

    def taker(self, data: bytes) -> Callable[[], None]:
        """What a message to this subscriber does when it arrives at the broker."""
        return lambda: self._land(data)

    def _land(self, data: bytes) -> None:
        if not self._open or not self.bus.passes:
            return

        # The delay was the sender's; the handler runs as its own node.
        asyncio.get_running_loop().call_soon(self._take, data, context=self.bus._context)

    def _take(self, data: bytes) -> None:
        if not self._open:
            return
        try:
            self._handler(decode(data))
        except Exception as error:
            self._broker.violation(f"{self.bus.name}: a message of {self._subject}: {error!r}")

    def drop(self) -> None:
        if self._open:
            self._open = False
            self._broker.subscribers[self._subject].remove(self)
            self.bus.gone(self)

    async def close(self) -> None:
        """Stop delivering; idempotent."""
        self.drop()


class _Server:
    def __init__(self, bus: SimBus, broker: Broker, subject: str, handler: RequestHandler) -> None:
        self.bus = bus
        self._broker = broker
        self._subject = subject
        self._handler = handler
        self._open = False
        self._tasks: dict[asyncio.Task[None], None] = {}

    def open(self) -> None:
        self._open = True
        self._broker.servers.setdefault(self._subject, []).append(self)

    def ask(self, data: bytes, asker: SimBus, answer: Callable[[bytes | None], None]) -> None:
        """A request has reached the broker."""
        self.bus.receive(asker.name, self._subject, lambda: self._begin(data, asker, answer))

    def _begin(self, data: bytes, asker: SimBus, answer: Callable[[bytes | None], None]) -> None:
        if not self._open:
            return
        task = asyncio.get_running_loop().create_task(self._answer(data, asker, answer))
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    async def _answer(
        self, data: bytes, asker: SimBus, answer: Callable[[bytes | None], None]
    ) -> None:
        try:
            reply = await self._handler(decode(data))
        except VectorDBError as error:
            reply = ErrorReply(error.code, error.message, dict(error.details))
        except (BadMessage, NewerFormat) as error:
            reply = ErrorReply("internal", f"{self._subject}: {error}", {})
        except Exception as error:
            if not (self.bus.damaged and isinstance(error, StorageCorrupt)):
                where = f"{self.bus.name}: a request of {self._subject}"
                self._broker.violation(f"{where}: {error!r}")
            failed = Internal(f"{self._subject}: the request failed, see the log")
            reply = ErrorReply(failed.code, failed.message, {})
        raw = encode(reply)
        self._broker.note(f"{self.bus.name} = {self._subject} {type(reply).__name__} {len(raw)}")

        def arrive() -> None:
            asker.receive(self.bus.name, self._subject, lambda: answer(raw))

        if not self.bus.closed and (self.bus.connected or self.bus.silent):
            self.bus._send(arrive, asker.name, self._subject)

    def drop(self) -> None:
        if self._open:
            self._open = False
            self._broker.servers[self._subject].remove(self)
            self.bus.gone(self)

    async def close(self) -> None:
        """No new requests; those under way finish."""
        self.drop()


class _Tail:
    """Follows one log from behind `after`."""

    def __init__(
        self,
        bus: SimBus,
        broker: Broker,
        log: LogName,
        after: int,
        on_record: RecordHandler,
        on_gap: GapHandler,
    ) -> None:
        self._bus = bus
        self._broker = broker
        self._log = log
        self._last = after
        self._on_record = on_record
        self._on_gap = on_gap
        self._open = False
        self._created = 0
        self._stream: Stream | None = None
        self._generation = 0
        self._checking = False

    def open(self) -> None:
        self._open = True
        self.check_soon()

    # --- standing where the log is ------------------------------------------------------------

    def check_soon(self) -> None:
        """Look anew at the stream, after a round trip."""
        if not self._open or self._checking:
            return
        self._checking = True
        self._generation += 1
        self._leave()
        at = self._broker.due(self._bus.name, self._bus.name, f"attach {self._log.stream}")
        asyncio.get_running_loop().call_at(at, self._attach, context=self._bus._context)

    def _attach(self) -> None:
        self._checking = False
        if not self._open or not self._bus.passes:
            return  # the reconnect looks again
        stream = self._broker.streams.get(self._log.stream)
        if stream is None:
            self._give_up("the stream does not exist")
        elif self._created not in (0, stream.created):
            self._give_up("the stream was made anew")
        elif stream.last < self._last:
            self._give_up(f"the log ends at {stream.last}, before record {self._last}")
        elif stream.first > self._last + 1:
            self._give_up(f"the log starts at {stream.first}, {self._last + 1} was trimmed away")
        else:
            self._created = stream.created
            self._stream = stream
            self._generation += 1
            stream.tails.append(self)
            for seq in range(self._last + 1, stream.last + 1):
                self.push(seq, stream.records[seq - stream.first])

    def push(self, seq: int, data: bytes) -> None:
        """The broker sends a record."""
        generation = self._generation
        broker = self._broker
        if broker.lost():
            # The consumer sees the hole and is made anew.
            asyncio.get_running_loop().call_later(0.1 + broker.random.random(), self.check_soon)
            return
        at = broker.due(self._log.stream, self._bus.name, "tail")
        asyncio.get_running_loop().call_at(
            at, self._take, generation, seq, data, context=self._bus._context
        )

    def _take(self, generation: int, seq: int, data: bytes) -> None:
        if not self._open or generation != self._generation or not self._bus.passes:
            return
        if seq <= self._last:
            return
        if seq > self._last + 1:
            self.check_soon()
            return
        try:
            self._on_record(seq, data)
        except Exception as error:
            if self._bus._owner is not None:
                self._broker.violation(f"{self._bus.name}: {self._log.stream} {seq}: {error!r}")
            self._give_up(f"record {seq} could not be taken: {error!r}")
            return
        self._last = seq

    def _give_up(self, reason: str) -> None:
        self._broker.note(f"{self._bus.name} gap {self._log.stream}: {reason}")
        self.drop()
        self._on_gap(reason)

    def _leave(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None and self in stream.tails:
            stream.tails.remove(self)

    def drop(self) -> None:
        if self._open:
            self._open = False
            self._leave()
            self._bus.gone(self)

    async def close(self) -> None:
        """Stop delivering; idempotent."""
        self.drop()
