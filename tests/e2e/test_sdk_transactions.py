"""Transactions of the SDK against the real server: what is seen, when, and what never gets lost."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from tests.support.processes import Service
from vector_db.common.adapters.nats_server import NatsServer
from vector_db_client import (
    Aborted,
    AlreadyExists,
    AsyncTransaction,
    AsyncVectorDatabaseClient,
    Collection,
    Conflict,
    Delete,
    IdempotencyMismatch,
    InvalidArgument,
    Isolation,
    NotFound,
    OutcomeUnknown,
    PreconditionFailed,
    RowBatch,
    Transaction,
    TransactionExpired,
    Upsert,
    VectorDatabaseClient,
)

RNG = np.random.default_rng(13)
COUNTER_S = float(os.environ.get("TEST_COUNTER_S", "3"))
"""How long the counters are counted up."""

COUNTERS = 100


@pytest.fixture
def client(server: Service) -> Iterator[VectorDatabaseClient]:
    with VectorDatabaseClient.connect(server.url) as connected:
        yield connected


@pytest.fixture
def other(server: Service, words: Collection) -> Iterator[VectorDatabaseClient]:
    """A client that carries no token of the first; it asks for what is acknowledged to anyone."""
    with VectorDatabaseClient.connect(server.url) as connected:
        connected.count(collection=words.name, consistency="strong")
        yield connected


@pytest.fixture
def words(client: VectorDatabaseClient) -> Iterator[Collection]:
    """An empty collection of dimension 4 on four shards, dropped afterwards."""
    made = client.create_collection(f"txn-{uuid.uuid4().hex}", 4, "euclidean", shards=4)
    yield made
    client.delete_collection(made.name)


def ids_of(n: int) -> list[str]:
    return [f"row/{i:05}" for i in range(n)]


@dataclass
class Count:
    """What one client made of its transactions, each of which counts ten counters up by one."""

    committed: int = 0
    unknown: int = 0
    tries: int = 0


def make_counters(client: VectorDatabaseClient, collection: str) -> None:
    vectors = np.tile(np.array([0, 1, 1, 1]), (COUNTERS, 1))
    metadata = [{"n": 0}] * COUNTERS
    client.insert_vectors(ids_of(COUNTERS), vectors, metadata, collection=collection)


def counted(client: VectorDatabaseClient, collection: str) -> int:
    """The sum of all counters, which are kept as metadata and as a component of the vector."""
    rows = list(client.scroll(collection=collection, consistency="strong"))
    assert len(rows) == COUNTERS
    assert all(row.metadata == {"n": int(np.asarray(row.vector)[0])} for row in rows)
    return sum(row.metadata["n"] for row in rows if row.metadata)


def count_up(url: str, collection: str, which: int, until: list[float]) -> Count:
    """Read ten counters and write them back, one higher, until the clock shows ``until[0]``."""
    chosen, count = random.Random(which), Count()

    def increment(t: Transaction) -> None:
        count.tries += 1
        rows = t.fetch(picked, collection=collection)
        vectors = np.array([row.vector for row in rows])
        vectors[:, 0] += 1
        metadata = [{"n": row.metadata["n"] + 1} for row in rows if row.metadata]
        t.insert_vectors([row.id for row in rows], vectors, metadata, collection=collection)

    with VectorDatabaseClient.connect(url, backoff_s=0.01) as client:
        client.count(collection=collection, consistency="strong")
        while time.monotonic() < until[0]:
            picked = chosen.sample(ids_of(COUNTERS), 10)
            try:
                client.run_transaction(increment, retries=1000)
                count.committed += 1
            except OutcomeUnknown:
                count.unknown += 1
    return count


def test_every_read_sees_the_own_writes_and_nobody_else_does_before_the_commit(
    client: VectorDatabaseClient, other: VectorDatabaseClient, words: Collection
) -> None:
    name = words.name
    vectors = RNG.standard_normal((40, 4)).astype("f4")
    client.insert_vectors(
        ids_of(40), vectors, [{"n": n, "old": True} for n in range(40)], collection=name
    )
    new = np.full((2, 4), [[50.0], [60.0]], "f4")
    with client.transaction() as t:
        written = t.insert_vectors(["x", "y"], new, [{"n": 1}, {"n": 2}], collection=name)
        assert (written.count, written.commit_ts) == (2, 0)
        t.insert_vectors([ids_of(1)[0]], [[70.0] * 4], collection=name, mode="update")
        t.update_metadata("y", {"m": 7}, collection=name)
        assert t.delete(ids_of(6)[3:], collection=name).count == 3
        assert t.delete(filter={"n": {"$gte": 30}}, collection=name).count == 10
        left = {*ids_of(30), "x", "y"} - set(ids_of(6)[3:])
        assert t.count(collection=name).count == len(left) == 29
        assert t.count({"m": 7}, collection=name).count == 1
        assert {row.id for row in t.scroll(collection=name, page_size=7)} == left
        pages = list(t.scroll_pages(collection=name, filter={"old": True}, page_size=10))
        assert {page.snapshot_ts for page in pages} == {t.snapshot_ts}
        assert sum(len(page.rows) for page in pages) == 26
        x, y, replaced = t.fetch(["x", ids_of(6)[4], "y", ids_of(1)[0]], collection=name)
        assert (x.version, y.version, replaced.version) == (0, 0, 0)
        assert y.metadata == {"n": 2, "m": 7}
        assert np.asarray(y.vector).tobytes() == new[1].tobytes()
        nearest = t.query_similar([52.0] * 4, k=3, collection=name)
        assert [match.id for match in nearest] == ["x", "y", ids_of(1)[0]]
        (by_id,) = t.query_similar(id="y", k=1, collection=name, filter={"n": 1})
        assert by_id.id == "x"
        both = t.query_similar(vectors=new, k=1, collection=name)
        assert [[match.id for match in found] for found in both] == [["x"], ["y"]]
        gone = t.query_similar(vectors[4], k=1, collection=name)
        assert gone[0].id != ids_of(6)[4]

        for outside in (client, other):
            assert outside.count(collection=name, consistency="strong").count == 40
            seen = outside.fetch(["x", ids_of(1)[0]], collection=name, consistency="strong")
            assert [row.id for row in seen] == [ids_of(1)[0]]
            assert np.asarray(seen[0].vector).tobytes() == vectors[0].tobytes()
            best = outside.query_similar([52.0] * 4, k=1, collection=name, consistency="strong")
            assert best[0].id not in ("x", "y")
    other.observe(t.commit_ts)
    rows = {row.id: row for row in other.scroll(collection=name)}
    assert set(rows) == left
    changed = [rows[i].version for i in ("x", "y", ids_of(1)[0])]
    assert changed == [t.commit_ts] * 3
    assert rows["y"].metadata == {"n": 2, "m": 7}
    assert other.count(collection=name, as_of=t.snapshot_ts).count == 40


def test_a_block_that_fails_leaves_nothing(client: VectorDatabaseClient, words: Collection) -> None:
    with pytest.raises(KeyError), client.transaction() as t:
        t.insert_vectors(ids_of(50), np.ones((50, 4)), collection=words.name)
        raise KeyError
    assert client.count(collection=words.name, consistency="strong").count == 0
    with client.transaction() as t:
        t.insert_vectors(["a"], np.ones((1, 4)), collection=words.name)
        t.abort()
    with pytest.raises(Aborted):
        t.count(collection=words.name)
    client.insert_vectors(["a"], np.ones((1, 4)), collection=words.name, mode="insert")


def test_refused_statements_leave_the_transaction_as_it_was(
    client: VectorDatabaseClient, words: Collection
) -> None:
    name, one = words.name, np.ones((1, 4))
    version = client.insert_vectors(["a"], one, collection=name).commit_ts
    with client.transaction() as t:
        t.insert_vectors(["b"], one, collection=name, mode="insert")
        for row_id in ("a", "b"):
            with pytest.raises(AlreadyExists):
                t.insert_vectors([row_id], one, collection=name, mode="insert")
        with pytest.raises(NotFound):
            t.insert_vectors(["c"], one, collection=name, mode="update")
        with pytest.raises(NotFound):
            t.update_metadata("c", {}, collection=name)
        with pytest.raises(PreconditionFailed):
            t.delete(["a"], collection=name, if_version=version + 1)
        with pytest.raises(InvalidArgument, match="4"):
            t.insert_vectors(["d"], np.ones((1, 5)), collection=name)
        with pytest.raises(NotFound):
            t.count(collection="no-such-collection")
        t.update_metadata("a", {"k": 1}, collection=name, if_version=version)
    assert [row.id for row in client.scroll(collection=name)] == ["a", "b"]
    assert client.fetch(["a"], collection=name)[0].metadata == {"k": 1}


def test_of_two_transactions_that_write_a_row_the_first_committer_wins(
    client: VectorDatabaseClient, other: VectorDatabaseClient, words: Collection
) -> None:
    name = words.name
    client.insert_vectors(["a", "b"], np.ones((2, 4)), collection=name)
    with pytest.raises(Conflict) as caught, client.transaction() as first:
        first.update_metadata("a", {"by": 1}, collection=name)
        first.insert_vectors(["c"], np.ones((1, 4)), collection=name)
        other.run_transaction(lambda t: t.update_metadata("a", {"by": 2}, collection=name))
    assert caught.value.retryable
    rows = client.fetch(["a", "c"], collection=name, consistency="strong")
    assert [(row.id, row.metadata) for row in rows] == [("a", {"by": 2})]


@pytest.mark.parametrize(("isolation", "skews"), [("snapshot", True), ("serializable", False)])
def test_write_skew_is_permitted_under_snapshot_and_refused_under_serializable(
    client: VectorDatabaseClient,
    other: VectorDatabaseClient,
    words: Collection,
    isolation: Isolation,
    skews: bool,
) -> None:
    """Two doctors are on call, each leaves after having seen the other."""
    name = words.name
    client.insert_vectors(["x", "y"], np.ones((2, 4)), [{"on": True}] * 2, collection=name)
    other.observe(client.token)
    mine, theirs = client.transaction(isolation), other.transaction(isolation)
    for t in (mine, theirs):
        t.begin()
    for t, row_id in ((mine, "x"), (theirs, "y")):
        seen = t.fetch(["x", "y"], collection=name)
        assert [row.metadata for row in seen] == [{"on": True}] * 2
        t.update_metadata(row_id, {"on": False}, collection=name)
    mine.commit()
    if skews:
        theirs.commit()
    else:
        with pytest.raises(Conflict):
            theirs.commit()
    on_call = client.count({"on": True}, collection=name, consistency="strong")
    assert on_call.count == (0 if skews else 1)


def test_a_serializable_transaction_notices_a_row_that_appears_where_it_counted(
    client: VectorDatabaseClient, other: VectorDatabaseClient, words: Collection
) -> None:
    name = words.name
    with pytest.raises(Conflict), client.transaction("serializable") as t:
        assert t.count({"kind": "new"}, collection=name).count == 0
        t.insert_vectors(["mine"], np.ones((1, 4)), [{"kind": "new"}], collection=name)
        other.insert_vectors(["yours"], np.ones((1, 4)), [{"kind": "new"}], collection=name)
    with client.transaction("serializable") as t:
        assert t.count({"kind": "new"}, collection=name).count == 1
    assert t.commit_ts == t.snapshot_ts


def test_clients_that_increment_shared_counters_lose_no_increment(
    client: VectorDatabaseClient, server: Service, words: Collection
) -> None:
    make_counters(client, words.name)
    until = [time.monotonic() + COUNTER_S]
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(count_up, server.url, words.name, which, until) for which in (0, 1)]
        counts = [one.result() for one in both]
    committed = sum(count.committed for count in counts)
    assert counted(client, words.name) == 10 * committed > 0
    assert sum(count.unknown for count in counts) == 0
    assert sum(count.tries for count in counts) > committed, "no conflict: the test says nothing"


def test_no_increment_is_lost_or_made_twice_when_the_server_is_killed(tmp_path: Path) -> None:
    service = Service("all", tmp_path)
    service.start()
    try:
        with VectorDatabaseClient.connect(service.url, timeout_s=60) as client:
            client.create_collection("counters", 4, "euclidean", shards=4)
            make_counters(client, "counters")
            until = [float("inf")]
            with ThreadPoolExecutor(2) as pool:
                both = [
                    pool.submit(count_up, service.url, "counters", which, until) for which in (0, 1)
                ]
                try:
                    while counted(client, "counters") < 100:
                        assert not any(one.done() for one in both)
                    service.kill()
                    service.start()
                    after = counted(client, "counters")
                    while counted(client, "counters") == after:
                        assert not any(one.done() for one in both)
                finally:
                    until[0] = 0.0
                counts = [one.result() for one in both]
            committed = sum(count.committed for count in counts)
            unknown = sum(count.unknown for count in counts)
            assert 10 * committed <= counted(client, "counters") <= 10 * (committed + unknown)
            assert unknown <= 2
    finally:
        service.kill()


def test_a_large_insert_becomes_visible_at_once(
    client: VectorDatabaseClient, other: VectorDatabaseClient, words: Collection
) -> None:
    batches = (
        RowBatch([f"{b}-{n}" for n in range(1000)], RNG.standard_normal((1000, 4)))
        for b in range(20)
    )
    seen: list[int] = []
    looked, done = threading.Event(), threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen.append(other.count(collection=words.name, consistency="strong").count)
            looked.set()

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        assert looked.wait(60)
        with client.transaction() as t:
            assert t.insert_stream(batches, collection=words.name).count == 20_000
            assert t.count(collection=words.name).count == 20_000
            result = t.commit()
    finally:
        done.set()
        watching.join()
    assert (result.count, result.commit_ts) == (20_000, t.commit_ts)
    assert seen[0] == 0 and set(seen) <= {0, 20_000}
    assert client.count(collection=words.name).count == 20_000
    versions = {row.version for row in client.scroll(collection=words.name, include=[])}
    assert versions == {t.commit_ts}


async def test_async_transactions_side_by_side(
    server: Service, client: VectorDatabaseClient, words: Collection
) -> None:
    async with AsyncVectorDatabaseClient(server.url, backoff_s=0.005) as aclient:
        aclient.observe(client.token)
        await aclient.insert_vectors(["n"], np.ones((1, 4)), [{"n": 0}], collection=words.name)

        async def increment(t: AsyncTransaction) -> int:
            (row,) = await t.fetch(["n"], collection=words.name)
            assert row.metadata is not None
            await t.update_metadata("n", {"n": row.metadata["n"] + 1}, collection=words.name)
            return int(row.metadata["n"]) + 1

        runs = (aclient.run_transaction(increment, retries=1000) for _ in range(8))
        assert sorted(await asyncio.gather(*runs)) == list(range(1, 9))


def test_a_transaction_expires(client: VectorDatabaseClient, words: Collection) -> None:
    with pytest.raises(TransactionExpired), client.transaction(timeout_s=0.5) as t:
        t.insert_vectors(["a"], np.ones((1, 4)), collection=words.name)
        until = time.monotonic() + 30
        while time.monotonic() < until:
            t.count(collection=words.name)
    assert client.count(collection=words.name, consistency="strong").count == 0
    client.insert_vectors(["a"], np.ones((1, 4)), collection=words.name, mode="insert")


def test_versions_and_the_past(client: VectorDatabaseClient, words: Collection) -> None:
    name, one = words.name, np.ones((1, 4))
    began = datetime.now(UTC)
    first = client.insert_vectors(["a"], one, [{"v": 1}], collection=name).commit_ts
    second = client.insert_vectors(
        ["a"], one, [{"v": 2}], collection=name, if_version=first
    ).commit_ts
    with pytest.raises(PreconditionFailed):
        client.insert_vectors(["a"], one, [{"v": 3}], collection=name, if_version=first)
    third = client.update_metadata("a", {"v": 3}, collection=name, if_version=second).commit_ts
    with pytest.raises(PreconditionFailed):
        client.update_metadata("a", {"v": 4}, collection=name, if_version=second)
    with pytest.raises(PreconditionFailed):
        client.commit([Delete(name, ["a"], if_version=[second])])
    fourth = client.commit([Upsert(name, ["a"], one, [{"v": 4}], if_version=third)]).commit_ts
    with pytest.raises(PreconditionFailed):
        client.delete(["a"], collection=name, if_version=third)
    last = client.delete(["a"], collection=name, if_version=[fourth])
    assert last.count == 1
    for as_of, v in ((first, 1), (second, 2), (third, 3), (last.commit_ts - 1, 4)):
        (row,) = client.fetch(["a"], collection=name, as_of=as_of)
        assert row.metadata == {"v": v}
        assert client.count({"v": v}, collection=name, as_of=as_of).count == 1
        assert [m.id for m in client.query_similar(one[0], collection=name, as_of=as_of)] == ["a"]
        assert len(list(client.scroll(collection=name, as_of=as_of))) == 1
    assert client.count(collection=name, as_of=last.commit_ts).count == 0
    with pytest.raises(InvalidArgument):
        client.count(collection=name, as_of=began + timedelta(hours=1))


def test_a_large_write_with_versions_goes_as_arrow(
    client: VectorDatabaseClient, words: Collection
) -> None:
    vectors = RNG.standard_normal((5000, 4)).astype("f4")
    ids = ids_of(5000)
    first = client.insert_vectors(ids, vectors, collection=words.name, batch_size=5000).commit_ts
    second = client.insert_vectors(
        ids, vectors, collection=words.name, if_version=first, batch_size=5000
    )
    with pytest.raises(PreconditionFailed):
        client.insert_vectors(
            ids, vectors, collection=words.name, if_version=first, batch_size=5000
        )
    versions = {row.version for row in client.scroll(collection=words.name, include=[])}
    assert versions == {second.commit_ts}


def test_writes_with_a_key_count_once(client: VectorDatabaseClient, words: Collection) -> None:
    name, key = words.name, uuid.uuid4().hex
    first = client.insert_vectors(
        ["a"], np.ones((1, 4)), collection=name, mode="insert", idempotency_key=key
    )
    again = client.insert_vectors(
        ["a"], np.ones((1, 4)), collection=name, mode="insert", idempotency_key=key
    )
    assert (first.replayed, again.replayed) == (False, True)
    assert (again.count, again.commit_ts) == (first.count, first.commit_ts)
    with pytest.raises(IdempotencyMismatch):
        client.insert_vectors(["b"], np.ones((1, 4)), collection=name, idempotency_key=key)
    assert not client.delete(["a"], collection=name, idempotency_key="auto").replayed

    order = uuid.uuid4().hex
    with client.transaction() as t:
        t.insert_vectors(["paid"], np.ones((1, 4)), collection=name)
        assert not t.commit(idempotency_key=order).replayed
        assert t.commit_ts
    assert [row.id for row in client.scroll(collection=name)] == ["paid"]


def test_a_transaction_goes_on_through_another_gateway_when_its_own_is_killed(
    tmp_path: Path,
) -> None:
    nats = NatsServer(tmp_path / "nats")
    with asyncio.Runner() as runner:
        runner.run(nats.start())
        settings = {"VECTOR_DB_NATS_URL": nats.url}
        first, second, *_ = services = [
            Service(which, tmp_path / f"{which}{i}", **settings)
            for i, which in enumerate(("gateway", "gateway", "shard", "coordinator"))
        ]
        try:
            for service in services:
                service.spawn()
            for service in services:
                service.wait_ready()
            with VectorDatabaseClient.connect([first.url, second.url]) as client:
                client.create_collection("words", 4)
                with client.transaction("serializable") as t:
                    t.insert_vectors(ids_of(100), np.ones((100, 4)), collection="words")
                    first.kill()
                    assert t.count(collection="words").count == 100
                    t.insert_vectors(["last"], np.ones((1, 4)), collection="words")
                assert client.count(collection="words").count == 101
        finally:
            for service in services:
                service.kill()
            runner.run(nats.stop())
