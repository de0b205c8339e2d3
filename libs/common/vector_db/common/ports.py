"""What the services ask of the world, as Protocols, each with the errors that it raises.

Production adapters live in `adapters/`; the simulator brings its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Protocol

from vector_db.common.core.messages import AnyMessage
from vector_db.common.core.subjects import LogName
from vector_db.common.model.rows import Buffer

RequestHandler = Callable[[AnyMessage], Awaitable[AnyMessage]]
MessageHandler = Callable[[AnyMessage], None]
RecordHandler = Callable[[int, bytes], None]
"""Called in order with (sequence, framed bytes); must not block."""
GapHandler = Callable[[str], None]
"""Called once with a reason when a log cannot be followed without a gap."""


class BusUnavailable(Exception):
    """The broker is not connected; nothing was sent."""


class BusTimeout(Exception):
    """No answer in time; the message may have been delivered."""


class NoResponders(Exception):
    """Nobody serves that subject now."""


class LogMissing(Exception):
    """The log does not exist at the broker."""


class Clock(Protocol):
    """Two clocks: one for durations, one for the wall."""

    def monotonic_s(self) -> float: ...

    def wall_ms(self) -> int: ...


class Subscription(Protocol):
    """Something to stop."""

    async def close(self) -> None:
        """Stop delivering; idempotent."""


class Bus(Protocol):
    """Messages between services, and the ordered logs."""

    async def publish(self, subject: str, message: AnyMessage) -> None:
        """Send to every subscriber, no acknowledgement.

        :raises BusUnavailable: not connected.
        """

    async def request(self, subject: str, message: AnyMessage, timeout_s: float) -> AnyMessage:
        """Ask one server and wait for its answer.

        :raises BusUnavailable: not connected.
        :raises NoResponders: nobody serves the subject.
        :raises BusTimeout: no answer within `timeout_s`.
        :raises VectorDBError: what the handler raised on the far side.
        """

    async def serve(self, subject: str, handler: RequestHandler) -> Subscription:
        """Answer requests; a `VectorDBError` of the handler travels to the asker."""

    async def subscribe(self, subject: str, handler: MessageHandler) -> Subscription:
        """Receive messages in order of arrival."""

    async def create_log(self, log: LogName) -> None:
        """Make the log where it does not exist; idempotent.

        :raises BusUnavailable: not connected.
        """

    async def delete_log(self, log: LogName) -> None:
        """Remove the log; a missing one is no error."""

    async def log_names(self) -> list[str]:
        """Streams that exist, by name."""

    async def append(self, log: LogName, message: AnyMessage) -> None:
        """Append without waiting for the broker; order is kept per caller.

        :raises BusUnavailable: not connected; nothing was sent.
        """

    async def append_acked(self, log: LogName, message: AnyMessage, timeout_s: float) -> int:
        """Append and wait for the broker: the record's sequence.

        :raises BusUnavailable: not connected; nothing was sent.
        :raises BusTimeout: the outcome is not known.
        :raises LogMissing: the log is gone.
        :raises TooLarge: a record is one message of the broker, and this one passes its limit.
        """

    async def tail(
        self, log: LogName, after_seq: int, on_record: RecordHandler, on_gap: GapHandler
    ) -> Subscription:
        """Deliver every record after `after_seq`, in order, without a gap, now and as they come.

        Sequences are checked; a loss on the way is mended by reading again; what cannot be mended
        (trimmed away, stream gone) is told to `on_gap` once.
        """

    async def trim(self, log: LogName, up_to_seq: int) -> None:
        """Forget records up to and including `up_to_seq`; the last record of a log is kept."""


class DiskFull(Exception):
    """No space left: nothing of the failed write counts."""


class AppendFile(Protocol):
    """A file that grows at its end. Errors of `sync` are final: the process must exit."""

    def write(self, parts: list[Buffer]) -> None:
        """Append the parts.

        :raises DiskFull: the file is cut back to where it was.
        """

    def sync(self) -> None:
        """All that was written is on the medium when this returns (fdatasync)."""

    def size(self) -> int: ...

    def close(self) -> None: ...


class Disk(Protocol):
    """The durable files of one service, under one root. Never awaits: callers choose the thread."""

    root: Path

    def append_file(self, name: str) -> AppendFile:
        """Open (or make) a file for appending; its directory entry is durable after `sync`."""

    def read(self, name: str) -> bytes:
        """:raises FileNotFoundError: no such file."""

    def read_at(self, name: str, offset: int, size: int) -> bytes:
        """Bytes [offset, offset + size) of a file, fewer where it ends before.

        :raises FileNotFoundError: no such file.
        """

    def write_atomic(self, name: str, parts: Iterable[Buffer]) -> None:
        """Replace a file whole: temp + fsync + rename + fsync(dir).

        `parts` may be made as they are written, so that the whole never lies in memory.

        :raises DiskFull: the old file stands.
        """

    def truncate(self, name: str, size: int) -> None:
        """Cut the file and sync it."""

    def remove(self, name: str) -> None:
        """Remove a file; a missing one is no error."""

    def names(self, prefix: str = "") -> list[str]:
        """Files under the root (relative, with '/'), sorted, whose names start with `prefix`."""

    def free_bytes(self) -> int: ...
