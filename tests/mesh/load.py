"""An open loop of client calls at a steady rate, each recorded as its client saw it.

Calls begin by the clock and not when earlier ones end, so that a mesh that stands still is seen
standing still by all who would have asked. Owns two bounds: of calls under way (one a client), and
of memory (rows and list values that were seen are kept once, however often they were seen).
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Any

from tests.checkers.history import (
    Operation,
    Outcome,
    ReadList,
    ReadRow,
    Row,
    Scroll,
    Transaction,
    Write,
)
from tests.mesh.patient import Meter, PatientEdge, Route
from tests.support.clients.client import Client, Shared
from tests.support.clients.edge import Answer, Edge, NeverSent
from tests.support.clients.wire import operations_of, rows_of, snapshot_of

CLIENTS = 800
ROUTES = 4
LISTS = 24
ROWS = 150
Work = Callable[["MeshClient"], Awaitable[object]]


class MeshClient(Client):
    """A client whose calls are patient, and whose writes can be repeated but for the blind ones."""

    tries = 1

    def __init__(
        self, number: int, edge: PatientEdge, seed: str, shared: Shared, rows: dict[str, Row]
    ) -> None:
        """`rows`: those of all clients by tag."""
        super().__init__(number, [edge], seed, shared)
        self._edge = edge
        self._rows = rows

    @property
    def session(self) -> str:
        return f"{super().session}.{self._edge.moves}"

    def row(self) -> Row:
        row = super().row()
        self._rows[row.tag] = row
        return row

    def consistency(self) -> dict[str, Any]:
        """What a read asks for: nothing, or its own newest write."""
        own = self.token and self.random.random() < 0.25
        return {"consistency": {"at_least": self.token}} if own else {}

    async def write(self, path: str, body: Any, method: str = "POST") -> Answer:
        """A write that is applied once, however often it is tried."""
        key = {"Idempotency-Key": f"k-{self.tag()}"}
        return await self.ask(path, body, method=method, headers=key)

    async def batch(self) -> None:
        """One atomic write over collections and shards."""
        begin = time.monotonic()
        writes = self.changes()
        answer = await self.write("/v1/transactions/commit", {"operations": operations_of(writes)})
        await self._record_write(begin, answer, writes)

    async def upsert(self) -> None:
        """Blind: applied to whatever is there, and never repeated by the client."""
        begin = time.monotonic()
        writes = self.changes()
        answer = await self.ask("/v1/transactions/commit", {"operations": operations_of(writes)})
        await self._record_write(begin, answer, writes, note="blind")

    async def delete(self) -> None:
        """A few rows go."""
        collection = self.random.choice(("a", "b"))
        numbers = self.random.sample(range(self.shared.rows), 2)
        begin = time.monotonic()
        writes = [Write(f"{collection}/r{n:02}", None) for n in sorted(numbers)]
        answer = await self.write("/v1/transactions/commit", {"operations": operations_of(writes)})
        await self._record_write(begin, answer, writes)

    async def look_at_one(self) -> None:
        """A point read."""
        collection, asked = self.random.choice(("a", "b")), self.consistency()
        ids = [f"r{self.random.randrange(self.shared.rows):02}"]
        begin = time.monotonic()
        answer = await self.ask(
            f"/v1/collections/{collection}/vectors/fetch", {"ids": ids, **asked}
        )
        if answer.ok:
            seen = rows_of(answer, collection, ids)
            self.record(begin, "committed", seen, **snapshot_of(answer, asked))

    async def look_strongly(self) -> None:
        """A read of everything that was acknowledged to anybody."""
        await self._look({"consistency": {"strong": True}})

    async def _record_write(
        self, begin: float, answer: Answer, writes: Sequence[Operation], **told: Any
    ) -> Outcome:
        told["replayed"] = answer.headers.get("Idempotency-Replayed") == "true"
        return await super()._record_write(begin, answer, writes, **told)

    def record(
        self, begin: float, outcome: Outcome, operations: Sequence[Operation], **told: Any
    ) -> None:
        """Write down what was seen, once. What went through two gateways is a session of its own:
        a gateway promises no order to what another one told."""
        moved = begin < self._edge.moved_at
        self._sessions += moved
        thin = tuple(self._thin(operation) for operation in operations)
        super().record(begin, outcome, thin, **told)
        self._sessions += moved

    def _thin(self, operation: Operation) -> Operation:
        match operation:
            case ReadRow(row=Row() as row):
                return replace(operation, row=self._known(row))
            case Scroll():
                rows = tuple((sys.intern(i), self._known(r), v) for i, r, v in operation.rows)
                return replace(operation, rows=rows)
            case ReadList():
                return replace(operation, seen=tuple(map(sys.intern, operation.seen)))
        return operation

    def _known(self, row: Row) -> Row:
        """The row as it was written, if that is what was seen."""
        written = self._rows.get(row.tag)
        return written if written == row else row


KINDS: list[tuple[Work, float, float]] = [
    # what, weight, calls that it makes
    (MeshClient.look_at_one, 20, 1),
    (MeshClient.look, 26, 1),
    (MeshClient.look_back, 6, 1),
    (MeshClient.look_strongly, 0.3, 1),
    (MeshClient.read_lists, 10, 1),
    (MeshClient.append, 7, 1),
    (MeshClient.upsert, 7, 1),
    (MeshClient.batch, 6, 1),
    (MeshClient.delete, 2, 1),
    (MeshClient.insert_once, 4, 1),
    (MeshClient.conditional, 4, 2),
    (MeshClient.transact, 7, 5.5),
]


class Load:
    """All clients of a run."""

    def __init__(self, edges: Sequence[Edge], seed: int, rate: float) -> None:
        """`rate`: calls a second."""
        self.shared = Shared(lists=LISTS, rows=ROWS)
        self.meter = Meter()
        self.held_back = 0
        """Not begun since every client was waiting."""
        self._random = Random(f"load-{seed}")
        weights = sum(weight for _, weight, _ in KINDS)
        calls = sum(weight * calls for _, weight, calls in KINDS) / weights
        self._every_s = calls / rate
        rows: dict[str, Row] = {}
        routes = [Route(edges, number) for number in range(ROUTES)]
        self._idle = [
            MeshClient(
                number,
                PatientEdge(routes[number % ROUTES], self.meter, Random(f"{seed}-edge-{number}")),
                str(seed),
                self.shared,
                rows,
            )
            for number in reversed(range(CLIENTS))
        ]

    @property
    def history(self) -> list[Transaction]:
        """What the clients saw."""
        return self.shared.history

    async def run(self, until: asyncio.Event) -> None:
        """Begin work at the rate until told to stop, then wait for what is under way."""
        loop = asyncio.get_running_loop()
        works, weights = [k[0] for k in KINDS], [k[1] for k in KINDS]
        due = loop.time()
        async with asyncio.TaskGroup() as group:
            while not until.is_set():
                due += self._every_s
                await asyncio.sleep(max(0.0, due - loop.time()))
                if not self._idle:
                    self.held_back += 1
                    continue
                # The one that worked last: sessions are long, the spare ones are for faults.
                client = self._idle.pop()
                (work,) = self._random.choices(works, weights)
                group.create_task(self._work(client, work))

    async def _work(self, client: MeshClient, work: Work) -> None:
        try:
            await work(client)
        except NeverSent:
            self.shared.done["never sent"] += 1
        finally:
            self._idle.append(client)
