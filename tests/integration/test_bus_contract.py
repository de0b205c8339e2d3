"""What every `Bus` promises, run over the real adapters with a real nats-server, and simulated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random

import pytest

from tests.integration.bus_kit import (
    LOG,
    WAIT_S,
    Tail,
    answer_term,
    bulk,
    fill,
    nats_cluster,
    number,
    shared_server,
)
from tests.sim.services.bus import Broker, SimBus
from tests.support.nats_cluster import NatsCluster
from vector_db.common.adapters.loopback_bus import LoopbackBus
from vector_db.common.adapters.nats_bus import NatsBus
from vector_db.common.adapters.nats_server import NatsServer
from vector_db.common.core.codec import decode
from vector_db.common.core.messages import AnyMessage
from vector_db.common.core.messages.reads import ConfirmRequest, SearchRequest, StrongReply
from vector_db.common.core.subjects import LogName
from vector_db.common.model.errors import Conflict, Internal
from vector_db.common.ports import Bus, BusTimeout, LogMissing, NoResponders

__all__ = ["nats_cluster", "shared_server"]


@asynccontextmanager
async def connected(url: str, replicas: int) -> AsyncIterator[NatsBus]:
    """A bus of its own for each test; its logs are removed at the end."""
    bus = await NatsBus.connect(url, "test", replicas=replicas, heartbeat_s=0.1)
    try:
        yield bus
        for name in await bus.log_names():
            await bus.delete_log(LogName(name, ""))
    finally:
        await bus.close()


@pytest.fixture
async def clustered(nats_cluster: NatsCluster) -> AsyncIterator[NatsBus]:
    """A bus whose logs three servers hold."""
    async with connected(nats_cluster.url, 3) as bus:
        yield bus


@pytest.fixture
async def single(shared_server: NatsServer) -> AsyncIterator[NatsBus]:
    """A bus over one server."""
    async with connected(shared_server.url, 1) as bus:
        yield bus


@pytest.fixture(params=["nats", "cluster", "loopback", "loopback_shared", "simulated"])
def bus(request: pytest.FixtureRequest) -> Bus:
    if request.param == "simulated":
        return SimBus(Broker(Random(1), lambda line: None, lambda line: None), "test")
    made_by = "clustered" if request.param == "cluster" else "single"
    inner: NatsBus = request.getfixturevalue(made_by)
    if request.param in ("nats", "cluster"):
        return inner
    return LoopbackBus(inner, exclusive=request.param == "loopback")


# --- core messages ------------------------------------------------------------------------------


async def test_every_subscriber_gets_every_message_in_order(bus: Bus) -> None:
    seen: tuple[list[int], list[int]] = ([], [])
    done = asyncio.Event()

    def take(into: list[int]) -> Callable[[AnyMessage], None]:
        def handler(message: AnyMessage) -> None:
            assert isinstance(message, ConfirmRequest)
            into.append(message.term)
            if len(seen[0]) == len(seen[1]) == 100:
                done.set()

        return handler

    await bus.subscribe("t.news", take(seen[0]))
    await bus.subscribe("t.news", take(seen[1]))
    for n in range(100):
        await bus.publish("t.news", number(n))
    async with asyncio.timeout(WAIT_S):
        await done.wait()
    assert seen == (list(range(100)), list(range(100)))


async def test_a_closed_subscription_gets_nothing_and_closes_twice(bus: Bus) -> None:
    closed: list[AnyMessage] = []
    seen = asyncio.Event()
    subscription = await bus.subscribe("t.news", closed.append)
    await bus.subscribe("t.news", lambda message: seen.set())
    await subscription.close()
    await subscription.close()
    await bus.publish("t.news", number(1))
    async with asyncio.timeout(WAIT_S):
        await seen.wait()
    assert closed == []


async def test_a_subscriber_that_raises_still_gets_the_next_message(bus: Bus) -> None:
    seen = asyncio.Event()

    def handler(message: AnyMessage) -> None:
        if message == number(1):
            raise ValueError("first")
        seen.set()

    await bus.subscribe("t.news", handler)
    await bus.publish("t.news", number(1))
    await bus.publish("t.news", number(2))
    async with asyncio.timeout(WAIT_S):
        await seen.wait()


async def test_publishing_to_nobody_is_no_error(bus: Bus) -> None:
    await bus.publish("t.nobody", number(1))


# --- requests -----------------------------------------------------------------------------------


async def test_concurrent_requests_get_their_own_answers(bus: Bus) -> None:
    async def slow_when_even(message: AnyMessage) -> AnyMessage:
        assert isinstance(message, ConfirmRequest)
        if message.term % 2 == 0:
            await asyncio.sleep(0)
        return StrongReply(term=message.term, stable_ts=0)

    await bus.serve("t.ask", slow_when_even)
    replies = await asyncio.gather(*(bus.request("t.ask", number(n), WAIT_S) for n in range(200)))
    assert [r.term for r in replies if isinstance(r, StrongReply)] == list(range(200))


async def test_an_error_of_the_handler_travels_to_the_asker(bus: Bus) -> None:
    async def refuse(message: AnyMessage) -> AnyMessage:
        raise Conflict("row a was written", id="a")

    await bus.serve("t.ask", refuse)
    with pytest.raises(Conflict, match="row a was written") as caught:
        await bus.request("t.ask", number(1), WAIT_S)
    assert caught.value.details == {"id": "a"}


async def test_a_defect_of_the_handler_is_internal_and_tells_no_detail(bus: Bus) -> None:
    async def fail(message: AnyMessage) -> AnyMessage:
        raise KeyError("secret")

    await bus.serve("t.ask", fail)
    with pytest.raises(Internal) as caught:
        await bus.request("t.ask", number(1), WAIT_S)
    assert "secret" not in str(caught.value)


async def test_nobody_serving_is_told_at_once(bus: Bus) -> None:
    with pytest.raises(NoResponders):
        await bus.request("t.nobody", number(1), WAIT_S)
    served = await bus.serve("t.ask", answer_term)
    await served.close()
    with pytest.raises(NoResponders):
        await bus.request("t.ask", number(1), WAIT_S)


async def test_an_answer_that_is_late_is_a_timeout(bus: Bus) -> None:
    release = asyncio.Event()

    async def late(message: AnyMessage) -> AnyMessage:
        await release.wait()
        return number(0)

    await bus.serve("t.ask", late)
    with pytest.raises(BusTimeout):
        await bus.request("t.ask", number(1), 0.05)
    release.set()


async def test_a_handler_s_own_timeout_is_a_defect_not_a_bus_timeout(bus: Bus) -> None:
    async def handler(message: AnyMessage) -> AnyMessage:
        raise TimeoutError

    await bus.serve("t.ask", handler)
    with pytest.raises(Internal):
        await bus.request("t.ask", number(1), WAIT_S)


@pytest.mark.parametrize("size", [1 << 20, (1 << 20) + 1, 33 << 20])
async def test_a_reply_of_any_size_arrives_whole(bus: Bus, size: int) -> None:
    big = bulk(size)

    async def handler(message: AnyMessage) -> AnyMessage:
        return big

    await bus.serve("t.ask", handler)
    replies = await asyncio.gather(*(bus.request("t.ask", number(n), WAIT_S) for n in range(2)))
    for reply in replies:
        assert isinstance(reply, SearchRequest)
        assert bytes(reply.queries) == big.queries


# --- logs ---------------------------------------------------------------------------------------


async def test_a_log_is_made_listed_and_removed_and_repeats_are_no_errors(bus: Bus) -> None:
    await bus.create_log(LOG)
    await bus.create_log(LOG)
    assert await bus.log_names() == [LOG.stream]
    await bus.delete_log(LOG)
    await bus.delete_log(LOG)
    assert await bus.log_names() == []


async def test_records_arrive_in_order_those_there_and_those_to_come(bus: Bus) -> None:
    await bus.create_log(LOG)
    await fill(bus, 3)
    tail = Tail()
    await bus.tail(LOG, 0, tail.on_record, tail.on_gap)
    await tail.until_count(3)
    for n in range(4, 500):
        await bus.append(LOG, number(n))
    await tail.until_count(499)
    assert tail.records == [(n, number(n)) for n in range(1, 500)]
    assert tail.gaps == []


async def test_large_records_of_many_callers_arrive(bus: Bus) -> None:
    await bus.create_log(LOG)
    sent = [bulk(512 * 1024) for _ in range(24)]
    tail = Tail()
    await bus.tail(LOG, 0, tail.on_record, tail.on_gap)
    for message in sent:
        await bus.append(LOG, message)
    await tail.until_count(24)
    got = [m.queries for _, m in tail.records if isinstance(m, SearchRequest)]
    assert [bytes(q) for q in got] == [m.queries for m in sent]


async def test_a_tail_starts_behind_the_sequence_it_is_given(bus: Bus) -> None:
    await bus.create_log(LOG)
    await fill(bus, 5)
    tail = Tail()
    await bus.tail(LOG, 3, tail.on_record, tail.on_gap)
    await tail.until_count(2)
    assert tail.seqs == [4, 5]


async def test_two_tails_of_one_log_are_independent(bus: Bus) -> None:
    await bus.create_log(LOG)
    one, two = Tail(), Tail()
    first = await bus.tail(LOG, 0, one.on_record, one.on_gap)
    await bus.tail(LOG, 0, two.on_record, two.on_gap)
    await fill(bus, 2)
    await asyncio.gather(one.until_count(2), two.until_count(2))
    await first.close()
    await first.close()
    await fill(bus, 1, first=3)
    await two.until_count(3)
    assert one.seqs == [1, 2]


async def test_append_acked_answers_with_the_sequence(bus: Bus) -> None:
    await bus.create_log(LOG)
    assert [await bus.append_acked(LOG, number(n), WAIT_S) for n in range(3)] == [1, 2, 3]


async def test_append_acked_to_a_log_that_is_gone_is_told(bus: Bus) -> None:
    with pytest.raises(LogMissing):
        await bus.append_acked(LOG, number(1), WAIT_S)


async def test_trim_forgets_up_to_the_sequence_and_keeps_the_last_record(bus: Bus) -> None:
    await bus.trim(LOG, 9)
    await bus.create_log(LOG)
    await bus.trim(LOG, 9)
    await fill(bus, 5)
    await bus.trim(LOG, 2)
    tail = Tail()
    await bus.tail(LOG, 2, tail.on_record, tail.on_gap)
    await tail.until_count(3)
    await bus.trim(LOG, 99)
    last = Tail()
    await bus.tail(LOG, 4, last.on_record, last.on_gap)
    await last.until_count(1)
    assert (tail.seqs, last.seqs) == ([3, 4, 5], [5])


@pytest.mark.parametrize("after", [0, 1])
async def test_a_tail_from_before_what_is_left_is_a_gap_told_once(bus: Bus, after: int) -> None:
    await bus.create_log(LOG)
    await fill(bus, 5)
    await bus.trim(LOG, 2)
    tail = Tail()
    await bus.tail(LOG, after, tail.on_record, tail.on_gap)
    await tail.until(lambda: bool(tail.gaps))
    await fill(bus, 1, first=6)
    assert (len(tail.gaps), tail.records) == (1, [])


async def test_a_tail_of_a_missing_log_is_a_gap(bus: Bus) -> None:
    tail = Tail()
    await bus.tail(LOG, 0, tail.on_record, tail.on_gap)
    await tail.until(lambda: bool(tail.gaps))
    assert "does not exist" in tail.gaps[0]


async def test_a_tail_from_beyond_the_end_is_a_gap(bus: Bus) -> None:
    await bus.create_log(LOG)
    await fill(bus, 2)
    tail = Tail()
    await bus.tail(LOG, 3, tail.on_record, tail.on_gap)
    await tail.until(lambda: bool(tail.gaps))


async def test_a_log_removed_under_a_tail_is_a_gap(bus: Bus) -> None:
    await bus.create_log(LOG)
    await fill(bus, 1)
    tail = Tail()
    await bus.tail(LOG, 0, tail.on_record, tail.on_gap)
    await tail.until_count(1)
    await bus.delete_log(LOG)
    await tail.until(lambda: bool(tail.gaps))


async def test_a_log_made_anew_under_a_tail_is_a_gap_even_when_it_is_longer(bus: Bus) -> None:
    await bus.create_log(LOG)
    await fill(bus, 1)
    tail = Tail()
    await bus.tail(LOG, 0, tail.on_record, tail.on_gap)
    await tail.until_count(1)
    await bus.delete_log(LOG)
    await bus.create_log(LOG)
    await fill(bus, 5, first=100)
    await tail.until(lambda: bool(tail.gaps))
    assert tail.seqs == [1]


async def test_a_record_that_is_refused_is_a_gap_and_is_not_passed_over(bus: Bus) -> None:
    await bus.create_log(LOG)
    await fill(bus, 3)
    tail = Tail()

    def refuse_second(seq: int, data: bytes) -> None:
        if seq == 2:
            raise ValueError("no")
        tail.on_record(seq, data)

    await bus.tail(LOG, 0, refuse_second, tail.on_gap)
    await tail.until(lambda: bool(tail.gaps))
    assert tail.seqs == [1]


async def test_a_record_of_several_mebibytes_is_one_record(bus: Bus) -> None:
    await bus.create_log(LOG)
    large = SearchRequest(1, (0,), 1, bytes(3 * 1024 * 1024), 10)
    assert await bus.append_acked(LOG, large, WAIT_S) == 1
    assert await bus.append_acked(LOG, number(2), WAIT_S) == 2
    got: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue()
    gaps: list[str] = []
    tail = await bus.tail(LOG, 0, lambda seq, data: got.put_nowait((seq, data)), gaps.append)
    seq, data = await asyncio.wait_for(got.get(), WAIT_S)
    assert (seq, decode(data)) == (1, large)
    assert (await asyncio.wait_for(got.get(), WAIT_S))[0] == 2
    assert gaps == []
    await tail.close()
