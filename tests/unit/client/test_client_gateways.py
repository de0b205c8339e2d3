"""Which of several gateways a client asks, and when it asks another one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.ports import free_ports
from tests.unit.client.fake_gateway import FakeGateway
from vector_db_client import (
    AsyncVectorDatabaseClient,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    OutcomeUnknown,
    Unavailable,
    VectorDatabaseClient,
)
from vector_db_client.commands import export_command
from vector_db_client.gateways import (
    ASKED_LAST_S,
    LATE_S_MIN,
    Gateways,
    Patience,
    checked_urls,
)

X = np.ones((1, 2))
BUSY = (503, "unavailable", True, "no coordinator leads now")
BUSY_FOR_AN_HOUR = (*BUSY, "3600")
SILENT_S = 30.0
"""How long a gateway takes that might as well be gone."""
WAITED_S = SILENT_S / 3
"""Who waited for it took longer, on however busy a machine."""


@pytest.fixture
def other() -> Iterator[FakeGateway]:
    fake = FakeGateway()
    fake.start()
    yield fake
    fake.stop()


@pytest.fixture
def late_s(monkeypatch: pytest.MonkeyPatch) -> float:
    """Reads are late sooner, where many of them have to be."""
    monkeypatch.setattr("vector_db_client.gateways.LATE_S_MIN", 0.25)
    return 0.25


def dead_url() -> str:
    (port,) = free_ports(1)
    return f"http://127.0.0.1:{port}"


# --- the list -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "urls",
    ["http://a:1,http://b:2", " http://a:1/ , http://b:2/", ["http://a:1", "http://b:2"],
     ("http://a:1,http://b:2",)],
)  # fmt: skip
def test_urls_come_as_a_list_or_separated_by_commas(urls: str | list[str]) -> None:
    assert checked_urls(urls) == ("http://a:1", "http://b:2")


@pytest.mark.parametrize("urls", ["", "http://a:1,", "http://a:1,b:2", ["http://a:1", ""], []])
def test_a_list_with_something_else_is_refused(urls: str | list[str]) -> None:
    with pytest.raises(InvalidArgument, match="url"):
        VectorDatabaseClient(urls)


# --- the order ------------------------------------------------------------------------------------


def test_the_first_is_asked_until_it_fails_and_then_the_next_until_that_fails() -> None:
    gateways = Gateways(["a", "b", "c"])
    assert [gateways.choose(0.0) for _ in range(3)] == [0, 0, 0]
    gateways.failed(0, 0.0, reached=True)
    assert [gateways.choose(100.0) for _ in range(3)] == [0, 0, 0], "it is long ago"
    gateways.failed(0, 100.0, reached=True)
    assert gateways.choose(100.0) == 1
    assert gateways.choose(100.0 + 10 * ASKED_LAST_S) == 1, "nobody goes back without a reason"


def test_one_that_failed_is_asked_last_for_some_seconds() -> None:
    gateways = Gateways(["a", "b", "c"])
    for index, at_s in ((0, 1.0), (1, 2.0)):
        assert gateways.choose(at_s) == index
        gateways.failed(index, at_s, reached=True)
    assert gateways.choose(2.0) == 2
    gateways.failed(2, 3.0, reached=True)
    assert gateways.choose(3.0) == 0, "the earliest failure"
    gateways.failed(0, 3.5, reached=True)
    assert gateways.choose(3.5) == 1
    gateways.answered(1)
    assert gateways.choose(3.5) == 1
    gateways.failed(1, 4.0, reached=True)
    assert gateways.choose(3.0 + ASKED_LAST_S) == 2


def test_one_out_of_reach_comes_after_those_that_answered_something() -> None:
    gateways = Gateways(["a", "b"])
    gateways.failed(0, 1.0, reached=False)
    gateways.failed(1, 2.0, reached=True)
    assert gateways.choose(2.0) == 1
    assert not gateways.is_fresh(0, 2.0)
    assert gateways.is_fresh(0, 1.0 + ASKED_LAST_S)


def test_late_failures_of_calls_made_before_do_not_move_the_others_on() -> None:
    gateways = Gateways(["a", "b", "c"])
    for _ in range(100):
        gateways.failed(0, 1.0, reached=True)
        assert gateways.choose(1.0) == 1


def test_another_gateway_is_the_best_that_is_not_busy_and_changes_no_turn() -> None:
    gateways = Gateways(["a", "b", "c"])
    assert gateways.choose(0.0) == 0
    assert [gateways.other(busy, 0.0) for busy in ({0}, {0, 1}, {0, 1, 2})] == [1, 2, None]
    gateways.failed(1, 0.0, reached=True)
    assert gateways.other({0}, 0.0) == 2
    assert gateways.choose(0.0) == 0


def test_where_all_reads_are_slow_few_are_late() -> None:
    patience = Patience()
    assert patience.late_s == LATE_S_MIN
    for _ in range(50):
        patience.took(0.01)
    assert patience.late_s == LATE_S_MIN
    for _ in range(50):
        patience.took(3.0)
    assert 11.0 < patience.late_s <= 12.0
    late = 0
    for turn in range(1000):
        seconds = 4.0 if turn % 5 == 0 else 0.01
        late += seconds > patience.late_s
        patience.took(seconds)
    assert late <= 250


# --- the client -----------------------------------------------------------------------------------


def test_an_unavailable_gateway_is_left_at_once_whatever_it_says_of_waiting(
    gateway: FakeGateway, other: FakeGateway
) -> None:
    gateway.script = [BUSY_FOR_AN_HOUR] * 10
    with VectorDatabaseClient(f"{gateway.url},{other.url}", timeout_s=5, backoff_s=60) as client:
        assert client.insert_vectors(["a"], X).count == 1
        client.count()
    assert (len(gateway.requests), len(other.requests)) == (1, 2)


def test_when_all_are_unavailable_the_retry_waits(gateway: FakeGateway, other: FakeGateway) -> None:
    gateway.script, other.script = [BUSY] * 10, [BUSY]
    with VectorDatabaseClient([gateway.url, other.url], retries=1, backoff_s=0.2) as client:
        started = time.monotonic()
        with pytest.raises(Unavailable):
            client.count()
        assert time.monotonic() - started >= 0.02
    # Each once, and one retry: of the one that failed first.
    assert (len(gateway.requests), len(other.requests)) == (2, 1)


def test_a_gateway_that_comes_back_is_not_asked_while_the_other_one_works(
    gateway: FakeGateway, other: FakeGateway
) -> None:
    gateway.script = ["disconnect"]
    with VectorDatabaseClient([gateway.url, other.url], backoff_s=0.001) as client:
        for _ in range(5):
            client.count()
    assert (len(gateway.requests), len(other.requests)) == (1, 5)


@pytest.mark.parametrize("mode", ["insert", "upsert"])
def test_what_must_not_be_repeated_is_not_repeated_at_another_gateway(
    gateway: FakeGateway, other: FakeGateway, mode: str
) -> None:
    gateway.script = ["lost"]
    with VectorDatabaseClient([gateway.url, other.url], backoff_s=0.001) as client:
        if mode == "insert":
            with pytest.raises(OutcomeUnknown):
                client.insert_vectors(["a"], X, mode="insert")
            assert other.requests == []
        else:
            assert client.insert_vectors(["a"], X).count == 1
            assert len(other.requests) == 1
        client.count()
    assert len(gateway.requests) == 1


def test_a_write_under_a_key_goes_to_the_other_gateway_with_the_same_key(
    gateway: FakeGateway, other: FakeGateway
) -> None:
    gateway.script = ["lost"]
    with VectorDatabaseClient([gateway.url, other.url], backoff_s=0.001) as client:
        client.insert_vectors(["a"], X, mode="insert", idempotency_key="order-7")
    keys = [r.headers["Idempotency-Key"] for r in (*gateway.requests, *other.requests)]
    assert keys == ["order-7", "order-7"]


def test_the_next_call_after_one_without_an_answer_goes_to_another_gateway(
    gateway: FakeGateway, other: FakeGateway
) -> None:
    gateway.delay_s = SILENT_S
    # As long as there is before another one would be asked in the same call.
    timeout_s = 0.9 * LATE_S_MIN
    with VectorDatabaseClient([gateway.url, other.url], timeout_s=timeout_s) as client:
        with pytest.raises(DeadlineExceeded):
            client.count()
        client.count()
    assert (len(gateway.requests), len(other.requests)) == (1, 1)


def test_a_read_that_a_gateway_does_not_answer_is_asked_of_the_next_one(
    gateway: FakeGateway, other: FakeGateway, late_s: float
) -> None:
    gateway.delay_s = SILENT_S
    reads: list[Callable[[VectorDatabaseClient], object]] = [
        lambda client: client.count(),
        lambda client: client.fetch(["a"]),
        lambda client: client.query_similar(X[0]),
        lambda client: list(client.scroll()),
        lambda client: client.list_collections(),
        lambda client: client.cluster(),
    ]
    for read in reads:
        gateway.requests.clear()
        other.requests.clear()
        with VectorDatabaseClient([gateway.url, other.url]) as client:
            started = time.monotonic()
            read(client)
            assert late_s <= time.monotonic() - started < WAITED_S
            read(client)
        assert (len(gateway.requests), len(other.requests)) == (1, 2), "who was late is asked last"


def test_every_gateway_may_be_late_but_the_last(gateway: FakeGateway, other: FakeGateway) -> None:
    gateway.delay_s = other.delay_s = SILENT_S
    third = FakeGateway()
    third.start()
    try:
        urls = [gateway.url, other.url, third.url]
        with VectorDatabaseClient(urls) as client:
            started = time.monotonic()
            client.count()
            assert time.monotonic() - started < WAITED_S
            client.count()
    finally:
        third.stop()
    assert [len(each.requests) for each in (gateway, other, third)] == [1, 1, 2]


def test_a_gateway_that_is_late_may_still_answer_first(
    gateway: FakeGateway, other: FakeGateway
) -> None:
    gateway.delay_s, other.delay_s = 1.0, 30.0
    with VectorDatabaseClient([gateway.url, other.url]) as client:
        client.count()
        client.count()
    assert [len(each.requests) for each in (gateway, other)] == [2, 1]


def test_an_unavailable_gateway_does_not_answer_for_one_that_is_late(
    gateway: FakeGateway, other: FakeGateway
) -> None:
    gateway.delay_s = SILENT_S
    other.script = [BUSY, None]
    with VectorDatabaseClient([gateway.url, other.url]) as client:
        started = time.monotonic()
        assert client.count().count == 0
        assert time.monotonic() - started < WAITED_S
    assert (len(gateway.requests), len(other.requests)) == (1, 2)


def test_an_error_of_the_request_is_the_answer_whoever_gives_it(
    gateway: FakeGateway, other: FakeGateway
) -> None:
    gateway.delay_s = SILENT_S
    with VectorDatabaseClient([gateway.url, other.url]) as client:
        started = time.monotonic()
        with pytest.raises(NotFound):
            client.count(collection="nothing")
        assert time.monotonic() - started < WAITED_S


def test_a_read_of_a_transaction_is_asked_of_the_next_gateway_too(
    gateway: FakeGateway, other: FakeGateway
) -> None:
    # Both ends of one gateway, so that they know the same transactions.
    other.transactions.by_id = gateway.transactions.by_id
    with VectorDatabaseClient([gateway.url, other.url]) as client, client.transaction() as t:
        gateway.at["/count"] = ["hang"]
        started = time.monotonic()
        t.count()
        assert time.monotonic() - started < WAITED_S


@pytest.mark.parametrize(("mode", "key"), [("insert", None), ("upsert", "order-7")])
def test_a_write_is_never_asked_of_two_gateways_at_once(
    gateway: FakeGateway, other: FakeGateway, mode: Any, key: str | None, late_s: float
) -> None:
    gateway.delay_s = late_s * 1.3
    with VectorDatabaseClient([gateway.url, other.url]) as client:
        client.insert_vectors(["a"], X, mode=mode, idempotency_key=key)
        client.update_metadata("a", {"n": 1}, idempotency_key=None if key is None else "order-8")
        with client.transaction() as t:
            t.insert_vectors(["b"], X)
    assert other.requests == []


def test_with_one_gateway_nothing_is_asked_twice(gateway: FakeGateway) -> None:
    gateway.delay_s = 1.5
    with VectorDatabaseClient(gateway.url) as client:
        client.count()
    assert len(gateway.requests) == 1


async def test_a_hedged_read_leaves_no_task_behind(
    gateway: FakeGateway, other: FakeGateway
) -> None:
    gateway.delay_s = SILENT_S
    async with AsyncVectorDatabaseClient([gateway.url, other.url]) as client:
        await client.count()
        assert len(asyncio.all_tasks()) == 1
        other.delay_s = SILENT_S
        gateway.arrived.clear()
        reading = asyncio.ensure_future(client.count())
        assert await asyncio.to_thread(gateway.arrived.wait, WAITED_S), "both are asked by then"
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert len(asyncio.all_tasks()) == 1


async def test_the_asynchronous_client_takes_the_same_urls(gateway: FakeGateway) -> None:
    async with AsyncVectorDatabaseClient(f"{dead_url()},{gateway.url}", retries=0) as client:
        await client.count()
    async with AsyncVectorDatabaseClient([dead_url(), gateway.url], retries=0) as client:
        await client.count()
    assert len(gateway.requests) == 2


def test_the_command_line_takes_several_gateways(gateway: FakeGateway, tmp_path: Path) -> None:
    with VectorDatabaseClient(gateway.url) as client:
        client.create_collection("c", 2)
        client.insert_vectors(["a"], X, collection="c")
    out = tmp_path / "out.npy"
    export_command(out, collection="c", url=[f"{dead_url()},{gateway.url}"])
    assert np.load(out).shape == (1, 2)
