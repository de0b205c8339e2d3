"""Bounds, pages, effort and plans of queries against a real server, within transactions too."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from tests.support.processes import Service, call
from vector_db.v1 import vector_db_pb2 as pb
from vector_db.v1.vector_db_pb2_grpc import VectorDBStub
from vector_db_client import AsyncVectorDatabaseClient, InvalidArgument, VectorDatabaseClient

DIMENSION = 8
ROWS = 12_000
INDEXED_S_MAX = 120.0
RNG = np.random.default_rng(17)
VECTORS = RNG.standard_normal((ROWS, DIMENSION)).astype("f4")
VECTORS[1::100] = VECTORS[::100]  # ties
IDS = [f"r{i:05}" for i in RNG.permutation(ROWS).tolist()]
QUERY = VECTORS[7]


@pytest.fixture(scope="module")
def client(server: Service) -> Iterator[VectorDatabaseClient]:
    with VectorDatabaseClient.connect(server.url) as connected:
        yield connected


@pytest.fixture(scope="module")
def points(client: VectorDatabaseClient) -> str:
    """Two shards of 12,000 rows in all, euclidean; nobody writes to it outside of transactions."""
    made = client.create_collection(f"q-{uuid.uuid4().hex}", DIMENSION, "euclidean", shards=2)
    metadata = [{"n": i % 4} for i in range(ROWS)]
    client.insert_vectors(IDS, VECTORS, metadata, collection=made.name, batch_size=4000)
    return made.name


def ranked(
    query: Any = QUERY, rows: Any = VECTORS, ids: list[str] = IDS
) -> list[tuple[str, float]]:
    """Every row with its distance, nearest first, ties by id."""
    wide = rows.astype("f8") - np.asarray(query, dtype="f8")
    distances = np.sqrt((wide * wide).sum(axis=1)).tolist()
    best = sorted(zip(distances, ids, strict=True))
    return [(row_id, distance) for distance, row_id in best]


def names(matches: Any) -> list[str]:
    return [match.id for match in matches]


def test_a_radius_holds_exactly_the_rows_within_it(
    client: VectorDatabaseClient, points: str
) -> None:
    nearest = ranked()
    for inside in (1, 40, 700, 2_500):
        radius = (nearest[inside - 1][1] + nearest[inside][1]) / 2
        if nearest[inside - 1][1] == nearest[inside][1]:
            continue
        expected = [row_id for row_id, distance in nearest if distance <= radius]
        pages = list(client.query_pages(QUERY, radius=radius, exact=True, collection=points))
        assert [row_id for page in pages for row_id in names(page.matches)] == expected
        assert [len(page.matches) for page in pages[:-1]] == [1000] * (len(pages) - 1)
        some = client.query_similar(
            QUERY, radius=radius, k=10_000, filter={"n": 1}, collection=points, exact=True
        )
        chosen = {row_id for i, row_id in enumerate(IDS) if i % 4 == 1}
        assert names(some) == [row_id for row_id in expected if row_id in chosen]


def test_ten_thousand_hits_come_whole_from_two_shards(
    client: VectorDatabaseClient, points: str
) -> None:
    expected = [row_id for row_id, _ in ranked()]
    found = client.query_similar(QUERY, k=10_000, collection=points, exact=True, include=[])
    assert names(found) == expected[:10_000]
    batch = client.query_similar(
        vectors=VECTORS[[7, 9]], k=10_000, collection=points, exact=True, include=["metadata"]
    )
    assert names(batch[0]) == expected[:10_000]
    assert names(batch[1]) == [row_id for row_id, _ in ranked(VECTORS[9])][:10_000]
    with pytest.raises(InvalidArgument, match="k_max"):
        client.query_similar(QUERY, k=10_001, collection=points)


def test_pages_are_one_query_also_while_others_write(
    client: VectorDatabaseClient, points: str
) -> None:
    name = f"q-{uuid.uuid4().hex}"
    client.create_collection(name, DIMENSION, "euclidean", shards=2)
    client.insert_vectors(IDS[:500], VECTORS[:500], collection=name)
    expected = [row_id for row_id, _ in ranked(QUERY, VECTORS[:500], IDS[:500])]
    found: list[str] = []
    for page in client.query_pages(QUERY, k=120, collection=name, exact=True):
        found += names(page.matches)
        client.delete(found[-1:] + expected[len(found) : len(found) + 3], collection=name)
        client.insert_vectors([f"new{len(found)}"], [QUERY], collection=name)
    assert found == expected
    before = client.query_page(QUERY, k=5, collection=name)
    with pytest.raises(InvalidArgument, match="after: of a query with another vector"):
        client.query_page(QUERY + 1, k=5, collection=name, after=before.cursor)
    with pytest.raises(InvalidArgument, match="after: of another collection"):
        client.query_page(QUERY, k=5, collection=points, after=before.cursor)
    by_id = [
        row_id
        for page in client.query_pages(id="new120", k=200, collection=name, exact=True)
        for row_id in names(page.matches)
    ]
    assert len(set(by_id)) == len(by_id) == client.count(collection=name).count - 1
    assert "new120" not in by_id


def test_in_a_transaction_all_of_it_sees_the_staged_rows(
    client: VectorDatabaseClient, points: str
) -> None:
    nearest = ranked()
    with client.transaction() as t:
        t.insert_vectors(["mine-a", "mine-b"], [QUERY, QUERY + 0.01], collection=points)
        t.delete([nearest[0][0], nearest[1][0]], collection=points)
        radius = (nearest[60][1] + nearest[61][1]) / 2
        expected = ["mine-a", "mine-b"] + [i for i, distance in nearest[2:] if distance <= radius]
        within = t.query_similar(QUERY, radius=radius, collection=points, exact=True)
        assert names(within) == expected
        pages = t.query_pages(QUERY, radius=radius, k=25, collection=points, exact=True)
        found = names(next(pages).matches)
        t.insert_vectors(["mine-c"], [QUERY + 0.02], collection=points)
        t.delete(expected[30:31], collection=points)
        for page in pages:
            found += names(page.matches)
        assert found == expected, "the pages show what was staged at the first"
        now = names(t.query_similar(QUERY, k=3, collection=points, recall=0.9))
        assert now == ["mine-a", "mine-b", "mine-c"]
        told = t.explain_query(QUERY, k=3, collection=points, exact=True)
        segments = [s for worker in told["workers"] for s in worker["segments"]]
        assert sum(s["matching"] for s in segments) == ROWS + 3 - 3
        cursor = t.query_page(QUERY, k=3, collection=points).cursor
        with pytest.raises(InvalidArgument, match="in a transaction"):
            client.query_page(QUERY, k=3, collection=points, after=cursor)
        t.abort()
    assert names(client.query_similar(QUERY, k=2, collection=points, exact=True)) == [
        nearest[0][0],
        nearest[1][0],
    ]


def test_the_past_has_radii_pages_and_plans_too(client: VectorDatabaseClient) -> None:
    name = f"q-{uuid.uuid4().hex}"
    client.create_collection(name, DIMENSION, "euclidean", shards=2)
    then = client.insert_vectors(IDS[:60], VECTORS[:60], collection=name).commit_ts
    client.delete(IDS[:30], collection=name)
    nearest = ranked(QUERY, VECTORS[:60], IDS[:60])
    expected = [row_id for row_id, distance in nearest if distance <= 4.0]
    assert 10 < len(expected) < 60
    pages = client.query_pages(
        QUERY, radius=4.0, k=7, exact=True, collection=name, as_of=then, include=["distance"]
    )
    matches = [match for page in pages for match in page.matches]
    assert names(matches) == expected
    assert all(match.distance is not None and match.distance <= 4.0 for match in matches)
    told = client.explain_query(QUERY, collection=name, as_of=then)
    segments = [s for worker in told["workers"] for s in worker["segments"]]
    assert sum(s["matching"] for s in segments) == 60


def test_an_indexed_segment_tells_its_plan_and_exact_passes_it_by(
    server: Service, client: VectorDatabaseClient
) -> None:
    name = f"q-{uuid.uuid4().hex}"
    client.create_collection(name, DIMENSION, "euclidean", shards=1)
    client.insert_vectors(IDS, VECTORS, collection=name, batch_size=4000)
    deadline = time.monotonic() + INDEXED_S_MAX
    while client.collection_stats(name).rows_indexed < ROWS:
        assert time.monotonic() < deadline, "no index was built"
        time.sleep(0.05)

    def segment(**options: Any) -> dict[str, Any]:
        told = client.explain_query(QUERY, collection=name, **options)
        (worker,) = told["workers"]
        return max(worker["segments"], key=lambda s: int(s["rows"]))

    walked = segment()
    assert (walked["method"], walked["rows"]) == ("index", ROWS)
    assert walked["index"] and walked["name"] != "memory" and walked["ef"] > 0
    assert (segment(exact=True)["method"], segment(recall=1)["method"]) == ("scan", "scan")
    found = [
        row_id
        for page in client.query_pages(QUERY, k=900, collection=name)
        for row_id in names(page.matches)
    ]
    assert len(found) == len(set(found)) > 0.95 * ROWS
    exact = client.query_similar(QUERY, k=10_000, collection=name, exact=True)
    assert names(exact) == [row_id for row_id, _ in ranked()][:10_000]
    url = f"{server.url}/v1/collections/{name}/query"
    answer = call(url, {"vector": QUERY.tolist(), "k": 5, "explain": True, "page": True})
    assert len(answer["vectors"]) == 5 and answer["cursor"]
    assert answer["explain"]["coalesced"] is False


def test_the_same_over_grpc(server: Service, points: str) -> None:
    nearest = ranked()
    with grpc.insecure_channel(server.grpc_target) as channel:
        stub = VectorDBStub(channel)
        asked = pb.QuerySimilarRequest(
            collection=points, vectors=[QUERY.tobytes()], k=30, exact=True, omit_metadata=True,
            radius=(nearest[70][1] + nearest[71][1]) / 2, explain=True,
            consistency=pb.Consistency(strong=True),
        )  # fmt: skip
        found: list[str] = []
        while True:
            page = stub.QuerySimilar(asked)
            assert json.loads(page.explain)["workers"]
            found += [hit.id for hit in page.results[0].vectors]
            if not page.cursor:
                break
            asked.after = page.cursor
        assert found == [row_id for row_id, _ in nearest[:71]]
        asked.filter = '{"n": 1}'
        with pytest.raises(grpc.RpcError) as refused:
            stub.QuerySimilar(asked)
        assert "after: of a query with another filter" in refused.value.details()


async def test_the_async_client_has_the_same_calls(server: Service, points: str) -> None:
    nearest = ranked()
    async with AsyncVectorDatabaseClient(server.url) as client:
        pages = client.query_pages(QUERY, k=40, collection=points, exact=True, consistency="strong")
        first = await anext(pages)
        second = await anext(pages)
        await pages.aclose()  # type: ignore[attr-defined]
        assert names(first.matches + second.matches) == [row_id for row_id, _ in nearest[:80]]
        async with client.transaction() as t:
            await t.insert_vectors(["own"], [QUERY], collection=points)
            page = await t.query_page(QUERY, k=1, collection=points)
            assert page.cursor is not None and page.matches[0].similarity == 1.0
            assert (await t.explain_query(QUERY, collection=points))["workers"]
            await t.abort()
