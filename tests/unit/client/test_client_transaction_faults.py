"""Transactions whose connections break, whose server restarts, whose outcome is not known."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.unit.client.fake_gateway import FakeGateway
from vector_db_client import (
    Aborted,
    AlreadyCommitted,
    AsyncVectorDatabaseClient,
    Conflict,
    OutcomeUnknown,
    Transaction,
    TransactionEnded,
    Unavailable,
    VectorDatabaseClient,
)

X = [[1.0, 2.0]]
BUSY = (503, "unavailable", True)
CUTS = ["disconnect", "lost"]


def write_all(t: Transaction) -> None:
    """Every kind of statement; leaves the rows b and c."""
    t.insert_vectors(["a", "b"], [[1, 0], [0, 1]], [{"n": 1}, {"n": 2}], mode="insert")
    t.update_metadata("a", {"n": 3})
    t.count()
    t.insert_vectors(["c"], X)
    t.delete(["a"])
    t.fetch(["a"])
    t.delete(filter={"n": 9})


@pytest.mark.parametrize("cut", [*CUTS, BUSY])
@pytest.mark.parametrize("step", range(9))
def test_a_connection_cut_at_any_step_changes_nothing(
    gateway: FakeGateway, client: VectorDatabaseClient, step: int, cut: Any
) -> None:
    gateway.script = [None] * step + [cut]
    with client.transaction() as t:
        write_all(t)
    gateway.script = []
    assert [(row.id, row.metadata) for row in client.scroll()] == [("b", {"n": 2}), ("c", None)]
    assert {row.version for row in client.scroll()} == {t.commit_ts}
    assert len([s for s in gateway.transactions.by_id.values() if s.state == "committed"]) == 1


@pytest.mark.parametrize("cut", CUTS)
def test_a_statement_is_repeated_under_the_token_that_it_had(
    gateway: FakeGateway, client: VectorDatabaseClient, cut: str
) -> None:
    gateway.at["/delete"] = [cut, cut]
    with client.transaction() as t:
        t.insert_vectors(["a"], X)
        assert t.delete(["a"]).count == 1
        t.insert_vectors(["b"], X)
    sent = [request.headers["Transaction"] for request in gateway.sent("/delete")]
    assert sent == ["t0.1.0"] * 3
    assert [row.id for row in client.scroll()] == ["b"]


def test_a_server_that_restarts_between_statements_is_not_noticed(
    gateway: FakeGateway, client: VectorDatabaseClient
) -> None:
    with client.transaction() as t:
        t.insert_vectors(["a"], X)
        gateway.restart()
        t.insert_vectors(["b"], X)
        gateway.restart()
        assert t.count().count == 2
        gateway.restart()
    assert client.count().count == 2


def test_another_gateway_takes_over_in_the_middle_of_a_transaction(gateway: FakeGateway) -> None:
    other = FakeGateway(rows=gateway.rows)
    other.transactions = gateway.transactions
    other.start()
    try:
        with (
            VectorDatabaseClient([gateway.url, other.url], backoff_s=0.001) as client,
            client.transaction() as t,
        ):
            t.insert_vectors(["a"], X)
            gateway.script = [BUSY] * 100
            t.insert_vectors(["b"], X)
    finally:
        other.stop()
    assert sorted(gateway.rows["default"]) == ["a", "b"]
    assert other.sent("/commit")


def test_a_gateway_that_breaks_a_commit_is_left_for_the_next(gateway: FakeGateway) -> None:
    other = FakeGateway(rows=gateway.rows)
    other.transactions = gateway.transactions
    other.start()
    try:
        with VectorDatabaseClient([gateway.url, other.url], backoff_s=0.001) as client:
            gateway.at["/commit"] = ["disconnect"]
            with client.transaction() as t:
                t.insert_vectors(["a"], X)
        assert [request.path for request in other.requests] == [
            f"/v1/transactions/{t.id}",
            f"/v1/transactions/{t.id}/commit",
        ]
    finally:
        other.stop()


def test_a_statement_that_nobody_answers_dooms_the_transaction(
    gateway: FakeGateway, client: VectorDatabaseClient
) -> None:
    gateway.at["/vectors"] = ["lost"] + ["disconnect"] * 20
    with pytest.raises(Aborted, match="can only be aborted"), client.transaction() as t:
        with pytest.raises(Unavailable):
            t.insert_vectors(["a"], X)
        gateway.at.clear()
        with pytest.raises(Aborted):
            t.insert_vectors(["b"], X)
    assert [txn.state for txn in gateway.transactions.by_id.values()] == ["aborted"]
    assert client.count().count == 0


def test_a_read_that_nobody_answers_leaves_the_transaction_open(
    gateway: FakeGateway, client: VectorDatabaseClient
) -> None:
    gateway.at["/count"] = ["disconnect"] * 6
    with client.transaction() as t:
        t.insert_vectors(["a"], X)
        with pytest.raises(Unavailable):
            t.count()
    assert client.count().count == 1


async def test_a_cancelled_statement_dooms_the_transaction(
    gateway: FakeGateway, aclient: AsyncVectorDatabaseClient
) -> None:
    with pytest.raises(Aborted, match="interrupted"):
        async with aclient.transaction() as t:
            gateway.arrived.clear()
            gateway.delay_s = 5
            writing = asyncio.ensure_future(t.insert_vectors(["a"], X))
            await asyncio.to_thread(gateway.arrived.wait, 5)
            writing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await writing
            gateway.delay_s = 0
    assert [txn.state for txn in gateway.transactions.by_id.values()] == ["aborted"]


async def test_a_cancelled_block_aborts(
    gateway: FakeGateway, aclient: AsyncVectorDatabaseClient
) -> None:
    staged = asyncio.Event()

    async def work() -> None:
        async with aclient.transaction() as t:
            await t.insert_vectors(["a"], X)
            staged.set()
            await asyncio.Event().wait()

    task = asyncio.ensure_future(work())
    await staged.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [txn.state for txn in gateway.transactions.by_id.values()] == ["aborted"]


# -- the commit's outcome


@pytest.mark.parametrize(
    "step",
    ["lost", "disconnect", (503, "outcome_unknown", False), "html", (500, "internal", False)],
)
def test_a_commit_whose_answer_is_lost_is_found_out(
    gateway: FakeGateway, client: VectorDatabaseClient, step: Any
) -> None:
    gateway.at["/commit"] = [step]
    with client.transaction() as t:
        t.insert_vectors(["a", "b"], [[1, 0], [0, 1]])
        result = t.commit()
    assert (result.count, result.commit_ts) == (2, t.commit_ts)
    assert {row.version for row in client.scroll()} == {t.commit_ts}
    assert client.token >= t.commit_ts
    # What the server knows to be committed needs no second commit.
    assert len(gateway.sent("/commit")) == (1 if step == "lost" else 2)


def test_a_commit_is_sent_again_when_the_server_cannot_tell_of_it(
    gateway: FakeGateway, client: VectorDatabaseClient
) -> None:
    gateway.at["/commit"] = ["lost", "lost"]
    with client.transaction() as t:
        t.insert_vectors(["a"], X)
        gateway.transactions.by_id[t.id].unknown = True
    assert len(gateway.sent("/commit")) == 3
    assert client.fetch(["a"])[0].version == t.commit_ts


@pytest.mark.parametrize("again", [(409, "conflict", True), (409, "transaction_expired", False)])
def test_a_repeated_commit_that_is_refused_is_no_proof_that_the_first_was(
    gateway: FakeGateway, client: VectorDatabaseClient, again: Any
) -> None:
    gateway.at["/commit"] = ["lost", again]
    gateway.transactions.unknown_first = 1
    with client.transaction() as t:
        t.insert_vectors(["a"], X)
    assert len(gateway.sent("/commit")) == 2
    assert client.fetch(["a"])[0].version == t.commit_ts


def test_a_commit_that_was_aborted_behind_a_lost_answer_is_a_retryable_abort(
    gateway: FakeGateway, client: VectorDatabaseClient
) -> None:
    tries: list[Transaction] = []

    def once_voided(t: Transaction) -> None:
        tries.append(t)
        t.insert_vectors(["a"], X)
        if len(tries) == 1:
            gateway.at["/commit"] = ["disconnect"]
            gateway.transactions.by_id[t.id].state = "aborted"

    client.run_transaction(once_voided)
    assert len(tries) == 2
    assert client.count().count == 1
    with pytest.raises(Aborted, match="was aborted") as caught, client.transaction() as t:
        gateway.at["/commit"] = ["disconnect"]
        gateway.transactions.by_id[t.id].state = "aborted"
    assert caught.value.retryable


def test_an_outcome_that_cannot_be_found_out_is_said_so_in_bounded_time_and_not_repeated(
    gateway: FakeGateway,
) -> None:
    gateway.at["/commit"] = ["lost"] + ["disconnect"] * 10_000
    tries: list[Transaction] = []

    def work(t: Transaction) -> None:
        tries.append(t)
        t.insert_vectors(["a"], X)
        gateway.transactions.by_id[t.id].unknown = True

    with VectorDatabaseClient(gateway.url, timeout_s=1.0, backoff_s=0.01) as client:
        with pytest.raises(OutcomeUnknown, match="may or may not be applied") as caught:
            client.run_transaction(work)
        (t,) = tries
        assert caught.value.details["transaction"] == t.id
        assert not gateway.sent("/abort")
        with pytest.raises(TransactionEnded, match="not known"):
            t.count()
        with pytest.raises(AlreadyCommitted):
            t.abort()
    assert set(gateway.rows["default"]) == {"a"}


def test_a_commit_that_never_left_leaves_the_transaction_open(gateway: FakeGateway) -> None:
    with VectorDatabaseClient(gateway.url, retries=1, backoff_s=0.001) as client:
        t = client.transaction()
        t.begin()
        t.insert_vectors(["a"], X)
        gateway.script = [BUSY] * 2
        with pytest.raises(Unavailable):
            t.commit()
        t.commit()
        assert client.count().count == 1


def test_run_transaction_outlives_a_busy_commit(gateway: FakeGateway) -> None:
    gateway.at["/commit"] = [BUSY] * 5
    with VectorDatabaseClient(gateway.url, retries=1, backoff_s=0.001) as client:
        client.run_transaction(lambda t: t.insert_vectors(["a"], X))
        assert client.count().count == 1
    states = [txn.state for txn in gateway.transactions.by_id.values()]
    assert states == ["aborted", "aborted", "committed"]


def test_a_conflict_after_a_repeated_statement_is_still_a_conflict(
    gateway: FakeGateway, client: VectorDatabaseClient
) -> None:
    gateway.at["/vectors"] = ["lost", (409, "conflict", True)]
    with pytest.raises(Conflict), client.transaction() as t:
        t.insert_vectors(["a"], X)
    assert client.count().count == 0
