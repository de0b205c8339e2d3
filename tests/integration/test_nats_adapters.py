"""What only the broker's adapters can meet: a broker that goes away, its limits, its process."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path

import msgspec
import pytest

from tests.integration.bus_kit import (
    LOG,
    WAIT_S,
    Connect,
    Tail,
    answer_term,
    bulk,
    connect,
    fill,
    number,
    server,
)
from vector_db.common.adapters import nats_bus, nats_link
from vector_db.common.adapters.loopback_bus import LoopbackBus
from vector_db.common.adapters.nats_bus import NatsBus
from vector_db.common.adapters.nats_server import NatsServer
from vector_db.common.core.codec import decode
from vector_db.common.core.messages import AnyMessage
from vector_db.common.core.messages.reads import ConfirmReply, SearchRequest, StrongReply
from vector_db.common.model.errors import StartupError, TooLarge, TooManyRequests
from vector_db.common.ports import BusTimeout, BusUnavailable

__all__ = ["connect", "server"]

# --- what only the broker's adapter can meet ------------------------------------------------------


async def test_a_broker_that_is_away_refuses_at_once_and_the_tail_goes_on_after_it(
    server: NatsServer, connect: Connect
) -> None:
    bus = await connect()
    lost, found = asyncio.Event(), asyncio.Event()
    bus.on_disconnect(lost.set)
    bus.on_reconnect(found.set)
    await bus.create_log(LOG)
    await bus.serve("t.ask", answer_term)
    tail = Tail()
    await bus.tail(LOG, 0, tail.on_record, tail.on_gap)
    await fill(bus, 3)
    await tail.until_count(3)

    async with asyncio.timeout(WAIT_S):
        await server.stop()
        await lost.wait()
        assert not bus.connected
        for refused in (
            bus.append(LOG, number(9)),
            bus.append_acked(LOG, number(9), WAIT_S),
            bus.publish("t.news", number(9)),
            bus.request("t.ask", number(9), WAIT_S),
            bus.create_log(LOG),
        ):
            with pytest.raises(BusUnavailable):
                await refused
        await server.start()
        await found.wait()
    await fill(bus, 3, first=4)
    await tail.until_count(6)
    assert tail.records == [(n, number(n)) for n in range(1, 7)]
    assert tail.gaps == []
    assert await bus.request("t.ask", number(5), WAIT_S) == StrongReply(term=5, stable_ts=7)


async def test_a_request_under_way_fails_when_the_connection_is_lost(
    server: NatsServer, connect: Connect
) -> None:
    bus = await connect()
    asked, release = asyncio.Event(), asyncio.Event()

    async def late(message: AnyMessage) -> AnyMessage:
        asked.set()
        await release.wait()
        return number(0)

    await bus.serve("t.ask", late)
    request = asyncio.ensure_future(bus.request("t.ask", number(1), 60.0))
    async with asyncio.timeout(WAIT_S):
        await asked.wait()
        await server.stop()
        with pytest.raises(BusTimeout, match="connection was lost"):
            await request
    release.set()


async def test_a_wiped_broker_is_a_gap(
    server: NatsServer, connect: Connect, tmp_path: Path
) -> None:
    bus = await connect()
    await bus.create_log(LOG)
    tail = Tail()
    await bus.tail(LOG, 0, tail.on_record, tail.on_gap)
    await fill(bus, 1)
    await tail.until_count(1)
    await server.stop()
    (tmp_path / "nats" / "jetstream").rename(tmp_path / "gone")
    await server.start()
    await tail.until(lambda: bool(tail.gaps))


async def test_a_log_that_came_back_shorter_is_a_gap(
    server: NatsServer, connect: Connect, tmp_path: Path
) -> None:
    bus = await connect()
    await bus.create_log(LOG)
    await fill(bus, 3)
    await server.stop()
    shutil.copytree(tmp_path / "nats" / "jetstream", tmp_path / "old")
    await server.start()
    found = asyncio.Event()
    bus.on_reconnect(found.set)
    async with asyncio.timeout(WAIT_S):
        while not bus.connected:
            await found.wait()
    tail = Tail()
    await bus.tail(LOG, 0, tail.on_record, tail.on_gap)
    await fill(bus, 2, first=4)
    await tail.until_count(5)
    await server.stop()
    shutil.rmtree(tmp_path / "nats" / "jetstream")
    shutil.move(tmp_path / "old", tmp_path / "nats" / "jetstream")
    await server.start()
    await tail.until(lambda: bool(tail.gaps))
    assert "the log ends at 3, before record 5" in tail.gaps[0]
    assert tail.seqs == [1, 2, 3, 4, 5]


async def test_local_overflow_is_mended_by_reading_again(connect: Connect) -> None:
    bus = await connect(tail_pending_msgs_max=3)
    await bus.create_log(LOG)
    for n in range(1, 21):
        await bus.append(LOG, number(n))
    tail = Tail()
    await bus.tail(LOG, 0, tail.on_record, tail.on_gap)
    await tail.until_count(20)
    assert tail.records == [(n, number(n)) for n in range(1, 21)]
    assert tail.gaps == []


async def test_a_hole_inside_the_log_is_a_gap(connect: Connect) -> None:
    bus = await connect()
    await bus.create_log(LOG)
    await fill(bus, 5)
    body = {"seq": 3}
    reply = await bus._link.api(f"STREAM.MSG.DELETE.{LOG.stream}", body, WAIT_S)
    assert reply["success"]
    tail = Tail()
    await bus.tail(LOG, 0, tail.on_record, tail.on_gap)
    await tail.until(lambda: bool(tail.gaps))
    assert tail.seqs == [1, 2]
    assert "records 3 to 3 are missing" in tail.gaps[0]


async def test_requests_above_the_bound_are_refused(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats_bus, "SERVED_AT_ONCE_MAX", 2)
    bus = await connect()
    go = asyncio.Event()

    async def wait(message: AnyMessage) -> AnyMessage:
        await go.wait()
        return number(0)

    await bus.serve("t.ask", wait)
    requests = [asyncio.ensure_future(bus.request("t.ask", number(n), WAIT_S)) for n in range(3)]
    with pytest.raises(TooManyRequests):
        await requests[2]
    go.set()
    assert await asyncio.gather(*requests[:2]) == [number(0), number(0)]


async def test_a_message_over_the_broker_s_limit_is_too_large(connect: Connect) -> None:
    bus = await connect()
    with pytest.raises(TooLarge, match="max_payload"):
        await bus.append(LOG, bulk(9 << 20))


async def test_a_request_too_large_for_one_message_reaches_one_server_whole(
    connect: Connect,
) -> None:
    served: list[str] = []
    for name in ("one", "two"):
        bus = await connect()

        async def echo(message: AnyMessage, name: str = name) -> AnyMessage:
            served.append(name)
            return message

        await bus.serve("t.ask", echo)
    asker = await connect()
    for _ in range(4):
        big = bulk(13 << 20)
        reply = await asker.request("t.ask", big, WAIT_S)
        assert isinstance(reply, SearchRequest)
        assert bytes(reply.queries) == big.queries
    assert len(served) == 4


async def test_a_request_that_never_comes_whole_holds_no_place(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats_link, "_RECEIVE_S", 0.05)
    monkeypatch.setattr(nats_bus, "SERVED_AT_ONCE_MAX", 1)
    bus = await connect()
    await bus.serve("t.ask", answer_term)
    with bus._link._expecting() as (inbox, answer):
        headers = {nats_link.PART_HEADER: "0/2"}
        await bus._link.publish("t.ask", b"half", reply=inbox, headers=headers)
        async with asyncio.timeout(WAIT_S):
            assert (await answer.future).startswith(b"continue ")
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                reply = await bus.request("t.ask", number(5), WAIT_S)
            except TooManyRequests:
                continue
            assert reply == StrongReply(term=5, stable_ts=7)
            return


async def test_junk_on_a_served_subject_is_answered_and_the_server_goes_on(
    connect: Connect,
) -> None:
    bus = await connect()
    await bus.serve("t.ask", answer_term)
    junk = decode(await bus._link.ask("t.ask", b"junk", WAIT_S))
    assert msgspec.structs.asdict(junk)["code"] == "internal"
    assert await bus.request("t.ask", number(5), WAIT_S) == StrongReply(term=5, stable_ts=7)


async def test_two_connections_talk_to_each_other(connect: Connect) -> None:
    one, two = await connect(), await connect()
    served = await one.serve("t.ask", answer_term)
    assert await two.request("t.ask", number(5), WAIT_S) == StrongReply(term=5, stable_ts=7)
    await served.close()


async def test_no_server_is_one_clear_error() -> None:
    with pytest.raises(BusUnavailable, match=r"no NATS server at nats://127\.0\.0\.1:9"):
        await NatsBus.connect("nats://127.0.0.1:9", "test", timeout_s=0.3)


# --- what only the loopback can meet --------------------------------------------------------------


async def test_a_local_answer_is_the_object_itself(connect: Connect) -> None:
    bus = LoopbackBus(await connect())
    answer = ConfirmReply(worker="w", confirmed=True)

    async def handler(message: AnyMessage) -> AnyMessage:
        assert message is question
        return answer

    question = number(1)
    await bus.serve("t.ask", handler)
    assert await bus.request("t.ask", question, WAIT_S) is answer


async def test_a_shared_loopback_reaches_and_is_reached_by_other_processes(
    connect: Connect,
) -> None:
    here, there = LoopbackBus(await connect(), exclusive=False), await connect()
    await here.serve("t.here", answer_term)
    await there.serve("t.there", answer_term)
    seen: asyncio.Queue[AnyMessage] = asyncio.Queue()
    await there.subscribe("t.news", seen.put_nowait)
    await here.subscribe("t.news", seen.put_nowait)
    assert await there.request("t.here", number(1), WAIT_S) == StrongReply(term=1, stable_ts=7)
    assert await here.request("t.there", number(2), WAIT_S) == StrongReply(term=2, stable_ts=7)
    await here.publish("t.news", number(3))
    async with asyncio.timeout(WAIT_S):
        assert [await seen.get(), await seen.get()] == [number(3), number(3)]


# --- the server process ---------------------------------------------------------------------------


async def test_a_port_in_use_is_one_clear_line(server: NatsServer, tmp_path: Path) -> None:
    second = NatsServer(tmp_path / "second", server.port)
    with pytest.raises(StartupError, match=f"port {server.port} on 127.0.0.1 is in use"):
        await second.start()
    assert second.pid is None


async def test_a_killed_server_is_noticed_and_starts_again_on_its_port(
    server: NatsServer,
) -> None:
    port, pid = server.port, server.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(WAIT_S):
        assert await server.wait() == -signal.SIGKILL
    await server.start()
    assert server.port == port


async def test_an_unwritable_data_directory_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartupError, match="cannot write under"):
        await NatsServer(tmp_path / "file" / "nats").start()


async def test_the_server_dies_with_its_parent(tmp_path: Path) -> None:
    program = (
        "import asyncio, os, pathlib, signal\n"
        "from vector_db.common.adapters.nats_server import NatsServer\n"
        "async def main():\n"
        f"    server = NatsServer(pathlib.Path({str(tmp_path)!r}))\n"
        "    await server.start()\n"
        "    print(server.pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await parent.communicate()
    try:
        child = os.pidfd_open(int(output))
    except ProcessLookupError:
        return
    gone = asyncio.Event()
    asyncio.get_running_loop().add_reader(child, gone.set)
    async with asyncio.timeout(WAIT_S):
        await gone.wait()
    asyncio.get_running_loop().remove_reader(child)
    os.close(child)
