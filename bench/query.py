"""Search latency and rate over REST and gRPC, beside FAISS and beside a route that does not search.

Two references in the same run, alternating with what is measured: raw FAISS HNSW in process on the
same rows with the same parameters (what the search itself costs), and an HTTP server of the same
kind that decodes the same body and answers as many bytes (what the edge itself costs). Queries
never repeat.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import faiss
import grpc
import numpy as np
import orjson
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `python bench/x.py` works too

from bench import dataset
from bench.common import (
    F32,
    ROOT,
    BenchError,
    HttpConnection,
    ServerProcess,
    Spread,
    call_json,
    encode_request,
    free_port,
    percentile,
    print_table,
    run_against_server,
    save,
    send_all,
)
from bench.generate import recall
from vector_db.common.model.collection import IndexOptions
from vector_db.v1 import vector_db_pb2 as pb

COLLECTION = "bench"
PATH = f"/v1/collections/{COLLECTION}/query"
GRPC_METHOD = "/vector_db.v1.VectorDB/QuerySimilar"
ARROW = "application/vnd.apache.arrow.stream"
K = 10
EF = 40
"""Recall@10 of 0.97 on these rows."""
CLIENTS = 64
LOAD_BATCH_ROWS = 1_000
INDEX_TIMEOUT_S = 90.0
INDEX_POLL_S = 0.1
AIM_OVER_FAISS_MS = 0.5
AIM_OF_ROUTE = 0.5


class EchoProcess:
    """`bench/echo_server.py` as a process of its own; a context manager."""

    def __init__(self, answer_bytes: int) -> None:
        self.port = free_port()
        options = ["--port", str(self.port), "--answer-bytes", str(answer_bytes)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.echo_server", *options], cwd=ROOT
        )

    async def open(self, count: int) -> list[HttpConnection]:
        """Connections, once it listens."""
        deadline = time.monotonic() + 20
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                return [await HttpConnection.open(self.port) for _ in range(count)]
            except OSError:
                await asyncio.sleep(0.05)
        raise BenchError("the echo server does not answer")

    def __enter__(self) -> EchoProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.wait()


class Reference:
    """Raw FAISS on the same rows: HNSW with the product's parameters, and exact search."""

    def __init__(self, rows: F32) -> None:
        faiss.omp_set_num_threads(1)
        self._rows = rows
        self._index = faiss.IndexHNSWFlat(
            rows.shape[1], IndexOptions().m, faiss.METRIC_INNER_PRODUCT
        )
        self._index.hnsw.efConstruction = IndexOptions().ef_construction
        self._index.hnsw.efSearch = EF
        started = time.perf_counter()
        self._index.add(rows)
        self.build_s = time.perf_counter() - started

    def search(self, queries: F32) -> tuple[list[float], NDArray[np.int64]]:
        """Seconds of each single query, and the rows found, int64[n, K]."""
        seconds, found = [], np.empty((len(queries), K), dtype=np.int64)
        for i in range(len(queries)):
            started = time.perf_counter()
            _, labels = self._index.search(queries[i : i + 1], K)
            seconds.append(time.perf_counter() - started)
            found[i] = labels[0]
        return seconds, found

    def exact(self, queries: F32) -> NDArray[np.int64]:
        """The true K nearest rows, int64[n, K]."""
        return np.argsort(-(queries @ self._rows.T), axis=1, kind="stable")[:, :K]


def http_requests(queries: F32) -> list[bytes]:
    """The queries as whole HTTP requests with JSON bodies."""
    option = orjson.OPT_SERIALIZE_NUMPY
    return [
        encode_request("POST", PATH, orjson.dumps({"vector": q, "k": K}, option=option))
        for q in queries
    ]


def grpc_requests(queries: F32) -> list[bytes]:
    """The queries as serialised `QuerySimilarRequest`s."""
    return [
        pb.QuerySimilarRequest(
            collection=COLLECTION, vectors=[q.astype("<f4").tobytes()], k=K
        ).SerializeToString()
        for q in queries
    ]


def found_rows(bodies: Sequence[bytes]) -> NDArray[np.int64]:
    """The rows that REST answers name, int64[n, K]; -1 where there are fewer than K."""
    found = np.full((len(bodies), K), -1, dtype=np.int64)
    for i, body in enumerate(bodies):
        ids = [int(hit["id"].removeprefix("row-")) for hit in json.loads(body)["vectors"]]
        found[i, : len(ids)] = ids
    return found


async def grpc_all(call: Any, requests: Sequence[bytes], clients: int) -> tuple[float, list[float]]:
    """Wall seconds and seconds of each call, `clients` in flight."""
    queue, seconds = iter(requests), []

    async def client() -> None:
        for request in queue:
            started = time.perf_counter()
            await call(request)
            seconds.append(time.perf_counter() - started)

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
    return time.perf_counter() - started, seconds


async def fill(connections: Sequence[HttpConnection], data: dataset.Dataset) -> dict[str, Any]:
    """Load all rows and wait until they are indexed: load and index seconds, the last stats."""
    n, dimension = data.rows.shape
    first = connections[0]
    body = {"name": COLLECTION, "dimension": dimension, "metric": "cosine"}
    await call_json(first, "POST", "/v1/collections", body)
    path = f"/v1/collections/{COLLECTION}/vectors"
    requests = [
        encode_request(
            "POST",
            path,
            dataset.arrow_stream(
                at,
                data.rows[at : at + LOAD_BATCH_ROWS],
                data.metadata[at : at + LOAD_BATCH_ROWS],
            ),
            ARROW,
        )
        for at in range(0, n, LOAD_BATCH_ROWS)
    ]
    load_s, _, _ = await send_all(connections[:8], requests)
    started = time.monotonic()
    while True:
        stats = await call_json(first, "GET", f"/v1/collections/{COLLECTION}/stats")
        if stats["rows"] == stats["rows_indexed"] == n:
            break
        if time.monotonic() - started > INDEX_TIMEOUT_S:
            print(
                f"warning: {stats['rows_indexed']:,} of {n:,} rows are indexed after "
                f"{INDEX_TIMEOUT_S:.0f} s; the rest is scanned",
                file=sys.stderr,
            )
            break
        await asyncio.sleep(INDEX_POLL_S)
    return {"load_s": load_s, "index_s": time.monotonic() - started, "stats": stats}


class Measured:
    """What was measured, by name: "rest", "grpc", "faiss", "route"."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}
        self.rates: dict[str, list[float]] = {}

    def add(self, name: str, seconds: Sequence[float]) -> None:
        """Latencies of single queries."""
        self.seconds.setdefault(name, []).extend(seconds)

    def add_rate(self, name: str, count: int, wall_s: float) -> None:
        """A round at `CLIENTS` clients."""
        self.rates.setdefault(name, []).append(count / wall_s)

    def ms(self, name: str, q: float) -> float:
        """A percentile of the latencies, in ms."""
        return 1000 * percentile(self.seconds[name], q)

    def rate(self, name: str) -> Spread:
        """Queries a second over the rounds."""
        return Spread.of(self.rates[name])


async def measure(args: argparse.Namespace, server: ServerProcess) -> None:
    """Load, measure everything in turn, print."""
    data = dataset.load(args.data)
    print(f"{len(data.rows):,} rows × {data.rows.shape[1]} ({data.source})", flush=True)
    connections = [await HttpConnection.open(server.http_port) for _ in range(CLIENTS)]
    filled = await fill(connections, data)
    print(f"loaded in {filled['load_s']:.1f} s, indexed in {filled['index_s']:.1f} s more")
    reference = Reference(data.rows)
    print(f"FAISS built the same rows in {reference.build_s:.1f} s on one thread", flush=True)
    queries = dataset.Queries(data.rows, args.seed)
    _, _, warm = await send_all(connections[:1], http_requests(queries.take(200)))
    answer_bytes = int(np.median([len(body) for body in warm]))
    measured = Measured()
    with EchoProcess(answer_bytes) as echo:
        echoes = await echo.open(CLIENTS)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            call = channel.unary_unary(GRPC_METHOD)
            await grpc_all(call, grpc_requests(queries.take(200)), 1)
            await send_all(echoes, http_requests(queries.take(200)))
            recalls = await latencies(args, measured, queries, reference, connections, call, echoes)
            await rates(args, measured, queries, connections, call, echoes)
    report(data, measured, recalls, filled, answer_bytes)


async def latencies(
    args: argparse.Namespace,
    measured: Measured,
    queries: dataset.Queries,
    reference: Reference,
    connections: Sequence[HttpConnection],
    call: Any,
    echoes: Sequence[HttpConnection],
) -> dict[str, float]:
    """Single queries, one way after another, in blocks; the recall of REST and FAISS."""
    found: dict[str, list[NDArray[np.int64]]] = {"rest": [], "faiss": [], "truth": []}
    for _ in range(args.blocks):
        block = queries.take(args.block_queries)
        _, seconds, bodies = await send_all(connections[:1], http_requests(block))
        measured.add("rest", seconds)
        found["rest"].append(found_rows(bodies))
        seconds, rows = reference.search(block)
        measured.add("faiss", seconds)
        found["faiss"].append(rows)
        found["truth"].append(reference.exact(block))
        fresh = queries.take(args.block_queries)
        _, seconds = await grpc_all(call, grpc_requests(fresh), 1)
        measured.add("grpc", seconds)
        fresh = queries.take(args.block_queries)
        _, seconds, _ = await send_all(echoes[:1], http_requests(fresh))
        measured.add("route", seconds)
        measured.add("paced", await paced(echoes[0], reference, queries.take(args.block_queries)))
    truth = np.concatenate(found["truth"])
    return {name: recall(np.concatenate(found[name]), truth) for name in ("rest", "faiss")}


async def paced(route: HttpConnection, reference: Reference, queries: F32) -> list[float]:
    """Seconds of FAISS searches that come one by one after an HTTP answer, as a server's do.

    In a tight loop the index keeps the core's caches to itself; between requests nobody does.
    """
    seconds: list[float] = []
    for i, request in enumerate(http_requests(queries)):
        await route.request(request)
        seconds += reference.search(queries[i : i + 1])[0]
    return seconds


async def rates(
    args: argparse.Namespace,
    measured: Measured,
    queries: dataset.Queries,
    connections: Sequence[HttpConnection],
    call: Any,
    echoes: Sequence[HttpConnection],
) -> None:
    """Rounds at `CLIENTS` clients: REST, the route, gRPC; the first round warms up."""
    count = args.round_queries
    for number in range(args.rounds + 1):
        rest_s, _, _ = await send_all(connections, http_requests(queries.take(count)))
        route_s, _, _ = await send_all(echoes, http_requests(queries.take(count)))
        grpc_s, _ = await grpc_all(call, grpc_requests(queries.take(count)), CLIENTS)
        if number > 0:
            measured.add_rate("rest", count, rest_s)
            measured.add_rate("route", count, route_s)
            measured.add_rate("grpc", count, grpc_s)


def report(
    data: dataset.Dataset,
    measured: Measured,
    recalls: dict[str, float],
    filled: dict[str, Any],
    answer_bytes: int,
) -> None:
    """Print the table and the ratios, write the JSON file."""
    names = {
        "rest": "REST",
        "grpc": "gRPC",
        "faiss": f"FAISS HNSW in process (M={IndexOptions().m}, ef={EF})",
        "paced": "the same, each after an HTTP answer",
        "route": f"route that decodes and answers {answer_bytes} bytes",
    }
    rows = []
    for name, title in names.items():
        rate = measured.rate(name) if name in measured.rates else None
        rows.append(
            [
                title,
                f"{measured.ms(name, 50):.2f}",
                f"{measured.ms(name, 99):.2f}",
                f"{rate.median:,.0f}" if rate else "",
                f"{rate.least:,.0f} – {rate.most:,.0f}" if rate else "",
                f"{recalls[name]:.4f}" if name in recalls else "",
            ]
        )
    print_table(
        f"Top-{K} of {len(data.rows):,} × {data.rows.shape[1]}, no query twice; single queries one "
        f"after another, rates at {CLIENTS} clients",
        ["", "p50 ms", "p99 ms", f"q/s at {CLIENTS}", "least – most", f"recall@{K}"],
        rows,
    )
    over_faiss = measured.ms("rest", 50) - measured.ms("faiss", 50)
    grpc_over_faiss = measured.ms("grpc", 50) - measured.ms("faiss", 50)
    of_route = measured.rate("rest").median / measured.rate("route").median
    print(f"\nREST p50 − FAISS p50: {over_faiss:.2f} ms (aim: at most {AIM_OVER_FAISS_MS})")
    over_paced = measured.ms("rest", 50) - measured.ms("paced", 50)
    print(f"REST p50 − FAISS p50 at the pace of requests: {over_paced:.2f} ms")
    print(f"gRPC p50 − FAISS p50: {grpc_over_faiss:.2f} ms")
    print(f"REST rate ÷ route's rate: {of_route:.2f} (aim: at least {AIM_OF_ROUTE})")
    result = {
        "rows": len(data.rows),
        "dimension": data.rows.shape[1],
        "source": data.source,
        "k": K,
        "clients": CLIENTS,
        "ef": EF,
        "answer_bytes": answer_bytes,
        **filled,
        "recall": recalls,
        "ms": {n: {"p50": measured.ms(n, 50), "p99": measured.ms(n, 99)} for n in names},
        "queries_per_s": measured.rates,
        "rest_p50_minus_faiss_p50_ms": over_faiss,
        "rest_rate_over_route_rate": of_route,
    }
    print(f"written: {save('query', result)}")


def main() -> None:
    """Parse the options, start the server, measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with vectors.f16.npy, records.jsonl.gz")
    parser.add_argument("--blocks", type=int, default=4, help="blocks of single queries")
    parser.add_argument("--block-queries", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3, help=f"rounds at {CLIENTS} clients")
    parser.add_argument("--round-queries", type=int, default=3_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    run_against_server(lambda server: measure(args, server))


if __name__ == "__main__":
    main()
