"""A small gateway in memory that speaks the REST wire, on its own thread, and fails on demand.

It keeps whole rows under one counter of commits, so it can tell what a client sent it; it searches
by brute force. Its transactions are in `fake_transactions`. It is not the server: what the server
does is tested against the server.
"""

from __future__ import annotations

import asyncio
import base64
import io
import itertools
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from aiohttp import web

from tests.support.ports import free_ports
from tests.unit.client.fake_transactions import Refused, Stored, Transactions

HANG_S = 30.0


@dataclass
class Request:
    """What arrived; `body` is None for Arrow."""

    method: str
    path: str
    content_type: str
    headers: dict[str, str]
    body: Any


@dataclass
class FakeGateway:
    """`script` holds what happens to the next requests, in order: None lets one through, a tuple is
    an error to answer, ``"disconnect"`` cuts the connection before the request is looked at and
    ``"lost"`` after it is done; ``"hang"`` holds it for long. `at` holds the same by
    the end of the path, and comes first. `clusters` are what the next looks at the cluster find;
    the last one stays."""

    url: str = ""
    requests: list[Request] = field(default_factory=list)
    script: list[Any] = field(default_factory=list)
    at: dict[str, list[Any]] = field(default_factory=dict)
    collections: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows: dict[str, dict[str, Stored]] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    clusters: list[dict[str, Any]] = field(default_factory=lambda: [{"workers": []}])
    draining: set[str] = field(default_factory=set)
    clock: int = 100
    in_flight_max: int = 0
    delay_s: float = 0.0
    arrived: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.transactions = Transactions(self)
        # Nobody else is given it while it is closed between two starts.
        (self._port,) = free_ports(1)
        self._in_flight = 0
        self._cursors = itertools.count(1)
        self._scrolls: dict[str, list[dict[str, Any]]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def start(self) -> None:
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def restart(self) -> None:
        """All connections end, and it listens again on the same port; what it knows stays."""

        async def again() -> None:
            await self._runner.cleanup()
            await self._start()

        asyncio.run_coroutine_threadsafe(again(), self._loop).result(10)

    def sent(self, ending: str) -> list[Request]:
        return [request for request in self.requests if request.path.endswith(ending)]

    async def _start(self) -> None:
        app = web.Application(client_max_size=1 << 30)
        one = "/v1/collections/{c}"
        app.add_routes(
            [
                web.post("/v1/collections", self._wrap(self.create)),
                web.get("/v1/collections", self._wrap(self.listing)),
                web.get(one, self._wrap(self.one)),
                web.patch(one, self._wrap(self.alter)),
                web.delete(one, self._wrap(self.drop)),
                web.get("/v1/aliases", self._wrap(self.alias_listing)),
                web.post("/v1/aliases", self._wrap(self.change_aliases)),
                web.get(one + "/stats", self._wrap(self.stats)),
                web.post(one + "/vectors", self._wrap(self.write)),
                web.patch(one + "/vectors/{id}", self._wrap(self.patch)),
                web.post(one + "/vectors/fetch", self._wrap(self.fetch)),
                web.post(one + "/vectors/delete", self._wrap(self.delete)),
                web.post(one + "/query", self._wrap(self.query)),
                web.post(one + "/scroll", self._wrap(self.scroll)),
                web.post(one + "/count", self._wrap(self.count)),
                web.post("/v1/transactions/commit", self._wrap(self.commit)),
                web.post("/v1/transactions", self._wrap(self.transactions.begin)),
                web.post("/v1/transactions/{t}/commit", self._wrap(self.transactions.commit)),
                web.post("/v1/transactions/{t}/abort", self._wrap(self.transactions.abort)),
                web.get("/v1/transactions/{t}", self._wrap(self.transactions.status)),
                web.post("/vectors", self._wrap(self.write)),
                web.get("/v1/cluster", self._wrap(self.cluster)),
                web.put("/v1/cluster/workers/{w}", self._wrap(self.change_worker)),
            ]
        )
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True)
        await site.start()
        self.url = f"http://127.0.0.1:{self._port}"

    def _wrap(
        self, handler: Callable[[web.Request, Any], Any]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            raw = await request.read()
            arrow = "arrow" in request.content_type
            body = None if arrow else orjson.loads(raw or b"{}")
            self.requests.append(
                Request(
                    request.method,
                    request.path_qs,
                    request.content_type,
                    dict(request.headers),
                    body,
                )
            )
            self.arrived.set()
            self._in_flight += 1
            self.in_flight_max = max(self.in_flight_max, self._in_flight)
            try:
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                step = self._step(request.path)
                if step == "disconnect":
                    return _cut(request)
                if step == "hang":
                    await asyncio.sleep(HANG_S)
                if step == "html":
                    return web.Response(status=502, text="<h1>Bad gateway</h1>")
                if isinstance(step, tuple):
                    return _failure(*step)
                answer, headers = self._answer(request, handler, raw if arrow else body)
                return _cut(request) if step == "lost" else _json(200, answer, headers)
            except Refused as error:
                return _failure(*error.args)
            except LookupError as error:
                return _failure(404, "not_found", False, str(error))
            except FileExistsError as error:
                return _failure(409, "already_exists", False, str(error))
            finally:
                self._in_flight -= 1

        return handle

    def _step(self, path: str) -> Any:
        for ending, steps in self.at.items():
            if path.endswith(ending) and steps:
                return steps.pop(0)
        return self.script.pop(0) if self.script else None

    def _answer(
        self, request: web.Request, handler: Callable[[web.Request, Any], Any], body: Any
    ) -> tuple[Any, dict[str, str]]:
        """What a handler answers: in a transaction, under an idempotency key, or on its own."""
        if "/v1/transactions" not in request.path or request.path.endswith("ns/commit"):
            token = request.headers.get("Transaction")
            if token is not None:
                return self.transactions.statement(token, lambda: handler(request, body))
            key = request.headers.get("Idempotency-Key")
            if key is not None:
                return self.transactions.once(key, body, lambda: handler(request, body))
        return handler(request, body), {}

    # -- handlers

    def create(self, request: web.Request, body: Any) -> Any:
        if body["name"] in self.collections:
            raise FileExistsError(body["name"])
        self.collections[body["name"]] = {"shards": 1, **body}
        self.rows[body["name"]] = {}
        return self.collections[body["name"]]

    def listing(self, request: web.Request, body: Any) -> Any:
        return {"collections": list(self.collections.values())}

    def one(self, request: web.Request, body: Any) -> Any:
        return self.collections[request.match_info["c"]]

    def alter(self, request: web.Request, body: Any) -> Any:
        entry = self.collections[request.match_info["c"]]
        if (shards := body.pop("shards", None)) is not None:
            entry["spreading"] = None if shards == entry["shards"] else {"shards": shards}
        entry |= body | {"index": entry.get("index", {}) | body.get("index", {})}
        return entry

    def alias_listing(self, request: web.Request, body: Any) -> Any:
        return {"aliases": self.aliases}

    def change_aliases(self, request: web.Request, body: Any) -> Any:
        for alias, target in body["changes"].items():
            if target is None:
                del self.aliases[alias]
            else:
                self.aliases[alias] = self.collections[target]["name"]
        self.clock += 1
        return {"commit_ts": self.clock}

    def drop(self, request: web.Request, body: Any) -> Any:
        del self.collections[request.match_info["c"]]
        self.clock += 1
        return {"commit_ts": self.clock}

    def stats(self, request: web.Request, body: Any) -> Any:
        rows = len(self.rows[request.match_info["c"]])
        return {
            "rows": rows,
            "rows_indexed": 0,
            "segments": 1,
            "bytes_memory": 10,
            "bytes_disk": 20,
            "rows_dead": 3,
            "kinds": {"exact": rows},
            "recall": {"target": 0.9, "measured": None, "samples": 0},
            "building": {"rows": 5, "done": 2},
            "bytes_predicted": 30,
            "bytes_resident": 40,
        }

    def write(self, request: web.Request, body: Any) -> Any:
        if isinstance(body, bytes):
            table = pa.ipc.open_stream(io.BytesIO(body)).read_all().to_pydict()
            nothing = [None] * len(table["id"])
            metadata, versions = (table.get(name) or nothing for name in ("metadata", "if_version"))
            new = [
                (i, np.array(v, "<f4"), m and orjson.loads(m), version)
                for i, v, m, version in zip(
                    table["id"], table["vector"], metadata, versions, strict=True
                )
            ]
            mode = request.query["mode"]
        else:
            new = [
                (r["id"], _vector(r["dimensions"]), r.get("metadata"), r.get("if_version"))
                for r in body["vectors"]
            ]
            mode = body["mode"]
        rows = self._rows(request)
        for row_id, _, _, version in new:
            _check_version(rows, row_id, version)
            if mode == "insert" and row_id in rows:
                raise FileExistsError(row_id)
            if mode == "update" and row_id not in rows:
                raise LookupError(row_id)
        self.clock += 1
        rows.update({i: (v, m, self.clock) for i, v, m, _ in new})
        return {"count": len(new), "commit_ts": self.clock}

    def patch(self, request: web.Request, body: Any) -> Any:
        rows = self._rows(request)
        match = request.headers.get("If-Match")
        version = None if match is None else int(match.strip('"'))
        _check_version(rows, request.match_info["id"], version)
        vector, metadata, _ = rows[request.match_info["id"]]
        self.clock += 1
        merged = {**(metadata or {}), **body["metadata"]}
        merged = {key: value for key, value in merged.items() if value is not None}
        rows[request.match_info["id"]] = (vector, merged, self.clock)
        return {"count": 1, "commit_ts": self.clock}

    def fetch(self, request: web.Request, body: Any) -> Any:
        rows = self._rows(request)
        found = [_row(i, rows[i], body["include"]) for i in body["ids"] if i in rows]
        return {"vectors": found, "snapshot_ts": self.clock}

    def delete(self, request: web.Request, body: Any) -> Any:
        rows = self._rows(request)
        ids = body.get("ids") or [i for i, row in rows.items() if _fits(row, body["filter"])]
        for row_id, version in zip(ids, body.get("if_versions", ()), strict=False):
            _check_version(rows, row_id, version)
        found = [rows.pop(i) for i in ids if i in rows]
        self.clock += 1
        return {"count": len(found), "commit_ts": self.clock}

    def query(self, request: web.Request, body: Any) -> Any:
        rows = {i: r for i, r in self._rows(request).items() if _fits(r, body.get("filter"))}

        def search(vector: np.ndarray, but: str | None = None) -> list[dict[str, Any]]:
            hits = [(-float(r[0] @ vector), i) for i, r in rows.items() if i != but]
            hits = [h for h in sorted(hits) if -h[0] >= body.get("min_similarity", -9)]
            start = int(body.get("after", 0))
            return [
                {"id": i, "similarity": -s, "metadata": rows[i][1]}
                for s, i in hits[start : start + body.get("k", 10)]
            ]

        told: dict[str, Any] = {"explain": {"asked": body}} if body.get("explain") else {}

        if "vectors" in body:
            results = [{"vectors": search(_vector(v))} for v in body["vectors"]]
            return {"results": results, "snapshot_ts": self.clock} | told
        if "id" in body:
            hits = search(self._rows(request)[body["id"]][0], body["id"])
        else:
            hits = search(_vector(body["vector"]))
        if "page" in body or "after" in body:
            full = len(hits) == body.get("k", 10)
            told["cursor"] = str(int(body.get("after", 0)) + len(hits)) if full else None
        return {"vectors": hits, "snapshot_ts": self.clock} | told

    def scroll(self, request: web.Request, body: Any) -> Any:
        cursor = body.get("cursor")
        if cursor is None:
            rows = self._rows(request)
            left = [
                _row(i, r, body["include"]) for i, r in rows.items() if _fits(r, body.get("filter"))
            ]
        else:
            left = self._scrolls[cursor]
        page, left = left[: body["limit"]], left[body["limit"] :]
        following = f"cursor-{next(self._cursors)}" if left else None
        if following:
            self._scrolls[following] = left
        return {"vectors": page, "cursor": following, "snapshot_ts": self.clock}

    def count(self, request: web.Request, body: Any) -> Any:
        rows = self._rows(request).values()
        found = sum(_fits(row, body.get("filter")) for row in rows)
        return {"count": found, "snapshot_ts": self.clock}

    def commit(self, request: web.Request, body: Any) -> Any:
        self.clock += 1
        count = 0
        for operation in body["operations"]:
            rows = self.rows[operation["collection"]]
            for row in operation.get("upsert", ()):
                rows[row["id"]] = (_vector(row["dimensions"]), row.get("metadata"), self.clock)
                count += 1
            count += sum(rows.pop(i, None) is not None for i in operation.get("delete", ()))
        return {"count": count, "commit_ts": self.clock}

    def cluster(self, request: web.Request, body: Any) -> Any:
        return self.clusters.pop(0) if len(self.clusters) > 1 else self.clusters[0]

    def change_worker(self, request: web.Request, body: Any) -> Any:
        worker, cluster = request.match_info["w"], self.clusters[0]
        if worker not in [known["id"] for known in cluster["workers"]]:
            raise LookupError(f"shard worker {worker!r} is not known")
        self.draining = (self.draining | {worker}) if body["draining"] else self.draining - {worker}
        return self.cluster(request, body)

    def _rows(self, request: web.Request) -> dict[str, Stored]:
        name = request.match_info.get("c", "default")
        stored = self.rows if self.transactions.view is None else self.transactions.view
        return stored.setdefault(name, {}) if name == "default" else stored[name]


def _check_version(rows: dict[str, Stored], row_id: str, version: int | None) -> None:
    if version is not None and (row_id not in rows or rows[row_id][2] != version):
        raise Refused(412, "precondition_failed", False, row_id)


def _cut(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def _fits(row: Stored, filter: dict[str, Any] | None) -> bool:
    return all((row[1] or {}).get(key) == value for key, value in (filter or {}).items())


def _vector(value: Any) -> np.ndarray:
    if isinstance(value, str):
        return np.frombuffer(base64.b64decode(value), "<f4")
    return np.array(value, "<f4")


def _row(row_id: str, row: Stored, include: list[str]) -> dict[str, Any]:
    shown: dict[str, Any] = {"id": row_id, "version": row[2]}
    if "dimensions" in include:
        shown["dimensions"] = [float(x) for x in row[0]]
    if "metadata" in include:
        shown["metadata"] = row[1]
    return shown


def _json(status: int, body: Any, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        status=status,
        body=orjson.dumps(body),
        content_type="application/json",
        headers={"X-Request-Id": "req-1", **(headers or {})},
    )


def _failure(
    status: int, code: str, retryable: bool, message: str = "scripted", retry_after: str = ""
) -> web.Response:
    error = {"code": code, "message": message, "retryable": retryable, "request_id": "req-1"}
    error |= {"details": {"fact": 1}}
    return _json(status, {"error": error}, {"Retry-After": retry_after} if retry_after else None)
