"""Puts one kind of work after another on a mesh and reads what each process did for it.

Owns the rule that an observation is of one kind of work on a mesh that does nothing else: no index
is being built, and what idling costs is known.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench import dataset, generate
from bench.common import (
    F32,
    BenchError,
    HttpConnection,
    call_json,
    encode_request,
    percentile,
    send_all,
)
from bench.engine import load, rest
from bench.scaling.mesh import CountedMesh
from bench.scaling.work import Shape
from vector_db.common.core.placement import shards_of_ids
from vector_db.common.model.rows import hash_ids

CLIENTS = 16
IDLE_S = 5.0
SETTLE_TIMEOUT_S = 300.0
METADATA_BYTES = 40
"""Of the generator's rows, with the id, about."""


@dataclass(frozen=True, slots=True)
class Observation:
    """`count` operations of one kind, and all that the mesh did for them."""

    kind: str
    shape: Shape
    count: int
    wall_s: float
    cpu_s: dict[str, float]
    build_s: float
    messages: int
    bytes: int
    records: int
    clients: int = 1
    participants: int = 1
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    anonymous_bytes: int = 0
    disk_bytes: int = 0
    """Of all workers."""


class Observer:
    """One collection on one mesh."""

    def __init__(self, mesh: CountedMesh, shape: Shape, name: str) -> None:
        self._mesh = mesh
        self.shape = shape
        self._name = name
        self._next_row = 0
        self.shards: list[int] = []
        self._ids: dict[int, list[str]] = {}
        self.stats: dict[str, Any] = {}
        """The last statistics of the collection."""

    async def create(self) -> None:
        """Make the collection with the defaults of the product."""
        body = {
            "name": self._name, "dimension": self.shape.dimension, "metric": "cosine",
            "index": {"kind": "auto" if self.shape.graphs else "exact"},
        }  # fmt: skip
        async with self._connected(1) as (one,):
            await call_json(one, "POST", "/v1/collections", body)
            # The first collection has all the shards that are placed; only it gets single rows.
            cluster = await call_json(one, "GET", "/v1/cluster")
        self.shards = sorted(int(shard) for shard in cluster["shards"])
        self._ids = {shard: [] for shard in self.shards}

    @asynccontextmanager
    async def _connected(self, clients: int) -> AsyncIterator[list[HttpConnection]]:
        """New ones each time: the gateway hangs up on those that were silent for long."""
        connections = [await HttpConnection.open(self._mesh.http_port) for _ in range(clients)]
        try:
            yield connections
        finally:
            for connection in connections:
                connection.close()

    async def _observe(
        self, kind: str, requests: list[bytes], clients: int, participants: int = 1, ops: int = 0
    ) -> Observation:
        async with self._connected(clients) as connections:
            before = self._mesh.read()
            _, seconds, _ = await send_all(connections, requests)
            spent = self._mesh.read().since(before)
        return Observation(
            kind, self.shape, ops or len(requests), spent.at_s, spent.cpu_s, spent.build_s,
            spent.messages, spent.bytes, spent.records, clients, participants,
            1000 * percentile(seconds, 50), 1000 * percentile(seconds, 99),
        )  # fmt: skip

    async def idle(self) -> Observation:
        """Nobody asks for anything."""
        before = self._mesh.read()
        await asyncio.sleep(IDLE_S)
        spent = self._mesh.read().since(before)
        return Observation(
            "idle", self.shape, round(spent.at_s), spent.at_s, spent.cpu_s, spent.build_s,
            spent.messages, spent.bytes, spent.records,
        )  # fmt: skip

    async def bulk(self, rows: F32) -> Observation:
        """Rows in batches of 1,000 as Arrow, one client."""
        first, self._next_row = self._next_row, self._next_row + len(rows)
        requests = [
            load.insert_request(self._name, first + at, rows[at : at + load.BATCH_ROWS])
            for at in range(0, len(rows), load.BATCH_ROWS)
        ]
        return await self._observe("bulk", requests, 1, len(self.shards), len(rows))

    async def settle(self) -> Observation:
        """Until all rows have a graph and nothing is built: `build_s` is the builders' CPU."""
        before = self._mesh.read()
        until = time.monotonic() + SETTLE_TIMEOUT_S
        quiet = 0
        while quiet < 4:
            await asyncio.sleep(0.5)
            async with self._connected(1) as (one,):
                self.stats = await load.statistics(one, self._name)
            kinds = set(self.stats.get("kinds", {}))
            waiting = self.stats["rows"] - self.stats["rows_indexed"]
            done = not waiting and kinds <= {"hnsw"}
            quiet = quiet + 1 if done and not load.rows_in_builds(self.stats) else 0
            if time.monotonic() > until:
                raise BenchError(f"not indexed after {SETTLE_TIMEOUT_S:.0f} s: {self.stats}")
        spent = self._mesh.read().since(before)
        memory = self._mesh.worker_bytes()
        return Observation(
            "build", self.shape, self._next_row, spent.at_s, spent.cpu_s, spent.build_s,
            spent.messages, spent.bytes, spent.records,

            anonymous_bytes=sum(anonymous for anonymous, _ in memory),
            disk_bytes=sum(disk for _, disk in memory),
        )  # fmt: skip

    async def queries(self, vectors: F32, clients: int) -> Observation:
        """Single queries, with metadata."""
        requests = [rest.request(self._name, vector) for vector in vectors]
        kind = "query" if clients == 1 else "queries"
        return await self._observe(kind, requests, clients)

    async def transactions(self, count: int, clients: int, participants: int = 1) -> Observation:
        """Upserts of one new row on each of so many shards."""
        turns = itertools.cycle(self.shards)
        requests = [self._upsert([next(turns) for _ in range(participants)]) for _ in range(count)]
        kind = "write" if clients == 1 else "writes"
        return await self._observe(kind, requests, clients, participants)

    def _upsert(self, shards: list[int]) -> bytes:
        vector = np.random.default_rng(self._next_row).standard_normal(self.shape.dimension)
        rows = [{"id": self._id_on(s), "dimensions": vector.round(4).tolist()} for s in shards]
        body = json.dumps({"operations": [{"collection": self._name, "upsert": rows}]})
        return encode_request("POST", "/v1/transactions/commit", body.encode())

    def _id_on(self, shard: int) -> str:
        while not self._ids[shard]:
            made = [f"one-{self._next_row + i:09d}" for i in range(64)]
            self._next_row += 64
            homes = shards_of_ids(hash_ids([one.encode() for one in made]), self.shards)
            for one, home in zip(made, homes.tolist(), strict=True):
                self._ids[home].append(one)
        return self._ids[shard].pop()


def drawn(dimension: int, seed: int) -> generate.Spectrum:
    """Rows and queries with the spectrum of real embeddings."""
    return generate.Spectrum(dataset.load(None).rows, dimension, seed)


def first_rows(spectrum: generate.Spectrum, count: int) -> F32:
    """The first rows of the set."""
    parts: Iterator[F32] = generate.blocks(spectrum, count)
    return np.concatenate(list(parts))
