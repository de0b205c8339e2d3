"""Latency and rate of transactions over REST, beside one acknowledged JetStream publish.

The publish is what a log-first commit cannot beat: a transaction is two records through the broker
one after the other (PREPARE, decision) and two fsyncs. Kinds alternate within one run, so that a
noisy machine is noisy to all. With ``--baseline`` another installation's server runs beside this
one and takes the same one-shot transactions, also alternating.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import nats
import numpy as np
import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `python bench/x.py` works too

from bench.broker import NatsProcess
from bench.common import (
    BenchError,
    HttpConnection,
    ServerProcess,
    Spread,
    call_json,
    encode_request,
    percentile,
    print_table,
    save,
    send_all,
)
from vector_db.common.core.placement import shards_of_ids
from vector_db.common.model.rows import hash_ids

DIMENSION = 128
IN_FLIGHT = 64
SHARDS = 4
RECORD_BYTES = 256
COMMIT = "/v1/transactions/commit"
AIM_OVER_PUBLISH = 10.0


class Ids:
    """Fresh row ids, by the shard that they live on."""

    def __init__(self, shards: Sequence[int]) -> None:
        self._by_shard: dict[int, list[str]] = {shard: [] for shard in shards}
        self._numbers = itertools.count()
        self._shards = tuple(shards)

    def on(self, shard: int) -> str:
        """An id that lives on `shard`."""
        while not self._by_shard[shard]:
            made = [f"row-{next(self._numbers):09d}" for _ in range(64)]
            homes = shards_of_ids(hash_ids([one.encode() for one in made]), self._shards)
            for one, home in zip(made, homes.tolist(), strict=True):
                self._by_shard[home].append(one)
        return self._by_shard[shard].pop()

    def one(self) -> list[str]:
        """One row."""
        return [self.on(self._shards[0])]

    def one_each(self) -> list[str]:
        """One row on every shard."""
        return [self.on(shard) for shard in self._shards]


class Target:
    """One server with the benchmark's collection."""

    def __init__(self, name: str, server: ServerProcess) -> None:
        self.name = name
        self.server = server
        self.connections: list[HttpConnection] = []
        self.ids = Ids([0])
        self.rows = 0
        self._rng = np.random.default_rng(7)

    async def prepare(self) -> None:
        """Connect, and make the collection."""
        port = self.server.http_port
        self.connections = [await HttpConnection.open(port) for _ in range(IN_FLIGHT)]
        await call_json(
            self.connections[0],
            "POST",
            "/v1/collections",
            {"name": "txn", "dimension": DIMENSION, "metric": "cosine", "shards": SHARDS},
        )
        # The only collection has all the shards that are placed.
        cluster = await call_json(self.connections[0], "GET", "/v1/cluster")
        self.ids = Ids(sorted(int(shard) for shard in cluster["shards"]))

    def rows_of(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """The JSON rows of these ids."""
        self.rows += len(ids)
        vectors = self._rng.standard_normal((len(ids), DIMENSION)).round(4).tolist()
        return [{"id": i, "dimensions": v} for i, v in zip(ids, vectors, strict=True)]

    def commit_request(self, ids: Sequence[str]) -> bytes:
        """A one-shot transaction that writes these rows."""
        operations = [{"collection": "txn", "upsert": self.rows_of(ids)}]
        return encode_request("POST", COMMIT, json.dumps({"operations": operations}).encode())

    async def sequential(self, ids: Callable[[], list[str]], count: int) -> list[float]:
        """Seconds of each of `count` transactions, one after the other."""
        requests = [self.commit_request(ids()) for _ in range(count)]
        _, seconds, _ = await send_all(self.connections[:1], requests)
        return seconds

    async def at_once(self, ids: Callable[[], list[str]], count: int) -> float:
        """Transactions a second with IN_FLIGHT clients."""
        requests = [self.commit_request(ids()) for _ in range(count)]
        wall_s, _, _ = await send_all(self.connections, requests)
        return count / wall_s

    async def interactive(self, count: int) -> list[float]:
        """Seconds of begin, one staged row and commit, each time."""
        connection = self.connections[0]
        seconds = []
        for _ in range(count):
            body = json.dumps({"vectors": self.rows_of(self.ids.one())}).encode()
            started = time.perf_counter()
            begun = await call_json(connection, "POST", "/v1/transactions", {})
            path = "/v1/collections/txn/vectors"
            token = await _continue(connection, path, begun["token"], body)
            await _continue(connection, f"/v1/transactions/{begun['transaction']}/commit", token)
            seconds.append(time.perf_counter() - started)
        return seconds

    async def check(self) -> None:
        """Everything that was acknowledged is there."""
        answer = await call_json(
            self.connections[0],
            "POST",
            "/v1/collections/txn/count",
            {"consistency": {"strong": True}},
        )
        if answer["count"] != self.rows:
            raise BenchError(f"{self.rows} rows were acknowledged, {answer['count']} are there")


async def _continue(connection: HttpConnection, path: str, token: str, body: bytes = b"") -> str:
    """POST within a transaction; its new token."""
    encoded = encode_request("POST", path, body, headers=f"Transaction: {token}\r\n")
    status, answer = await connection.request(encoded)
    if not 200 <= status < 300:
        raise BenchError(f"{path}: {status} {answer[:500]!r}")
    return connection.header("transaction")


class Publishes:
    """One acknowledged publish into a stream of a broker that does nothing else."""

    def __init__(self, js: Any) -> None:
        self._js = js
        self._body = bytes(RECORD_BYTES)

    async def sequential(self, count: int) -> list[float]:
        """Seconds of each, one after the other."""
        seconds = []
        for _ in range(count):
            started = time.perf_counter()
            await self._js.publish("bench.txn", self._body)
            seconds.append(time.perf_counter() - started)
        return seconds

    async def at_once(self, count: int) -> float:
        """Publishes a second with IN_FLIGHT of them in flight."""
        left = iter(range(count))

        async def client() -> None:
            for _ in left:
                await self._js.publish("bench.txn", self._body)

        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(IN_FLIGHT):
                group.create_task(client())
        return count / (time.perf_counter() - started)


async def measure(args: argparse.Namespace, targets: Sequence[Target]) -> None:
    """All rounds, alternating, then the table."""
    broker = NatsProcess(targets[0].server.directory)
    await broker.start()
    client = await nats.connect(f"nats://127.0.0.1:{broker.port}")
    latencies: dict[str, list[float]] = {}
    rates: dict[str, list[float]] = {}

    async def timed(name: str, seconds: Awaitable[list[float]], counts: bool) -> None:
        got = await seconds
        if counts:
            latencies.setdefault(name, []).extend(got)

    async def rated(name: str, rate: Awaitable[float], counts: bool) -> None:
        got = await rate
        if counts:
            rates.setdefault(name, []).append(got)

    try:
        js = client.jetstream()
        await js.add_stream(name="TXN", subjects=["bench.txn"], max_msgs=10_000)
        publishes = Publishes(js)
        for target in targets:
            await target.prepare()
        for repeat in range(args.repeats + 1):
            counts = repeat > 0  # round 0 warms up
            await timed("publish", publishes.sequential(args.count), counts)
            await rated("publish", publishes.at_once(10 * args.count), counts)
            for target in targets:
                ids, name = target.ids, target.name
                await timed(f"{name} 1 row", target.sequential(ids.one, args.count), counts)
                await timed(f"{name} 4 shards", target.sequential(ids.one_each, args.count), counts)
                await rated(f"{name} 1 row", target.at_once(ids.one, 10 * args.count), counts)
                await rated(
                    f"{name} 4 shards", target.at_once(ids.one_each, 10 * args.count), counts
                )
            mine = targets[0]
            await timed("interactive", mine.interactive(args.count // 2), counts)
        for target in targets:
            await target.check()
    finally:
        await client.close()
        for connection in (c for target in targets for c in target.connections):
            connection.close()
        await broker.stop()
    report(args, latencies, rates)


def report(
    args: argparse.Namespace, latencies: dict[str, list[float]], rates: dict[str, list[float]]
) -> None:
    """Print the table and write the JSON file."""
    names = {
        "publish": f"JetStream publish, {RECORD_BYTES} B, acknowledged",
        "this 1 row": "one-shot transaction, 1 row",
        "this 4 shards": f"one-shot transaction, 1 row on each of {SHARDS} shards",
        "interactive": "interactive: begin, 1 row, commit",
        "baseline 1 row": "baseline: one-shot transaction, 1 row",
        "baseline 4 shards": f"baseline: 1 row on each of {SHARDS} shards",
    }
    publish_s = percentile(latencies["publish"], 50)
    rows = []
    result: dict[str, dict[str, float]] = {}
    for key, name in names.items():
        if key not in latencies:
            continue
        p50, p99 = (percentile(latencies[key], q) for q in (50, 99))
        rate = Spread.of(rates[key]) if key in rates else None
        rows.append(
            [
                name,
                f"{1000 * p50:.2f}",
                f"{1000 * p99:.2f}",
                f"{p50 / publish_s:.1f}",
                "" if rate is None else f"{rate.median:,.0f}",
            ]
        )
        result[key] = {
            "p50_ms": 1000 * p50,
            "p99_ms": 1000 * p99,
            "over_publish": p50 / publish_s,
            **({} if rate is None else {"per_s_median": rate.median}),
        }
    print_table(
        f"Transactions, {DIMENSION}-d rows, one at a time and {IN_FLIGHT} in flight, "
        f"{args.repeats} alternating rounds",
        ["", "p50 ms", "p99 ms", "÷ publish", f"/s at {IN_FLIGHT}"],
        rows,
    )
    over = result["this 1 row"]["over_publish"]
    print(f"\n1 row ÷ publish: {over:.1f} (aim: at most {AIM_OVER_PUBLISH:.0f})")
    for kind in ("1 row", "4 shards"):
        if f"baseline {kind}" in result:
            mine, base = result[f"this {kind}"], result[f"baseline {kind}"]
            print(
                f"{kind} ÷ baseline: p50 {mine['p50_ms'] / base['p50_ms']:.2f}, "
                f"rate {mine['per_s_median'] / base['per_s_median']:.2f}"
            )
    print(f"written: {save('txn', result)}")


def main() -> None:
    """Parse the options, start the servers, measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="measured rounds")
    parser.add_argument("--count", type=int, default=200, help="transactions of a kind a round")
    parser.add_argument("--baseline", metavar="PYTHON", help="interpreter of another installation")
    args = parser.parse_args()
    try:
        with ExitStack() as servers:
            targets = [Target("this", servers.enter_context(ServerProcess()))]
            if args.baseline:
                other = servers.enter_context(ServerProcess(args.baseline))
                targets.append(Target("baseline", other))
            uvloop.run(measure(args, targets))
    except* BenchError as errors:
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        sys.exit(f"the benchmark cannot go on: {first}")


if __name__ == "__main__":
    main()
