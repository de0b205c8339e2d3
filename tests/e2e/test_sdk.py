"""The SDK against the real server: what it writes is read back, whole, exact and at once."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest

from tests.support.processes import Service
from vector_db_client import (
    AlreadyExists,
    AsyncVectorDatabaseClient,
    Collection,
    Delete,
    InvalidArgument,
    NotFound,
    RowBatch,
    Upsert,
    VectorDatabaseClient,
)

RNG = np.random.default_rng(11)


@pytest.fixture
def client(server: Service) -> Iterator[VectorDatabaseClient]:
    with VectorDatabaseClient.connect(server.url) as connected:
        yield connected


@pytest.fixture
async def aclient(server: Service) -> AsyncIterator[AsyncVectorDatabaseClient]:
    async with AsyncVectorDatabaseClient(server.url) as connected:
        yield connected


@pytest.fixture
def words(client: VectorDatabaseClient) -> Iterator[Collection]:
    """An empty collection of dimension 8, dropped afterwards."""
    made = client.create_collection(f"sdk-{uuid.uuid4().hex}", 8)
    yield made
    client.delete_collection(made.name)


def unit_rows(n: int, d: int = 8) -> tuple[list[str], np.ndarray, list[dict[str, Any] | None]]:
    vectors = RNG.standard_normal((n, d)).astype("f4")
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    metadata: list[dict[str, Any] | None] = [
        {"n": n, "tags": ["a", "é"], "deep": {"x": 1.5}} if n % 3 else None for n in range(n)
    ]
    return [f"row/{i:05} é%?" for i in range(n)], vectors, metadata


@pytest.mark.parametrize("n", [7, 3000])
def test_inserted_rows_are_fetched_bit_exact_with_metadata_and_version(
    client: VectorDatabaseClient, words: Collection, n: int
) -> None:
    ids, vectors, metadata = unit_rows(n)
    vectors[1, :3] = [-0.0, 1e-45, 1.1754944e-38]
    written = client.insert_vectors(ids, vectors, metadata, collection=words.name)
    assert written.count == n
    rows = client.fetch([*reversed(ids), "absent"], collection=words.name)
    assert [row.id for row in rows] == ids[::-1]
    assert np.stack([np.asarray(row.vector) for row in rows]).tobytes() == vectors[::-1].tobytes()
    assert [row.metadata for row in rows] == metadata[::-1]
    assert max(row.version for row in rows) == written.commit_ts
    assert client.count(collection=words.name).count == n


def test_json_and_arrow_bodies_store_the_same(
    client: VectorDatabaseClient, words: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, vectors, metadata = unit_rows(500)
    stored = []
    for arrow_bytes_min in (0, 1 << 40):
        monkeypatch.setattr("vector_db_client.wire.ARROW_BYTES_MIN", arrow_bytes_min)
        client.insert_vectors(ids, vectors, metadata, collection=words.name, mode="upsert")
        rows = client.scroll(collection=words.name, page_size=100)
        stored.append([(r.id, np.asarray(r.vector).tobytes(), r.metadata) for r in rows])
    assert stored[0] == stored[1]
    assert len(stored[0]) == 500


def test_queries_agree_with_exact_search(client: VectorDatabaseClient, words: Collection) -> None:
    ids, vectors, metadata = unit_rows(2000)
    client.insert_vectors(ids, vectors, metadata, collection=words.name)
    queries = unit_rows(5)[1]
    best = [[ids[i] for i in np.argsort(-(vectors @ q))[:10]] for q in queries]
    batch = client.query_similar(vectors=queries, k=10, collection=words.name)
    assert [[match.id for match in found] for found in batch] == best
    one = client.query_similar(
        queries[0], collection=words.name, include=["metadata", "dimensions", "distance"]
    )
    assert [match.id for match in one] == best[0]
    at = ids.index(one[0].id)
    assert np.asarray(one[0].vector).tobytes() == vectors[at].tobytes()
    assert one[0].similarity == pytest.approx(float(vectors[at] @ queries[0]), abs=1e-5)
    assert one[0].distance == pytest.approx(1 - one[0].similarity, abs=1e-6)
    assert one[0].metadata == metadata[at]
    by_id = client.query_similar(id=ids[3], k=5, collection=words.name)
    assert ids[3] not in [match.id for match in by_id]
    some = client.query_similar(
        queries[0], collection=words.name, filter={"n": {"$lt": 50}}, min_similarity=0.0
    )
    assert some and all(m.metadata and m.metadata["n"] < 50 and m.similarity >= 0 for m in some)


def test_modes_exist_ok_and_absent_rows(client: VectorDatabaseClient, words: Collection) -> None:
    where = {"collection": words.name}
    client.insert_vectors(["a"], np.ones((1, 8)), **where)  # type: ignore[arg-type]
    with pytest.raises(AlreadyExists):
        client.insert_vectors(["b", "a"], np.ones((2, 8)), mode="insert", collection=words.name)
    with pytest.raises(NotFound):
        client.insert_vectors(["a", "b"], np.ones((2, 8)), mode="update", collection=words.name)
    with pytest.raises(InvalidArgument, match="8"):
        client.insert_vectors(["b"], np.ones((1, 9)), collection=words.name)
    assert [row.id for row in client.scroll(collection=words.name)] == ["a"]
    assert client.create_collection(words.name, 8, exist_ok=True) == words
    with pytest.raises(AlreadyExists):
        client.create_collection(words.name, 8)
    with pytest.raises(NotFound):
        client.count(collection="no-such-collection")


def test_metadata_updates_and_deletes(client: VectorDatabaseClient, words: Collection) -> None:
    ids, vectors, _ = unit_rows(30)
    numbers = [{"n": n, "even": n % 2 == 0} for n in range(30)]
    client.insert_vectors(ids, vectors, numbers, collection=words.name)
    client.update_metadata(ids[1], {"even": None, "new": [1]}, collection=words.name)
    (row,) = client.fetch([ids[1]], collection=words.name)
    assert row.metadata == {"n": 1, "new": [1]}
    assert np.asarray(row.vector).tobytes() == vectors[1].tobytes()
    assert client.delete(filter={"even": True}, collection=words.name).count == 15
    assert client.delete([ids[1], "absent"], collection=words.name).count == 1
    assert client.count({"even": False}, collection=words.name).count == 14
    with pytest.raises(NotFound):
        client.update_metadata(ids[1], {}, collection=words.name)


def test_a_commit_is_atomic_over_collections(
    client: VectorDatabaseClient, words: Collection
) -> None:
    other = client.create_collection(f"sdk-{uuid.uuid4().hex}", 3, "euclidean")
    try:
        client.insert_vectors(["old"], np.ones((1, 8)), collection=words.name)
        result = client.commit(
            [
                Upsert(words.name, ["new"], np.ones((1, 8)), [{"k": 1}]),
                Upsert(other.name, ["x", "y"], np.ones((2, 3))),
                Delete(words.name, ["old"]),
            ]
        )
        assert result.count == 4
        (new,) = client.fetch(["new", "old"], collection=words.name)
        versions = {row.version for row in client.scroll(collection=other.name)} | {new.version}
        assert versions == {result.commit_ts}
        with pytest.raises(InvalidArgument):
            client.commit(
                [
                    Upsert(words.name, ["never"], np.ones((1, 8))),
                    Upsert(other.name, ["never"], np.ones((1, 4))),
                ]
            )
        assert client.fetch(["never"], collection=words.name) == []
    finally:
        client.delete_collection(other.name)


def test_a_scroll_stays_at_its_snapshot_while_rows_come_and_go(
    client: VectorDatabaseClient, words: Collection
) -> None:
    ids, vectors, metadata = unit_rows(250)
    client.insert_vectors(ids, vectors, metadata, collection=words.name)
    pages = client.scroll_pages(collection=words.name, page_size=100)
    seen = [next(pages)]
    client.delete(ids[50:200], collection=words.name)
    client.insert_vectors(["later"], vectors[:1], collection=words.name)
    seen += pages
    assert sorted(row.id for page in seen for row in page.rows) == sorted(ids)
    assert len({page.snapshot_ts for page in seen}) == 1
    assert client.count(collection=words.name).count == 101
    filtered = client.scroll(collection=words.name, filter={"n": {"$gte": 240}}, page_size=3)
    assert sum(1 for _ in filtered) == sum(1 for n in range(240, 250) if n % 3)


def test_every_read_sees_the_write_before_it_also_from_another_client(
    server: Service, client: VectorDatabaseClient, words: Collection
) -> None:
    with VectorDatabaseClient(server.url) as other:
        for n in range(50):
            result = client.insert_vectors([f"i{n}"], np.ones((1, 8)), collection=words.name)
            assert client.count(collection=words.name).count == n + 1
            other.observe(result.commit_ts)
            assert len(other.fetch([f"i{n}"], collection=words.name)) == 1
            assert other.count(collection=words.name, consistency="strong").count == n + 1


def test_streams_and_progress(client: VectorDatabaseClient, words: Collection) -> None:
    heard: list[tuple[int, int | None]] = []
    batches = (
        RowBatch([f"{b}-{n}" for n in range(70)], RNG.standard_normal((70, 8))) for b in range(20)
    )
    result = client.insert_stream(
        batches,
        collection=words.name,
        batch_size=50,
        progress=lambda done, total: heard.append((done, total)),
        rows_total=1400,
    )
    assert result.count == client.count(collection=words.name).count == 1400
    assert heard[-1] == (1400, 1400)


async def test_async_clients_write_and_read_side_by_side(
    aclient: AsyncVectorDatabaseClient, words: Collection
) -> None:
    async def work(n: int) -> int:
        ids = [f"{n}-{i}" for i in range(20)]
        await aclient.insert_vectors(ids, RNG.standard_normal((20, 8)), collection=words.name)
        found = await aclient.query_similar(id=ids[0], k=3, collection=words.name)
        return len(found)

    assert await asyncio.gather(*(work(n) for n in range(20))) == [3] * 20
    assert len([row async for row in aclient.scroll(collection=words.name)]) == 400


def test_statistics_cluster_and_default_collection(
    client: VectorDatabaseClient, words: Collection
) -> None:
    client.insert_vectors(["a", "b"], np.ones((2, 8)), collection=words.name)
    assert client.collection_stats(words.name).rows == 2
    assert words.name in [one.name for one in client.list_collections()]
    cluster = client.cluster()
    (worker,) = cluster.workers
    assert worker.ready
    assert cluster.worker_ids == (worker.id,)
    assert cluster.replication_factor == 1
    assert cluster.held_by(worker.id) == tuple(sorted(cluster.shards))
    names = {one.name for one in client.list_collections()}
    dimension = client.get_collection("default").dimension if "default" in names else 4
    row_id = f"sdk-{threading.get_ident()}"
    client.insert_vectors([row_id], np.ones((1, dimension)))
    assert client.query_similar(np.ones(dimension), k=1)[0].similarity == pytest.approx(1.0)
    assert client.delete([row_id]).count == 1


def test_options_are_changed_and_an_alias_is_switched_under_a_transaction(
    client: VectorDatabaseClient, words: Collection
) -> None:
    name, alias = f"{words.name}-2", f"{words.name}-live"
    made = client.create_collection(name, 8, index={"kind": "exact"}, fields=["n"])
    assert (made.index.kind, made.index.m, made.fields) == ("exact", 16, ("n",))
    assert client.update_collection(name, index={"m": 24}, fields=[]).index.kind == "exact"
    client.set_alias(alias, words.name)
    with pytest.raises(AlreadyExists):
        client.create_collection(alias, 8)
    with pytest.raises(InvalidArgument):
        client.delete_collection(alias)
    ids, vectors, metadata = unit_rows(3)
    with client.transaction() as t:
        t.insert_vectors(ids, vectors, metadata, collection=alias)
        client.set_alias(alias, name)
        assert t.fetch(ids, collection=alias) == [], "looked up anew by each call"
        t.insert_vectors(ids[:1], vectors[:1], collection=alias)
    assert client.count(collection=words.name).count == 3
    assert client.count(collection=alias).count == 1
    assert client.get_collection(alias).aliases == (alias,)
    with pytest.raises(InvalidArgument, match="those before it"):
        client.commit([Delete(alias, ids[:1]), Delete(name, ids[:1])])
    client.delete_collection(name)
    assert alias not in client.aliases()
    with pytest.raises(NotFound):
        client.count(collection=alias)
