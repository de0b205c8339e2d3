"""Writes under idempotency keys, against a cluster that is played in virtual time."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from tests.unit.gateway_core.played import Cluster, insert, rows, upsert, with_cluster
from vector_db.common.core.messages.reads import FetchRequest
from vector_db.common.core.messages.transactions import Prepare
from vector_db.common.model.errors import (
    AlreadyExists,
    IdempotencyMismatch,
    InvalidArgument,
    NotFound,
    PreconditionFailed,
)
from vector_db.common.model.ids import IDEMPOTENCY_COLLECTION
from vector_db.common.service.config import TransactionsConfig
from vector_db.gateway.core.requests import Consistency, Delete, Idempotency, Upsert, WriteResult

NOW = Consistency()


def key(name: str = "k", body: bytes = b"body") -> Idempotency:
    return Idempotency(name.encode(), body.ljust(16, b"."))


def prepared(cluster: Cluster) -> int:
    logs = cluster.broker.logs.values()
    return len({r.txn_id for log in logs for r in log if isinstance(r, Prepare)})


def remembered(cluster: Cluster) -> set[bytes]:
    """The rows of the hidden collection that are there."""
    hidden = [c.id for c in cluster.collections.values() if c.name == IDEMPOTENCY_COLLECTION]
    return {k[1] for k, v in cluster.history.items() if k[0] in hidden and v[-1].alive}


def replayed(result: WriteResult) -> WriteResult:
    return WriteResult(result.count, result.commit_ts, True)


def test_a_repeated_write_is_applied_once_and_answered_the_same() -> None:
    async def test(cluster: Cluster) -> None:
        database, other = (g.database for g in cluster.gateways)
        first = await database.write([insert("a", "b")], key())
        assert (first.count, first.replayed) == (2, False)
        await database.write([Delete("c", [b"a"])])
        assert await database.write([insert("a", "b")], key()) == replayed(first)
        assert await other.write([insert("a", "b")], key()) == replayed(first)
        assert (await database.count("c", None, NOW))[0] == 1

    with_cluster(test)


def test_another_request_under_the_key_is_refused_and_applies_nothing() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        await database.write([upsert("a")], key())
        sent = prepared(cluster)
        with pytest.raises(IdempotencyMismatch):
            await database.write([upsert("b")], key(body=b"other"))
        assert prepared(cluster) == sent
        await database.write([upsert("b")], key("other", b"other"))

    with_cluster(test)


@pytest.mark.parametrize("gateways", [(0, 0), (0, 1)])
def test_of_two_requests_at_once_one_applies_and_both_answer_the_same(
    gateways: tuple[int, int],
) -> None:
    async def test(cluster: Cluster) -> None:
        databases = [cluster.gateways[g].database for g in gateways]
        for name in ("insert", "upsert"):
            write: list[Upsert | Delete] = [insert("i") if name == "insert" else upsert("u")]
            answers = await asyncio.gather(*(d.write(write, key(name)) for d in databases))
            assert len({(a.count, a.commit_ts) for a in answers}) == 1
            assert sorted(a.replayed for a in answers) == [False, True]
            row = [v for k, v in cluster.history.items() if k[1] == name[:1].encode()]
            assert [len(versions) for versions in row] == [1]

    with_cluster(test)


def test_two_different_requests_at_once_under_one_key_do_not_both_apply() -> None:
    async def test(cluster: Cluster) -> None:
        answers = await asyncio.gather(
            cluster.gateways[0].database.write([upsert("a")], key(body=b"1")),
            cluster.gateways[1].database.write([upsert("b")], key(body=b"2")),
            return_exceptions=True,
        )
        assert {type(a) for a in answers} == {WriteResult, IdempotencyMismatch}
        applied = {k[1] for k in cluster.history} & {b"a", b"b"}
        assert len(applied) == 1

    with_cluster(test)


def test_what_deletes_find_is_counted_in_the_answer_that_is_remembered() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        await database.write([upsert("a", "b")])
        write: list[Upsert | Delete] = [Delete("c", [b"a", b"absent", b"b"]), upsert("n")]
        first = await database.write(write, key())
        assert first.count == 3
        assert await database.write(write, key()) == replayed(first)

    with_cluster(test)


def test_a_delete_by_filter_that_found_nothing_finds_nothing_when_repeated() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        first = await database.delete_where("c", {"k": 1}, key())
        assert first.count == 0
        await database.write([upsert("a", metadata='{"k":1}')])
        assert await database.delete_where("c", {"k": 1}, key()) == replayed(first)
        again = await database.delete_where("c", {"k": 1}, key("other"))
        assert again.count == 1

    with_cluster(test)


def test_a_repeated_patch_is_merged_once() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        version = (await database.write([upsert("a", metadata='{"n":1}')])).commit_ts
        first = await database.patch_metadata("c", b"a", {"n": 2}, version, key())
        await database.patch_metadata("c", b"a", {"n": 3})
        again = await database.patch_metadata("c", b"a", {"n": 2}, version, key())
        assert again == replayed(first)
        assert (await database.fetch("c", [b"a"], NOW)).metadata == [b'{"n":3}']

    with_cluster(test)


def test_a_write_that_fails_leaves_no_key() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        await database.write([upsert("a")])
        with pytest.raises(AlreadyExists):
            await database.write([insert("a")], key())
        wrong = np.array([5], dtype=np.int64)
        with pytest.raises(PreconditionFailed):
            await database.write([Upsert("c", rows("a"), if_version=wrong)], key())
        with pytest.raises(NotFound):
            await database.patch_metadata("c", b"x", {}, None, key())
        assert remembered(cluster) == set()
        done = await database.write([upsert("b")], key())
        assert not done.replayed

    with_cluster(test)


def test_an_expired_key_counts_as_absent_and_is_used_anew() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        first = await database.write([upsert("a")], key())
        await asyncio.sleep(9)
        assert await database.write([upsert("a")], key()) == replayed(first)
        await asyncio.sleep(2)
        second = await database.write([upsert("b")], key(body=b"other"))
        assert not second.replayed
        assert await database.write([upsert("b")], key(body=b"other")) == replayed(second)

    with_cluster(test, TransactionsConfig(idempotency_ttl_s=10.0))


def test_a_sweep_removes_what_expired_and_nothing_else() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        assert await database.idempotent.sweep() == 0
        for name in ("a", "b", "c"):
            await database.write([upsert(name)], key(name))
        await asyncio.sleep(8)
        await database.write([upsert("d")], key("d"))
        await asyncio.sleep(3)
        assert await database.idempotent.sweep() == 3
        assert remembered(cluster) == {b"key:d"}
        assert await database.idempotent.sweep() == 0

    with_cluster(test, TransactionsConfig(idempotency_ttl_s=10.0))


def test_sweeps_go_on_after_one_that_failed() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        await database.write([upsert("a")], key("a"))
        sweeps = asyncio.create_task(database.idempotent.run_sweeps())
        cluster.broker.up = False
        await asyncio.sleep(40)
        assert not sweeps.done()
        assert remembered(cluster) == {b"key:a"}
        cluster.broker.up = True
        await asyncio.sleep(40)
        assert remembered(cluster) == set()
        sweeps.cancel()

    with_cluster(test, TransactionsConfig(idempotency_ttl_s=10.0))


@pytest.mark.parametrize("bad", [b"", b"x" * 256, b"a b", b"\x7f", "é".encode(), b"a\n"])
def test_a_key_that_is_not_visible_ascii_is_refused(bad: bytes) -> None:
    async def test(cluster: Cluster) -> None:
        with pytest.raises(InvalidArgument, match="255 visible ASCII"):
            await cluster.database.write([upsert("a")], Idempotency(bad, b"." * 16))

    with_cluster(test)


def test_the_collection_of_keys_is_hidden() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        await database.write([upsert("a")], key())
        assert [c.name for c in await database.collections()] == ["c"]
        hidden = IDEMPOTENCY_COLLECTION
        for call in (
            database.collection(hidden),
            database.stats(hidden),
            database.drop_collection(hidden),
            database.count(hidden, None, NOW),
            database.fetch(hidden, [b"key:k"], NOW),
            database.write([Upsert(hidden, rows("x"))]),
            database.delete_where(hidden, {"count": 1}),
        ):
            with pytest.raises(NotFound):
                await call
        with pytest.raises(InvalidArgument):
            await database.create_collection(hidden, 1, "dot")

    with_cluster(test)


def test_a_commit_under_a_key_is_answered_the_same_and_its_row_is_of_the_same_transaction() -> None:
    async def test(cluster: Cluster) -> None:
        database, other = (g.database for g in cluster.gateways)
        transaction = database.resume((await database.begin("snapshot")).token)
        await transaction.write([upsert("a", "b")])
        with pytest.raises(InvalidArgument, match="goes with the commit"):
            await transaction.write([upsert("d")], key())
        first = await transaction.commit(key())
        assert first.count == 2
        version = cluster.history[next(k for k in cluster.history if k[1] == b"key:k")][-1].ts
        assert version == first.commit_ts
        again = await other.resume(transaction.token).commit(key())
        assert (again.count, again.commit_ts) == (first.count, first.commit_ts)
        with pytest.raises(IdempotencyMismatch):
            await database.resume(transaction.token).commit(key(body=b"other"))

    with_cluster(test)


def test_of_two_transactions_committed_under_one_key_one_applies() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        transactions = []
        for name in ("a", "b"):
            transaction = database.resume((await database.begin("snapshot")).token)
            await transaction.write([upsert(name)])
            transactions.append(transaction)
        answers = await asyncio.gather(*(t.commit(key()) for t in transactions))
        assert len({(a.count, a.commit_ts) for a in answers}) == 1
        assert len({k[1] for k in cluster.history} & {b"a", b"b"}) == 1

    with_cluster(test)


def test_a_transaction_that_wrote_nothing_keeps_its_answer_under_the_key() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        opened = await database.begin("snapshot")
        await database.write([upsert("a")])
        first = await database.resume(opened.token).commit(key())
        assert first == WriteResult(0, opened.snapshot_ts)
        later = await database.begin("snapshot")
        assert await database.resume(later.token).commit(key()) == replayed(first)

    with_cluster(test)


def test_without_a_key_nothing_is_asked_first() -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.database.write(
            [
                upsert("a"),
            ]
        )
        await cluster.database.write([insert("b")])
        assert not [m for m in cluster.asked if isinstance(m, FetchRequest)]
        assert len(cluster.collections) == 1

    with_cluster(test)
