"""Reads over REST: queries, fetch, scroll, count, and what their answers hold."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tests.unit.gateway_rest.conftest import Rest
from vector_db.gateway.core.requests import Consistency
from vector_db.gateway.rest import answers

BASE = "/v1/collections/words"


@pytest.fixture(params=["cosine", "dot", "euclidean"])
def metric(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def load(rest: Rest, metric: str = "cosine") -> Rest:
    await rest.ok("POST", "/v1/collections", {"name": "words", "dimension": 2, "metric": metric})
    rows = [
        {"id": f"r{i}", "dimensions": [1, i], "metadata": {"year": 2000 + i, "tags": ["x", i]}}
        for i in range(5)
    ]
    await rest.ok("POST", BASE + "/vectors", {"vectors": rows})
    return rest


async def query(rest: Rest, **body: Any) -> Any:
    return await rest.ok("POST", BASE + "/query", body)


async def test_distance_follows_the_metric(rest: Rest, metric: str) -> None:
    await load(rest, metric)
    answer = await query(rest, vector=[1, 1], k=2, include=["distance"])
    answers.QueryAnswer.model_validate(answer)
    expected = {
        "cosine": [("r1", 0.0), ("r2", 1 - 3 / 10**0.5)],
        "dot": [("r4", -5.0), ("r3", -4.0)],
        "euclidean": [("r1", 0.0), ("r0", 1.0)],
    }[metric]
    got = [(hit["id"], hit["distance"]) for hit in answer["vectors"]]
    assert got == [(name, pytest.approx(value, abs=1e-9)) for name, value in expected]
    assert all("metadata" not in hit for hit in answer["vectors"])


async def test_include_chooses_what_hits_hold(rest: Rest) -> None:
    await load(rest)
    plain = (await query(rest, vector=[1, 1]))["vectors"][0]
    assert set(plain) == {"id", "similarity", "metadata"}
    assert plain["metadata"] == {"year": 2001, "tags": ["x", 1]}
    bare = (await query(rest, vector=[1, 1], include=[]))["vectors"][0]
    assert set(bare) == {"id", "similarity"}
    full = await query(rest, vector=[1, 1], include=["metadata", "dimensions", "distance"])
    assert full["vectors"][0]["dimensions"] == [1.0, 1.0]


async def test_a_batch_of_queries_answers_results(rest: Rest) -> None:
    await load(rest)
    answer = await query(rest, vectors=[[1, 0], [0, 1]], k=1)
    answers.BatchQueryAnswer.model_validate(answer)
    assert [[hit["id"] for hit in one["vectors"]] for one in answer["results"]] == [["r0"], ["r4"]]
    single = await query(rest, vectors=[[1, 0]], k=1)
    assert len(single["results"]) == 1


async def test_query_by_id_filter_and_min_similarity(rest: Rest) -> None:
    await load(rest)
    by_id = await query(rest, id="r2", k=10)
    assert len(by_id["vectors"]) == 4
    filtered = await query(rest, vector=[1, 0], filter={"year": {"$gte": 2003}}, k=10)
    assert [hit["id"] for hit in filtered["vectors"]] == ["r3", "r4"]
    near = await query(rest, vector=[1, 0], min_similarity=0.9, k=10)
    assert [hit["id"] for hit in near["vectors"]] == ["r0"]


async def test_consistency_reaches_the_database(rest: Rest) -> None:
    await load(rest)
    await query(rest, vector=[1, 0], consistency={"at_least": 7})
    assert rest.database.last_consistency == Consistency(at_least=7)
    await query(rest, vector=[1, 0], consistency={"strong": True})
    assert rest.database.last_consistency == Consistency(strong=True)
    await rest.ok("GET", BASE + "/vectors/r1?at_least=3")
    assert rest.database.last_consistency == Consistency(at_least=3)
    for bad in ("at_least=x", "at_least=-1", "strong=1", "at_least=1&strong=true", "foo=1"):
        await rest.refused(400, "GET", f"{BASE}/vectors/r1?{bad}")
    await rest.refused(400, "GET", f"{BASE}/vectors/r1?at_least={'9' * 5000}")


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({}, "exactly one of vector, id and vectors"),
        ({"vector": [1, 0], "id": "a"}, "exactly one of vector, id and vectors"),
        ({"vector": [1, 0], "k": 0}, "k: must be from 1 to 10000 (the limit k_max)"),
        ({"vector": [1, 0], "k": 10_001}, "k: must be from 1 to 10000 (the limit k_max)"),
        ({"vector": [1, 0], "k": 1.5}, "k: "),
        ({"vector": [1, 0], "k": True}, "k: "),
        ({"vector": [1, 0], "k": "3"}, "k: "),
        ({"vector": [1, 0], "top": 3}, "top: unknown field"),
        ({"vector": []}, "vector: at least one number"),
        ({"vector": [0, 0]}, "vector: a zero vector"),
        ({"vector": [1, 2, 3]}, "vector: 3 numbers, collection 'words' has dimension 2"),
        ({"vector": [1, "2"]}, "vector[1]: must be a number"),
        ({"vector": [1, None]}, "vector[1]: must be a number"),
        ({"vector": [1, -1e39]}, "vector[1]: not a finite"),
        ({"vector": {"a": 1}}, "vector: must be a list"),
        ({"vectors": []}, "vectors: must be a list of one or more"),
        ({"vectors": [[1, 0], [1]]}, "vectors[1]: 1 numbers"),
        ({"vectors": [[1, 0], [0, 0]]}, "vectors[1]: a zero vector"),
        ({"vectors": [[1, 0], [[0], 1]]}, "vectors[1][0]: must be a number"),
        ({"vector": [1, 0], "include": ["vector"]}, "include[0]"),
        ({"vector": [1, 0], "include": "metadata"}, "include"),
        ({"vector": [1, 0], "include": [["metadata"]]}, "include[0]"),
        ({"vector": [1, 0], "min_similarity": "high"}, "min_similarity"),
        ({"vector": [1, 0], "consistency": {}}, "consistency: give exactly one"),
        ({"vector": [1, 0], "consistency": {"strong": False}}, "consistency: strong must be true"),
        ({"vector": [1, 0], "consistency": {"strong": 1}}, "consistency.strong"),
        ({"vector": [1, 0], "consistency": {"at_least": -1}}, "consistency.at_least"),
        ({"vector": [1, 0], "consistency": {"at_least": 1, "strong": True}}, "exactly one"),
        ({"vector": [1, 0], "consistency": 5}, "consistency"),
        ({"vector": [1, 0], "filter": []}, "filter: a filter is an object"),
        ({"vector": [1, 0], "filter": {"a": {"$regex": "x"}}}, "filter.a.$regex: unknown"),
        ({"id": ""}, "id: an id must not be empty"),
        ({"id": 5}, "id: must be a string"),
    ],
)
async def test_a_malformed_query_is_refused_by_place(
    rest: Rest, body: dict[str, Any], place: str
) -> None:
    await load(rest)
    assert place in await rest.refused(400, "POST", BASE + "/query", body)


async def test_too_many_queries_are_413_and_name_the_limit(rest: Rest) -> None:
    await load(rest)
    body = {"vectors": [[1, 0]] * 1001}
    assert "queries_per_batch_max" in await rest.refused(413, "POST", BASE + "/query", body)


async def test_query_before_the_first_insert_says_what_to_do(rest: Rest) -> None:
    message = await rest.refused(404, "POST", "/query", {"vector": [1]})
    assert "POST /vectors" in message
    await rest.ok("POST", "/vectors", {"vectors": [{"id": "a", "dimensions": [1]}]})
    message = await rest.refused(404, "POST", "/query", {"id": "nope"})
    assert "POST /vectors" not in message


async def test_scroll_walks_all_rows_once_and_ends_with_null(rest: Rest) -> None:
    await load(rest)
    seen: list[str] = []
    body: dict[str, Any] = {"limit": 2, "include": ["metadata"]}
    while True:
        page = answers.ScrollAnswer.model_validate(await rest.ok("POST", BASE + "/scroll", body))
        seen += [one.id for one in page.vectors]
        if page.cursor is None:
            break
        body["cursor"] = page.cursor
    assert seen == [f"r{i}" for i in range(5)]
    for bad in ({"limit": 0}, {"limit": 10_001}, {"cursor": ""}, {"cursor": 5}, {"offset": 1}):
        await rest.refused(400, "POST", BASE + "/scroll", bad)


async def test_count_takes_a_filter(rest: Rest) -> None:
    await load(rest)
    assert (await rest.ok("POST", BASE + "/count", {}))["count"] == 5
    counted = await rest.ok("POST", BASE + "/count", {"filter": {"tags": {"$in": [1, 2]}}})
    assert counted == {"count": 2, "snapshot_ts": rest.database.stable_ts}
    await rest.refused(404, "POST", "/v1/collections/none/count", {})


async def test_metadata_is_spliced_in_as_stored(rest: Rest) -> None:
    await load(rest)
    # Not what the edge would write itself: proof that it is not parsed again.
    rest.database.tables["words"].rows[b"r1"].metadata = b'{ "b":1,  "a":2.50 }'
    url = rest.url + BASE + "/query"
    body = orjson.dumps({"vector": [1, 1], "k": 1})
    async with rest.session.post(url, data=body) as answer:
        assert b'{ "b":1,  "a":2.50 }' in await answer.read()


async def test_get_answers_one_row_or_404(rest: Rest) -> None:
    await load(rest)
    got = await rest.ok("GET", BASE + "/vectors/r3")
    answers.RowAnswer.model_validate(got)
    assert got["dimensions"] == [1.0, 3.0] and got["metadata"]["year"] == 2003
    assert "'r9'" in await rest.refused(404, "GET", BASE + "/vectors/r9")


@pytest.mark.parametrize(
    "body",
    [
        {"vector": [1.0, 0.0], "k": 0},
        {"vector": [1.0, 0.0], "k": True},
        {"vector": [1.0, 0.0], "k": 1.5},
        {"vector": [1.0, True], "k": 1},
        {"vector": [1e39, 0.0], "k": 1},
        {"vector": [], "k": 1},
        {"vector": [[1.0, 0.0]], "k": 1},
        {"vector": 1, "k": 1},
        {"k": 1},
        {"x": 1, "vector": [1.0, 0.0]},
    ],
)
async def test_the_short_way_of_a_plain_query_refuses_what_the_model_refuses(
    rest: Rest, body: dict[str, object]
) -> None:
    await rest.ok("POST", "/vectors", {"vectors": [{"id": "a", "dimensions": [1.0, 0.0]}]})
    short = await rest.refused(400, "POST", "/query", body)
    full = await rest.refused(400, "POST", "/query", body | {"include": ["metadata"]})
    assert short == full
