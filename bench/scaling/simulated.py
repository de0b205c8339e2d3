"""The traffic of meshes that no machine here holds: whole services in virtual time, their messages
counted at the simulated broker.

Owns the rule that only counts are taken from there: virtual time says nothing of speed.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import structlog

from bench.scaling import work
from bench.scaling.work import Shape
from tests.sim.services.cluster import Cluster, NotServing, Sizes, small
from tests.sim.services.loop import SimLoop, Trace
from vector_db.common.core.placement import shards_of_ids
from vector_db.common.model.errors import VectorDBError
from vector_db.common.model.rows import hash_ids
from vector_db.gateway.api import DatabaseApi
from vector_db.gateway.core.requests import RowsIn, Upsert

IDLE_S = 5.0
START_S = 60.0
DIMENSION = 2


@dataclass(frozen=True, slots=True)
class Traffic:
    """For each of some transactions, one after another, less what idling costs."""

    kinds: dict[str, float]
    """Published or appended, by the name of the message."""
    messages: float
    """In and out of the broker."""
    predicted: float
    idle_per_s: float
    idle_predicted_per_s: float


def traffic(shape: Shape, participants: int, transactions: int = 30) -> Traffic:
    """Count what transactions of one row on each of so many shards send."""
    before = structlog.get_config()
    structlog.configure(processors=[_drop])
    loop = SimLoop()
    try:
        with tempfile.TemporaryDirectory(prefix="sim-") as folder:
            sizes = Sizes(shard_count=shape.workers, replicas=shape.replicas)
            with small(sizes):
                run = _Run(shape, Path(folder), loop, sizes)
                return loop.run_until_complete(run.count(participants, transactions))
    finally:
        loop.close()
        structlog.configure(**before)


def _drop(_: object, method: str, event: object) -> str:
    raise structlog.DropEvent


class _Run:
    def __init__(self, shape: Shape, folder: Path, loop: SimLoop, sizes: Sizes) -> None:
        self._shape = shape
        self._counts: Counter[str] = Counter()
        trace = Trace(loop.time, self._line)
        self._cluster = Cluster(
            1, folder, trace, sizes, shape.coordinators, shape.workers, shape.gateways
        )
        broker = self._cluster.broker
        due = broker.due

        def counted(source: str, target: str, subject: str) -> float:
            self._counts["passed"] += 1
            return due(source, target, subject)

        broker.due = counted  # type: ignore[method-assign]

    def _line(self, line: str) -> None:
        words = line.split()
        if ">" in words:
            # What is published comes in once; each delivery is counted where it is due.
            self._counts["passed"] += 1
            self._counts[words[words.index(">") + 2]] += 1
        elif "log" in words:
            stream = words[words.index("log") + 1]
            self._counts["Prepare" if "SHARD" in stream else "DecisionRecord"] += 1

    async def count(self, participants: int, transactions: int) -> Traffic:
        """Start, idle, write."""
        loop = asyncio.get_running_loop()
        for node in self._cluster.nodes:
            node.start()
        await self._created()
        await asyncio.sleep(1.0)
        idle = self._counts.copy()
        await asyncio.sleep(IDLE_S)
        idle = self._counts - idle
        self._counts.clear()
        started = loop.time()
        for number in range(transactions):
            await self._write(number, participants)
        took_s = loop.time() - started
        await self._cluster.close()
        beats = work.beats_per_s(transactions / took_s) - work.BEATS_PER_S
        predicted = work.transaction(self._shape, participants, beats=beats * took_s / transactions)
        quiet = took_s / IDLE_S
        kinds = ("Prepare", "Vote", "DecisionRecord", "Durable")
        return Traffic(
            {one: (self._counts[one] - quiet * idle[one]) / transactions for one in kinds},
            (self._counts["passed"] - quiet * idle["passed"]) / transactions,
            work.messages(predicted),
            idle["passed"] / IDLE_S,
            work.messages(work.idle_second(self._shape)),
        )

    async def _created(self) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + START_S
        gateway, spread = self._cluster.gateways[0], self._shape.spread

        async def create(database: DatabaseApi) -> object:
            return await database.create_collection("c", DIMENSION, "dot", spread, True)

        while True:
            try:
                await gateway.call(create, START_S)
                return
            except (NotServing, VectorDBError):
                if loop.time() > until:
                    raise
                await asyncio.sleep(0.5)

    async def _write(self, number: int, participants: int) -> None:
        shards = list(range(self._shape.spread))
        ids: list[bytes] = []
        homes: set[int] = set()
        wanted = {shards[(number + i) % len(shards)] for i in range(participants)}
        candidate = 0
        while homes != wanted:
            one = b"%d-%d" % (number, candidate)
            candidate += 1
            home = int(shards_of_ids(hash_ids([one]), shards)[0])
            if home in wanted - homes:
                homes.add(home)
                ids.append(one)
        rows = RowsIn(ids, np.ones((len(ids), DIMENSION), dtype="<f4"), [b"{}"] * len(ids))

        async def write(database: DatabaseApi) -> object:
            return await database.write([Upsert("c", rows)])

        await self._cluster.gateways[0].call(write, START_S)
