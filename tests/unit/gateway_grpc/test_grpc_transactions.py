"""Transactions, idempotency keys, versions and the past over gRPC."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import pytest

from tests.unit.gateway_rest.memory_transactions import EPOCH_MS, TICK_MS
from vector_db.common.model.times import TS_MAX, to_rfc3339
from vector_db.v1 import vector_db_pb2 as pb

MISMATCH, INVALID = "idempotency_mismatch", "invalid_argument"


def vector(row_id: str, **more: Any) -> pb.Vector:
    return pb.Vector(id=row_id, dimensions=np.array([1, 0], dtype="<f4").tobytes(), **more)


def insert(*ids: str, **more: Any) -> pb.InsertVectorsRequest:
    return pb.InsertVectorsRequest(
        collection="things", vectors=[vector(one) for one in ids], **more
    )


def patch(row_id: str = "a", **more: Any) -> pb.PatchMetadataRequest:
    return pb.PatchMetadataRequest(collection="things", id=row_id, patch='{"n": 7}', **more)


def delete(*ids: str, **more: Any) -> pb.DeleteRequest:
    return pb.DeleteRequest(collection="things", ids=ids, **more)


def commit(*ids: str, versions: tuple[int, ...] = (), **more: Any) -> pb.CommitRequest:
    one = pb.Operation.Delete(ids=ids, if_versions=versions)
    return pb.CommitRequest(operations=[pb.Operation(collection="things", delete=one)], **more)


def reads(**more: Any) -> list[tuple[str, Any]]:
    """Every call that reads rows."""
    packed = [np.array([1, 0], dtype="<f4").tobytes()]
    return [
        ("Count", pb.CountRequest(collection="things", **more)),
        ("Get", pb.GetRequest(collection="things", ids=["a", "b"], **more)),
        ("Scroll", pb.ScrollRequest(collection="things", **more)),
        ("QuerySimilar", pb.QuerySimilarRequest(collection="things", vectors=packed, **more)),
    ]


def size(answer: Any) -> int:
    """How many rows an answer of `reads` tells of."""
    if isinstance(answer, pb.CountResponse):
        return int(answer.count)
    if isinstance(answer, pb.QuerySimilarResponse):
        return len(answer.results[0].vectors)
    return len(answer.vectors)


@pytest.fixture
async def things(stub: Any) -> Any:
    """The stub; collection made at 1, row a written at 2, row b at 3."""
    await stub.CreateCollection(pb.CreateCollectionRequest(name="things", dimension=2))
    for one in ("a", "b"):
        await stub.InsertVectors(insert(one))
    return stub


async def begin(stub: Any, **more: Any) -> Any:
    return await stub.BeginTransaction(pb.BeginTransactionRequest(**more))


async def end(stub: Any, token: str, **more: Any) -> Any:
    return await stub.CommitTransaction(pb.CommitTransactionRequest(transaction=token, **more))


async def refused(stub: Any, method: str, request: Any, code: str) -> str:
    """The message of a refusal with `code`."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await getattr(stub, method)(request)
    facts = dict(caught.value.trailing_metadata())
    assert facts["vector-db-code"] == code, caught.value.details()
    assert facts["vector-db-retryable"] == ("true" if code == "conflict" else "false")
    return str(caught.value.details())


async def test_begin_answers_id_token_isolation_and_expiry(things: Any, database: Any) -> None:
    begun = await begin(things)
    assert (begun.isolation, begun.snapshot_ts) == (pb.ISOLATION_SNAPSHOT, 3)
    assert begun.expires_ms == EPOCH_MS + 60_000 and len(begun.id) == 32 and begun.transaction
    begun = await begin(things, isolation=pb.ISOLATION_SERIALIZABLE, timeout_s=1.5)
    assert (begun.isolation, begun.expires_ms) == (pb.ISOLATION_SERIALIZABLE, EPOCH_MS + 1_500)
    database.book.now_ms += 1_501
    expired = patch(transaction=begun.transaction)
    await refused(things, "PatchMetadata", expired, "transaction_expired")
    for bad, place in (
        ({"isolation": 9}, "isolation"),
        ({"timeout_s": 0.0}, "above 0"),
        ({"timeout_s": float("nan")}, "above 0"),
        ({"timeout_s": float("inf")}, "above 0"),
    ):
        request = pb.BeginTransactionRequest(**bad)
        assert place in await refused(things, "BeginTransaction", request, INVALID)


async def test_every_write_is_staged_and_every_read_sees_it_until_commit(things: Any) -> None:
    token = (await begin(things)).transaction
    seen = {token}
    writes: list[tuple[str, Any, int]] = [
        ("InsertVectors", insert("c", "d"), 2),
        ("PatchMetadata", patch("c"), 1),
        ("Delete", delete("a"), 1),
        ("Delete", pb.DeleteRequest(collection="things", filter='{"n": 7}'), 1),
    ]
    for method, request, count in writes:
        request.transaction = token
        answer = await getattr(things, method)(request)
        assert (answer.count, answer.commit_ts, answer.replayed) == (count, 0, False)
        token = answer.transaction
        assert token and token not in seen
        seen.add(token)
    for (method, request), rows in zip(reads(transaction=token), (2, 1, 2, 2), strict=True):
        answer = await getattr(things, method)(request)
        assert (method, size(answer), answer.transaction) == (method, rows, token)
    page = await things.Scroll(pb.ScrollRequest(collection="things", transaction=token))
    assert [(one.id, one.version) for one in page.vectors] == [("b", 3), ("d", 0)]
    for method, request in reads():
        answer = await getattr(things, method)(request)
        assert (size(answer), answer.transaction) == (2, "")
    done = await end(things, token)
    assert (done.count, done.commit_ts, done.transaction) == (5, 4, "")
    assert await end(things, token) == done
    page = await things.Scroll(pb.ScrollRequest(collection="things"))
    assert [(one.id, one.version) for one in page.vectors] == [("b", 3), ("d", 4)]
    request = pb.AbortTransactionRequest(transaction=token)
    await refused(things, "AbortTransaction", request, "already_committed")


async def test_abort_and_conflict(things: Any) -> None:
    token = (await begin(things)).transaction
    token = (await things.Delete(delete("a", transaction=token))).transaction
    for _ in range(2):
        await things.AbortTransaction(pb.AbortTransactionRequest(transaction=token))
    request = pb.CommitTransactionRequest(transaction=token)
    await refused(things, "CommitTransaction", request, "aborted")
    token = (await begin(things)).transaction
    token = (await things.Delete(delete("a", transaction=token))).transaction
    await things.PatchMetadata(patch())
    request = pb.CommitTransactionRequest(transaction=token)
    await refused(things, "CommitTransaction", request, "conflict")
    assert (await things.Count(pb.CountRequest(collection="things"))).count == 2


async def test_a_transaction_makes_no_default_collection(stub: Any, database: Any) -> None:
    token = (await begin(stub)).transaction
    request = pb.InsertVectorsRequest(vectors=[vector("a")], transaction=token)
    await refused(stub, "InsertVectors", request, "not_found")
    versions = pb.InsertVectorsRequest(vectors=[vector("a", if_version=1)])
    await refused(stub, "InsertVectors", versions, "not_found")
    assert database.state.collections == {}


@pytest.mark.parametrize("token", ["forged", "x" * 100_000, "ü", " "])
async def test_a_forged_token_is_refused_by_every_call_on_rows(
    things: Any, database: Any, token: str
) -> None:
    before = {name: dict(rows) for name, rows in database.tables.items()}
    given = {"transaction": token}
    calls = [
        *reads(**given),
        ("InsertVectors", insert("x", **given)),
        ("Delete", delete("a", **given)),
        ("PatchMetadata", patch(**given)),
        ("CommitTransaction", pb.CommitTransactionRequest(**given)),
        ("AbortTransaction", pb.AbortTransactionRequest(**given)),
    ]
    for method, request in calls:
        await refused(things, method, request, INVALID)
    for request_type in (pb.CommitTransactionRequest, pb.AbortTransactionRequest):
        method = request_type.DESCRIPTOR.name.removesuffix("Request")
        assert "needed" in await refused(things, method, request_type(), INVALID)
    assert database.tables == before


async def test_consistency_and_keys_are_refused_in_a_transaction(things: Any) -> None:
    token = (await begin(things)).transaction
    for level in ({"at_least": 0}, {"strong": True}, {"as_of": 2}, {"as_of_time": "x"}):
        for method, request in reads(transaction=token, consistency=pb.Consistency(**level)):
            assert "consistency" in await refused(things, method, request, INVALID)
    for method, request in (
        ("InsertVectors", insert("x")), ("Delete", delete("a")), ("PatchMetadata", patch()),
        ("Delete", pb.DeleteRequest(collection="things", filter="{}")),
    ):  # fmt: skip
        request.transaction, request.idempotency_key = token, "k"
        assert "its commit" in await refused(things, method, request, INVALID)


WRITES: list[tuple[str, Any]] = [
    ("InsertVectors", insert("x")),
    ("Delete", delete("a")),
    ("Delete", pb.DeleteRequest(collection="things", filter="{}")),
    ("PatchMetadata", patch()),
    ("Commit", commit("a")),
]


@pytest.mark.parametrize(("method", "write"), WRITES)
async def test_a_write_sent_again_is_answered_the_same_and_applied_once(
    things: Any, database: Any, method: str, write: Any
) -> None:
    request = type(write)()
    request.CopyFrom(write)
    call = getattr(things, method)
    request.idempotency_key = "k"
    first = await call(request)
    assert not first.replayed and first.commit_ts == database.ts == 4
    again = await call(request)
    assert (again.count, again.commit_ts, again.replayed) == (first.count, 4, True)
    assert database.ts == 4
    for bad in ("x" * 256, "a b", "ü"):
        request.idempotency_key = bad
        assert "255" in await refused(things, method, request, INVALID)
    assert database.ts == 4 and list(database.book.keys) == [b"k"]
    request.idempotency_key = "k2"
    assert (await call(request)).commit_ts == 5


async def test_the_same_key_with_another_request_is_refused(things: Any, database: Any) -> None:
    await things.PatchMetadata(patch(idempotency_key="k"))
    for method, request in (
        ("PatchMetadata", patch("b", idempotency_key="k")),
        ("PatchMetadata", patch(idempotency_key="k", if_version=2)),
        ("InsertVectors", insert("a", idempotency_key="k")),
        ("Commit", commit("a", idempotency_key="k")),
    ):
        await refused(things, method, request, MISMATCH)
    one, other = (await begin(things)).transaction, (await begin(things)).transaction
    assert not (await end(things, one, idempotency_key="t")).replayed
    assert (await end(things, one, idempotency_key="t")).replayed
    request = pb.CommitTransactionRequest(transaction=other, idempotency_key="t")
    await refused(things, "CommitTransaction", request, MISMATCH)
    assert database.ts == 4


async def test_if_version_holds_or_fails_the_precondition(things: Any, database: Any) -> None:
    failed = "precondition_failed"
    await refused(things, "PatchMetadata", patch(if_version=3), failed)
    await refused(things, "Delete", delete("a", "b", if_versions=[2, 2]), failed)
    await refused(things, "Commit", commit("a", versions=(3,)), failed)
    assert database.ts == 3
    assert (await things.PatchMetadata(patch(if_version=2))).commit_ts == 4
    assert (await things.Commit(commit("a", versions=(4,)))).count == 1
    assert (await things.Delete(delete("b", if_versions=[3]))).count == 1


async def test_malformed_versions_are_refused_by_place(things: Any, database: Any) -> None:
    mixed = pb.InsertVectorsRequest(
        collection="things", vectors=[vector("a", if_version=2)], mode=pb.MODE_UPDATE
    )
    negative = pb.InsertVectorsRequest(collection="things", vectors=[vector("a", if_version=-1)])
    by_filter = pb.DeleteRequest(collection="things", filter="{}", if_versions=[2])
    for method, request, place in (
        ("InsertVectors", mixed, "only one of mode and if_version"),
        ("InsertVectors", negative, "vectors[0].if_version"),
        ("PatchMetadata", patch(if_version=-1), "if_version: -1"),
        ("PatchMetadata", patch(if_version=TS_MAX + 1), "if_version"),
        ("Delete", delete("a", "b", if_versions=[2]), "if_versions: 1 versions for 2 ids"),
        ("Delete", delete("a", if_versions=[-2]), "if_versions[0]"),
        ("Delete", by_filter, "if_versions: goes with ids only"),
        ("Commit", commit("a", versions=(1, 2)), "operations[0].delete.if_versions"),
    ):
        assert place in await refused(things, method, request, INVALID)
    assert database.ts == 3


async def test_as_of_reads_the_past_by_commit_or_time(things: Any) -> None:
    """Row b is younger than commit_ts 2."""
    moment = to_rfc3339(EPOCH_MS + 2 * TICK_MS + 1)
    for level in ({"as_of": 2}, {"as_of_time": moment}):
        for method, request in reads(consistency=pb.Consistency(**level)):
            assert size(await getattr(things, method)(request)) == 1
    for bad in (
        {"as_of": 0}, {"as_of": -1}, {"as_of": TS_MAX + 1}, {"as_of": 9}, {"as_of_time": ""},
        {"as_of_time": "2026-01-31"}, {"as_of_time": "2026-01-31T12:00:00"},
    ):  # fmt: skip
        for method, request in reads(consistency=pb.Consistency(**bad)):
            await refused(things, method, request, INVALID)
    old = pb.Consistency(as_of_time="2001-01-01T00:00:00Z")
    for method, request in reads(consistency=old):
        await refused(things, method, request, "snapshot_too_old")
