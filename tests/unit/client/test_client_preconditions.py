"""Versions that must hold, idempotency keys and snapshots of the past: what both clients send."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest

from tests.unit.client.fake_gateway import FakeGateway
from vector_db_client import (
    Aborted,
    AlreadyCommitted,
    Conflict,
    Delete,
    IdempotencyMismatch,
    InvalidArgument,
    OutcomeUnknown,
    PreconditionFailed,
    SnapshotTooOld,
    TransactionEnded,
    TransactionExpired,
    Upsert,
    VectorDatabaseClient,
    VectorDatabaseError,
    WriteResult,
)

X = [[1.0, 2.0]]
Write = Callable[[VectorDatabaseClient, dict[str, Any]], WriteResult]

WRITES: dict[str, Write] = {
    "insert": lambda c, o: c.insert_vectors(["new"], X, mode="insert", **o),
    "upsert": lambda c, o: c.insert_vectors(["a"], X, **o),
    "delete": lambda c, o: c.delete(["a"], **o),
    "delete by filter": lambda c, o: c.delete(filter={"n": 1}, **o),
    "patch": lambda c, o: c.update_metadata("a", {"n": 2}, **o),
    "commit": lambda c, o: c.commit([Upsert("default", ["new"], X), Delete("default", ["a"])], **o),
}


@pytest.mark.parametrize(
    ("step", "kind", "parents"),
    [
        ((409, "transaction_expired", False), TransactionExpired, (TransactionEnded,)),
        ((409, "already_committed", False), AlreadyCommitted, (TransactionEnded,)),
        ((409, "aborted", False), Aborted, (TransactionEnded,)),
        ((422, "idempotency_mismatch", False), IdempotencyMismatch, (InvalidArgument, ValueError)),
        ((412, "precondition_failed", False), PreconditionFailed, ()),
        ((410, "snapshot_too_old", False), SnapshotTooOld, ()),
        ((409, "conflict", False), Conflict, ()),
    ],
)
def test_each_new_code_has_its_class(
    gateway: FakeGateway,
    client: VectorDatabaseClient,
    step: Any,
    kind: type[VectorDatabaseError],
    parents: tuple[type[Exception], ...],
) -> None:
    gateway.script = [step]
    with pytest.raises(kind) as caught:
        client.count()
    assert type(caught.value) is kind
    assert all(issubclass(kind, parent) for parent in parents)
    assert (caught.value.code, caught.value.status, caught.value.retryable) == (
        step[1],
        step[0],
        False,
    )


@pytest.mark.parametrize("d", [2, 20_000])
def test_a_write_with_a_version_holds_only_while_the_row_has_it(
    client: VectorDatabaseClient, d: int
) -> None:
    vectors = np.ones((2, d), "f4")
    first = client.insert_vectors(["a", "b"], vectors).commit_ts
    second = client.insert_vectors(["a"], vectors[:1], if_version=first).commit_ts
    with pytest.raises(PreconditionFailed):
        client.insert_vectors(["a", "b"], vectors, if_version=first)
    both = client.insert_vectors(["a", "b"], vectors, if_version=[second, first]).commit_ts
    with pytest.raises(PreconditionFailed):
        client.update_metadata("a", {"n": 1}, if_version=first)
    third = client.update_metadata("a", {"n": 1}, if_version=both).commit_ts
    with pytest.raises(PreconditionFailed):
        client.delete(["a", "b"], if_version=both)
    assert client.delete(["a", "b"], if_version=[third, both]).count == 2


def test_each_batch_of_an_insert_carries_the_versions_of_its_rows(
    gateway: FakeGateway, client: VectorDatabaseClient
) -> None:
    versions = [client.insert_vectors([row_id], X).commit_ts for row_id in "abc"]
    client.insert_vectors(list("abc"), X * 3, if_version=versions, batch_size=2)
    sent = [r["if_version"] for request in gateway.requests[3:] for r in request.body["vectors"]]
    assert sorted(sent) == versions


def test_a_commit_carries_the_versions_of_its_operations(
    gateway: FakeGateway, client: VectorDatabaseClient
) -> None:
    client.insert_vectors(["a"], X)
    client.commit(
        [
            Upsert("default", ["a"], X, if_version=5),
            Delete("default", ["b", "c"], if_version=[6, 7]),
        ]
    )
    one, two = gateway.requests[-1].body["operations"]
    assert [row["if_version"] for row in one["upsert"]] == [5]
    assert two == {"collection": "default", "delete": ["b", "c"], "if_versions": [6, 7]}


@pytest.mark.parametrize(
    ("versions", "reason"),
    [([1], "1 versions for 2"), ([1, -1], r"if_version\[1\]"), ([1, 1.5], "needs a version")],
)
def test_versions_that_do_not_fit_are_refused_before_anything_is_sent(
    gateway: FakeGateway, client: VectorDatabaseClient, versions: Any, reason: str
) -> None:
    with pytest.raises(InvalidArgument, match=reason):
        client.insert_vectors(["a", "b"], [*X, *X], if_version=versions)
    with pytest.raises(InvalidArgument, match=reason):
        client.delete(["a", "b"], if_version=versions)
    with pytest.raises(InvalidArgument, match="goes with ids"):
        client.delete(filter={}, if_version=versions)
    assert not gateway.requests


@pytest.mark.parametrize(
    "write",
    [
        lambda c, v: c.insert_vectors(["a"], X, if_version=v),
        lambda c, v: c.delete(["a"], if_version=v),
        lambda c, v: c.update_metadata("a", {"n": 2}, if_version=v),
        lambda c, v: c.commit([Delete("default", ["a"], if_version=v)]),
    ],
)
def test_a_broken_connection_never_repeats_a_write_with_a_version(
    gateway: FakeGateway, client: VectorDatabaseClient, write: Any
) -> None:
    version = client.insert_vectors(["a"], X).commit_ts
    gateway.script = ["lost"]
    with pytest.raises(OutcomeUnknown):
        write(client, version)
    assert len(gateway.requests) == 2


@pytest.mark.parametrize("cut", ["lost", "disconnect"])
@pytest.mark.parametrize("name", WRITES)
def test_a_write_with_a_key_is_repeated_and_counts_once(
    gateway: FakeGateway, client: VectorDatabaseClient, name: str, cut: str
) -> None:
    client.insert_vectors(["a"], X, [{"n": 1}])
    before = gateway.clock
    gateway.script = [cut]
    result = WRITES[name](client, {"idempotency_key": "auto"})
    assert gateway.clock == before + 1
    assert result.count == (2 if name == "commit" else 1)
    assert (result.commit_ts, result.replayed) == (gateway.clock, cut == "lost")
    first, second = gateway.requests[1:]
    assert first.headers["Idempotency-Key"] == second.headers["Idempotency-Key"]


def test_a_key_of_the_caller_makes_the_same_call_count_once(
    gateway: FakeGateway, client: VectorDatabaseClient
) -> None:
    first = client.insert_vectors(["a"], X, mode="insert", idempotency_key="mine")
    again = client.insert_vectors(["a"], X, mode="insert", idempotency_key="mine")
    assert (first.replayed, again.replayed) == (False, True)
    assert (first.count, first.commit_ts) == (again.count, again.commit_ts)
    with pytest.raises(IdempotencyMismatch):
        client.insert_vectors(["b"], X, mode="insert", idempotency_key="mine")
    assert gateway.requests[0].headers["Idempotency-Key"] == "mine"


def test_each_batch_of_an_insert_has_a_key_of_its_own_that_is_the_same_again(
    gateway: FakeGateway, client: VectorDatabaseClient
) -> None:
    def write(key: str) -> WriteResult:
        ids = [f"i{n}" for n in range(25)]
        return client.insert_vectors(
            ids, np.ones((25, 2)), mode="insert", batch_size=10, idempotency_key=key
        )

    assert not write("mine").replayed
    assert write("mine").replayed
    sent = [request.headers["Idempotency-Key"] for request in gateway.requests]
    assert sorted(sent[:3]) == sorted(sent[3:]) == ["mine", "mine/10", "mine/20"]
    client.delete(filter={})
    gateway.requests.clear()
    write("auto")
    assert len({request.headers["Idempotency-Key"] for request in gateway.requests}) == 3


def test_no_key_is_sent_unless_it_is_asked_for(
    gateway: FakeGateway, client: VectorDatabaseClient
) -> None:
    for write in WRITES.values():
        client.insert_vectors(["a"], X, [{"n": 1}])
        client.delete(["new"])
        write(client, {})
    assert not any("Idempotency-Key" in request.headers for request in gateway.requests)


@pytest.mark.parametrize("key", ["", "two words", "é", 5, True])
def test_what_cannot_be_a_key_is_refused(
    gateway: FakeGateway, client: VectorDatabaseClient, key: Any
) -> None:
    with pytest.raises(InvalidArgument, match="idempotency_key"):
        client.delete(["a"], idempotency_key=key)
    assert not gateway.requests


def test_a_commit_of_a_transaction_carries_its_key_each_time_it_is_sent(
    gateway: FakeGateway, client: VectorDatabaseClient
) -> None:
    gateway.at["/commit"] = ["disconnect", "disconnect"]
    with client.transaction() as t:
        t.insert_vectors(["a"], X)
        t.commit(idempotency_key="auto")
    keys = {request.headers["Idempotency-Key"] for request in gateway.sent("/commit")}
    assert (len(gateway.sent("/commit")), len(keys)) == (3, 1)
    assert not any("Idempotency-Key" in request.headers for request in gateway.sent("/vectors"))


@pytest.mark.parametrize(
    ("as_of", "sent"),
    [
        (12, 12),
        ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z"),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05+00:00"),
        (
            datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=timezone(timedelta(hours=2))),
            "2026-01-02T03:04:05.000678+02:00",
        ),
    ],
)
def test_reads_of_the_past_ask_for_it_and_for_nothing_else(
    gateway: FakeGateway, client: VectorDatabaseClient, as_of: Any, sent: Any
) -> None:
    client.insert_vectors(["a"], X)
    reads: list[Callable[[], Any]] = [
        lambda: client.count(as_of=as_of),
        lambda: client.fetch(["a"], as_of=as_of),
        lambda: client.query_similar(X[0], as_of=as_of),
        lambda: list(client.scroll(as_of=as_of)),
        lambda: list(client.scroll_pages(as_of=as_of)),
    ]
    for read in reads:
        read()
        assert gateway.requests[-1].body["consistency"] == {"as_of": sent}


@pytest.mark.parametrize("as_of", [True, 1.5, datetime(2026, 1, 2)])
def test_what_is_no_time_is_refused(
    gateway: FakeGateway, client: VectorDatabaseClient, as_of: Any
) -> None:
    with pytest.raises(InvalidArgument, match="as_of"):
        client.count(as_of=as_of)
    with pytest.raises(InvalidArgument, match="without consistency"):
        client.count(as_of=5, consistency="strong")
    assert not gateway.requests
