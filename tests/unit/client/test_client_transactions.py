"""Transactions of both clients: what is staged, when it is visible, what ends them."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.unit.client.fake_gateway import FakeGateway
from vector_db_client import (
    Aborted,
    AlreadyCommitted,
    AlreadyExists,
    AsyncTransaction,
    AsyncVectorDatabaseClient,
    Conflict,
    InvalidArgument,
    NotFound,
    PreconditionFailed,
    RowBatch,
    Transaction,
    TransactionEnded,
    TransactionExpired,
    VectorDatabaseClient,
)

X = [[1.0, 2.0]]
VOIDED = (409, "conflict", True)


def tokens(gateway: FakeGateway) -> list[str]:
    return [r.headers["Transaction"] for r in gateway.requests if "Transaction" in r.headers]


def ended(gateway: FakeGateway) -> list[str]:
    """How each transaction ended, as the server saw it."""
    return [txn.state for txn in gateway.transactions.by_id.values()]


def test_a_block_stages_reads_its_own_writes_and_commits_at_its_end(
    gateway: FakeGateway, client: VectorDatabaseClient
) -> None:
    client.insert_vectors(["a", "b"], np.eye(2), [{"n": 1}, {"n": 2}])
    with client.transaction() as t:
        written = t.insert_vectors(["c"], X, [{"n": 3}])
        assert (written.count, written.commit_ts, t.commit_ts) == (1, 0, 0)
        t.update_metadata("a", {"n": 5})
        assert t.delete(["b"]).count == 1
        assert t.delete(filter={"n": 7}).count == 0
        assert [row.id for row in t.fetch(["a", "b", "c"])] == ["a", "c"]
        assert t.fetch(["c"])[0].version == 0
        assert t.count().count == 2
        assert sorted(row.id for row in t.scroll(page_size=1)) == ["a", "c"]
        assert [len(page.rows) for page in t.scroll_pages(page_size=1)] == [1, 1]
        assert [match.id for match in t.query_similar([0, 9], k=1)] == ["c"]
        assert [[m.id] for (m,) in t.query_similar(vectors=X, k=1)] == [["c"]]
        assert [row.id for row in client.scroll()] == ["a", "b"]
        assert t.count().snapshot_ts == t.snapshot_ts
    assert {row.id: row.metadata for row in client.scroll()} == {"a": {"n": 5}, "c": {"n": 3}}
    assert {row.version for row in client.scroll()} == {t.commit_ts}
    assert client.token >= t.commit_ts > t.snapshot_ts
    assert t.id in gateway.transactions.by_id


async def test_the_async_transaction_has_the_same_calls(
    gateway: FakeGateway, aclient: AsyncVectorDatabaseClient
) -> None:
    async def batches() -> Any:
        yield RowBatch(["a"], X)
        yield RowBatch(["b"], X)

    async with aclient.transaction("serializable", timeout_s=7) as t:
        assert (await t.insert_stream(batches())).count == 2
        assert await t.fetch([]) == []
        assert sorted([row.id async for row in t.scroll()]) == ["a", "b"]
        result = await t.commit()
    assert (result.count, result.commit_ts) == (2, t.commit_ts)
    assert gateway.requests[0].body == {"isolation": "serializable", "timeout_s": 7}
    assert (await aclient.count()).count == 2


def test_sync_and_async_signatures_agree_and_are_the_clients_less_what_makes_no_sense() -> None:
    def public(cls: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(member).parameters)
            for name, member in inspect.getmembers(cls, inspect.isfunction)
            if not name.startswith("_") and name != "query_similar"
        }

    assert public(Transaction) == public(AsyncTransaction)
    for name, parameters in public(Transaction).items():
        if name not in ("begin", "commit", "abort"):
            of_client = inspect.signature(getattr(VectorDatabaseClient, name)).parameters
            without = {"consistency", "as_of", "idempotency_key"}
            assert parameters == [p for p in of_client if p not in without]
    for cls in (Transaction, AsyncTransaction):
        for name, member in inspect.getmembers(cls):
            assert name.startswith("_") or inspect.getdoc(member), f"{cls.__name__}.{name}"


def test_an_error_in_the_block_aborts_and_comes_through(
    gateway: FakeGateway, client: VectorDatabaseClient
) -> None:
    with pytest.raises(KeyError, match="mine"), client.transaction() as t:
        t.insert_vectors(["a"], X)
        raise KeyError("mine")
    assert ended(gateway) == ["aborted"]
    assert client.count().count == 0
    with pytest.raises(Aborted, match="was aborted"):
        t.insert_vectors(["a"], X)


def test_an_abort_that_fails_never_hides_the_error(
    gateway: FakeGateway, client: VectorDatabaseClient
) -> None:
    gateway.at["/abort"] = [(500, "internal", False)]
    with pytest.raises(KeyError, match="mine") as caught, client.transaction():
        raise KeyError("mine")
    (note,) = caught.value.__notes__
    assert "scripted" in note


async def test_an_abort_that_fails_never_hides_the_error_of_an_async_block(
    gateway: FakeGateway, aclient: AsyncVectorDatabaseClient
) -> None:
    gateway.at["/abort"] = [(500, "internal", False)]
    with pytest.raises(KeyError, match="mine") as caught:
        async with aclient.transaction():
            raise KeyError("mine")
    (note,) = caught.value.__notes__
    assert "scripted" in note


def test_a_client_that_is_closed_in_the_block_hides_no_error(client: VectorDatabaseClient) -> None:
    with pytest.raises(KeyError, match="mine") as caught, client.transaction():
        client.close()
        raise KeyError("mine")
    (note,) = caught.value.__notes__
    assert "closed" in note


def test_use_after_the_end_and_before_the_beginning_is_a_clear_error(
    gateway: FakeGateway, client: VectorDatabaseClient
) -> None:
    t = client.transaction()
    with pytest.raises(InvalidArgument, match="not begun"):
        t.count()
    with pytest.raises(InvalidArgument, match="not begun"):
        t.abort()
    t.begin()
    with pytest.raises(TransactionEnded, match="begins once"):
        t.begin()
    t.commit()
    for use in (t.count, t.commit, t.abort, lambda: t.fetch([])):
        with pytest.raises(AlreadyCommitted, match="no more calls"):
            use()
    with client.transaction() as t:
        t.abort()
        t.abort()
    assert ended(gateway) == ["committed", "aborted"]
    assert len(gateway.sent("/abort")) == 1
    with pytest.raises(Aborted):
        t.commit()
    with pytest.raises(InvalidArgument, match="isolation"), client.transaction("dirty"):  # type: ignore[arg-type]
        pass


def test_each_statement_carries_the_token_of_the_answer_before(
    gateway: FakeGateway, client: VectorDatabaseClient
) -> None:
    with client.transaction("serializable") as t:
        t.insert_vectors(["a"], X)
        t.count()
        t.fetch(["a"])
        t.delete(["a"])
    assert tokens(gateway) == ["t0.0.0", "t0.1.0", "t0.1.1", "t0.1.2", "t0.2.2"]


def test_a_large_insert_is_split_into_statements_of_one_transaction(
    gateway: FakeGateway, client: VectorDatabaseClient
) -> None:
    heard: list[tuple[int, int | None]] = []
    with client.transaction() as t:
        done = t.insert_vectors(
            [f"i{n}" for n in range(95)],
            np.ones((95, 20_000), "f4"),
            batch_size=10,
            progress=lambda done, total: heard.append((done, total)),
        )
        assert client.count().count == 0
    assert done.count == client.count().count == 95
    sent = gateway.sent("/vectors?mode=upsert")
    assert len(sent) == 10 and all("arrow" in request.content_type for request in sent)
    assert gateway.in_flight_max == 1
    assert heard[-1] == (95, 95)
    assert len({row.version for row in client.scroll(include=[])}) == 1


def test_a_stream_is_read_no_further_than_what_is_staged(
    gateway: FakeGateway, client: VectorDatabaseClient
) -> None:
    ahead: list[int] = []

    def batches() -> Iterator[RowBatch]:
        for n in range(20):
            ahead.append(n - len(gateway.transactions.by_id["t0"].chunks))
            yield RowBatch([f"i{n}"], X)

    with client.transaction() as t:
        assert t.insert_stream(batches()).count == 20
    assert max(ahead) == 0


def test_statements_that_are_refused_leave_the_transaction_open(
    gateway: FakeGateway, client: VectorDatabaseClient
) -> None:
    version = client.insert_vectors(["a"], X).commit_ts
    with client.transaction() as t:
        with pytest.raises(AlreadyExists):
            t.insert_vectors(["a"], X, mode="insert")
        with pytest.raises(NotFound):
            t.insert_vectors(["b"], X, mode="update")
        with pytest.raises(NotFound):
            t.update_metadata("b", {})
        with pytest.raises(PreconditionFailed):
            t.insert_vectors(["a"], X, if_version=version + 1)
        with pytest.raises(PreconditionFailed):
            t.delete(["a"], if_version=[version + 1])
        with pytest.raises(PreconditionFailed):
            t.update_metadata("a", {"n": 1}, if_version=version + 1)
        t.update_metadata("a", {"n": 2}, if_version=version)
    assert client.fetch(["a"])[0].metadata == {"n": 2}


def test_an_insert_that_is_staged_in_part_dooms_the_transaction(
    gateway: FakeGateway, client: VectorDatabaseClient
) -> None:
    client.insert_vectors(["i7"], X)
    ids = [f"i{n}" for n in range(10)]
    with (
        pytest.raises(Aborted, match=r"can only be aborted.*i7") as caught,
        client.transaction() as t,
    ):
        with pytest.raises(AlreadyExists):
            t.insert_vectors(ids, np.ones((10, 2)), mode="insert", batch_size=5)
        with pytest.raises(Aborted, match="can only be aborted"):
            t.count()
    assert isinstance(caught.value.__cause__, AlreadyExists)
    assert ended(gateway) == ["aborted"]
    assert client.count().count == 1


def test_a_bad_batch_of_a_stream_dooms_the_transaction_only_after_a_good_one(
    gateway: FakeGateway, client: VectorDatabaseClient
) -> None:
    good, bad = RowBatch(["a"], X), RowBatch(["b"], [[float("nan"), 1]])
    with client.transaction() as t:
        with pytest.raises(InvalidArgument):
            t.insert_stream([bad, good])
        t.insert_stream([good])
    assert client.count().count == 1
    with pytest.raises(Aborted), client.transaction() as t, pytest.raises(InvalidArgument):
        t.insert_stream([good, bad])
    assert ended(gateway) == ["committed", "aborted"]


def test_a_conflict_at_the_commit_aborts_and_is_not_repeated(
    gateway: FakeGateway, client: VectorDatabaseClient
) -> None:
    client.insert_vectors(["a"], X)
    with pytest.raises(Conflict) as caught, client.transaction() as t:
        t.insert_vectors(["a"], X)
        client.insert_vectors(["a"], X)
    assert caught.value.retryable
    assert len(gateway.sent("/commit")) == 1
    assert not gateway.sent("/abort")
    with pytest.raises(Conflict):
        t.commit()
    t.abort()


def test_a_conflict_of_a_statement_ends_the_transaction(
    gateway: FakeGateway, client: VectorDatabaseClient
) -> None:
    with pytest.raises(Conflict), client.transaction() as t:
        t.insert_vectors(["a"], X)
        gateway.transactions.term += 1
        with pytest.raises(Conflict, match="a new term"):
            t.count()
        assert len(gateway.sent("/count")) == 1
        with pytest.raises(Conflict, match="can only be aborted"):
            t.insert_vectors(["b"], X)
    assert client.count().count == 0


def test_an_expired_transaction_says_so_and_may_be_aborted(
    gateway: FakeGateway, client: VectorDatabaseClient
) -> None:
    with pytest.raises(TransactionExpired), client.transaction() as t:
        gateway.transactions.by_id[t.id].expired = True
        t.insert_vectors(["a"], X)
    with client.transaction() as t:
        gateway.transactions.by_id[t.id].expired = True
        t.abort()
    with pytest.raises(TransactionExpired), client.transaction() as t:
        gateway.transactions.by_id[t.id].expired = True
    assert issubclass(TransactionExpired, TransactionEnded)


def test_a_transaction_begins_at_a_snapshot_with_all_that_the_client_has_seen(
    gateway: FakeGateway, client: VectorDatabaseClient
) -> None:
    written = client.insert_vectors(["a"], X).commit_ts
    gateway.transactions.lags = [3, 1, 0]
    with client.transaction() as t:
        assert t.snapshot_ts >= written
    assert len(gateway.sent("/v1/transactions")) == 3


async def test_tasks_that_share_a_transaction_wait_for_each_other(
    gateway: FakeGateway, aclient: AsyncVectorDatabaseClient
) -> None:
    gateway.delay_s = 0.002
    async with aclient.transaction() as t:
        await asyncio.gather(*(t.insert_vectors([f"i{n}"], X) for n in range(20)))
    assert gateway.in_flight_max == 1
    assert (await aclient.count()).count == 20


def test_threads_that_share_a_transaction_wait_for_each_other(
    gateway: FakeGateway, client: VectorDatabaseClient
) -> None:
    with client.transaction() as t:
        threads = [
            threading.Thread(target=lambda n=n: t.insert_vectors([f"i{n}"], X)) for n in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert gateway.in_flight_max == 1
    assert client.count().count == 8


def test_an_iterator_that_calls_its_own_client_is_told_so(
    gateway: FakeGateway, client: VectorDatabaseClient
) -> None:
    def batches() -> Iterator[RowBatch]:
        client.count()
        yield RowBatch(["a"], X)

    with pytest.raises(InvalidArgument, match="must not call"), client.transaction() as t:
        t.insert_stream(batches())


# -- run_transaction


def test_run_transaction_runs_again_after_a_conflict_and_gives_what_the_function_gives(
    gateway: FakeGateway, client: VectorDatabaseClient
) -> None:
    client.insert_vectors(["a"], X, [{"n": 0}])
    tries: list[int] = []

    def increment(t: Transaction) -> int:
        (row,) = t.fetch(["a"])
        assert row.metadata is not None
        tries.append(row.metadata["n"])
        if len(tries) < 3:
            client.update_metadata("a", {"n": row.metadata["n"] + 10})
        t.update_metadata("a", {"n": row.metadata["n"] + 1})
        return int(row.metadata["n"]) + 1

    assert client.run_transaction(increment) == 21
    assert tries == [0, 10, 20]
    assert client.fetch(["a"])[0].metadata == {"n": 21}


async def test_run_transaction_awaits_the_function_and_gives_up_after_its_retries(
    gateway: FakeGateway, aclient: AsyncVectorDatabaseClient
) -> None:
    tries: list[str] = []

    async def voided(t: AsyncTransaction) -> None:
        tries.append(t.isolation)
        await t.insert_vectors(["a"], X)
        gateway.transactions.term += 1

    with pytest.raises(Conflict):
        await aclient.run_transaction(voided, isolation="serializable", retries=2)
    assert tries == ["serializable"] * 3
    assert (await aclient.count()).count == 0


@pytest.mark.parametrize(
    ("path", "step"),
    [
        ("/vectors", VOIDED),
        ("/commit", VOIDED),
        ("/commit", (409, "aborted", False)),
        ("/v1/transactions", VOIDED),
    ],
)
def test_run_transaction_begins_again_after_what_was_not_applied(
    gateway: FakeGateway, client: VectorDatabaseClient, path: str, step: Any
) -> None:
    gateway.at[path] = [step]
    assert client.run_transaction(lambda t: t.insert_vectors(["a"], X).count) == 1
    assert client.count().count == 1
    assert sum(state == "committed" for state in ended(gateway)) == 1


def test_run_transaction_runs_again_when_the_function_swallowed_the_conflict(
    gateway: FakeGateway, client: VectorDatabaseClient
) -> None:
    gateway.at["/vectors"] = [VOIDED]

    def careless(t: Transaction) -> None:
        try:
            t.insert_vectors(["a"], X)
        except Conflict:
            return

    client.run_transaction(careless)
    assert client.count().count == 1


@pytest.mark.parametrize(
    "step",
    [(409, "transaction_expired", False), (404, "not_found", False), (500, "internal", False)],
)
def test_run_transaction_does_not_repeat_other_errors(
    gateway: FakeGateway, client: VectorDatabaseClient, step: Any
) -> None:
    gateway.at["/vectors"] = [step]
    with pytest.raises(Exception, match="scripted"):
        client.run_transaction(lambda t: t.insert_vectors(["a"], X))
    assert len(gateway.transactions.by_id) == 1


async def test_an_error_of_an_async_function_is_not_repeated(
    gateway: FakeGateway, aclient: AsyncVectorDatabaseClient
) -> None:
    async def missing(t: AsyncTransaction) -> None:
        await t.update_metadata("nobody", {})

    with pytest.raises(NotFound):
        await aclient.run_transaction(missing)
    assert ended(gateway) == ["aborted"]


def test_run_transaction_does_not_repeat_what_it_doomed_itself_or_what_the_function_aborted(
    gateway: FakeGateway, client: VectorDatabaseClient
) -> None:
    client.insert_vectors(["i7"], X)

    def half(t: Transaction) -> None:
        with pytest.raises(AlreadyExists):
            t.insert_vectors(
                [f"i{n}" for n in range(9)], np.ones((9, 2)), mode="insert", batch_size=5
            )

    with pytest.raises(Aborted):
        client.run_transaction(half)

    def aborted(t: Transaction) -> str:
        t.insert_vectors(["b"], X)
        t.abort()
        return "given up"

    assert client.run_transaction(aborted) == "given up"

    def used_after(t: Transaction) -> None:
        t.abort()
        t.count()

    with pytest.raises(Aborted):
        client.run_transaction(used_after)
    assert len(gateway.transactions.by_id) == 3
    assert client.count().count == 1
