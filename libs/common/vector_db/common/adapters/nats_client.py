"""nats-py's client on uvloop: a write to a connection that is gone counts as the loss that it is.

A connection that was dropped or reset is closed a moment before nats-py reads of it. In that moment
asyncio's transports take what is written and forget it, as nats-py expects; uvloop's raise
`RuntimeError`, which nats-py lets through to whoever publishes, and lets end its reconnecting. Owns
the invariant that such a write is an `OSError` to nats-py, on which it makes another connection:
what was handed over is sent on that one, or lost, like all that is on its way when one breaks.
"""

from __future__ import annotations

from typing import Any

from nats.aio.client import Client
from nats.aio.transport import TcpTransport


class ConnectionGone(ConnectionResetError, RuntimeError):
    """Both, since nats-py's pings expect only the second."""


class _Transport(TcpTransport):  # type: ignore[misc]
    def __bool__(self) -> bool:
        # nats-py makes a transport of its own in the place of one that is not true.
        return True

    @property
    def is_gone(self) -> bool:
        """Whether nothing can be written any more."""
        return self._io_writer is None or self._io_writer.transport.is_closing()

    def write(self, payload: Any) -> None:
        self._check()
        super().write(payload)

    def writelines(self, payload: Any) -> None:
        self._check()
        super().writelines(payload)

    def abort(self) -> None:
        """Close the connection as it is, with what is buffered."""
        if self._io_writer is not None:
            self._io_writer.transport.abort()

    def _check(self) -> None:
        if self.is_gone:
            raise ConnectionGone("the connection is gone")


class NatsClient(Client):  # type: ignore[misc]
    """Over TCP only, with or without TLS."""

    def __init__(self) -> None:
        super().__init__()
        self._transport = _Transport()

    def abort(self) -> None:
        """Drop the connection as it is, with what is buffered; another one is made."""
        self._transport.abort()

    async def _flush_pending(self, force_flush: bool = False) -> Any:
        # nats-py writes from here once its flusher has ended, which it does when it first runs
        # before a new connection counts as one; the flusher would do the same.
        try:
            return await super()._flush_pending(force_flush)
        except OSError as error:
            await self._process_op_err(error)
            return None

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        if self._transport.is_gone:
            self._pending: list[bytes] = []
            self._pending_data_size = 0
        await super()._close(status, do_cbs)
