"""TCP links that can be made bad: bytes go through, come late, stand still one way or both.

A link listens on a port of its own and passes each connection on to one target. Owns two rules.
Bytes of a direction keep their order and none is lost but by a reset, as TCP promises: what a
partition holds comes, late, once it heals. And while a direction is blocked its end of file is held
back as well, so that nobody learns that the other side is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import deque
from dataclasses import dataclass
from random import Random
from typing import Literal, cast

HOST = "127.0.0.1"
HIGH_BYTES = 256 * 1024

Direction = Literal["up", "down"]
"""``up`` from who dials to the target, ``down`` back."""


@dataclass(frozen=True, slots=True)
class Weather:
    """What happens on a link from now on.

    `blocked`: directions in which nothing passes. `delay_ms`: each piece waits so long, from and
    to. `stall_share` of the pieces wait `stall_ms` more, and all behind them: what lost packets and
    their retransmission look like. `reset`: connections that stand are aborted, once.
    """

    blocked: tuple[Direction, ...] = ()
    delay_ms: tuple[float, float] = (0.0, 0.0)
    stall_share: float = 0.0
    stall_ms: tuple[float, float] = (200.0, 800.0)
    reset: bool = False

    def wait_s(self, random: Random) -> float:
        """How long one piece waits."""
        wait_ms = random.uniform(*self.delay_ms)
        if self.stall_share and random.random() < self.stall_share:
            wait_ms += random.uniform(*self.stall_ms)
        return wait_ms / 1000


CLEAR = Weather()


class Link:
    """One listening port and the connections that came through it."""

    def __init__(self, name: str, target_port: int, seed: int) -> None:
        self.name = name
        self.target_port = target_port
        self.random = Random(f"{seed}-{name}")
        self.weather = CLEAR
        self.port = 0
        self._server: asyncio.Server | None = None
        self._pipes: set[_Pipe] = set()

    async def open(self) -> None:
        """Listen on a free port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Pipe(self).near, HOST, 0)
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening and abort what stands."""
        if self._server is not None:
            self._server.close()
            for pipe in list(self._pipes):
                pipe.abort()
            await self._server.wait_closed()

    def set(self, weather: Weather) -> None:
        """Change the weather, of standing connections too."""
        self.weather = weather
        for pipe in list(self._pipes):
            if weather.reset:
                pipe.abort()
            else:
                pipe.weather_changed()

    def opened(self, pipe: _Pipe) -> None:
        """A connection stands."""
        self._pipes.add(pipe)

    def closed(self, pipe: _Pipe) -> None:
        """A connection is gone."""
        self._pipes.discard(pipe)


class _Pipe:
    """One connection: the side of who dialled (`near`) and of the target (`far`)."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.near = _End(self, "up")
        self.far = _End(self, "down")
        self.near.other, self.far.other = self.far, self.near
        self._dialling: asyncio.Task[None] | None = None

    def dialled(self) -> None:
        """Someone connected: connect to the target, even where nothing passes."""
        self.link.opened(self)
        self._dialling = asyncio.get_running_loop().create_task(self._dial())

    async def _dial(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: self.far, HOST, self.link.target_port)
        except OSError:
            self.abort()

    def weather_changed(self) -> None:
        """Let go what may go now."""
        for end in (self.near, self.far):
            end.pump()

    def abort(self) -> None:
        """Reset both sides."""
        if self._dialling is not None:
            self._dialling.cancel()
        for end in (self.near, self.far):
            end.abort()
        self.link.closed(self)

    def ended(self) -> None:
        """One side is gone: the link forgets the connection once both are."""
        if self.near.gone and self.far.gone:
            self.link.closed(self)


class _End(asyncio.Protocol):
    """Reads from one side and hands on to the `other`; `direction` is where its bytes go."""

    other: _End

    def __init__(self, pipe: _Pipe, direction: Direction) -> None:
        self._pipe = pipe
        self._direction = direction
        self._transport: asyncio.Transport | None = None
        self._queue: deque[tuple[float, bytes]] = deque()
        """(due, piece); an empty piece is the end of file."""
        self._queued_bytes = 0
        self._last_due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._writable = True
        self.gone = False

    # --- what asyncio calls -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=HIGH_BYTES)
        if self._direction == "up":
            self._pipe.dialled()
        self._heed_room()
        self.other.pump()

    def data_received(self, data: bytes) -> None:
        self._take(data)

    def eof_received(self) -> bool:
        self._take(b"")
        return True  # the other direction may still have something to say

    def connection_lost(self, error: Exception | None) -> None:
        self.gone = True
        self._queue_end()
        self._pipe.ended()

    def pause_writing(self) -> None:
        self._writable = False
        self.other._heed_room()

    def resume_writing(self) -> None:
        self._writable = True
        self.other.pump()

    # --- handing on -------------------------------------------------------------------------------

    def pump(self) -> None:
        """Hand on what is due and may pass."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = asyncio.get_running_loop().time()
        while self._queue and self._passes():
            due, piece = self._queue[0]
            if due > now:
                self._timer = asyncio.get_running_loop().call_at(due, self.pump)
                break
            self._queue.popleft()
            self._queued_bytes -= len(piece)
            self.other._write(piece)
        self._heed_room()

    def abort(self) -> None:
        """Reset this side."""
        if self._timer is not None:
            self._timer.cancel()
        self._queue.clear()
        self._queued_bytes = 0
        if self._transport is not None and not self.gone:
            _linger_zero(self._transport)
            self._transport.abort()

    def _take(self, piece: bytes) -> None:
        link = self._pipe.link
        if not self._queue and piece and self._passes() and link.weather == CLEAR:
            self.other._write(piece)
            return
        now = asyncio.get_running_loop().time()
        self._last_due = max(self._last_due, now + link.weather.wait_s(link.random))
        self._queue.append((self._last_due, piece))
        self._queued_bytes += len(piece)
        if self._timer is None:
            self.pump()

    def _queue_end(self) -> None:
        if not self._queue or self._queue[-1][1]:
            self._take(b"")

    def _passes(self) -> bool:
        blocked = self._direction in self._pipe.link.weather.blocked
        return not blocked and self.other._writable and self.other._connected

    @property
    def _connected(self) -> bool:
        return self._transport is not None

    def _write(self, piece: bytes) -> None:
        transport = self._transport
        if transport is None or self.gone:
            return
        if piece:
            transport.write(piece)
        else:
            # Whoever hung up hears nothing more: both services and brokers close whole.
            transport.close()

    def _heed_room(self) -> None:
        """Read no more than is handed on, so that who sends feels it as on a real network."""
        if self._transport is None or self.gone:
            return
        full = self._queued_bytes > HIGH_BYTES or not self.other._writable
        with contextlib.suppress(RuntimeError):  # closing already
            if full:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()


def _linger_zero(transport: asyncio.Transport) -> None:
    """Let the close that follows be a reset."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
