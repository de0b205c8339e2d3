"""Bad input of every kind gets a 4xx with the error body, and the server goes on.

Each request is sent to the edge over a database in memory, and to the real server.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pyarrow as pa
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from yarl import URL

from tests.unit.gateway_rest.memory import MemoryDatabase
from vector_db.common.model.limits import Limits
from vector_db.gateway.rest.answers import ErrorAnswer
from vector_db.gateway.rest.app import build_app
from vector_db.gateway.rest.server import RestServer

BASE = "/v1/collections/bad_input"
ROWS = f"{BASE}/vectors"
QUERY = f"{BASE}/query"
ARROW = {"Content-Type": "application/vnd.apache.arrow.stream"}
FORGED = {"Transaction": base64.urlsafe_b64encode(bytes(range(90))).decode()}
DIMENSION = 4


@dataclass(frozen=True)
class Bad:
    """One malformed request; a body that is not bytes is sent as JSON."""

    name: str
    method: str
    path: str
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 400


def rows(*given: Any) -> dict[str, Any]:
    return {"vectors": list(given)}


def row(row_id: Any = "a", dimensions: Any = (1, 2, 3, 4), **more: Any) -> dict[str, Any]:
    return {"id": row_id, "dimensions": dimensions, **more}


def query(**body: Any) -> dict[str, Any]:
    return {"vector": [1, 2, 3, 4], **body}


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


def filter_of(levels: int) -> dict[str, Any]:
    out: dict[str, Any] = {"year": 1}
    for _ in range(levels):
        out = {"$not": out}
    return out


def arrow(ids: Any, vectors: Any, kind: Any) -> bytes:
    batch = pa.record_batch([pa.array(ids), pa.array(vectors, kind)], ["id", "vector"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


FLOATS = pa.list_(pa.float32())
GOOD_ARROW = arrow(["a", "b"], [[1.0, 2, 3, 4]] * 2, FLOATS)

BAD = [
    # Not JSON, or not the JSON that is wanted.
    Bad("empty body", "POST", ROWS, b""),
    Bad("wrong JSON", "POST", ROWS, b'{"vectors": ['),
    Bad("trailing text", "POST", QUERY, b'{"vector": [1,2,3,4]} x'),
    Bad("single quotes", "POST", QUERY, b"{'vector': [1,2,3,4]}"),
    Bad("trailing comma", "POST", QUERY, b'{"vector": [1,2,3,4],}'),
    Bad("a list", "POST", QUERY, b"[1,2,3,4]"),
    Bad("null", "POST", QUERY, b"null"),
    Bad("a number", "POST", ROWS, b"7"),
    Bad("invalid UTF-8", "POST", ROWS, b'{"vectors":[{"id":"\xff","dimensions":[1,2,3,4]}]}'),
    Bad("UTF-16", "POST", QUERY, '{"vector": [1,2,3,4]}'.encode("utf-16")),
    Bad("lone surrogate", "POST", ROWS, b'{"vectors":[{"id":"\\ud800","dimensions":[1,2,3,4]}]}'),
    Bad("zero bytes", "POST", ROWS, b"\x00" * 1000),
    Bad("NaN literal", "POST", QUERY, b'{"vector": [NaN,2,3,4]}'),
    Bad("Infinity literal", "POST", QUERY, b'{"vector": [-Infinity,2,3,4]}'),
    Bad("number beyond double", "POST", QUERY, b'{"vector": [1e400,2,3,4]}'),
    Bad("integer beyond 64 bits", "POST", QUERY,
        b'{"vector": [1,2,3,4], "k": 1' + b"0" * 20 + b"}"),
    Bad("deeply nested lists", "POST", QUERY, b'{"vector": ' + nested(100_000) + b"}"),
    Bad("deeply nested body", "POST", QUERY, nested(1_000_000)),
    Bad("half open nesting", "POST", QUERY, b'{"a":' * 200_000),
    Bad("unknown field", "POST", QUERY, query(limit=3)),
    Bad("many unknown fields", "POST", QUERY, query(**{f"f{i}": i for i in range(10_000)})),
    # Vectors.
    Bad("short vector", "POST", QUERY, query(vector=[1, 2, 3])),
    Bad("long vector", "POST", QUERY, query(vector=[1] * 70_000)),
    Bad("empty vector", "POST", QUERY, query(vector=[])),
    Bad("zero vector under cosine", "POST", QUERY, query(vector=[0, 0, 0, 0])),
    Bad("number beyond float32", "POST", QUERY, query(vector=[1e39, 2, 3, 4])),
    Bad("strings in a vector", "POST", QUERY, query(vector=["1", "2", "3", "4"])),
    Bad("null in a vector", "POST", QUERY, query(vector=[1, None, 3, 4])),
    Bad("bool in a vector", "POST", QUERY, query(vector=[1, True, 3, 4])),
    Bad("nested vector", "POST", QUERY, query(vector=[[1, 2], [3, 4]])),
    Bad("lists of one", "POST", QUERY, query(vector=[[1], [2], [3], [4]])),
    Bad("an object as vector", "POST", QUERY, query(vector={"0": 1})),
    Bad("bad base64", "POST", QUERY, query(vector="not base64!")),
    Bad("base64 of 15 bytes", "POST", QUERY, query(vector=base64.b64encode(b"x" * 15).decode())),
    Bad("base64 of NaN", "POST", QUERY, query(vector=base64.b64encode(b"\xff" * 16).decode())),
    # Queries.
    Bad("no vector", "POST", QUERY, {"k": 10}),
    Bad("vector and id", "POST", QUERY, query(id="a")),
    Bad("k of 0", "POST", QUERY, query(k=0)),
    Bad("negative k", "POST", QUERY, query(k=-1)),
    Bad("absurd k", "POST", QUERY, query(k=2**62)),
    Bad("k as text", "POST", QUERY, query(k="10")),
    Bad("k as float", "POST", QUERY, query(k=1.5)),
    Bad("k as bool", "POST", QUERY, query(k=True)),
    Bad("include unknown", "POST", QUERY, query(include=["everything"])),
    Bad("include as text", "POST", QUERY, query(include="metadata")),
    Bad("min_similarity as text", "POST", QUERY, query(min_similarity="0.5")),
    Bad("empty consistency", "POST", QUERY, query(consistency={})),
    Bad("two consistencies", "POST", QUERY, query(consistency={"at_least": 1, "strong": True})),
    Bad("negative at_least", "POST", QUERY, query(consistency={"at_least": -5})),
    Bad("at_least beyond 2^53", "POST", QUERY, query(consistency={"at_least": 2**60})),
    Bad("too many queries", "POST", QUERY, {"vectors": [[1, 2, 3, 4]] * 1001}, status=413),
    Bad("queries of two lengths", "POST", QUERY, {"vectors": [[1, 2, 3, 4], [1]]}),
    Bad("no such collection", "POST", "/v1/collections/nowhere/query", query(), status=404),
    Bad("no such row", "POST", QUERY, {"id": "nobody"}, status=404),
    # Filters.
    Bad("filter as list", "POST", QUERY, query(filter=[])),
    Bad("unknown operator", "POST", QUERY, query(filter={"year": {"$near": 1}})),
    Bad("unknown combinator", "POST", QUERY, query(filter={"$xor": []})),
    Bad("$in without a list", "POST", QUERY, query(filter={"year": {"$in": 5}})),
    Bad("$gte of an object", "POST", QUERY, query(filter={"year": {"$gte": {}}})),
    Bad("deep filter", "POST", QUERY, query(filter=filter_of(60))),
    Bad("very deep filter", "POST", QUERY, query(filter=filter_of(900))),
    Bad("endless $in", "POST", QUERY, query(filter={"year": {"$in": list(range(5000))}})),
    Bad("count with a bad filter", "POST", f"{BASE}/count", {"filter": {"a": {"$x": 1}}}),
    # Rows.
    Bad("no rows", "POST", ROWS, rows()),
    Bad("rows as object", "POST", ROWS, {"vectors": {"id": "a"}}),
    Bad("a row that is a number", "POST", ROWS, rows(row(), 5)),
    Bad("a row without id", "POST", ROWS, rows({"dimensions": [1, 2, 3, 4]})),
    Bad("a row without vector", "POST", ROWS, rows({"id": "a"})),
    Bad("a row with more", "POST", ROWS, rows(row(vector=[1]))),
    Bad("wrong dimension", "POST", ROWS, rows(row("a", [1, 2, 3]))),
    Bad("two dimensions", "POST", ROWS, rows(row("a"), row("b", [1, 2, 3]))),
    Bad("second row is zero", "POST", ROWS, rows(row("a"), row("b", [0, 0, 0, 0]))),
    Bad("second row overflows", "POST", ROWS, rows(row("a"), row("b", [1, 2, 3, -4e38]))),
    Bad("duplicate id", "POST", ROWS, rows(row("a"), row("b"), row("a"))),
    Bad("empty id", "POST", ROWS, rows(row(""))),
    Bad("id of 513 bytes", "POST", ROWS, rows(row("x" * 513))),
    Bad("line break in an id", "POST", ROWS, rows(row("a\nb"))),
    Bad("zero in an id", "POST", ROWS, rows(row("a\x00"))),
    Bad("C1 control in an id", "POST", ROWS, rows(row("a\x9b"))),
    Bad("id as number", "POST", ROWS, rows(row(5))),
    Bad("metadata as list", "POST", ROWS, rows(row(metadata=[1]))),
    Bad("metadata as text", "POST", ROWS, rows(row(metadata="{}"))),
    Bad("huge metadata", "POST", ROWS, rows(row(metadata={"x": "y" * 100_000}))),
    Bad("deep metadata", "POST", ROWS, b'{"vectors":[{"id":"a","dimensions":[1,2,3,4],"metadata":'
        + b'{"a":' * 500 + b"1" + b"}" * 500 + b"}]}"),
    Bad("unknown mode", "POST", ROWS, {**rows(row()), "mode": "replace"}),
    Bad("update of an absent row", "POST", ROWS, {**rows(row()), "mode": "update"}, status=404),
    Bad("insert of a present row", "POST", ROWS,
        {**rows(row("kept")), "mode": "insert"}, status=409),
    Bad("too many rows", "POST", ROWS, rows(*[row(str(i), "AACAPwAAgD8AAIA/AACAPw==")
        for i in range(100_001)]), status=413),
    # Arrow.
    Bad("no Arrow at all", "POST", ROWS, b"ARROW1", ARROW),
    Bad("truncated Arrow", "POST", ROWS, GOOD_ARROW[:-60], ARROW),
    Bad("JSON said to be Arrow", "POST", ROWS, rows(row()), ARROW),
    Bad("Arrow with an unknown mode", "POST", f"{ROWS}?mode=x", GOOD_ARROW, ARROW),
    Bad("Arrow with nulls", "POST", ROWS, arrow(["a", None], [[1.0, 2, 3, 4]] * 2, FLOATS), ARROW),
    Bad("Arrow of wrong dimension", "POST", ROWS, arrow(["a"], [[1.0]], FLOATS), ARROW),
    Bad("Arrow with NaN", "POST", ROWS, arrow(["a"], [[1.0, 2, 3, float("nan")]], FLOATS), ARROW),
    Bad("Arrow of integers", "POST", ROWS,
        arrow(["a"], [[1, 2, 3, 4]], pa.list_(pa.int32())), ARROW),
    Bad("Arrow with integer ids", "POST", ROWS, arrow([1], [[1.0, 2, 3, 4]], FLOATS), ARROW),
    # The other calls.
    Bad("fetch without ids", "POST", f"{ROWS}/fetch", {}),
    Bad("fetch with duplicate ids", "POST", f"{ROWS}/fetch", {"ids": ["a", "a"]}),
    Bad("delete of nothing", "POST", f"{ROWS}/delete", {}),
    Bad("delete by both", "POST", f"{ROWS}/delete", {"ids": ["a"], "filter": {}}),
    Bad("delete with a bad filter", "POST", f"{ROWS}/delete", {"filter": {"$where": "1"}}),
    Bad("patch without metadata", "PATCH", f"{ROWS}/kept", {}),
    Bad("patch with a list", "PATCH", f"{ROWS}/kept", {"metadata": []}),
    Bad("patch of nobody", "PATCH", f"{ROWS}/nobody", {"metadata": {}}, status=404),
    Bad("get of nobody", "GET", f"{ROWS}/nobody", status=404),
    Bad("id that is not UTF-8", "GET", f"{ROWS}/%ff%fe"),
    Bad("control character in a path", "GET", f"{ROWS}/a%00b"),
    Bad("unknown parameter", "GET", f"{ROWS}/kept?verbose=1"),
    Bad("scroll with a limit of 0", "POST", f"{BASE}/scroll", {"limit": 0}),
    Bad("scroll with an absurd limit", "POST", f"{BASE}/scroll", {"limit": 10**9}),
    Bad("scroll with a forged cursor", "POST", f"{BASE}/scroll", {"cursor": "forged!"}),
    Bad("scroll with a number as cursor", "POST", f"{BASE}/scroll", {"cursor": 5}),
    Bad("a collection without name", "POST", "/v1/collections", {"dimension": 4}),
    Bad("a collection named ..", "POST", "/v1/collections", {"name": "..", "dimension": 4}),
    Bad("dimension of 0", "POST", "/v1/collections", {"name": "x", "dimension": 0}),
    Bad("absurd dimension", "POST", "/v1/collections", {"name": "x", "dimension": 10**12}),
    Bad("unknown metric", "POST", "/v1/collections", {"name": "x", "dimension": 4, "metric": "l1"}),
    Bad("absurd shards", "POST", "/v1/collections", {"name": "x", "dimension": 4, "shards": 10**6}),
    Bad("a name that is taken", "POST", "/v1/collections",
        {"name": "bad_input", "dimension": DIMENSION}, status=409),
    Bad("drop of nothing", "DELETE", "/v1/collections/nowhere", status=404),
    Bad("an empty transaction", "POST", "/v1/transactions/commit", {"operations": []}),
    Bad("an operation of two kinds", "POST", "/v1/transactions/commit",
        {"operations": [{"collection": "bad_input", "delete": ["a"], "upsert": [row()]}]}),
    Bad("a row written twice", "POST", "/v1/transactions/commit",
        {"operations": [{"collection": "bad_input", "upsert": [row()]},
                        {"collection": "bad_input", "delete": ["a"]}]}),
    Bad("one bad row of two collections", "POST", "/v1/transactions/commit",
        {"operations": [{"collection": "bad_input", "upsert": [row()]},
                        {"collection": "bad_input", "upsert": [row("b", [1])]}]}),
    Bad("a transaction on nothing", "POST", "/v1/transactions/commit",
        {"operations": [{"collection": "bad_input", "upsert": [row()]},
                        {"collection": "nowhere", "delete": ["a"]}]}, status=404),
    Bad("a transaction of no name", "GET", "/v1/transactions/%00"),
    # Open transactions.
    Bad("begin with a list", "POST", "/v1/transactions", []),
    Bad("unknown isolation", "POST", "/v1/transactions", {"isolation": "read committed"}),
    Bad("timeout of 0", "POST", "/v1/transactions", {"timeout_s": 0}),
    Bad("timeout as text", "POST", "/v1/transactions", {"timeout_s": "1m"}),
    Bad("endless timeout", "POST", "/v1/transactions", {"timeout_s": 1e12}),
    Bad("begin in a transaction", "POST", "/v1/transactions", {}, FORGED),
    Bad("begin with a key", "POST", "/v1/transactions", {}, {"Idempotency-Key": "k"}),
    Bad("commit without token", "POST", f"/v1/transactions/{'0' * 32}/commit"),
    Bad("commit with a forged token", "POST", f"/v1/transactions/{'0' * 32}/commit", None, FORGED),
    Bad("abort without token", "POST", f"/v1/transactions/{'0' * 32}/abort"),
    Bad("abort with a forged token", "POST", f"/v1/transactions/{'0' * 32}/abort", None, FORGED),
    Bad("commit of no name", "POST", "/v1/transactions/%0a/commit", None, FORGED),
    Bad("forged token on insert", "POST", ROWS, rows(row()), FORGED),
    Bad("forged token on Arrow", "POST", ROWS, GOOD_ARROW, {**ARROW, **FORGED}),
    Bad("forged token on put", "PUT", f"{ROWS}/kept", {"dimensions": [1, 1, 1, 1]}, FORGED),
    Bad("forged token on patch", "PATCH", f"{ROWS}/kept", {"metadata": {"a": 1}}, FORGED),
    Bad("forged token on delete", "DELETE", f"{ROWS}/kept", None, FORGED),
    Bad("forged token on delete by filter", "POST", f"{ROWS}/delete", {"filter": {}}, FORGED),
    Bad("forged token on get", "GET", f"{ROWS}/kept", None, FORGED),
    Bad("forged token on query", "POST", QUERY, query(), FORGED),
    Bad("forged token on count", "POST", f"{BASE}/count", {}, FORGED),
    Bad("forged token on scroll", "POST", f"{BASE}/scroll", {}, FORGED),
    Bad("forged token on fetch", "POST", f"{ROWS}/fetch", {"ids": ["kept"]}, FORGED),
    Bad("forged token on the quick start", "POST", "/vectors", rows(row()), FORGED),
    Bad("an empty token", "POST", QUERY, query(), {"Transaction": ""}),
    Bad("a token of spaces", "DELETE", f"{ROWS}/kept", None, {"Transaction": "a b"}),
    Bad("a token that is no ASCII", "DELETE", f"{ROWS}/kept", None, {"Transaction": "ü"}),
    Bad("a token of 7,001 characters", "DELETE", f"{ROWS}/kept", None, {"Transaction": "A" * 7001}),
    Bad("a token beyond any header", "DELETE", f"{ROWS}/kept", None, {"Transaction": "A" * 30_000}),
    Bad("a token on commit in one call", "POST", "/v1/transactions/commit",
        {"operations": [{"collection": "bad_input", "delete": ["kept"]}]}, FORGED),
    Bad("a token on a new collection", "POST", "/v1/collections",
        {"name": "bad_input_2", "dimension": 4}, FORGED),
    Bad("a token on a drop", "DELETE", BASE, None, FORGED),
    # Idempotency keys.
    Bad("an empty key", "POST", ROWS, rows(row()), {"Idempotency-Key": ""}),
    Bad("a key of 256 characters", "POST", ROWS, rows(row()), {"Idempotency-Key": "k" * 256}),
    Bad("a key with a space", "DELETE", f"{ROWS}/kept", None, {"Idempotency-Key": "a b"}),
    Bad("a key that is no ASCII", "DELETE", f"{ROWS}/kept", None, {"Idempotency-Key": "ключ"}),
    Bad("a key on a new collection", "POST", "/v1/collections",
        {"name": "bad_input_2", "dimension": 4}, {"Idempotency-Key": "k"}),
    Bad("a key on a drop", "DELETE", BASE, None, {"Idempotency-Key": "k"}),
    # Preconditions.
    Bad("If-Match of *", "DELETE", f"{ROWS}/kept", None, {"If-Match": "*"}),
    Bad("If-Match of two", "DELETE", f"{ROWS}/kept", None, {"If-Match": '"1", "2"'}),
    Bad("a weak If-Match", "DELETE", f"{ROWS}/kept", None, {"If-Match": 'W/"1"'}),
    Bad("If-Match without quotes", "DELETE", f"{ROWS}/kept", None, {"If-Match": "1"}),
    Bad("If-Match of another kind", "DELETE", f"{ROWS}/kept", None, {"If-Match": '"abc"'}),
    Bad("If-Match beyond 2^53", "DELETE", f"{ROWS}/kept", None, {"If-Match": f'"{2**53}"'}),
    Bad("another version", "DELETE", f"{ROWS}/kept", None, {"If-Match": '"1"'}, 412),
    Bad("patch of another version", "PATCH", f"{ROWS}/kept", {"metadata": {"a": 1}},
        {"If-Match": '"1"'}, 412),
    Bad("put of another version", "PUT", f"{ROWS}/kept", {"dimensions": [1, 1, 1, 1]},
        {"If-Match": '"1"'}, 412),
    Bad("put of a present row", "PUT", f"{ROWS}/kept", {"dimensions": [1, 1, 1, 1]},
        {"If-None-Match": "*"}, 409),
    Bad("If-None-Match of a tag", "PUT", f"{ROWS}/kept", {"dimensions": [1, 1, 1, 1]},
        {"If-None-Match": '"1"'}),
    Bad("If-Match on an insert", "POST", ROWS, rows(row()), {"If-Match": '"1"'}),
    Bad("If-None-Match on a delete", "DELETE", f"{ROWS}/kept", None, {"If-None-Match": "*"}),
    Bad("put without a vector", "PUT", f"{ROWS}/kept", {"metadata": {}}),
    Bad("put of wrong dimension", "PUT", f"{ROWS}/kept", {"dimensions": [1]}),
    Bad("put of two rows", "PUT", f"{ROWS}/kept", rows(row())),
    Bad("a version as text", "POST", ROWS, rows(row(if_version="1"))),
    Bad("a version for one row of two", "POST", ROWS, rows(row("a", if_version=1), row("b"))),
    Bad("a version and a mode", "POST", ROWS, {**rows(row(if_version=1)), "mode": "insert"}),
    Bad("row of another version", "POST", ROWS, rows(row("kept", if_version=1)), status=412),
    Bad("two versions for one id", "POST", f"{ROWS}/delete",
        {"ids": ["kept"], "if_versions": [1, 2]}),
    Bad("delete of another version", "POST", f"{ROWS}/delete",
        {"ids": ["kept"], "if_versions": [1]}, status=412),
    # The past.
    Bad("as_of and strong", "POST", QUERY, query(consistency={"as_of": 1, "strong": True})),
    Bad("as_of of 0", "POST", QUERY, query(consistency={"as_of": 0})),
    Bad("as_of as float", "POST", QUERY, query(consistency={"as_of": 1.5})),
    Bad("as_of without offset", "POST", QUERY, query(consistency={"as_of": "2026-01-31T12:00:00"})),
    Bad("as_of as a date", "POST", QUERY, query(consistency={"as_of": "2026-01-31"})),
    Bad("as_of on no day", "POST", QUERY, query(consistency={"as_of": "2026-02-30T12:00:00Z"})),
    Bad("as_of in the future", "POST", QUERY, query(consistency={"as_of": 2**53 - 1})),
    Bad("as_of in a far future", "POST", QUERY,
        query(consistency={"as_of": "9999-12-31T23:59:59Z"})),
    Bad("as_of in a path", "GET", f"{ROWS}/kept?as_of=yesterday"),
    # HTTP.
    Bad("unknown path", "GET", "/v3/everything", status=404),
    Bad("path tricks", "GET", "/../../etc/passwd", status=404),
    Bad("wrong method", "PUT", QUERY, query(), status=405),
    Bad("XML", "POST", ROWS, b"<vectors/>", {"Content-Type": "application/xml"}, 415),
    Bad("a body said to be compressed", "POST", ROWS, b"plain", {"Content-Encoding": "gzip"}),
]  # fmt: skip


@pytest.fixture(params=["memory", "server"])
async def url(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """Of an edge whose collection `bad_input` holds the one row `kept`."""
    if request.param == "server":
        base: str = request.getfixturevalue("server").url
        await prepare(base)
        yield base
        return
    registry = CollectorRegistry()
    app = build_app(
        MemoryDatabase(Limits()),
        Limits(),
        api_key=None,
        health=lambda: {"ready": True},
        metrics=lambda: (generate_latest(registry), "text/plain"),
    )
    edge = RestServer(app)
    port = await edge.start("127.0.0.1", 0)
    await prepare(f"http://127.0.0.1:{port}")
    yield f"http://127.0.0.1:{port}"
    await edge.stop(1.0)


async def prepare(base: str) -> None:
    async with aiohttp.ClientSession(base) as session:
        made = {"name": "bad_input", "dimension": DIMENSION}
        async with session.post("/v1/collections", json=made) as answer:
            assert answer.status in (201, 409), await answer.text()
        async with session.post(ROWS, json=rows(row("kept"))) as answer:
            assert answer.status == 200, await answer.text()


async def assert_untouched(session: aiohttp.ClientSession, base: str) -> None:
    """The server answers, and nothing was written."""
    async with session.post(f"{base}{BASE}/count", json={}) as answer:
        assert (answer.status, (await answer.json())["count"]) == (200, 1)


def test_there_are_enough_of_them_and_each_has_a_name() -> None:
    assert len(BAD) >= 45
    assert len({bad.name for bad in BAD}) == len(BAD)


async def test_each_is_refused_with_the_error_body_and_changes_nothing(url: str) -> None:
    wrong: list[str] = []
    async with aiohttp.ClientSession() as session:
        for bad in BAD:
            body = bad.body
            if body is not None and not isinstance(body, bytes):
                body = json.dumps(body).encode()
            headers = {"Content-Type": "application/json", **bad.headers}
            target = URL(url + bad.path, encoded=True)
            data = None if body is None else io.BytesIO(body)
            async with session.request(bad.method, target, data=data, headers=headers) as answer:
                text = await answer.read()
            try:
                ErrorAnswer.model_validate_json(text)
            except ValueError:
                wrong.append(f"{bad.name}: no error body: {text[:200]!r}")
            if answer.status != bad.status:
                wrong.append(f"{bad.name}: {answer.status}, not {bad.status}: {text[:200]!r}")
        assert wrong == []
        await assert_untouched(session, url)


async def test_a_token_that_is_altered_or_of_another_transaction_commits_nothing(url: str) -> None:
    async with aiohttp.ClientSession() as session:
        begun = []
        for _ in range(2):
            async with session.post(f"{url}/v1/transactions") as answer:
                assert answer.status == 201
                begun.append(await answer.json())
        one, other = begun
        headers = {"Transaction": one["token"]}
        async with session.delete(f"{url}{ROWS}/kept", headers=headers) as answer:
            assert (answer.status, await answer.json()) == (200, {"count": 1})
            token = answer.headers["Transaction"]
        # The last character of base64 may hold bits that mean nothing: the one before it does not.
        places = (1, len(token) // 2, len(token) - 2)
        altered = [token[1:], token[:-8], token * 2] + [
            token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :] for at in places
        ]
        path = f"{url}/v1/transactions/{one['transaction']}"
        key = {"Idempotency-Key": "k"}
        for how in ("commit", "abort"):
            refused: list[tuple[str, dict[str, str]]] = [
                (f"{url}/v1/transactions/{other['transaction']}/{how}", {"Transaction": token}),
                (f"{path}/{how}", {"Transaction": other["token"]}),
                *((f"{path}/{how}", {"Transaction": bad}) for bad in altered),
            ]
            if how == "abort":
                refused.append((f"{path}/{how}", {"Transaction": token, **key}))
            for target, sent in refused:
                async with session.post(target, headers=sent) as answer:
                    body = ErrorAnswer.model_validate_json(await answer.read())
                    assert (answer.status, body.error.code) == (400, "invalid_argument"), sent
        await assert_untouched(session, url)
        for body_in in ({"consistency": {"strong": True}}, {"consistency": {"as_of": 1}}):
            sent = {"Transaction": token}
            async with session.post(f"{url}{BASE}/count", json=body_in, headers=sent) as answer:
                assert answer.status == 400, await answer.text()
        sent = {"Transaction": token, **key}
        async with session.post(f"{url}{ROWS}", json=rows(row()), headers=sent) as answer:
            assert answer.status == 400, await answer.text()
        async with session.post(f"{path}/abort", headers={"Transaction": token}) as answer:
            assert (answer.status, await answer.json()) == (200, {"state": "aborted"})
        async with session.post(f"{path}/commit", headers={"Transaction": token}) as answer:
            assert answer.status == 409, await answer.text()
        await assert_untouched(session, url)


async def test_a_2_gb_body_is_refused_before_it_is_sent(url: str) -> None:
    async def huge() -> AsyncIterator[bytes]:
        for _ in range(2048):
            yield b" " * (1 << 20)

    headers = {"Content-Type": "application/json", "Content-Length": str(2 << 30)}
    async with aiohttp.ClientSession() as session:
        async with session.post(url + ROWS, data=huge(), headers=headers, expect100=True) as answer:
            body = ErrorAnswer.model_validate_json(await answer.read())
        assert answer.status == 413 and "body_bytes_max" in body.error.message
        await assert_untouched(session, url)
