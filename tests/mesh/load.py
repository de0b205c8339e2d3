"""An open loop of client calls at a steady rate, each recorded as its client saw it.

Calls begin by the clock and not when earlier ones end, so that a mesh that stands still is seen
standing still by all who would have asked. Owns three bounds: of calls under way (one a client); of
those among them that may meet conflicts, since what waits then is in everybody's way, and what is
tried again is load; and of memory (what was seen is kept once, however often it was seen).
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
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
CONFLICTING_MAX = 48
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
        """Blind: applied to whatever is there."""
        await self._blindly(self.changes)

    async def delete(self) -> None:
        """Two rows go, if they are there."""
        await self._blindly(self._deletes)

    def _deletes(self) -> list[Write]:
        collection = self.random.choice(("a", "b"))
        numbers = sorted(self.random.sample(range(self.shared.rows), 2))
        tag = self.tag()
        marker = Write(f"marks/{tag}", Row(tag, (1.0, 1.0), {"tag": tag}))
        return [*(Write(f"{collection}/r{n:02}", None) for n in numbers), marker]

    async def _blindly(self, draw: Callable[[], list[Write]]) -> None:
        """A write without a key. One that was not answered may be applied at any time, so what is
        tried next is another write."""
        begin, writes = time.monotonic(), draw()

        def renew() -> dict[str, Any]:
            nonlocal begin, writes
            self.record(begin, "unknown", writes, isolation="blind")
            begin, writes = time.monotonic(), draw()
            return {"operations": operations_of(writes)}

        body = {"operations": operations_of(writes)}
        answer = await self.ask("/v1/transactions/commit", body, renew=renew)
        await self._record_write(begin, answer, writes, note="blind")

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


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of work: how often it comes, and how many calls it makes on the average."""

    work: Work
    weight: float
    calls: float = 1.0
    conflicts: bool = False


KINDS = (
    Kind(MeshClient.look_at_one, 20),
    Kind(MeshClient.look, 26),
    Kind(MeshClient.look_back, 6),
    Kind(MeshClient.look_strongly, 0.3),
    Kind(MeshClient.read_lists, 10),
    Kind(MeshClient.upsert, 14),
    Kind(MeshClient.delete, 3),
    Kind(MeshClient.append, 5, conflicts=True),
    Kind(MeshClient.batch, 4, conflicts=True),
    Kind(MeshClient.insert_once, 4, conflicts=True),
    Kind(MeshClient.conditional, 4, 2, conflicts=True),
    Kind(MeshClient.transact, 6, 5.5, conflicts=True),
)


class Load:
    """All clients of a run."""

    def __init__(self, edges: Sequence[Edge], seed: int, rate: float) -> None:
        """`rate`: calls a second."""
        self.shared = Shared(lists=LISTS, rows=ROWS)
        self.meter = Meter()
        self.held_back: Counter[str] = Counter()
        """Not begun, since every client was waiting ("all") or too many with conflicts."""
        self._conflicting = 0
        self._random = Random(f"load-{seed}")
        calls = sum(k.weight * k.calls for k in KINDS) / sum(k.weight for k in KINDS)
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
        weights = [kind.weight for kind in KINDS]
        due = loop.time()
        async with asyncio.TaskGroup() as group:
            while not until.is_set():
                due += self._every_s
                await asyncio.sleep(max(0.0, due - loop.time()))
                (kind,) = self._random.choices(KINDS, weights)
                if not self._idle:
                    self.held_back["all"] += 1
                elif kind.conflicts and self._conflicting >= CONFLICTING_MAX:
                    self.held_back["conflicting"] += 1
                else:
                    # The one that worked last: sessions are long, the spare ones are for faults.
                    group.create_task(self._work(self._idle.pop(), kind))

    async def _work(self, client: MeshClient, kind: Kind) -> None:
        self._conflicting += kind.conflicts
        try:
            await kind.work(client)
        except NeverSent:
            self.shared.done["never sent"] += 1
        finally:
            self._conflicting -= kind.conflicts
            self._idle.append(client)
