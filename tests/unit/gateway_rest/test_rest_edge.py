"""The edge itself: errors, keys, request ids, bodies, probes, metrics, starting and stopping."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson
import pytest

from tests.unit.gateway_rest.conftest import Rest
from tests.unit.gateway_rest.memory import MemoryDatabase
from vector_db.common.model.errors import OutcomeUnknown, StartupError, Unavailable
from vector_db.common.model.limits import Limits
from vector_db.gateway.rest import answers
from vector_db.gateway.rest.app import build_app
from vector_db.gateway.rest.server import RestServer


async def exchange(rest: Rest, sent: bytes, more: AsyncIterator[bytes] | None = None) -> bytes:
    """All that the server answers to raw bytes, until it closes or falls silent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", rest.port)
    try:
        writer.write(sent)
        if more is not None:
            try:
                async for piece in more:
                    writer.write(piece)
                    await writer.drain()
            except ConnectionError:
                pass
        got = b""
        try:
            async with asyncio.timeout(5):
                while not got.endswith(b"}") and (piece := await reader.read(65536)):
                    got += piece
        except ConnectionError:
            pass
        return got
    finally:
        writer.close()


def head(path: str, *headers: str) -> bytes:
    return "\r\n".join((f"POST {path} HTTP/1.1", "Host: x", *headers, "", "")).encode()


async def test_errors_carry_code_message_retryable_and_request_id(rest: Rest) -> None:
    rest.database.failure = Unavailable("nobody is there", shard=3)
    url = rest.url + "/v1/collections"
    async with rest.session.get(url, headers={"X-Request-Id": "abc-1"}) as answer:
        assert answer.status == 503 and answer.headers["X-Request-Id"] == "abc-1"
        body = await answer.json()
    answers.ErrorAnswer.model_validate(body)
    assert body["error"] == {
        "code": "unavailable",
        "message": "nobody is there",
        "retryable": True,
        "request_id": "abc-1",
        "details": {"shard": 3},
    }
    rest.database.failure = OutcomeUnknown("who knows", outcome="unknown", txn_id="77")
    _, body = await rest.call("GET", "/v1/collections")
    assert body["error"]["details"] == {"outcome": "unknown", "txn_id": "77"}
    assert body["error"]["retryable"] is False


async def test_an_unforeseen_exception_is_a_500_that_tells_nothing(
    rest: Rest, caplog: pytest.LogCaptureFixture
) -> None:
    rest.database.failure = RuntimeError("the secret of the house")
    status, body = await rest.call("GET", "/v1/collections")
    assert status == 500 and body["error"]["code"] == "internal"
    assert "secret" not in str(body)
    assert body["error"]["request_id"] in caplog.text and "secret" in caplog.text


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "ü", "a;b"])
async def test_an_insane_request_id_is_replaced(rest: Rest, given: str) -> None:
    headers = {"X-Request-Id": given}
    async with rest.session.get(rest.url + "/livez", headers=headers) as answer:
        assert answer.headers["X-Request-Id"] not in ("", given)


async def test_unknown_paths_and_methods_have_error_bodies(rest: Rest) -> None:
    status, body = await rest.call("GET", "/v2/collections")
    assert (status, body["error"]["code"]) == (404, "not_found")
    async with rest.session.put(rest.url + "/v1/collections/a") as answer:
        assert answer.status == 405 and answer.headers["Allow"] == "DELETE,GET,HEAD,PATCH"
        assert (await answer.json())["error"]["code"] == "method_not_allowed"


async def test_a_long_message_is_cut(rest: Rest) -> None:
    message = await rest.refused(400, "POST", "/query", {"x" * 100_000: 1, "vector": [1]})
    assert len(message) <= 2001


class TestWithKey:
    @pytest.fixture
    def api_key(self) -> str:
        return "s3cret-ü"

    async def test_everything_but_probes_asks_for_the_key(self, rest: Rest) -> None:
        for path in ("/v1/collections", "/metrics", "/docs", "/openapi.json", "/nope"):
            status, body = await rest.call("GET", path)
            assert (status, body["error"]["code"]) == (401, "unauthenticated")
        for path in ("/livez", "/readyz", "/health"):
            await rest.ok("GET", path)
        assert rest.database.calls == []

    async def test_either_header_is_good_and_a_wrong_key_is_not(self, rest: Rest) -> None:
        good = ({"X-Api-Key": "s3cret-ü"}, {"Authorization": "bearer s3cret-ü"})
        bad: tuple[dict[str, str], ...] = (
            {"X-Api-Key": "s3cret"},
            {"Authorization": "Bearer "},
            {"Authorization": "Basic s3cret-ü"},
            {"Authorization": "s3cret-ü"},
            {"X-Api-Key": "", "Authorization": "Bearer s3cret-ü"},
        )
        for headers in good:
            await rest.ok("GET", "/v1/collections", headers=headers)
        for headers in bad:
            assert (await rest.call("GET", "/v1/collections", headers=headers))[0] == 401


async def test_an_announced_2_gb_body_is_refused_before_it_is_sent(rest: Rest) -> None:
    announced = f"Content-Length: {2 << 30}"
    got = await exchange(rest, head("/vectors", "Content-Type: application/json", announced))
    assert got.startswith(b"HTTP/1.1 413") and b"body_bytes_max" in got
    got = await exchange(rest, head("/vectors", announced, "Expect: 100-continue"))
    assert got.startswith(b"HTTP/1.1 413")


async def test_an_endless_chunked_body_is_cut_at_the_limit(rest: Rest) -> None:
    sent = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal sent
        piece = b"%x\r\n" % 65536 + b" " * 65536 + b"\r\n"
        while sent < 1 << 40:
            sent += 65536
            yield piece

    got = await exchange(rest, head("/vectors", "Transfer-Encoding: chunked"), pieces())
    assert got == b"" or got.startswith(b"HTTP/1.1 413")
    assert sent < 1 << 40
    await rest.ok("GET", "/livez")


async def test_a_compressed_body_is_bounded_by_what_it_becomes(
    rest: Rest, caplog: pytest.LogCaptureFixture
) -> None:
    headers = {"Content-Encoding": "deflate", "Content-Type": "application/json"}
    small = zlib.compress(b'{"vectors":[{"id":"a","dimensions":[1]}]}')
    await rest.ok("POST", "/vectors", small, headers=headers)
    bomb = zlib.compress(b" " * (64 << 20), 9)
    status, body = await rest.call("POST", "/vectors", bomb, headers=headers)
    assert (status, body["error"]["code"]) == (413, "too_large")
    caplog.clear()
    for _ in range(3):
        status, body = await rest.call("POST", "/vectors", b"no deflate at all", headers=headers)
        assert (status, body["error"]["code"]) == (400, "invalid_argument")
    assert caplog.text == ""


async def test_continue_is_said_to_a_body_of_allowed_size(rest: Rest) -> None:
    body = b'{"vectors":[{"id":"a","dimensions":[1]}]}'
    lengths = (f"Content-Length: {len(body)}", "Expect: 100-continue")

    async def after() -> AsyncIterator[bytes]:
        yield body

    got = await exchange(rest, head("/vectors", *lengths), after())
    assert got.startswith(b"HTTP/1.1 100 Continue\r\n\r\n")


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n",
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /vectors HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n",
        b"POST /vectors HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"POST /vectors HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    ],
)
async def test_bytes_that_are_no_http_get_a_400_with_the_error_body(
    rest: Rest, sent: bytes
) -> None:
    got = await exchange(rest, sent)
    assert got.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400"))
    body = orjson.loads(got.split(b"\r\n\r\n", 1)[1])
    answers.ErrorAnswer.model_validate(body)
    await rest.ok("GET", "/livez")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "application/json; charset=utf-8"}, 200),
        ({"Content-Type": "application/vnd.api+json"}, 200),
        ({"Content-Type": "text/plain"}, 200),
        ({"Content-Type": "application/xml"}, 415),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 415),
        ({"Content-Type": "text/plain", "Origin": "https://evil.example"}, 415),
        ({"Content-Type": "application/json", "Origin": "https://good.example"}, 200),
        ({"Content-Type": "application/vnd.apache.arrow.stream"}, 415),
    ],
)
async def test_content_types(rest: Rest, headers: dict[str, str], status: int) -> None:
    await rest.ok("POST", "/v1/collections", {"name": "c", "dimension": 1})
    got, body = await rest.call("POST", "/v1/collections/c/count", b"{}", headers=headers)
    assert got == status, body


async def test_arrow_inserts_take_their_mode_from_the_query_string(rest: Rest) -> None:
    import pyarrow as pa

    given = pa.record_batch(
        [pa.array(["a"]), pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2))], ["id", "vector"]
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, given.schema) as writer:
        writer.write_batch(given)
    body = bytes(sink.getvalue())
    headers = {"Content-Type": "application/vnd.apache.arrow.stream"}

    async def post(query: str, sent: bytes = body) -> int:
        return (await rest.call("POST", "/vectors" + query, sent, headers=headers))[0]

    assert await post("?mode=update") == 404
    assert await post("?mode=insert") == 200
    assert await post("?mode=insert") == 409
    assert await post("") == 200
    assert await post("?mode=replace") == 400
    assert await post("?node=insert") == 400
    assert await post("?mode=insert&mode=upsert") == 400
    assert await post("", body[:-40]) == 400
    assert await rest.refused(400, "POST", "/vectors?mode=insert", {"vectors": []})


async def test_probes_follow_the_facts(rest: Rest) -> None:
    assert (await rest.ok("GET", "/health"))["rows"] == 0
    assert await rest.ok("GET", "/readyz") == {"ready": True}
    rest.facts["ready"] = False
    assert (await rest.call("GET", "/readyz"))[0] == 503
    assert (await rest.call("GET", "/health"))[0] == 503
    assert (await rest.call("GET", "/livez"))[0] == 200


async def test_metrics_count_queries_inserts_and_transactions(rest: Rest) -> None:
    await rest.ok("POST", "/vectors", {"vectors": [{"id": "a", "dimensions": [1]}] * 1})
    await rest.refused(400, "POST", "/vectors", {"vectors": []})
    await rest.ok("POST", "/query", {"vector": [1]})
    await rest.refused(400, "POST", "/query", {"vector": [1, 2]})
    async with rest.session.get(rest.url + "/metrics") as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        text = await answer.text()
    for line in (
        'vector_db_insert_total{code="ok",edge="rest"} 1.0',
        'vector_db_insert_total{code="invalid_argument",edge="rest"} 1.0',
        'vector_db_insert_rows_total{edge="rest"} 1.0',
        'vector_db_query_duration_seconds_count{code="ok",edge="rest"} 1.0',
        'vector_db_query_duration_seconds_count{code="invalid_argument",edge="rest"} 1.0',
        'vector_db_transaction_duration_seconds_count{code="ok",edge="rest"} 1.0',
    ):
        assert line in text


async def test_a_taken_port_is_one_clear_line(rest: Rest) -> None:
    app = build_app(
        MemoryDatabase(Limits()),
        Limits(),
        api_key=None,
        health=dict,
        metrics=lambda: (b"", "text/plain"),
    )
    server = RestServer(app)
    with pytest.raises(StartupError, match=rf"127\.0\.0\.1:{rest.port}.* in use"):
        await server.start("127.0.0.1", rest.port)
    await server.stop()


class SlowDatabase(MemoryDatabase):
    """Answers `cluster` when it is let go."""

    def __init__(self) -> None:
        super().__init__(Limits())
        self.entered, self.go, self.left = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def cluster(self) -> dict[str, Any]:
        self.entered.set()
        try:
            await self.go.wait()
        finally:
            self.left.set()
        return {}


async def slow_server() -> tuple[SlowDatabase, RestServer, int]:
    database = SlowDatabase()
    app = build_app(
        database, Limits(), api_key=None, health=dict, metrics=lambda: (b"", "text/plain")
    )
    server = RestServer(app)
    return database, server, await server.start("127.0.0.1", 0)


async def test_nothing_goes_on_for_a_client_that_has_left() -> None:
    database, server, port = await slow_server()
    async with asyncio.timeout(10):
        async with aiohttp.ClientSession() as session:
            request = asyncio.create_task(session.get(f"http://127.0.0.1:{port}/v1/cluster"))
            await database.entered.wait()
            request.cancel()
        await database.left.wait()
        await server.stop(1.0)


async def test_stopping_lets_a_request_under_way_finish_and_takes_no_more() -> None:
    database, server, port = await slow_server()
    url = f"http://127.0.0.1:{port}/v1/cluster"
    async with aiohttp.ClientSession() as session, asyncio.timeout(10):
        request = asyncio.create_task(session.get(url))
        await database.entered.wait()
        stopping = asyncio.create_task(server.stop(5.0))
        # The listening socket is closed in the first step of `stop`.
        await asyncio.sleep(0)
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.get(url)
        database.go.set()
        assert (await request).status == 200
        await stopping


async def test_stopping_cuts_a_request_that_outlasts_the_drain() -> None:
    database, server, port = await slow_server()
    async with aiohttp.ClientSession() as session, asyncio.timeout(10):
        request = asyncio.create_task(session.get(f"http://127.0.0.1:{port}/v1/cluster"))
        await database.entered.wait()
        await server.stop(0.05)
        with pytest.raises(aiohttp.ClientConnectionError):
            await request
