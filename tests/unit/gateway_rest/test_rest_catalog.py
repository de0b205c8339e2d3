"""Collections over REST, and the description of the API."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.unit.gateway_rest.conftest import Rest
from vector_db.gateway.rest import answers

INDEX = {"kind": "auto", "encoding": "auto", "m": 16, "ef_construction": 128, "lists": 0}


async def test_a_collection_is_made_listed_shown_and_dropped(rest: Rest) -> None:
    body = {"name": "b.1", "dimension": 3, "metric": "dot", "shards": 2}
    status, made = await rest.call("POST", "/v1/collections", body)
    wants = {"index": INDEX, "recall_target": 0.95, "fields": [], "aliases": [], "spreading": None}
    assert status == 201 and made == {**body, "commit_ts": rest.database.stable_ts, **wants}
    await rest.ok("POST", "/v1/collections", {"name": "a", "dimension": 1})
    listed = answers.CollectionsAnswer.model_validate(await rest.ok("GET", "/v1/collections"))
    assert [(one.name, one.metric) for one in listed.collections] == [
        ("a", "cosine"),
        ("b.1", "dot"),
    ]
    assert await rest.ok("GET", "/v1/collections/b.1") == made
    assert (await rest.ok("GET", "/v1/collections/b.1/stats"))["rows"] == 0
    await rest.refused(409, "POST", "/v1/collections", body)
    assert (await rest.ok("DELETE", "/v1/collections/b.1"))["commit_ts"] > made["commit_ts"]
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/stats")):
        await rest.refused(404, method, "/v1/collections/b.1" + path)


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({}, "name: the field is missing"),
        ({"name": "a"}, "dimension: the field is missing"),
        ({"name": "a", "dimension": 0}, "dimension: must be from 1 to 65536 (the limit dimension"),
        ({"name": "a", "dimension": 65_537}, "dimension: must be from 1 to 65536"),
        ({"name": "a", "dimension": 2.0}, "dimension"),
        ({"name": "a", "dimension": 2, "metric": "l2"}, "metric"),
        ({"name": "a", "dimension": 2, "shards": 0}, "shards"),
        ({"name": "a", "dimension": 2, "dim": 2}, "dim: unknown field"),
        ({"name": "../etc", "dimension": 2}, "name: a collection name"),
        ({"name": "a" * 129, "dimension": 2}, "name: a collection name"),
        ({"name": "", "dimension": 2}, "name: a collection name"),
        ({"name": 5, "dimension": 2}, "name: must be a string"),
    ],
)
async def test_a_malformed_collection_is_refused_by_place(
    rest: Rest, body: dict[str, Any], place: str
) -> None:
    assert place in await rest.refused(400, "POST", "/v1/collections", body)
    assert rest.database.calls == []


async def test_transaction_ids_and_cluster(rest: Rest) -> None:
    assert await rest.ok("GET", "/v1/transactions/00ff-A_1") == {"state": "unknown"}
    await rest.refused(400, "GET", "/v1/transactions/a%00b")
    assert "workers" in await rest.ok("GET", "/v1/cluster")


def references(node: Any) -> set[str]:
    if isinstance(node, dict):
        found = {node["$ref"]} if "$ref" in node else set()
        return found.union(*(references(value) for value in node.values()))
    if isinstance(node, list):
        return set().union(*(references(value) for value in node))
    return set()


async def test_openapi_describes_every_operation_and_resolves(rest: Rest) -> None:
    document = await rest.ok("GET", "/openapi.json")
    assert document["openapi"] == "3.1.0"
    names = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert references(document) <= names
    operations = {(method, path) for path, item in document["paths"].items() for method in item}
    assert {
        ("post", "/vectors"), ("post", "/query"), ("post", "/v1/collections"),
        ("get", "/v1/collections/{collection}"), ("delete", "/v1/collections/{collection}"),
        ("post", "/v1/collections/{collection}/vectors"),
        ("patch", "/v1/collections/{collection}/vectors/{id}"),
        ("post", "/v1/collections/{collection}/scroll"), ("post", "/v1/transactions/commit"),
        ("post", "/v1/transactions"), ("post", "/v1/transactions/{id}/commit"),
        ("post", "/v1/transactions/{id}/abort"),
        ("put", "/v1/collections/{collection}/vectors/{id}"),
        ("get", "/v1/transactions/{id}"), ("get", "/v1/cluster"), ("get", "/metrics"),
    } <= operations  # fmt: skip
    ids = [op["operationId"] for item in document["paths"].values() for op in item.values()]
    assert len(ids) == len(set(ids))
    query = document["components"]["schemas"]["QueryRequest"]
    assert query["additionalProperties"] is False
    assert query["properties"]["k"]["maximum"] == rest.database.limits.k_max
    assert "x-limit" not in str(document)


async def test_openapi_and_docs_tell_the_headers_that_are_obeyed(rest: Rest) -> None:
    paths = (await rest.ok("GET", "/openapi.json"))["paths"]

    def taken(method: str, path: str) -> dict[str, bool]:
        given = paths[path][method].get("parameters", [])
        return {p["name"]: p["required"] for p in given if p["in"] == "header"}

    row, txn = "/v1/collections/{collection}/vectors/{id}", "/v1/transactions/{id}"
    write = {"Transaction": False, "Idempotency-Key": False}
    assert taken("put", row) == {**write, "If-Match": False, "If-None-Match": False}
    assert taken("patch", row) == taken("delete", row) == {**write, "If-Match": False}
    assert taken("post", "/vectors") == write
    assert taken("get", row) == taken("post", "/query") == {"Transaction": False}
    assert taken("post", txn + "/commit") == {"Transaction": True, "Idempotency-Key": False}
    assert taken("post", txn + "/abort") == {"Transaction": True}
    assert taken("post", "/v1/transactions/commit") == {"Idempotency-Key": False}
    assert (
        taken("post", "/v1/transactions") == taken("delete", "/v1/collections/{collection}") == {}
    )
    told = paths[row]["get"]["responses"]["200"]["headers"]
    assert set(told) == {"Transaction", "ETag"}
    assert paths["/v1/transactions"]["post"]["requestBody"]["required"] is False
    async with rest.session.get(rest.url + "/docs") as answer:
        page = await answer.text()
    for name in ("Transaction", "Idempotency-Key", "Idempotency-Replayed", "If-Match", "ETag"):
        assert f"<code>{name}</code>" in page


async def test_examples_of_the_description_work_as_shown(rest: Rest) -> None:
    for name, dimension in (("words", 2), ("images", 2)):
        await rest.ok("POST", "/v1/collections", {"name": name, "dimension": dimension})
    document = await rest.ok("GET", "/openapi.json")
    tried = 0
    for path, item in document["paths"].items():
        for method, operation in item.items():
            media = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            if "example" not in media or path == "/v1/collections":
                continue
            target = path.replace("{collection}", "words").replace("{id}", "a")
            target = target.replace("{alias}", "latest").replace("{worker}", "w1")
            await rest.ok(method.upper(), target, media["example"])
            tried += 1
    assert tried >= 11


async def test_docs_are_one_page_that_links_to_what_it_holds(rest: Rest) -> None:
    async with rest.session.get(rest.url + "/docs") as answer:
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        page = await answer.text()
    assert "curl -X POST localhost:8080/vectors" in page and "body_bytes_max" in page
    anchors = set(re.findall(r'id="?([\w-]+)', page))
    assert set(re.findall(r'href="#([\w-]+)"', page)) <= anchors
    assert "http://" not in page and "https://" not in page and "<script" not in page
