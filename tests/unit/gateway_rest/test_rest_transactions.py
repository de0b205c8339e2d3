"""Open transactions over REST: the token's way through the headers, and what is refused."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pyarrow as pa
import pytest

from tests.unit.gateway_rest.conftest import Rest
from tests.unit.gateway_rest.memory_transactions import EPOCH_MS
from vector_db.gateway.rest import answers
from vector_db.gateway.rest.server import HEADER_BYTES_MAX

WORDS = "/v1/collections/words"
ROWS = f"{WORDS}/vectors"
BEGIN = "/v1/transactions"
ARROW = "application/vnd.apache.arrow.stream"


@pytest.fixture
async def words(rest: Rest) -> Rest:
    await rest.ok("POST", "/v1/collections", {"name": "words", "dimension": 2})
    await rest.ok("POST", ROWS, rows("a", "b"))
    return rest


def rows(*ids: str) -> dict[str, Any]:
    return {"vectors": [{"id": one, "dimensions": [1, 0], "metadata": {"n": 1}} for one in ids]}


def arrow(*ids: str) -> bytes:
    vectors = pa.array([[1.0, 0.0]] * len(ids), pa.list_(pa.float32()))
    batch = pa.record_batch([pa.array(list(ids)), vectors], ["id", "vector"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


class Client:
    """A client of one transaction: each call sends the token that the last answer had."""

    def __init__(self, rest: Rest, begun: dict[str, Any]) -> None:
        self.rest, self.begun, self.token = rest, begun, begun["token"]

    @classmethod
    async def begin(cls, rest: Rest, **body: Any) -> Client:
        return cls(rest, await rest.ok("POST", BEGIN, body))

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """The body of an answer of 200; its token is the next."""
        status, answer, told = await self.rest.send(
            method, path, body, Transaction=self.token, **headers
        )
        assert status == 200, answer
        self.token = told["Transaction"]
        return answer

    async def end(self, how: str, **headers: str) -> tuple[int, Any, Any]:
        path = f"{BEGIN}/{self.begun['transaction']}/{how}"
        return await self.rest.send("POST", path, Transaction=self.token, **headers)


async def test_begin_answers_the_transaction_and_when_it_expires(words: Rest) -> None:
    status, begun, told = await words.send("POST", BEGIN)
    answers.BeginAnswer.model_validate(begun)
    assert status == 201 and told["Transaction"] == begun["token"]
    assert begun["isolation"] == "snapshot" and begun["snapshot_ts"] == words.database.stable_ts
    expires = datetime.fromisoformat(begun["expires_at"])
    assert begun["expires_at"].endswith("Z") and expires.timestamp() * 1000 == EPOCH_MS + 60_000
    status, begun, _ = await words.send(
        "POST", BEGIN, {"isolation": "serializable", "timeout_s": 1.5}
    )
    expires = datetime.fromisoformat(begun["expires_at"])
    assert (status, begun["isolation"]) == (201, "serializable")
    assert expires.timestamp() * 1000 == EPOCH_MS + 1_500


@pytest.mark.parametrize(
    "body",
    [
        {"isolation": "dirty"}, {"isolation": None}, {"timeout_s": 0}, {"timeout_s": -1},
        {"timeout_s": "60"}, {"timeout_s": 1e300}, {"timeout": 1}, [], b"x",
    ],
)  # fmt: skip
async def test_a_malformed_begin_is_refused(words: Rest, body: Any) -> None:
    await words.refused(400, "POST", BEGIN, body)
    assert words.database.book.states == {}


async def test_every_write_is_staged_and_every_read_sees_it_until_commit(words: Rest) -> None:
    before = words.database.stable_ts
    client = await Client.begin(words)
    tokens = {client.token}

    async def write(count: int, method: str, path: str, body: Any = None, **more: str) -> None:
        answer = await client.call(method, path, body, **more)
        assert answer == {"count": count}
        answers.WriteAnswer.model_validate(answer)
        assert client.token not in tokens
        tokens.add(client.token)

    await write(1, "POST", ROWS, rows("c"))
    await write(2, "POST", f"{ROWS}?mode=insert", arrow("d", "e"), Content_Type=ARROW)
    await write(1, "PUT", f"{ROWS}/f", {"dimensions": [0, 1]})
    await write(1, "PATCH", f"{ROWS}/c", {"metadata": {"n": 7}})
    await write(1, "DELETE", f"{ROWS}/a")
    await write(1, "POST", f"{ROWS}/delete", {"ids": ["d"]})
    await write(1, "POST", f"{ROWS}/delete", {"filter": {"n": {"$lt": 5}}})

    assert (await client.call("POST", f"{WORDS}/count", {}))["count"] == 3
    fetched = await client.call("POST", f"{ROWS}/fetch", {"ids": ["a", "c", "e"]})
    assert [(one["id"], one["version"]) for one in fetched["vectors"]] == [("c", 0), ("e", 0)]
    assert (await client.call("GET", f"{ROWS}/c"))["metadata"] == {"n": 7}
    page = await client.call("POST", f"{WORDS}/scroll", {})
    assert [one["id"] for one in page["vectors"]] == ["c", "e", "f"]
    found = await client.call("POST", f"{WORDS}/query", {"vector": [0, 1], "k": 1})
    assert found["vectors"][0]["id"] == "f"

    assert (await words.ok("POST", f"{WORDS}/count", {}))["count"] == 2
    assert words.database.stable_ts == before
    status, answer, told = await client.end("commit")
    assert status == 200 and "Transaction" not in told
    answers.CommitAnswer.model_validate(answer)
    assert answer == {"count": 8, "commit_ts": before + 1}
    page = await words.ok("POST", f"{WORDS}/scroll", {})
    seen = {one["id"]: one["version"] for one in page["vectors"]}
    assert seen == dict.fromkeys(("c", "e", "f"), before + 1)
    assert (await client.end("commit"))[1] == answer


async def test_the_quick_start_routes_run_in_transactions_too(rest: Rest) -> None:
    one = {"vectors": [{"id": "a", "dimensions": [1]}]}
    client = await Client.begin(rest)
    status, answer, _ = await rest.send("POST", "/vectors", one, Transaction=client.token)
    assert status == 404 and rest.database.tables == {}, answer
    await rest.ok("POST", "/vectors", one)
    client = await Client.begin(rest)
    await client.call("POST", "/vectors", {"vectors": [{"id": "b", "dimensions": [1]}]})
    found = await client.call("POST", "/query", {"vector": [1]})
    assert [hit["id"] for hit in found["vectors"]] == ["a", "b"]
    assert [h["id"] for h in (await rest.ok("POST", "/query", {"vector": [1]}))["vectors"]] == ["a"]


async def test_an_older_token_stands_for_what_was_staged_up_to_it(words: Rest) -> None:
    """Proof that answers carry the new token, and that calls run under the one they send."""
    client = await Client.begin(words)
    first = client.token
    await client.call("PUT", f"{ROWS}/c", {"dimensions": [0, 1]})
    second = client.token
    for token, count in ((first, 2), (second, 3)):
        _, answer, told = await words.send("POST", f"{WORDS}/count", {}, Transaction=token)
        assert answer["count"] == count and told["Transaction"] == token


async def test_abort_forgets_and_a_conflict_can_be_retried(words: Rest) -> None:
    client = await Client.begin(words)
    await client.call("DELETE", f"{ROWS}/a")
    for _ in range(2):
        status, answer, _ = await client.end("abort")
        assert (status, answer) == (200, {"state": "aborted"})
    answers.AbortAnswer.model_validate(answer)
    status, answer, _ = await client.end("commit")
    assert (status, answer["error"]["code"]) == (409, "aborted")
    assert answer["error"]["retryable"] is False

    client = await Client.begin(words)
    await client.call("DELETE", f"{ROWS}/a")
    await words.ok("PATCH", f"{ROWS}/a", {"metadata": {"n": 2}})
    status, answer, _ = await client.end("commit")
    assert (status, answer["error"]["code"]) == (409, "conflict")
    assert answer["error"]["retryable"] is True
    assert (await words.ok("GET", f"{ROWS}/a"))["metadata"] == {"n": 2}

    client = await Client.begin(words)
    await client.call("DELETE", f"{ROWS}/a")
    await client.end("commit")
    status, answer, _ = await client.end("abort")
    assert (status, answer["error"]["code"]) == (409, "already_committed")


async def test_isolation_and_expiry_reach_the_database(words: Rest) -> None:
    ends = []
    for isolation in ("snapshot", "serializable"):
        client = await Client.begin(words, isolation=isolation)
        await client.call("PUT", f"{ROWS}/{isolation}", {"dimensions": [0, 1]})
        await words.ok("PATCH", f"{ROWS}/a", {"metadata": {"n": 2}})
        ends.append((await client.end("commit"))[0])
    assert ends == [200, 409]
    client = await Client.begin(words, timeout_s=2)
    words.database.book.now_ms += 2_001
    status, answer, _ = await words.send("GET", f"{ROWS}/a", Transaction=client.token)
    assert (status, answer["error"]["code"]) == (409, "transaction_expired")
    assert answer["error"]["retryable"] is False


async def test_commit_and_abort_need_the_token_of_the_transaction_in_the_path(words: Rest) -> None:
    one, other = await Client.begin(words), await Client.begin(words)
    await one.call("DELETE", f"{ROWS}/a")
    for how in ("commit", "abort"):
        path = f"{BEGIN}/{one.begun['transaction']}/{how}"
        for headers in ({}, {"Transaction": other.token}, {"Transaction": "forged"}):
            status, answer, _ = await words.send("POST", path, **headers)
            assert (status, answer["error"]["code"]) == (400, "invalid_argument")
        body = {"operations": [{"collection": "words", "delete": ["b"]}]}
        status, answer, _ = await words.send("POST", path, body, Transaction=one.token)
        assert status == 400 and "operations: unknown field" in answer["error"]["message"]
        path = f"{BEGIN}/a%00b/{how}"
        assert (await words.send("POST", path, Transaction=one.token))[0] == 400
    assert words.database.book.ends == {}
    path = f"{BEGIN}/{one.begun['transaction']}/commit"
    status, answer, _ = await words.send("POST", path, {}, Transaction=one.token)
    assert (status, answer["count"]) == (200, 1)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/collections", {"name": "x", "dimension": 2}),
        ("GET", "/v1/collections", None),
        ("GET", WORDS, None),
        ("GET", f"{WORDS}/stats", None),
        ("DELETE", WORDS, None),
        ("POST", BEGIN, {}),
        ("POST", f"{BEGIN}/commit", {"operations": [{"collection": "words", "delete": ["a"]}]}),
    ],
)  # fmt: skip
async def test_what_is_not_rows_is_refused_in_a_transaction(
    words: Rest, method: str, path: str, body: Any
) -> None:
    token = (await Client.begin(words)).token
    calls = list(words.database.calls)
    status, answer, _ = await words.send(method, path, body, Transaction=token)
    assert status == 400 and "Transaction" in answer["error"]["message"]
    assert words.database.calls == calls
    if path.endswith("/commit"):
        assert "/v1/transactions/{id}/commit" in answer["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", f"{WORDS}/query", {"vector": [1, 0]}),
        ("POST", f"{WORDS}/count", {}),
        ("POST", f"{WORDS}/scroll", {}),
        ("POST", f"{ROWS}/fetch", {"ids": ["a"]}),
    ],
)
async def test_consistency_is_refused_in_a_transaction(
    words: Rest, method: str, path: str, body: dict[str, Any]
) -> None:
    token = (await Client.begin(words)).token
    for asked in ({"at_least": 0}, {"strong": True}, {"as_of": 1}):
        sent = {**body, "consistency": asked}
        await words.ok(method, path, sent)
        status, answer, _ = await words.send(method, path, sent, Transaction=token)
        assert status == 400 and "consistency" in answer["error"]["message"]
    for asked_text in ("at_least=0", "strong=true", "as_of=2"):
        path = f"{ROWS}/a?{asked_text}"
        await words.ok("GET", path)
        assert (await words.send("GET", path, Transaction=token))[0] == 400


@pytest.mark.parametrize("token", ["", " ", "a b", "ü", "forged", "x" * 7_000, "..", "\t"])
async def test_a_forged_token_is_a_400_on_every_row_route(words: Rest, token: str) -> None:
    before = {name: dict(table.rows) for name, table in words.database.tables.items()}
    calls: list[tuple[str, str, Any]] = [
        ("POST", "/vectors", rows("x")), ("POST", "/query", {"vector": [1, 0]}),
        ("POST", ROWS, rows("x")), ("PUT", f"{ROWS}/a", {"dimensions": [1, 1]}),
        ("PATCH", f"{ROWS}/a", {"metadata": {}}), ("DELETE", f"{ROWS}/a", None),
        ("GET", f"{ROWS}/a", None), ("POST", f"{ROWS}/delete", {"filter": {}}),
        ("POST", f"{ROWS}/fetch", {"ids": ["a"]}), ("POST", f"{WORDS}/query", {"vector": [1, 0]}),
        ("POST", f"{WORDS}/scroll", {}), ("POST", f"{WORDS}/count", {}),
    ]  # fmt: skip
    for method, path, body in calls:
        status, answer, _ = await words.send(method, path, body, Transaction=token)
        answers.ErrorAnswer.model_validate(answer)
        assert (status, answer["error"]["code"]) == (400, "invalid_argument"), (method, path)
    assert {name: table.rows for name, table in words.database.tables.items()} == before


async def test_a_token_given_twice_is_refused(words: Rest) -> None:
    token = (await Client.begin(words)).token
    twice = [("Transaction", token), ("Transaction", token)]
    async with words.session.get(f"{words.url}{ROWS}/a", headers=twice) as answer:
        assert answer.status == 400 and "given twice" in await answer.text()


async def test_a_long_token_passes_and_a_header_over_the_limit_is_named(words: Rest) -> None:
    # The client refuses such long headers unless it is told.
    words.database.book.padding = 14_000
    begun = await raw(words, "POST", BEGIN)
    token = begun[2]["Transaction"]
    assert len(token) == 14_000
    status, _, told = await raw(words, "PUT", f"{ROWS}/c", b'{"dimensions":[1,1]}', token)
    assert status == 200 and len(told["Transaction"]) == 14_000
    status, text, _ = await raw(words, "GET", f"{ROWS}/a", None, "x" * (HEADER_BYTES_MAX + 1))
    assert status == 400 and str(HEADER_BYTES_MAX) in text


async def raw(
    rest: Rest, method: str, path: str, body: bytes | None = None, token: str | None = None
) -> tuple[int, str, Any]:
    import aiohttp

    headers = {} if token is None else {"Transaction": token}
    async with (
        aiohttp.ClientSession(max_field_size=20_000) as session,
        session.request(method, rest.url + path, data=body, headers=headers) as answer,
    ):
        return answer.status, await answer.text(), answer.headers
