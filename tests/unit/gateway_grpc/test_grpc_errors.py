"""Failures over the wire: status, stable code, request id; nothing leaks, the server goes on."""

from __future__ import annotations

import json
import logging
from typing import Any

import grpc
import numpy as np
import pytest

from tests.unit.gateway_grpc.memory_database import LIMITS
from vector_db.common.model import errors
from vector_db.gateway.grpc.decode import FILTER_BYTES_MAX, decode_filter
from vector_db.gateway.grpc.errors import MESSAGE_CHARS_MAX, failure_of
from vector_db.v1 import vector_db_pb2 as pb

DEEP = '{"a":' * 300 + "1" + "}" * 300
INVALID, TOO_LARGE = "invalid_argument", "too_large"


def vector(row_id: str = "a", numbers: int = 2, **more: Any) -> pb.Vector:
    dimensions = np.ones(numbers, dtype="<f4").tobytes()
    return pb.Vector(**{"id": row_id, "dimensions": dimensions, **more})


def insert(*vectors: pb.Vector, **more: Any) -> pb.InsertVectorsRequest:
    return pb.InsertVectorsRequest(**{"collection": "things", "vectors": vectors, **more})


def query(**more: Any) -> pb.QuerySimilarRequest:
    base = {"collection": "things", "vectors": [np.ones(2, dtype="<f4").tobytes()]}
    return pb.QuerySimilarRequest(**{**base, **more})


def nan_vector() -> pb.Vector:
    return vector(dimensions=np.array([1, np.nan], dtype="<f4").tobytes())


BAD: list[tuple[str, str, Any, str, str]] = [
    ("no rows", "InsertVectors", insert(), INVALID, "vectors"),
    ("empty id", "InsertVectors", insert(vector("")), INVALID, "vectors[0].id"),
    ("control char", "InsertVectors", insert(vector(), vector("a\n")), INVALID, "vectors[1].id"),
    ("long id", "InsertVectors", insert(vector("x" * 513)), INVALID, "512"),
    ("twice", "InsertVectors", insert(vector(), vector()), INVALID, "vectors[1].id"),
    ("no floats", "InsertVectors", insert(vector(numbers=0)), INVALID, "vectors[0].dimensions"),
    ("odd bytes", "InsertVectors", insert(vector(dimensions=b"12345")), INVALID, "5 bytes"),
    (
        "ragged",
        "InsertVectors",
        insert(vector("a"), vector("b", 3)),
        INVALID,
        "vectors[1].dimensions",
    ),
    ("dimension", "InsertVectors", insert(vector(numbers=3)), INVALID, "dimension 2"),
    ("huge", "InsertVectors", insert(vector(numbers=2049)), INVALID, "dimension_max"),
    ("nan", "InsertVectors", insert(nan_vector()), INVALID, "finite"),
    ("metadata text", "InsertVectors", insert(vector(metadata="{")), INVALID, "metadata"),
    ("metadata list", "InsertVectors", insert(vector(metadata="[]")), INVALID, "metadata"),
    (
        "metadata size",
        "InsertVectors",
        insert(vector(metadata=json.dumps({"x": "y" * 2000}))),
        INVALID,
        "metadata_bytes_max",
    ),
    (
        "deep",
        "InsertVectors",
        insert(vector(metadata='{"a":' * 300 + "1" + "}" * 300)),
        INVALID,
        "",
    ),
    ("mode", "InsertVectors", insert(vector(), mode=9), INVALID, "mode"),
    (
        "some versions",
        "InsertVectors",
        insert(vector(if_version=1), vector("b")),
        INVALID,
        "vectors[1].if_version",
    ),
    ("name", "InsertVectors", insert(vector(), collection="a b"), INVALID, "collection"),
    ("k 0", "QuerySimilar", query(k=0), INVALID, "k:"),
    ("k huge", "QuerySimilar", query(k=2**32 - 1), INVALID, "k_max"),
    ("vector and id", "QuerySimilar", query(id="a"), INVALID, "either"),
    ("neither", "QuerySimilar", query(vectors=[]), INVALID, "either"),
    ("empty vector", "QuerySimilar", query(vectors=[b""]), INVALID, "vectors[0]"),
    ("many", "QuerySimilar", query(vectors=[b"\0" * 8] * 9), TOO_LARGE, "queries_per_batch_max"),
    ("zero", "QuerySimilar", query(vectors=[b"\0" * 8]), INVALID, "zero"),
    ("filter text", "QuerySimilar", query(filter="{]"), INVALID, "filter"),
    ("filter list", "QuerySimilar", query(filter="[1]"), INVALID, "filter"),
    ("operator", "QuerySimilar", query(filter='{"a": {"$near": 1}}'), INVALID, "$near"),
    ("deep filter", "QuerySimilar", query(filter='{"$not":' * 6 + "{}" + "}" * 6), INVALID, ""),
    ("nan bound", "QuerySimilar", query(min_similarity=float("nan")), INVALID, "min_similarity"),
    (
        "token",
        "QuerySimilar",
        query(consistency=pb.Consistency(at_least=-1)),
        INVALID,
        "at_least",
    ),
    ("no ids", "Get", pb.GetRequest(collection="things"), INVALID, "ids"),
    ("id twice", "Get", pb.GetRequest(collection="things", ids=["a", "a"]), INVALID, "ids[1]"),
    ("bad id", "Get", pb.GetRequest(collection="things", ids=["a", ""]), INVALID, "ids[1]"),
    ("delete nothing", "Delete", pb.DeleteRequest(collection="things"), INVALID, "either"),
    (
        "delete both",
        "Delete",
        pb.DeleteRequest(collection="things", ids=["a"], filter="{}"),
        INVALID,
        "either",
    ),
    (
        "patch",
        "PatchMetadata",
        pb.PatchMetadataRequest(collection="things", id="a", patch="1"),
        INVALID,
        "patch",
    ),
    ("limit 0", "Scroll", pb.ScrollRequest(collection="things", limit=0), INVALID, "limit"),
    (
        "limit huge",
        "Scroll",
        pb.ScrollRequest(collection="things", limit=20_001),
        INVALID,
        "scroll_limit_max",
    ),
    ("no operation", "Commit", pb.CommitRequest(), INVALID, "operations"),
    (
        "no action",
        "Commit",
        pb.CommitRequest(operations=[pb.Operation(collection="things")]),
        INVALID,
        "operations[0]",
    ),
    (
        "row twice",
        "Commit",
        pb.CommitRequest(
            operations=[
                pb.Operation(
                    collection="things", upsert=pb.Operation.Upsert(vectors=[vector("a")])
                ),
                pb.Operation(collection="things", delete=pb.Operation.Delete(ids=["b", "a"])),
            ]
        ),
        INVALID,
        "operations[1]",
    ),
    ("no txn id", "GetTransaction", pb.GetTransactionRequest(), INVALID, "id"),
    ("no name", "CreateCollection", pb.CreateCollectionRequest(dimension=2), INVALID, "name"),
    ("dim 0", "CreateCollection", pb.CreateCollectionRequest(name="n"), INVALID, "dimension"),
    (
        "metric",
        "CreateCollection",
        pb.CreateCollectionRequest(name="n", dimension=2, metric=9),  # type: ignore[arg-type]
        INVALID,
        "metric",
    ),
    ("drop nothing", "DropCollection", pb.DropCollectionRequest(), INVALID, "name"),
    ("unknown", "Count", pb.CountRequest(collection="nobody"), "not_found", "nobody"),
    (
        "exists",
        "CreateCollection",
        pb.CreateCollectionRequest(name="things", dimension=2),
        "already_exists",
        "things",
    ),
]


async def failure(stub: Any, method: str, request: Any) -> Any:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await getattr(stub, method)(request)
    return caught.value


def trailing(error: Any) -> dict[str, str]:
    return dict(error.trailing_metadata())


@pytest.mark.parametrize(
    ("method", "request_", "code", "place"),
    [case[1:] for case in BAD],
    ids=[case[0] for case in BAD],
)
async def test_a_bad_request_is_refused_by_name_and_the_server_goes_on(
    stub: Any, database: Any, method: str, request_: Any, code: str, place: str
) -> None:
    await database.create_collection("things", 2, "cosine")
    error = await failure(stub, method, request_)
    assert trailing(error)["vector-db-code"] == code
    assert trailing(error)["vector-db-retryable"] == "false"
    assert place in error.details()
    assert (await stub.Count(pb.CountRequest(collection="things"))).count == 0


async def test_bytes_that_are_no_protobuf_are_the_clients_error(channel: Any) -> None:
    bad_utf8 = b"\x0a\x02\xff\xfe"  # field 1, a string of two bytes that are no UTF-8
    for data in (b"\xff\xff\xff", bad_utf8):
        call = channel.unary_unary("/vector_db.v1.VectorDB/Count")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(data)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert trailing(caught.value)["vector-db-code"] == INVALID


async def test_a_message_over_the_limit_is_refused(stub: Any) -> None:
    error = await failure(stub, "InsertVectors", insert(vector(dimensions=b"\0" * (2 << 20))))
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_filter_over_its_limit_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(errors.InvalidArgument, match="filter"):
        decode_filter("x" * (FILTER_BYTES_MAX + 1), LIMITS)


async def test_the_request_id_of_the_client_comes_back(stub: Any, database: Any) -> None:
    await database.create_collection("things", 2, "cosine")
    call = stub.Count(
        pb.CountRequest(collection="things"), metadata=(("x-request-id", "order-66"),)
    )
    await call
    assert dict(await call.trailing_metadata())["vector-db-request-id"] == "order-66"
    overlong = stub.Count(
        pb.CountRequest(collection="things"), metadata=(("x-request-id", "x" * 129),)
    )
    await overlong
    assert len(dict(await overlong.trailing_metadata())["vector-db-request-id"]) == 32


@pytest.mark.parametrize(
    "error",
    [
        errors.Conflict("lost", id="a"),
        errors.OutcomeUnknown("sent", outcome="unknown", transaction="t1"),
        errors.StorageFull("full"),
        errors.SnapshotTooOld("old"),
        errors.PreconditionFailed("version"),
        errors.Unavailable("down"),
        errors.TooManyRequests("later"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_each_error_of_the_database_keeps_status_code_and_details(
    stub: Any, database: Any, error: errors.VectorDBError
) -> None:
    database.failure = error
    seen = await failure(stub, "Count", pb.CountRequest(collection="things"))
    assert seen.code().name == error.grpc_status
    assert seen.details() == error.message
    facts = trailing(seen)
    assert facts["vector-db-code"] == error.code
    assert facts["vector-db-retryable"] == str(error.retryable).lower()
    assert json.loads(facts.get("vector-db-details", "{}")) == error.details


async def test_an_unexpected_error_is_logged_under_the_request_id_and_tells_nothing(
    stub: Any, database: Any, caplog: pytest.LogCaptureFixture
) -> None:
    database.failure = RuntimeError("the secret")
    with caplog.at_level(logging.ERROR, "vector_db.gateway.grpc"):
        seen = await failure(stub, "Count", pb.CountRequest(collection="things"))
    assert seen.code() == grpc.StatusCode.INTERNAL
    assert "secret" not in seen.details()
    request_id = trailing(seen)["vector-db-request-id"]
    assert request_id in seen.details()
    assert request_id in caplog.text and "the secret" in caplog.text


def test_an_overlong_message_is_cut_and_overlong_details_are_left_out() -> None:
    told = failure_of(errors.InvalidArgument("x" * 10_000, ids=["y" * 9_000]), "Count", "r1")
    assert len(told.message) == MESSAGE_CHARS_MAX + 1
    assert "vector-db-details" not in dict(told.trailing)


def test_details_outside_ascii_become_ascii() -> None:
    told = failure_of(errors.Conflict("lost", id="ü"), "Count", "r1")
    assert dict(told.trailing)["vector-db-details"].isascii()


async def test_queries_and_inserts_are_counted_as_those_of_this_edge(
    stub: Any, database: Any, registry: Any
) -> None:
    await database.create_collection("things", 2, "cosine")
    await stub.InsertVectors(insert(vector("a"), vector("b")))
    await stub.QuerySimilar(query())
    await failure(stub, "QuerySimilar", query(collection="nobody"))

    def value(name: str, **labels: str) -> float | None:
        sample: float | None = registry.get_sample_value(name, {"edge": "grpc", **labels})
        return sample

    assert value("vector_db_insert_total", code="ok") == 1
    assert value("vector_db_insert_rows_total") == 2
    assert value("vector_db_query_duration_seconds_count", code="ok") == 1
    assert value("vector_db_query_duration_seconds_count", code="not_found") == 1
