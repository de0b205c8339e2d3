"""Open transactions over gRPC against a real server, beside REST clients of the same rows."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from tests.support.processes import Service, call
from vector_db.v1 import vector_db_pb2 as pb
from vector_db.v1.vector_db_pb2_grpc import VectorDBStub


@pytest.fixture(scope="module")
def stub(server: Service) -> Iterator[VectorDBStub]:
    with grpc.insecure_channel(server.grpc_target) as channel:
        yield VectorDBStub(channel)


@pytest.fixture
def collection(stub: VectorDBStub, request: pytest.FixtureRequest) -> str:
    name = f"grpc-{request.node.name}"[:100]
    stub.CreateCollection(pb.CreateCollectionRequest(name=name, dimension=2, shards=2))
    return name


def row(row_id: str, *numbers: float) -> pb.Vector:
    return pb.Vector(id=row_id, dimensions=np.array(numbers, dtype="<f4").tobytes())


def count(stub: VectorDBStub, name: str, token: str = "") -> int:
    consistency = None if token else pb.Consistency(strong=True)
    asked = pb.CountRequest(collection=name, transaction=token, consistency=consistency)
    return int(stub.Count(asked).count)


def test_statements_are_seen_inside_and_the_commit_shows_them_to_all(
    server: Service, stub: VectorDBStub, collection: str
) -> None:
    begun = stub.BeginTransaction(pb.BeginTransactionRequest())
    written = stub.InsertVectors(
        pb.InsertVectorsRequest(
            collection=collection,
            vectors=[row("a", 1, 0), row("b", 0, 1)],
            transaction=begun.transaction,
        )
    )
    assert (written.count, written.commit_ts) == (2, 0)
    gone = stub.Delete(
        pb.DeleteRequest(collection=collection, ids=["b"], transaction=written.transaction)
    )
    assert gone.count == 1
    token = gone.transaction
    near = stub.QuerySimilar(
        pb.QuerySimilarRequest(
            collection=collection,
            vectors=[np.array([0, 1], dtype="<f4").tobytes()],
            transaction=token,
        )
    )
    assert [hit.id for hit in near.results[0].vectors] == ["a"]
    assert (count(stub, collection, token), count(stub, collection)) == (1, 0)
    done = stub.CommitTransaction(pb.CommitTransactionRequest(transaction=token))
    assert done.commit_ts > begun.snapshot_ts
    assert stub.CommitTransaction(pb.CommitTransactionRequest(transaction=token)) == done
    assert count(stub, collection) == 1
    found = call(f"{server.url}/v1/collections/{collection}/vectors/a")
    assert found["version"] == done.commit_ts
    assert stub.GetTransaction(pb.GetTransactionRequest(id=begun.id)).state == "committed"


def test_the_second_of_two_writers_of_a_row_is_refused_and_may_try_again(
    stub: VectorDBStub, collection: str
) -> None:
    tokens = []
    for value in (1.0, 2.0):
        begun = stub.BeginTransaction(pb.BeginTransactionRequest())
        write = pb.InsertVectorsRequest(
            collection=collection, vectors=[row("x", value, 1)], transaction=begun.transaction
        )
        tokens.append(stub.InsertVectors(write).transaction)
    stub.CommitTransaction(pb.CommitTransactionRequest(transaction=tokens[0]))
    with pytest.raises(grpc.RpcError) as refused:
        stub.CommitTransaction(pb.CommitTransactionRequest(transaction=tokens[1]))
    assert refused.value.code() is grpc.StatusCode.ABORTED
    told = dict(refused.value.trailing_metadata())
    assert (told["vector-db-code"], told["vector-db-retryable"]) == ("conflict", "true")


def test_an_aborted_transaction_leaves_nothing_and_goes_no_further(
    stub: VectorDBStub, collection: str
) -> None:
    begun = stub.BeginTransaction(pb.BeginTransactionRequest(timeout_s=30))
    write = pb.InsertVectorsRequest(
        collection=collection, vectors=[row("x", 1, 1)], transaction=begun.transaction
    )
    token = stub.InsertVectors(write).transaction
    stub.AbortTransaction(pb.AbortTransactionRequest(transaction=token))
    with pytest.raises(grpc.RpcError) as refused:
        stub.CommitTransaction(pb.CommitTransactionRequest(transaction=token))
    assert dict(refused.value.trailing_metadata())["vector-db-code"] == "aborted"
    assert count(stub, collection) == 0


def test_a_write_under_a_key_is_applied_once(stub: VectorDBStub, collection: str) -> None:
    write = pb.InsertVectorsRequest(
        collection=collection, vectors=[row("x", 1, 1)], mode=pb.MODE_INSERT, idempotency_key="k-1"
    )
    first, again = stub.InsertVectors(write), stub.InsertVectors(write)
    assert (first.count, first.commit_ts) == (again.count, again.commit_ts)
    assert (first.replayed, again.replayed) == (False, True)
    write.vectors[0].id = "y"
    with pytest.raises(grpc.RpcError) as refused:
        stub.InsertVectors(write)
    assert dict(refused.value.trailing_metadata())["vector-db-code"] == "idempotency_mismatch"
