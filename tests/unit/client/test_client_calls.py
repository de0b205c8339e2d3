"""The calls of both clients: what they send and what they make of the answers."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

import vector_db_client
from tests.unit.client.fake_gateway import FakeGateway
from vector_db_client import (
    AlreadyExists,
    AsyncVectorDatabaseClient,
    Delete,
    InvalidArgument,
    NotFound,
    QueryOptions,
    Upsert,
    VectorDatabaseClient,
)

RNG = np.random.default_rng(7)


def rows(n: int, d: int = 4) -> tuple[list[str], np.ndarray, list[dict[str, int] | None]]:
    metadata: list[dict[str, int] | None] = [{"n": i} if i % 3 else None for i in range(n)]
    return [f"id{i}" for i in range(n)], RNG.standard_normal((n, d)).astype("f4"), metadata


def test_inserted_rows_come_back_bit_exact_in_order_with_their_version(
    client: VectorDatabaseClient,
) -> None:
    ids, vectors, metadata = rows(20)
    vectors[0] = [-0.0, 1e-45, 3.4028235e38, 1.1754944e-38]
    result = client.insert_vectors(ids, vectors, metadata)
    fetched = client.fetch([*reversed(ids), "absent"])
    assert result.count == 20
    assert [row.id for row in fetched] == list(reversed(ids))
    assert (
        np.stack([np.asarray(row.vector) for row in fetched]).tobytes() == vectors[::-1].tobytes()
    )
    assert [row.metadata for row in fetched] == metadata[::-1]
    assert {row.version for row in fetched} == {result.commit_ts}


@pytest.mark.parametrize(("n", "d", "arrow"), [(3, 4, False), (100, 384, True)])
def test_large_batches_go_as_arrow_and_arrive_like_json(
    gateway: FakeGateway, client: VectorDatabaseClient, n: int, d: int, arrow: bool
) -> None:
    ids, vectors, metadata = rows(n, d)
    client.insert_vectors(ids, vectors, metadata, mode="insert")
    (sent,) = gateway.sent("/vectors" + ("?mode=insert" if arrow else ""))
    assert ("arrow" in sent.content_type) is arrow
    stored = gateway.rows["default"]
    assert all(stored[i][0].tobytes() == v.tobytes() for i, v in zip(ids, vectors, strict=True))
    assert [stored[i][1] for i in ids] == metadata


def test_float64_and_lists_and_non_contiguous_arrays_become_float32(
    gateway: FakeGateway, client: VectorDatabaseClient
) -> None:
    client.insert_vectors(["a"], [[0.1, 2]])
    client.insert_vectors(["b"], np.array([[0.1], [2.0]]).T)
    client.insert_vectors(["c"], np.array([[1, 2]], np.float16))
    stored = gateway.rows["default"]
    assert stored["a"][0].tobytes() == stored["b"][0].tobytes()
    assert stored["c"][0].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("ids", "vectors", "metadata", "reason"),
    [
        (["a"], [[1, 2], [3, 4]], None, "1 ids but 2 vectors"),
        (["a"], [1.0, 2.0], None, "shape"),
        (["a", "a"], [[1], [2]], None, "comes twice"),
        (["a", 5], [[1], [2]], None, r"ids\[1\]: needs a string"),
        ("ab", [[1], [2]], None, "needs a list"),
        (["a", "b"], [[1], [float("nan")]], None, r"vectors\[1\]"),
        (["a"], [[1e300]], None, r"not finite in float32"),
        (["a"], [["x"]], None, "not an array"),
        (["a"], [[1j]], None, "not an array"),
        (["a"], [[1]], [{}, {}], "2 metadata"),
        (["a"], [[1]], ["text"], r"metadata\[0\]"),
        (["a"], [[1]], [{"x": object()}], "JSON"),
    ],
)
def test_rows_that_do_not_fit_are_refused_before_anything_is_sent(
    gateway: FakeGateway,
    client: VectorDatabaseClient,
    ids: list[str],
    vectors: object,
    metadata: list[dict[str, object] | None] | None,
    reason: str,
) -> None:
    with pytest.raises(InvalidArgument, match=reason):
        client.insert_vectors(ids, vectors, metadata)  # type: ignore[arg-type]
    assert not gateway.requests


def test_an_insert_of_no_rows_sends_nothing(
    gateway: FakeGateway, client: VectorDatabaseClient
) -> None:
    assert client.insert_vectors([], np.empty((0, 4), "f4")).count == 0
    assert client.insert_vectors([], []).count == 0
    assert not gateway.requests


def test_query_by_vector_by_id_and_in_batches(client: VectorDatabaseClient) -> None:
    client.insert_vectors(["x", "y", "z"], np.eye(3), [{"n": 1}, None, {"n": 1}])
    (best,) = client.query_similar([0, 1, 0.5], k=1)
    assert (best.id, best.similarity, best.metadata) == ("y", 1.0, None)
    assert [m.id for m in client.query_similar(id="y", k=5)] == ["x", "z"]
    assert [[m.id for m in found] for found in client.query_similar(vectors=np.eye(3), k=1)] == [
        ["x"],
        ["y"],
        ["z"],
    ]
    assert [m.id for m in client.query_similar([0, 1, 0], filter={"n": 1})] == ["x", "z"]
    assert not client.query_similar([0, 1, 0], min_similarity=2.0)


def test_a_query_needs_exactly_one_target(client: VectorDatabaseClient) -> None:
    with pytest.raises(InvalidArgument, match="exactly one"):
        client.query_similar()
    with pytest.raises(InvalidArgument, match="exactly one"):
        client.query_similar([1.0], id="x")


def test_collections_are_made_listed_and_deleted(client: VectorDatabaseClient) -> None:
    made = client.create_collection("b", 4, "dot", shards=2)
    client.create_collection("a", 3)
    assert (made.name, made.dimension, made.metric, made.shards) == ("b", 4, "dot", 2)
    assert [c.name for c in client.list_collections()] == ["a", "b"]
    client.delete_collection("a")
    with pytest.raises(NotFound):
        client.get_collection("a")
    assert client.collection_stats("b").bytes_disk == 20


def test_exist_ok_takes_only_a_collection_of_the_same_kind(client: VectorDatabaseClient) -> None:
    made = client.create_collection("c", 4)
    assert client.create_collection("c", 4, exist_ok=True) == made
    with pytest.raises(AlreadyExists):
        client.create_collection("c", 4)
    with pytest.raises(AlreadyExists, match="dimension 4"):
        client.create_collection("c", 5, exist_ok=True)


def test_delete_count_and_metadata_updates(client: VectorDatabaseClient) -> None:
    client.insert_vectors(["a", "b", "c/ d?%é"], np.eye(3), [{"k": 1}, {"k": 2}, {"k": 1}])
    client.update_metadata("c/ d?%é", {"k": None, "m": 5})
    assert client.fetch(["c/ d?%é"])[0].metadata == {"m": 5}
    assert client.count({"k": 1}).count == 1
    assert client.delete(filter={"k": 1}).count == 1
    assert client.delete(["b", "nobody"]).count == 1
    assert client.count().count == 1
    with pytest.raises(InvalidArgument, match="either"):
        client.delete()
    with pytest.raises(InvalidArgument, match="either"):
        client.delete(["a"], filter={"k": 1})


def test_commit_writes_several_collections_at_one_timestamp(
    gateway: FakeGateway, client: VectorDatabaseClient
) -> None:
    client.create_collection("a", 2)
    client.create_collection("b", 3)
    client.insert_vectors(["old"], [[1, 2]], collection="a")
    result = client.commit(
        [
            Upsert("a", ["new"], [[3, 4]]),
            Upsert("b", ["other"], [[5, 6, 7]], [{"x": 1}]),
            Delete("a", ["old", "absent"]),
        ]
    )
    assert result.count == 3
    assert gateway.rows["a"]["new"][2] == gateway.rows["b"]["other"][2] == result.commit_ts
    assert "old" not in gateway.rows["a"]


def test_scroll_gives_every_row_once_over_pages(client: VectorDatabaseClient) -> None:
    ids, vectors, metadata = rows(25)
    client.insert_vectors(ids, vectors, metadata)
    assert [row.id for row in client.scroll(page_size=10)] == ids
    assert [len(page.rows) for page in client.scroll_pages(page_size=10)] == [10, 10, 5]
    assert [row.id for row in client.scroll(filter={"n": 7}, page_size=10)] == ["id7"]


def test_reads_leave_out_what_is_not_asked_for(client: VectorDatabaseClient) -> None:
    client.insert_vectors(["a"], [[1, 2]], [{"n": 1}])
    for row in (*client.fetch(["a"], include=["metadata"]), *client.scroll(include=["metadata"])):
        assert (row.vector, row.metadata) == (None, {"n": 1})
    assert client.fetch(["a"], include=[])[0].metadata is None
    assert client.fetch([]) == []


async def test_the_async_client_has_the_same_calls(aclient: AsyncVectorDatabaseClient) -> None:
    ids, vectors, metadata = rows(25)
    await aclient.insert_vectors(ids, vectors, metadata)
    assert [row.id async for row in aclient.scroll(page_size=10)] == ids
    assert (await aclient.query_similar(vectors[3], k=25))[0].similarity > 0
    assert (await aclient.count()).count == 25
    assert (await aclient.cluster()).workers == ()


def test_pages_follow_their_cursors_to_the_end(client: VectorDatabaseClient) -> None:
    client.insert_vectors([f"r{i}" for i in range(5)], np.eye(5, 3))
    first = client.query_page([3, 2, 1], k=2)
    assert [m.id for m in first.matches] == ["r0", "r1"]
    second = client.query_page([3, 2, 1], k=2, after=first.cursor)
    assert [m.id for m in second.matches] == ["r2", "r3"]
    pages = list(client.query_pages([3, 2, 1], k=2))
    assert [len(page.matches) for page in pages] == [2, 2, 1]
    assert (pages[-1].cursor, pages[-1].snapshot_ts) == (None, first.snapshot_ts)
    with client.transaction() as t:
        assert [len(page.matches) for page in t.query_pages(id="r0", k=3)] == [3, 1]
        assert t.query_page([3, 2, 1], k=2, after=first.cursor).matches[0].id == "r2"


def test_only_the_options_that_were_given_are_sent(client: VectorDatabaseClient) -> None:
    client.insert_vectors(["x"], [[1, 0, 0]])
    plain = client.explain_query([1, 0, 0])["asked"]
    assert set(plain) == {"vector", "include", "consistency", "explain"}
    given: QueryOptions = {"k": 3, "radius": 0.5, "recall": 0.9, "ef": 70, "nprobe": 8}
    asked = client.explain_query(vectors=np.eye(3), **given)["asked"]
    assert {name: asked.get(name) for name in given} == given and "exact" not in asked
    with client.transaction() as t:
        own = t.explain_query(id="x", exact=True, min_similarity=0.1)["asked"]
        assert (own["exact"], own["min_similarity"], own["id"]) == (True, 0.1, "x")
    with pytest.raises(TypeError, match="nearby"):
        client.query_similar([1, 0, 0], nearby=True)  # type: ignore[call-overload]


def test_sync_and_async_signatures_agree() -> None:
    def public(cls: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(member).parameters)
            for name, member in inspect.getmembers(cls, inspect.isfunction)
            if not name.startswith("_") and name != "query_similar"
        }

    assert public(VectorDatabaseClient) == public(AsyncVectorDatabaseClient)


def test_every_public_name_exists_and_is_documented() -> None:
    for name in vector_db_client.__all__:
        assert hasattr(vector_db_client, name)
    for cls in (VectorDatabaseClient, AsyncVectorDatabaseClient):
        for name, member in inspect.getmembers(cls, callable):
            assert name.startswith("_") or inspect.getdoc(member), f"{cls.__name__}.{name}"
