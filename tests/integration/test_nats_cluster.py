"""What only a cluster of nats-servers does to the bus: servers go, leaders change, logs shrink."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.integration.bus_kit import LOG, WAIT_S, Tail, answer_term, fill, number
from tests.mesh.links import HOST, Weather
from tests.mesh.proxy import Proxy
from tests.support.nats_cluster import NatsCluster
from tests.support.ports import free_ports
from vector_db.common.adapters import nats_bus, nats_tail
from vector_db.common.adapters.nats_bus import NatsBus
from vector_db.common.core.messages.reads import StrongReply
from vector_db.common.core.subjects import LogName
from vector_db.common.ports import BusTimeout, BusUnavailable, LogMissing, NoResponders

# nats-py drops the stream of a try to reconnect that it gives up, and Python says so when it
# finds it.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <function StreamWriter.__del__"
    ":pytest.PytestUnraisableExceptionWarning"
)

ELECTED_S = 15.0
"""An election takes up to 9 s."""
LEFT_S = 4.0
"""Within it another server is used in place of one that does not answer: what is promised is a
second, and what finds out by unanswered pings takes eight."""
SLOW_S = 4.0
"""Several probes of a server that is slow."""
OTHER = LogName("OTHER_LOG", "other.log")

Dial = Callable[..., Awaitable[NatsBus]]


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[NatsCluster]:
    cluster = NatsCluster(tmp_path)
    await cluster.start()
    yield cluster
    await cluster.stop()
    # What is dropped is found here, where it is expected, and not in the middle of another module.
    gc.collect()


@pytest.fixture
async def dial(cluster: NatsCluster) -> AsyncIterator[Dial]:
    async with AsyncExitStack() as stack:

        async def dial(url: str = cluster.url, replicas: int = 3) -> NatsBus:
            bus = await NatsBus.connect(url, "test", replicas=replicas, heartbeat_s=0.1)
            stack.push_async_callback(bus.close)
            return bus

        yield dial


def server_of(bus: NatsBus) -> int:
    """The index of the server that it is connected to."""
    name: str = bus._link._client._server_info["server_name"]
    return int(name.removeprefix("n"))


async def consumer_server(bus: NatsBus, tail: Any) -> int:
    """The index of the server that feeds a tail."""
    name = await _consumer_name(tail)
    info = await bus._link.api(f"CONSUMER.INFO.{LOG.stream}.{name}", None, WAIT_S)
    return int(str(info["cluster"]["leader"]).removeprefix("n"))


async def _consumer_name(tail: Any) -> str:
    async with asyncio.timeout(WAIT_S):
        while True:
            if name := tail._consumer:
                return str(name)
            await asyncio.sleep(0.01)


async def append_until_it_works(bus: NatsBus, n: int) -> None:
    """As services do it: what did not arrive for sure is sent again, and seen twice perhaps."""
    async with asyncio.timeout(ELECTED_S):
        while True:
            try:
                await bus.append_acked(LOG, number(n), 2.0)
                return
            except (BusTimeout, BusUnavailable, LogMissing):
                await asyncio.sleep(0.05)


async def test_any_server_of_the_list_will_do(cluster: NatsCluster, dial: Dial) -> None:
    (dead,) = free_ports(1)
    bus = await dial(f"nats://127.0.0.1:{dead},{cluster.servers[1].url}")
    assert server_of(bus) == 1
    await bus.create_log(LOG)
    (stream,) = await cluster.streams()
    assert stream["config"]["num_replicas"] == 3


async def test_a_client_moves_on_at_once_and_everything_goes_with_it(
    cluster: NatsCluster, dial: Dial
) -> None:
    bus, other = await dial(), await dial()
    await bus.create_log(LOG)
    await bus.serve("t.ask", answer_term)
    tail = Tail()
    await bus.tail(LOG, 0, tail.on_record, tail.on_gap)
    await fill(bus, 3)
    await tail.until_count(3)
    leader = await cluster.leader_of(LOG.stream)
    if leader == server_of(bus):
        # That a log is without a leader is for another test.
        await bus._link.api(f"STREAM.LEADER.STEPDOWN.{LOG.stream}", None, WAIT_S)
        while leader == server_of(bus):
            leader = await cluster.leader_of(LOG.stream)
    found = asyncio.Event()
    bus.on_reconnect(found.set)
    left, gone_s = server_of(bus), asyncio.get_running_loop().time()
    await cluster.kill(left)
    async with asyncio.timeout(LEFT_S):
        await found.wait()
    assert server_of(bus) != left
    async with asyncio.timeout(LEFT_S):
        while True:
            try:
                assert await other.request("t.ask", number(5), 1.0) == StrongReply(5, 7)
                break
            except (NoResponders, BusTimeout, BusUnavailable):
                await asyncio.sleep(0.01)
    await fill(bus, 3, first=4)
    print(f"appended again after {asyncio.get_running_loop().time() - gone_s:.2f} s")
    await tail.until_count(6)
    assert tail.records == [(n, number(n)) for n in range(1, 7)]
    assert tail.gaps == []


async def test_a_tail_whose_server_goes_silently_is_fed_by_another(
    cluster: NatsCluster, dial: Dial
) -> None:
    setup = await dial()
    await setup.create_log(LOG)
    await fill(setup, 2)
    while True:
        # The connection of this one stays, so that nothing but silence tells.
        bus = await dial(cluster.servers[0].url)
        tail = Tail()
        subscription: Any = await bus.tail(LOG, 0, tail.on_record, tail.on_gap)
        await tail.until_count(2)
        followed = subscription._close.__self__
        feeder = await consumer_server(bus, followed)
        if feeder != 0 and server_of(bus) == 0:
            break
        await subscription.close()
    before = await _consumer_name(followed)
    await cluster.kill(feeder)
    await append_until_it_works(bus, 3)
    await tail.until(lambda: any(record == number(3) for _, record in tail.records), ELECTED_S)
    assert server_of(bus) == 0
    assert await _consumer_name(followed) != before
    assert tail.gaps == []
    assert tail.seqs == list(range(1, len(tail.seqs) + 1))


async def test_a_log_is_made_while_the_servers_elect_a_leader(
    cluster: NatsCluster, dial: Dial
) -> None:
    leader = await cluster.meta_leader()
    bus = await dial(cluster.servers[(leader + 1) % 3].url)
    await cluster.kill(leader)
    await bus.create_log(LOG)
    await bus.create_log(LOG)
    assert await bus.append_acked(LOG, number(1), ELECTED_S) == 1


async def test_a_log_without_a_leader_is_not_gone(cluster: NatsCluster, dial: Dial) -> None:
    setup = await dial()
    await setup.create_log(LOG)
    leader = await cluster.leader_of(LOG.stream)
    bus = await dial(cluster.servers[(leader + 1) % 3].url)
    await cluster.kill(leader)
    with pytest.raises((BusUnavailable, BusTimeout)):
        await bus.append_acked(LOG, number(1), 0.5)
    assert await bus.append_acked(LOG, number(1), ELECTED_S) == 1
    with pytest.raises(LogMissing):
        await bus.append_acked(OTHER, number(1), WAIT_S)


async def test_a_log_whose_only_server_went_is_gone_and_can_be_left(
    cluster: NatsCluster, dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats_tail, "_UNSERVED_S_MAX", 2.0)
    monkeypatch.setattr(nats_bus, "_LEADERLESS_S", 2.0)
    setup = await dial(replicas=1)
    await setup.create_log(LOG)
    await fill(setup, 1)
    gone = await cluster.leader_of(LOG.stream)
    bus = await dial(cluster.servers[(gone + 1) % 3].url)
    tail = Tail()
    await bus.tail(LOG, 0, tail.on_record, tail.on_gap)
    await tail.until_count(1)
    await cluster.kill(gone)
    with pytest.raises(LogMissing):
        await bus.append_acked(LOG, number(2), WAIT_S)
    await tail.until(lambda: bool(tail.gaps))
    assert "nobody served the log" in tail.gaps[0]


async def test_a_log_that_a_majority_brought_back_shorter_is_a_gap(
    cluster: NatsCluster, dial: Dial, tmp_path: Path
) -> None:
    """What two servers lost the third does not bring back; and it is missed as a place, too."""
    bus = await dial()
    await bus.create_log(LOG)
    await fill(bus, 3)
    tail = Tail()
    await bus.tail(LOG, 0, tail.on_record, tail.on_gap)
    await tail.until_count(3)
    for i in range(3):
        await cluster.kill(i)
    for i in (0, 1):
        shutil.copytree(cluster.folders[i], tmp_path / f"old{i}")
    await cluster.start()
    await append_until_it_works(bus, 4)
    await tail.until_count(4)
    assert tail.gaps == []
    for i in range(3):
        await cluster.kill(i)
    for i in (0, 1):
        shutil.rmtree(cluster.folders[i])
        shutil.move(tmp_path / f"old{i}", cluster.folders[i])
    await asyncio.gather(*(cluster.servers[i].start() for i in (0, 1)))
    await tail.until(lambda: bool(tail.gaps), 2 * ELECTED_S)
    assert "the log ends at 3, before record 4" in tail.gaps[0]

    await bus.create_log(OTHER)
    assert await bus.append_acked(OTHER, number(1), WAIT_S) == 1
    (made,) = [s for s in await cluster.streams() if s["config"]["name"] == OTHER.stream]
    assert made["config"]["num_replicas"] == 1


async def test_a_server_that_hears_nothing_any_more_is_left(
    cluster: NatsCluster, dial: Dial
) -> None:
    """Beats of others still come from it, so only what is asked of it shows."""
    proxy = Proxy(seed=1)
    await proxy.start({f"link{n}": server.port for n, server in enumerate(cluster.servers)})
    try:
        bus, far = await dial(_through(proxy)), await dial()
        await far.serve("far", answer_term)
        at = server_of(bus)
        await proxy.set(f"link{at}", Weather(blocked=("up",)))
        async with asyncio.timeout(LEFT_S):
            while True:
                with contextlib.suppress(BusTimeout, BusUnavailable):
                    assert await bus.request("far", number(7), 0.2) == StrongReply(7, 7)
                    break
                await asyncio.sleep(0.02)
        assert server_of(bus) != at
    finally:
        await proxy.stop()


async def test_a_slow_server_is_not_left(cluster: NatsCluster, dial: Dial) -> None:
    proxy = Proxy(seed=1)
    await proxy.start({f"link{n}": server.port for n, server in enumerate(cluster.servers)})
    lost: list[None] = []
    try:
        bus = await dial(_through(proxy))
        bus.on_disconnect(lambda: lost.append(None))
        at = server_of(bus)
        await proxy.set(f"link{at}", Weather(delay_ms=(200.0, 250.0)))
        await asyncio.sleep(SLOW_S)
        assert not lost
    finally:
        await proxy.stop()


def _through(proxy: Proxy) -> str:
    return ",".join(f"nats://{HOST}:{port}" for port in proxy.ports.values())
