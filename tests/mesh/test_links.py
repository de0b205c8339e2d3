"""What passes a link in each weather: all of it in order, late, or nothing until it heals."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import cast

import pytest

from tests.mesh.links import CLEAR, HOST, Direction, Weather
from tests.mesh.proxy import Proxy

HELD_S = 0.3
WAIT_S = 20.0
BULK = bytes(range(256)) * 16 * 1024


class Echo:
    """A server that sends back what it gets, and knows who is connected."""

    def __init__(self) -> None:
        self.server: asyncio.Server | None = None
        self.got = bytearray()
        self.more = asyncio.Event()
        self.hung_up = asyncio.Event()
        self.serving: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        self.serving.add(task)
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                self.got += data
                self.more.set()
                writer.write(data)
                await writer.drain()
        self.hung_up.set()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        self.serving.discard(task)


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    echo = Echo()
    server = await asyncio.start_server(echo.serve, HOST, 0)
    echo.server = server
    yield echo
    server.close()
    # The links are gone by now: whoever is still served sees the end, and leaves no stream behind.
    async with asyncio.timeout(WAIT_S):
        await asyncio.gather(*echo.serving)


@pytest.fixture
async def proxy(echo: Echo) -> AsyncIterator[Proxy]:
    assert echo.server is not None
    proxy = Proxy(seed=1)
    await proxy.start({"link": echo.server.sockets[0].getsockname()[1]})
    yield proxy
    await proxy.stop()


class Dialled:
    """A connection through the link."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def round_trip(self, data: bytes) -> bytes:
        self.writer.write(data)
        async with asyncio.timeout(WAIT_S):
            return await self.reader.readexactly(len(data))

    async def is_silent(self) -> bool:
        try:
            async with asyncio.timeout(HELD_S):
                await self.reader.readexactly(1)
        except TimeoutError:
            return True
        return False


async def dial(proxy: Proxy) -> Dialled:
    return Dialled(*await asyncio.open_connection(HOST, proxy.ports["link"]))


async def test_in_clear_weather_everything_passes_in_order(proxy: Proxy, echo: Echo) -> None:
    one, other = await dial(proxy), await dial(proxy)
    large, small = await asyncio.gather(one.round_trip(BULK), other.round_trip(b"small"))
    assert (large, small) == (BULK, b"small")
    one.writer.close()
    async with asyncio.timeout(WAIT_S):
        await echo.hung_up.wait()
    other.writer.close()


async def test_delayed_pieces_come_late_and_in_order(proxy: Proxy) -> None:
    client = await dial(proxy)
    await client.round_trip(b"connected")
    await proxy.set("link", Weather(delay_ms=(50, 100), stall_share=0.5, stall_ms=(10, 100)))
    started = time.monotonic()
    assert await client.round_trip(BULK) == BULK
    assert time.monotonic() - started > 0.1
    client.writer.close()


@pytest.mark.parametrize("blocked", [("up",), ("down",), ("up", "down")])
async def test_a_blocked_direction_holds_everything_until_it_heals(
    proxy: Proxy, echo: Echo, blocked: tuple[Direction, ...]
) -> None:
    client = await dial(proxy)
    await client.round_trip(b"before")
    await proxy.set("link", Weather(blocked=blocked))
    echo.more.clear()
    client.writer.write(BULK)
    assert await client.is_silent()
    if "up" in blocked:
        assert not echo.more.is_set()
    else:
        async with asyncio.timeout(WAIT_S):
            await echo.more.wait()
    await proxy.set("link", CLEAR)
    async with asyncio.timeout(WAIT_S):
        assert await client.reader.readexactly(len(BULK)) == BULK
    client.writer.close()


async def test_who_hangs_up_behind_a_partition_is_missed_only_when_it_heals(
    proxy: Proxy, echo: Echo
) -> None:
    client = await dial(proxy)
    await client.round_trip(b"before")
    await proxy.set("link", Weather(blocked=("up", "down")))
    client.writer.close()
    newcomer = await dial(proxy)
    newcomer.writer.write(b"late")
    assert await newcomer.is_silent()
    assert not echo.hung_up.is_set()
    await proxy.set("link", CLEAR)
    async with asyncio.timeout(WAIT_S):
        await echo.hung_up.wait()
        assert await newcomer.reader.readexactly(4) == b"late"
    newcomer.writer.close()


async def test_a_reset_ends_what_stands_and_spares_what_comes(proxy: Proxy) -> None:
    client = await dial(proxy)
    await client.round_trip(b"before")
    await proxy.set("link", Weather(reset=True))
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await client.round_trip(b"after")
    again = await dial(proxy)
    assert await again.round_trip(b"again") == b"again"
    again.writer.close()
