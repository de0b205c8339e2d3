"""A connection that is gone a moment before nats-py knows, on the loop that services run on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from tests.integration.bus_kit import WAIT_S
from vector_db.common.adapters.nats_link import NatsLink
from vector_db.common.adapters.nats_server import NatsServer

Work = Callable[[NatsLink], Awaitable[None]]
Run = Callable[[Work], None]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Work on a link to a real server, on uvloop."""
    server = NatsServer(tmp_path / "nats")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:

        async def on_link(work: Work) -> None:
            link = await NatsLink.connect(server.url, "test", WAIT_S)
            try:
                async with asyncio.timeout(WAIT_S):
                    await work(link)
            finally:
                await link.close()

        runner.run(server.start())
        yield lambda work: runner.run(on_link(work))
        runner.run(server.stop())


def found_again(link: NatsLink) -> asyncio.Event:
    """Set by the next connection."""
    found = asyncio.Event()
    link.on_reconnect.append(found.set)
    return found


async def end_flusher(link: NatsLink) -> None:
    """As it ends by itself when it runs before a new connection counts as one."""
    flusher = link._client._flusher_task
    flusher.cancel()
    await asyncio.wait([flusher])


@pytest.mark.parametrize("flushing", [True, False], ids=["flushing", "not flushing"])
def test_a_message_that_meets_a_connection_that_is_gone_is_handed_to_the_next(
    run: Run, flushing: bool
) -> None:
    async def work(link: NatsLink) -> None:
        heard = asyncio.Queue[bytes]()

        async def hear(msg: object) -> None:
            heard.put_nowait(msg.data)  # type: ignore[attr-defined]

        await link.subscribe("news", hear)
        await link.barrier(WAIT_S)
        found = found_again(link)
        if not flushing:
            await end_flusher(link)
        link.abort()
        assert link.connected, "nats-py does not know yet"
        await link.publish("news", b"meanwhile")
        await found.wait()
        await link.publish("news", b"after")
        while await heard.get() != b"after":
            pass

    run(work)


def test_a_subscription_made_meanwhile_is_there_on_the_next_connection_once(run: Run) -> None:
    async def work(link: NatsLink) -> None:
        heard = asyncio.Queue[bytes]()

        async def hear(msg: object) -> None:
            heard.put_nowait(msg.data)  # type: ignore[attr-defined]

        found = found_again(link)
        await end_flusher(link)
        link.abort()
        await link.subscribe("news", hear)
        await found.wait()
        for data in (b"one", b"two"):
            await link.publish("news", data)
            assert await heard.get() == data

    run(work)


def test_a_new_connection_that_breaks_at_once_is_not_the_last_try(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(link: NatsLink) -> None:
        connect = link._client._connect_to_server
        tries = 0

        async def breaks_twice(server: object) -> None:
            nonlocal tries
            await connect(server)
            tries += 1
            if tries <= 2:
                # After the server said who it is, before the client does.
                process = link._client._process_info

                async def gone(*given: object, **named: object) -> None:
                    await process(*given, **named)
                    link.abort()
                    monkeypatch.setattr(link._client, "_process_info", process)

                monkeypatch.setattr(link._client, "_process_info", gone)

        monkeypatch.setattr(link._client, "_connect_to_server", breaks_twice)
        found = found_again(link)
        link.abort()
        await found.wait()
        assert tries == 3
        await link.barrier(WAIT_S)

    run(work)


def test_closing_a_link_that_is_gone_with_something_to_send_is_no_error(run: Run) -> None:
    async def work(link: NatsLink) -> None:
        await end_flusher(link)
        link._client._pending.append(b"PUB news 1\r\n1\r\n")
        link._client._pending_data_size = 1
        link.abort()
        await link._client.close()

    run(work)
