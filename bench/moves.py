"""Latency of queries and writes while shards move to workers that come and from ones that go.

The reference is the same load on the same mesh while nothing moves, before each move: moves may
cost twice the p99 and no error. Real processes; the worker that comes copies every row that it
gets, with its indexes.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `python bench/x.py` works too

from bench.common import BenchError, percentile, print_table
from tests.support.meshes import Mesh, running_mesh

DIMENSION = 128
SHARDS = 8
BATCH = 2000
QUIET_S = 10.0
QUERIES_PER_S = 100
WRITES_PER_S = 50
QUIET = "nothing moves"
STARTS = "a process starts"
MOVED_S_MAX = 180.0
INDEXED_S_MAX = 300.0


@dataclass(slots=True)
class Phase:
    """What clients saw while something went on."""

    name: str
    queries_s: list[float] = field(default_factory=list)
    writes_s: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    took_s: float = 0.0
    moved_bytes: int = 0


class Clients:
    """An open loop of single queries and writes of one row."""

    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self._url = url
        self._http = http
        self._random = np.random.default_rng(1)
        self.phase = Phase("start")
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until cancelled."""
        turn = 0
        every = 1 / (QUERIES_PER_S + WRITES_PER_S)
        due = time.monotonic()
        while True:
            turn += 1
            vector = self._random.standard_normal(DIMENSION, dtype=np.float32).tolist()
            if turn % (1 + QUERIES_PER_S // WRITES_PER_S):
                work = self._call(
                    "/v1/collections/c/query", {"vector": vector, "k": 10}, self.phase.queries_s
                )
            else:
                row = {"id": f"new-{turn}", "dimensions": vector}
                work = self._call(
                    "/v1/collections/c/vectors", {"vectors": [row]}, self.phase.writes_s
                )
            task = asyncio.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            due += every
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def answered(self) -> None:
        """Until nothing is under way."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _call(self, path: str, body: dict[str, Any], into: list[float]) -> None:
        phase, started = self.phase, time.monotonic()
        try:
            async with self._http.post(self._url + path, json=body) as answer:
                text = await answer.text()
                if answer.status != 200:
                    phase.errors.append(f"{answer.status} {text[:200]}")
        except aiohttp.ClientError as error:
            phase.errors.append(repr(error))
        into.append(time.monotonic() - started)


async def fill(url: str, http: aiohttp.ClientSession, rows: int) -> None:
    """The collection with `rows` rows, indexed."""
    body = {"name": "c", "dimension": DIMENSION, "metric": "euclidean", "shards": SHARDS}
    async with http.post(f"{url}/v1/collections", json=body) as answer:
        answer.raise_for_status()
    random = np.random.default_rng(0)
    for start in range(0, rows, BATCH):
        vectors = random.standard_normal((BATCH, DIMENSION), dtype=np.float32)
        batch = [
            {"id": f"row-{start + i}", "dimensions": v} for i, v in enumerate(vectors.tolist())
        ]
        async with http.post(f"{url}/v1/collections/c/vectors", json={"vectors": batch}) as answer:
            answer.raise_for_status()
    until = time.monotonic() + INDEXED_S_MAX
    while True:
        async with http.get(f"{url}/v1/collections/c/stats") as answer:
            stats = await answer.json()
        if stats["rows_indexed"] >= rows and not stats["building"]["rows"]:
            return
        if time.monotonic() > until:
            raise BenchError(f"not indexed in {INDEXED_S_MAX:g} s: {stats}")
        await asyncio.sleep(0.5)


async def settle(url: str, http: aiohttp.ClientSession, workers: int) -> int:
    """Until so many workers share the shards evenly and nothing moves: the bytes of copies seen."""
    until = time.monotonic() + MOVED_S_MAX
    sizes: dict[str, int] = {}
    while True:
        async with http.get(f"{url}/v1/cluster") as answer:
            cluster = await answer.json()
        for worker in cluster["workers"]:
            for shard, copy in worker["copying"].items():
                sizes[shard + worker["id"]] = copy["bytes_all"]
        held = [w for replicas in cluster["shards"].values() for w in replicas]
        shares = sorted(held.count(w) for w in set(held))
        quiet = not cluster["joining"] and not cluster["leaving"]
        if quiet and len(shares) == workers and shares[-1] - shares[0] <= 1:
            return sum(sizes.values())
        if time.monotonic() > until:
            raise BenchError(f"shards still move after {MOVED_S_MAX:g} s: {cluster}")
        await asyncio.sleep(0.05)


async def measure(mesh: Mesh, rows: int) -> list[Phase]:
    """The phases of one run: quiet, moving, quiet, moving back."""
    url = mesh.gateway.url
    phases: list[Phase] = []
    async with aiohttp.ClientSession() as http:
        await fill(url, http, rows)
        clients = Clients(url, http)
        load = asyncio.create_task(clients.run())
        try:
            for count, drains in ((2, False), (3, False), (2, True)):
                clients.phase = Phase(QUIET)
                await asyncio.sleep(QUIET_S)
                phases.append(clients.phase)
                if not drains:
                    # On few cores a process that starts is felt by all: no move has begun yet.
                    clients.phase = Phase(STARTS)
                    await asyncio.to_thread(mesh.add_shard)
                    phases.append(clients.phase)
                clients.phase = Phase(f"to {count} workers")
                started = time.monotonic()
                if drains:
                    worker = mesh.shards[-1].health()["services"]["shard"]["worker"]
                    async with http.put(
                        f"{url}/v1/cluster/workers/{worker}", json={"draining": True}
                    ) as answer:
                        answer.raise_for_status()
                clients.phase.moved_bytes = await settle(url, http, count)
                clients.phase.took_s = time.monotonic() - started
                phases.append(clients.phase)
        finally:
            load.cancel()
            await asyncio.gather(load, return_exceptions=True)
            await clients.answered()
    return phases


def report(phases: list[Phase]) -> bool:
    """Print the table; whether p99 stayed within twice that of the quiet phase before it."""
    lines, fine, quiet = [], True, phases[0]
    for phase in phases:
        q50, q99 = percentile(phase.queries_s, 50), percentile(phase.queries_s, 99)
        w50, w99 = percentile(phase.writes_s, 50), percentile(phase.writes_s, 99)
        lines.append(
            [
                phase.name, str(len(phase.queries_s)), str(len(phase.writes_s)),
                str(len(phase.errors)),
                f"{q50 * 1e3:.2f}", f"{q99 * 1e3:.2f}", f"{w50 * 1e3:.2f}", f"{w99 * 1e3:.2f}",
                f"{phase.took_s:.1f}", f"{phase.moved_bytes / 1e6:.0f}",
            ]
        )  # fmt: skip
        fine &= not phase.errors
        if phase.name == QUIET:
            quiet = phase
        elif phase.name != STARTS:
            fine &= q99 <= 2 * percentile(quiet.queries_s, 99)
            fine &= w99 <= 2 * percentile(quiet.writes_s, 99)
    header = ["phase", "queries", "writes", "errors", "query p50 ms", "p99", "write p50 ms", "p99"]
    print_table("While shards move", [*header, "s", "MB"], lines)
    print("p99 within twice the quiet one, no error:", "yes" if fine else "no")
    return fine


def main() -> int:
    """The exit code: 1 for an error, whatever the latencies are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--bytes-per-s-max", default="0", help="VECTOR_DB_COPY_BYTES_PER_S_MAX")
    asked = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="bench-moves-") as folder,
        running_mesh(
            Path(folder), shards=1, VECTOR_DB_COPY_BYTES_PER_S_MAX=asked.bytes_per_s_max
        ) as mesh,
    ):
        phases = asyncio.run(measure(mesh, asked.rows))
    report(phases)
    errors = [error for phase in phases for error in phase.errors]
    for error in errors[:5]:
        print(error, file=sys.stderr)
    return int(bool(errors))


if __name__ == "__main__":
    sys.exit(main())
