"""Durable rows a second over REST, beside the raw cost of the same bytes.

The raw cost is what no write path over this broker and disk can beat: the same Arrow bytes
published to JetStream (asynchronously, each acknowledged by the broker) and appended to a file with
a group fdatasync, with as many batches in flight. Everything alternates within one run, so that a
noisy machine is noisy to all.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nats
import numpy as np
import orjson

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `python bench/x.py` works too

from bench.broker import NatsProcess
from bench.common import (
    F32,
    BenchError,
    HttpConnection,
    ServerProcess,
    Spread,
    call_json,
    encode_request,
    percentile,
    print_table,
    run_against_server,
    save,
    send_all,
)
from bench.dataset import arrow_stream

ROWS_PER_BATCH = 1_000
DIMENSION = 128
IN_FLIGHT = 8
COLLECTION = "bench"
PATH = f"/v1/collections/{COLLECTION}/vectors"
ARROW = "application/vnd.apache.arrow.stream"
AIM_ROWS_PER_S = 100_000


def json_body(first: int, vectors: F32) -> bytes:
    """The same rows as JSON numbers."""
    rows = [{"id": f"row-{first + i:09d}", "dimensions": v} for i, v in enumerate(vectors)]
    return orjson.dumps({"vectors": rows}, option=orjson.OPT_SERIALIZE_NUMPY)


class Rows:
    """Fresh rows, never the same id twice, seeded."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self.made = 0

    def batch(self) -> tuple[int, F32]:
        """(number of the first row, float32[ROWS_PER_BATCH, DIMENSION])."""
        first = self.made
        self.made += ROWS_PER_BATCH
        return first, self._rng.standard_normal((ROWS_PER_BATCH, DIMENSION), dtype=np.float32)


class GroupFile:
    """Append with one fdatasync per group: whatever waits is synced together, as a WAL does it."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None

    async def append(self, data: bytes) -> None:
        """Return once `data` is on the medium."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((data, done))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._sync())
        await done

    async def _sync(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            await asyncio.to_thread(self._write, [data for data, _ in group])
            for _, done in group:
                done.set_result(None)

    def _write(self, parts: list[bytes]) -> None:
        for part in parts:
            view = memoryview(part)
            while view:
                view = view[os.write(self._file, view) :]
        os.fdatasync(self._file)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._file)


async def raw_round(js: Any, file: GroupFile, bodies: Sequence[bytes]) -> float:
    """Seconds for the bytes through JetStream (acknowledged) and the file, IN_FLIGHT at a time."""
    queue = iter(bodies)

    async def client() -> None:
        for body in queue:
            ack = await js.publish_async("bench.raw", body)
            await asyncio.gather(asyncio.wait_for(ack, 30), file.append(body))

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(IN_FLIGHT):
            group.create_task(client())
    return time.perf_counter() - started


class Figures:
    """Rates and latencies of one way to write, over the repeats."""

    def __init__(self) -> None:
        self.rows_per_s: list[float] = []
        self.mb_per_s: list[float] = []
        self.seconds: list[float] = []

    def add(self, wall_s: float, bodies: Sequence[bytes], seconds: Sequence[float] = ()) -> None:
        """One round."""
        self.rows_per_s.append(len(bodies) * ROWS_PER_BATCH / wall_s)
        self.mb_per_s.append(sum(map(len, bodies)) / wall_s / 1e6)
        self.seconds.extend(seconds)

    def row(self, name: str) -> list[str]:
        """A line of the table."""
        rate, mb = Spread.of(self.rows_per_s), Spread.of(self.mb_per_s)
        latency = [
            f"{1000 * percentile(self.seconds, q):.1f}" if self.seconds else "" for q in (50, 99)
        ]
        return [
            name,
            f"{rate.median:,.0f}",
            f"{rate.least:,.0f} – {rate.most:,.0f}",
            f"{mb.median:,.0f}",
            *latency,
        ]

    def summary(self) -> dict[str, Any]:
        """For the JSON file."""
        return {
            "rows_per_s": self.rows_per_s,
            "mb_per_s_median": Spread.of(self.mb_per_s).median,
            "batch_ms_p50": 1000 * percentile(self.seconds, 50) if self.seconds else None,
            "batch_ms_p99": 1000 * percentile(self.seconds, 99) if self.seconds else None,
        }


async def measure(args: argparse.Namespace, server: ServerProcess) -> None:
    """All rounds against one server, then the table."""
    broker = NatsProcess(server.directory)
    await broker.start()
    connections = [await HttpConnection.open(server.http_port) for _ in range(IN_FLIGHT)]
    client = await nats.connect(f"nats://127.0.0.1:{broker.port}")
    file = GroupFile(server.directory / "raw.log")
    try:
        js = client.jetstream(publish_async_max_pending=4 * IN_FLIGHT)
        await js.add_stream(name="RAW", subjects=["bench.raw"], max_msgs=10_000)
        await call_json(
            connections[0],
            "POST",
            "/v1/collections",
            {"name": COLLECTION, "dimension": DIMENSION, "metric": "cosine"},
        )
        await rounds(args, connections, js, file)
    finally:
        await client.close()
        file.close()
        for connection in connections:
            connection.close()
        await broker.stop()


async def rounds(
    args: argparse.Namespace, connections: list[HttpConnection], js: Any, file: GroupFile
) -> None:
    """Warm up once, then alternate Arrow, raw and JSON, and print."""
    rows = Rows(args.seed)
    figures = {"arrow": Figures(), "json": Figures(), "raw": Figures()}
    for repeat in range(args.repeats + 1):
        bodies = [arrow_stream(*rows.batch()) for _ in range(args.batches)]
        requests = [encode_request("POST", PATH, body, ARROW) for body in bodies]
        wall_s, seconds, _ = await send_all(connections, requests)
        raw_s = await raw_round(js, file, bodies)
        json_bodies = [json_body(*rows.batch()) for _ in range(args.json_batches)]
        json_requests = [encode_request("POST", PATH, body) for body in json_bodies]
        json_s, json_seconds, _ = await send_all(connections, json_requests)
        if repeat > 0:  # round 0 warms up
            figures["arrow"].add(wall_s, bodies, seconds)
            figures["raw"].add(raw_s, bodies)
            figures["json"].add(json_s, json_bodies, json_seconds)
            print(
                f"round {repeat}: Arrow {figures['arrow'].rows_per_s[-1]:,.0f} rows/s", flush=True
            )
    answer = await call_json(connections[0], "POST", f"/v1/collections/{COLLECTION}/count", {})
    if answer["count"] != rows.made:
        raise BenchError(f"{rows.made} rows were acknowledged, {answer['count']} are there")
    report(args, figures, rows.made)


def report(args: argparse.Namespace, figures: dict[str, Figures], rows: int) -> None:
    """Print the table and write the JSON file."""
    arrow, raw = (Spread.of(figures[name].rows_per_s).median for name in ("arrow", "raw"))
    print_table(
        f"Durable writes, {DIMENSION}-d float32, batches of {ROWS_PER_BATCH} rows, {IN_FLIGHT} in "
        f"flight, median of {args.repeats} alternating rounds",
        ["", "rows/s", "least – most", "MB/s", "batch p50 ms", "p99 ms"],
        [
            figures["arrow"].row("REST, Arrow"),
            figures["json"].row("REST, JSON"),
            figures["raw"].row("raw: JetStream acked + fdatasync, same bytes as Arrow"),
        ],
    )
    print("\nIndex builds of earlier rows run beside later rounds, as they do in use.")
    print(f"Arrow ÷ raw: {arrow / raw:.2f}")
    print(f"Arrow ÷ aim of {AIM_ROWS_PER_S:,} rows/s: {arrow / AIM_ROWS_PER_S:.2f}")
    print(f"count agrees: {rows:,} rows acknowledged, {rows:,} there")
    result = {
        "dimension": DIMENSION,
        "rows_per_batch": ROWS_PER_BATCH,
        "in_flight": IN_FLIGHT,
        "rows": rows,
        "arrow_over_raw": arrow / raw,
        **{name: figure.summary() for name, figure in figures.items()},
    }
    print(f"written: {save('write', result)}")


def main() -> None:
    """Parse the options, start the server, measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="measured rounds")
    parser.add_argument("--batches", type=int, default=60, help="Arrow batches a round")
    parser.add_argument("--json-batches", type=int, default=20, help="JSON batches a round")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    run_against_server(lambda server: measure(args, server))


if __name__ == "__main__":
    main()
