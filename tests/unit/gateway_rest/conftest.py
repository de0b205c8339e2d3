"""The REST application over a database in a dict, behind a real server on a free port."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from yarl import URL

from tests.unit.gateway_rest.memory import MemoryDatabase
from vector_db.common.model.limits import Limits
from vector_db.gateway.metrics import GatewayMetrics
from vector_db.gateway.rest.app import build_app
from vector_db.gateway.rest.server import RestServer


@dataclass
class Rest:
    """A running edge and its client."""

    url: str
    port: int
    session: aiohttp.ClientSession
    database: MemoryDatabase
    registry: CollectorRegistry
    facts: dict[str, Any]

    async def call(
        self, method: str, path: str, body: Any = None, **kwargs: Any
    ) -> tuple[int, Any]:
        """(status, decoded JSON body); `body` is JSON unless it is bytes."""
        if body is not None:
            kwargs["data"] = body if isinstance(body, bytes) else orjson.dumps(body)
            kwargs.setdefault("headers", {"Content-Type": "application/json"})
        async with self.session.request(method, self.url + path, **kwargs) as answer:
            return answer.status, orjson.loads(await answer.read())

    async def send(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, Any, Mapping[str, str]]:
        """(status, decoded JSON body, headers); `headers` by name, with _ for -."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        data = None if body is None else body if isinstance(body, bytes) else orjson.dumps(body)
        url = URL(self.url + path, encoded=True)
        async with self.session.request(method, url, data=data, headers=named) as answer:
            return answer.status, orjson.loads(await answer.read()), answer.headers

    async def ok(self, method: str, path: str, body: Any = None, **kwargs: Any) -> Any:
        """The decoded body of an answer that must be 200 or 201."""
        status, answer = await self.call(method, path, body, **kwargs)
        assert status in (200, 201), answer
        return answer

    async def refused(self, status: int, method: str, path: str, body: Any = None) -> str:
        """The message of an answer that must be an error of `status`."""
        got, answer = await self.call(method, path, body)
        assert got == status, answer
        return str(answer["error"]["message"])


@pytest.fixture
def limits() -> Limits:
    return Limits(body_bytes_max=4 * 1024 * 1024, rows_per_batch_max=2000)


@pytest.fixture
def api_key() -> str | None:
    return None


@pytest.fixture
async def rest(limits: Limits, api_key: str | None) -> AsyncIterator[Rest]:
    database, registry = MemoryDatabase(limits), CollectorRegistry()
    facts: dict[str, Any] = {"ready": True, "rows": 0}
    app = build_app(
        database,
        limits,
        api_key=api_key,
        health=lambda: facts,
        metrics=lambda: (generate_latest(registry), "text/plain; version=0.0.4"),
        meters=GatewayMetrics(registry),
    )
    server = RestServer(app)
    port = await server.start("127.0.0.1", 0)
    async with aiohttp.ClientSession() as session:
        yield Rest(f"http://127.0.0.1:{port}", port, session, database, registry, facts)
    await server.stop(1.0)
