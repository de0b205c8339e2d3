"""Errors, retries, other gateways, tokens, deadlines and closing."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np
import pytest

from tests.support.ports import free_ports
from tests.unit.client.fake_gateway import FakeGateway
from vector_db_client import (
    AsyncVectorDatabaseClient,
    Conflict,
    DeadlineExceeded,
    InternalError,
    InvalidArgument,
    NotFound,
    OutcomeUnknown,
    RowBatch,
    TooLarge,
    Unavailable,
    VectorDatabaseClient,
    VectorDatabaseError,
)

BUSY = (503, "unavailable", True)
X = [[1.0, 2.0]]


def closed_port_url() -> str:
    (port,) = free_ports(1)
    return f"http://127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("step", "kind"),
    [
        ((404, "not_found", False), NotFound),
        ((413, "too_large", False), TooLarge),
        ((503, "outcome_unknown", False), OutcomeUnknown),
        ((500, "internal", False), InternalError),
        ((418, "something_new", False), VectorDatabaseError),
    ],
)
def test_an_error_has_class_code_message_status_and_request_id(
    gateway: FakeGateway,
    client: VectorDatabaseClient,
    step: tuple[int, str, bool],
    kind: type[VectorDatabaseError],
) -> None:
    gateway.script = [step]
    with pytest.raises(VectorDatabaseError) as caught:
        client.count()
    error = caught.value
    assert type(error) is kind
    assert (error.status, error.code, error.retryable) == step
    assert (error.message, error.request_id) == ("scripted", "req-1")
    assert error.details == {"fact": 1}
    assert len(gateway.requests) == 1


def test_a_proxy_page_is_an_error_that_quotes_it_and_is_not_retried(
    gateway: FakeGateway, client: VectorDatabaseClient
) -> None:
    gateway.script = ["html"]
    with pytest.raises(Unavailable, match="Bad gateway"):
        client.count()
    assert len(gateway.requests) == 1


@pytest.mark.parametrize("step", [BUSY, (429, "too_many_requests", True), (409, "conflict", True)])
def test_what_the_server_calls_retryable_is_retried(
    gateway: FakeGateway, client: VectorDatabaseClient, step: tuple[int, str, bool]
) -> None:
    gateway.script = [step, step]
    assert client.insert_vectors(["a"], X, mode="insert").count == 1
    assert len(gateway.requests) == 3


def test_retries_are_bounded(gateway: FakeGateway) -> None:
    gateway.script = [(409, "conflict", True)] * 100
    with (
        VectorDatabaseClient(gateway.url, retries=2, backoff_s=0.001) as client,
        pytest.raises(Conflict),
    ):
        client.insert_vectors(["a"], X)
    assert len(gateway.requests) == 3


@pytest.mark.parametrize("mode", ["upsert", "update"])
def test_a_broken_connection_repeats_a_write_that_may_be_repeated(
    gateway: FakeGateway, client: VectorDatabaseClient, mode: Any
) -> None:
    client.insert_vectors(["a"], X)
    gateway.script = ["disconnect"]
    assert client.insert_vectors(["a"], X, mode=mode).count == 1
    assert len(gateway.requests) == 3


def test_a_broken_connection_never_repeats_an_insert(
    gateway: FakeGateway, client: VectorDatabaseClient
) -> None:
    gateway.script = ["disconnect"]
    with pytest.raises(OutcomeUnknown):
        client.insert_vectors(["a"], X, mode="insert")
    assert len(gateway.requests) == 1


def test_a_write_that_may_be_applied_is_never_called_unapplied(gateway: FakeGateway) -> None:
    gateway.script = ["disconnect", BUSY, BUSY]
    with (
        VectorDatabaseClient(gateway.url, retries=2, backoff_s=0.001) as client,
        pytest.raises(Unavailable, match="may or may not be applied"),
    ):
        client.insert_vectors(["a"], X)
    assert len(gateway.requests) == 3


def test_a_gateway_that_is_down_is_left_for_the_next(gateway: FakeGateway) -> None:
    urls = [closed_port_url(), closed_port_url(), gateway.url]
    with VectorDatabaseClient(urls, retries=0, backoff_s=60) as client:
        assert client.insert_vectors(["a"], X, mode="insert").count == 1
        assert client.count().count == 1
    assert len(gateway.requests) == 2


def test_a_gateway_that_is_unavailable_is_left_for_the_next(gateway: FakeGateway) -> None:
    other = FakeGateway()
    other.start()
    try:
        gateway.script = [BUSY] * 10
        with VectorDatabaseClient([gateway.url, other.url], backoff_s=0.001) as client:
            assert client.insert_vectors(["a"], X).count == 1
            client.count()
        assert (len(gateway.requests), len(other.requests)) == (1, 2)
    finally:
        other.stop()


def test_no_gateway_at_all_is_one_clear_error() -> None:
    url = closed_port_url()
    with pytest.raises(Unavailable, match=f"cannot reach {url}") as caught:
        VectorDatabaseClient.connect(url, retries=1, backoff_s=0.001)
    assert caught.value.retryable


def test_the_deadline_covers_all_retries(gateway: FakeGateway) -> None:
    gateway.script = [BUSY] * 1000
    with (
        VectorDatabaseClient(gateway.url, timeout_s=0.2, retries=10_000, backoff_s=0.05) as client,
        pytest.raises(DeadlineExceeded, match=r"0\.2 s"),
    ):
        client.count()
    assert issubclass(DeadlineExceeded, TimeoutError)


def test_a_retry_waits_as_long_as_the_server_says(
    gateway: FakeGateway, client: VectorDatabaseClient
) -> None:
    gateway.script = [(429, "too_many_requests", True, "busy", "3600")]
    with (
        VectorDatabaseClient(gateway.url, timeout_s=1.0, backoff_s=0.001) as hurried,
        pytest.raises(DeadlineExceeded),
    ):
        hurried.count()
    assert len(gateway.requests) == 1


def test_reads_carry_the_highest_timestamp_seen(
    gateway: FakeGateway, client: VectorDatabaseClient
) -> None:
    client.count(consistency="strong")
    assert client.token == 100
    written = client.insert_vectors(["a"], X).commit_ts
    for read in (
        lambda: client.count(),
        lambda: client.fetch(["a"]),
        lambda: client.query_similar(X[0]),
        lambda: list(client.scroll()),
    ):
        read()
        assert gateway.requests[-1].body["consistency"] == {"at_least": written}
    client.observe(written - 1)
    assert client.token == written
    client.count(consistency="stable")
    assert "consistency" not in gateway.requests[-1].body
    client.count(consistency=12)
    assert gateway.requests[-1].body["consistency"] == {"at_least": 12}
    client.observe(written + 5)
    client.count()
    assert gateway.requests[-1].body["consistency"] == {"at_least": written + 5}
    with pytest.raises(InvalidArgument, match="consistency"):
        client.count(consistency="eventual")  # type: ignore[arg-type]


def test_the_api_key_goes_with_every_request(gateway: FakeGateway) -> None:
    with VectorDatabaseClient(gateway.url + "/", api_key="s3cret") as client:
        client.count()
    assert gateway.requests[0].headers["Authorization"] == "Bearer s3cret"


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://x", "http://", []])
def test_a_url_that_cannot_be_one_is_refused(url: Any) -> None:
    with pytest.raises(InvalidArgument, match="url"):
        AsyncVectorDatabaseClient(url)


def test_large_inserts_go_as_batches_with_a_bounded_number_in_flight(
    gateway: FakeGateway, client: VectorDatabaseClient
) -> None:
    gateway.delay_s = 0.1  # as many as may be are under way by then
    heard: list[tuple[int, int | None]] = []
    result = client.insert_vectors(
        [f"i{n}" for n in range(250)],
        np.ones((250, 2)),
        batch_size=10,
        progress=lambda done, total: heard.append((done, total)),
    )
    assert (result.count, result.commit_ts) == (250, gateway.clock)
    assert len(gateway.requests) == 25
    assert gateway.in_flight_max == 8
    assert heard == [(10 * n, 250) for n in range(1, 26)]


def test_a_failed_batch_stops_the_insert_and_tells_what_is_durable(
    gateway: FakeGateway, client: VectorDatabaseClient
) -> None:
    gateway.script = [None, None, (413, "too_large", False)]
    with pytest.raises(TooLarge) as caught:
        client.insert_vectors([f"i{n}" for n in range(1000)], np.ones((1000, 2)), batch_size=10)
    durable = {f"i{n}" for rows in caught.value.committed for n in rows}
    assert durable == set(gateway.rows["default"])
    assert len(gateway.requests) < 20
    assert gateway._in_flight == 0


def test_a_bad_batch_in_a_stream_lets_those_under_way_finish(
    gateway: FakeGateway, client: VectorDatabaseClient
) -> None:
    gateway.delay_s = 0.05
    good, bad = RowBatch(["a"], X), RowBatch(["b"], [[float("nan"), 1]])
    with pytest.raises(InvalidArgument) as caught:
        client.insert_stream(iter([good, bad, good]))
    assert caught.value.committed == (range(1),)
    assert set(gateway.rows["default"]) == {"a"}


def test_a_stream_is_read_no_further_than_what_is_in_flight(
    gateway: FakeGateway, client: VectorDatabaseClient
) -> None:
    gateway.delay_s = 0.02
    ahead: list[int] = []

    def batches() -> Any:
        for n in range(40):
            ahead.append(n - len(gateway.rows.get("default", {})))
            yield RowBatch([f"i{n}"], X)

    assert client.insert_stream(batches()).count == 40
    assert max(ahead) <= 9


async def test_a_cancelled_insert_leaves_no_request_behind(gateway: FakeGateway) -> None:
    gateway.delay_s = 0.05
    async with AsyncVectorDatabaseClient(gateway.url) as client:
        ids = [f"i{n}" for n in range(500)]
        inserting = asyncio.ensure_future(
            client.insert_vectors(ids, np.ones((500, 2)), batch_size=1)
        )
        await asyncio.to_thread(gateway.arrived.wait, 5)
        inserting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await inserting
        assert len(asyncio.all_tasks()) == 1


def test_close_is_idempotent_ends_the_thread_and_refuses_later_calls(gateway: FakeGateway) -> None:
    before = threading.active_count()
    client = VectorDatabaseClient.connect(gateway.url)
    assert threading.active_count() == before + 1
    client.close()
    client.close()
    assert threading.active_count() == before
    with pytest.raises(InvalidArgument, match="closed"):
        client.count()


def test_close_ends_calls_that_other_threads_wait_for(gateway: FakeGateway) -> None:
    gateway.delay_s = 30
    client = VectorDatabaseClient(gateway.url)
    ended: list[BaseException] = []

    def wait() -> None:
        try:
            client.count()
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    assert gateway.arrived.wait(5)
    client.close()
    thread.join(5)
    assert len(ended) == 1


def test_threads_share_a_client(client: VectorDatabaseClient) -> None:
    def work(n: int) -> None:
        for i in range(10):
            client.insert_vectors([f"{n}-{i}"], X)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert client.count().count == 80
