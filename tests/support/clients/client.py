"""One client at work: random transactions over REST, each recorded as the client saw it.

Owns the recording. A transaction is written down with all that was asked and told, whatever became
of it; unknown outcomes stay unknown unless the database itself settles them later. Rows carry a tag
that is never used twice, and every batch a marker row that nobody touches again, so that the last
scroll of the markers settles every batch.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.checkers.history import (
    Append,
    Count,
    Filter,
    Isolation,
    Metric,
    Operation,
    Outcome,
    Row,
    Search,
    Transaction,
    Write,
)
from tests.support.clients.edge import Answer, Edge, NeverSent
from tests.support.clients.open_transaction import COMMIT_TRIES, OpenTransaction
from tests.support.clients.wire import (
    lists_of,
    operations_of,
    row_json,
    rows_of,
    scroll_of,
    snapshot_of,
)

METRICS: dict[str, Metric] = {"a": "euclidean", "b": "cosine"}
COLLECTIONS = {"lists": 2, "a": 4, "b": 4, "once": 4, "marks": 2}
"""Name and dimension: lists to append to, rows to change, rows inserted once, batch markers."""

ROWS = 40
LISTS = 6
ONCE = 12
STATUS_TRIES = 60


@dataclass(slots=True)
class Shared:
    """What all clients of a run share: the epoch picks the keys, the rest is what they noted."""

    epoch: int = 0
    lists: int = LISTS
    rows: int = ROWS
    stopping: bool = False
    history: list[Transaction] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)


class Client:
    """Works until told to stop, through its own gateway; other gateways only to repeat what got no
    answer. `tries`: how often it repeats what its edge gives up."""

    tries = COMMIT_TRIES

    def __init__(self, number: int, edges: Sequence[Edge], seed: str, shared: Shared) -> None:
        self.number = number
        self.edges = edges
        self.home = edges[number % len(edges)]
        self.random = Random(f"{seed}-{number}")
        self.shared = shared
        self.token = 0
        """The newest commit_ts that it was told."""
        self._tags = 0
        self._sessions = 0

    @property
    def session(self) -> str:
        return f"c{self.number}.{self._sessions}"

    async def work(self) -> None:
        """Random transactions until `shared.stopping`."""
        kinds = [
            (self.append, 14),
            (self.read_lists, 10),
            (self.batch, 14),
            (self.insert_once, 6),
            (self.look, 18),
            (self.conditional, 8),
            (self.look_back, 4),
            (self.transact, 26),
        ]
        while not self.shared.stopping:
            (kind,) = self.random.choices([k for k, _ in kinds], [weight for _, weight in kinds])
            try:
                await kind()
            except NeverSent:
                self.shared.done["refused connections"] += 1
                await asyncio.sleep(0.1)
            await asyncio.sleep(self.random.uniform(0.005, 0.05))

    # --- what clients say -------------------------------------------------------------------------

    def tag(self) -> str:
        """A name for one write."""
        self._tags += 1
        return f"c{self.number}-{self._tags}"

    def row(self) -> Row:
        """A new row; numbers that float32 holds exactly."""
        tag = self.tag()
        vector = (*(self.random.randrange(-16, 17) / 8 for _ in range(3)), 1.0)
        color = self.random.choice(("red", "blue"))
        return Row(tag, vector, {"tag": tag, "n": self.random.randrange(100), "color": color})

    def consistency(self) -> dict[str, Any]:
        """What a read asks for: mostly nothing, else its own newest write, else everything."""
        choice = self.random.random()
        if choice < 0.25 and self.token:
            return {"consistency": {"at_least": self.token}}
        return {"consistency": {"strong": True}} if choice > 0.85 else {}

    def filter(self) -> Filter | None:
        return self.random.choice(
            (None, {"color": "red"}, {"n": {"$gte": 50}}, {"color": "blue", "n": {"$lt": 70}})
        )

    async def ask(
        self, path: str, body: Any = None, edge: Edge | None = None, **more: Any
    ) -> Answer:
        """One request, its answer counted; what no client should ever be told is noted."""
        answer = await (edge or self.home).ask(path, body, **more)
        if not answer.ok:
            self.shared.answers[answer.code] += 1
            if answer.code in ("internal", "invalid_argument"):
                self.broken(f"{path} {body}: {answer.body}")
        return answer

    def broken(self, what: str) -> None:
        """Note something that no history shows."""
        self.shared.broken.append(f"{self.session}: {what}"[:2000])

    def record(
        self, begin: float, outcome: Outcome, operations: Sequence[Operation], **told: Any
    ) -> None:
        """Write a transaction down."""
        transaction = Transaction(
            self.session, begin, time.monotonic(), outcome, tuple(operations), **told
        )
        self.shared.history.append(transaction)
        if transaction.outcome == "committed" and transaction.writes:
            self.token = max(self.token, transaction.commit_ts)

    async def settle(self, answer: Answer) -> tuple[Outcome, int]:
        """The outcome of a write and its commit_ts; asks for one that is not known yet."""
        if answer.outcome != "unknown" or not answer.transaction:
            return answer.outcome, int(answer.body.get("commit_ts", 0)) if answer.ok else 0
        state = ""
        for number in range(STATUS_TRIES):
            edge = self.edges[number % len(self.edges)]
            try:
                told = await self.ask(
                    f"/v1/transactions/{answer.transaction}", edge=edge, method="GET"
                )
            except NeverSent:
                await asyncio.sleep(0.2)
                continue
            state = str(told.body.get("state"))
            if state == "committed":
                self.shared.done["settled by asking: committed"] += 1
                self._sessions += 1  # the way there may have led through another gateway
                return "committed", int(told.body["commit_ts"])
            if state == "aborted":
                self.shared.done["settled by asking: aborted"] += 1
                return "aborted", 0
            await asyncio.sleep(0.25)
        if state:
            self.broken(f"{answer.transaction} is still in doubt: {state}")
        return "unknown", 0

    # --- lists ------------------------------------------------------------------------------------

    def once_key(self) -> str:
        """A row that is inserted by whoever comes first."""
        return f"once/e{self.shared.epoch}-{self.random.randrange(ONCE):02}"

    def list_key(self) -> str:
        return f"e{self.shared.epoch}-{self.random.randrange(self.shared.lists)}"

    async def append(self) -> None:
        """Append to one list in one request: the value is a new field, fields keep their order."""
        key, value = self.list_key(), self.tag()
        begin = time.monotonic()
        path = f"/v1/collections/lists/vectors/{key}"
        answer = await self.write(path, {"metadata": {"l": {value: 1}}}, method="PATCH")
        await self._record_write(begin, answer, [Append(key, value)], note="patch")

    async def read_lists(self) -> None:
        """Some lists at one snapshot."""
        keys = sorted({self.list_key() for _ in range(4)})
        begin = time.monotonic()
        asked = self.consistency()
        answer = await self.ask(
            "/v1/collections/lists/vectors/fetch", {"ids": keys, "include": ["metadata"], **asked}
        )
        if answer.ok:
            operations = lists_of(answer, keys)
            self.record(begin, "committed", operations, **snapshot_of(answer, asked))

    # --- rows -------------------------------------------------------------------------------------

    def changes(self) -> list[Write]:
        """A random batch over both collections and its marker; some rows go."""
        writes = []
        for collection in ("a", "b"):
            for number in self.random.sample(range(self.shared.rows), self.random.randrange(1, 4)):
                row = None if self.random.random() < 0.3 else self.row()
                writes.append(Write(f"{collection}/r{number:02}", row))
        tag = self.tag()
        writes.append(Write(f"marks/{tag}", Row(tag, (1.0, 1.0), {"tag": tag})))
        return writes

    async def batch(self) -> None:
        """One blind atomic write, half of the time with an idempotency key."""
        writes = self.changes()
        if self.random.random() < 0.5:
            await self._with_key(writes)
            return
        begin = time.monotonic()
        answer = await self.write("/v1/transactions/commit", {"operations": operations_of(writes)})
        await self._record_write(begin, answer, writes)

    async def write(self, path: str, body: Any, method: str = "POST") -> Answer:
        """A write in one request."""
        return await self.ask(path, body, method=method)

    async def _record_write(
        self, begin: float, answer: Answer, writes: Sequence[Operation], **told: Any
    ) -> Outcome:
        outcome, commit_ts = await self.settle(answer)
        count = answer.body.get("count") if answer.ok else None
        plain: dict[str, Any] = {"isolation": "blind", "commit_ts": commit_ts, "count": count}
        self.record(begin, outcome, writes, **plain | told)
        return outcome

    async def _with_key(self, writes: Sequence[Write]) -> None:
        """The same request until it is answered, and then perhaps once more; any gateway."""
        key = f"k-{self.tag()}"
        body = {"operations": operations_of(writes)}
        again = self.random.random() < 0.3
        for number in range(self.tries):
            edge = self.home if number == 0 else self.random.choice(self.edges)
            begin = time.monotonic()
            try:
                answer = await self.ask(
                    "/v1/transactions/commit", body, edge, headers={"Idempotency-Key": key}
                )
            except NeverSent:
                await asyncio.sleep(0.3)
                continue
            count = answer.body.get("count") if answer.ok else None
            told: dict[str, Any] = {"idempotency_key": key, "count": count, "isolation": "blind"}
            told["replayed"] = answer.headers.get("Idempotency-Replayed") == "true"
            told["commit_ts"] = answer.body["commit_ts"] if answer.ok else 0
            if edge is not self.home:
                self._sessions += 1
            self.record(begin, answer.outcome, writes, **told)
            if answer.outcome == "committed":
                if not again:
                    return
                again = False
            elif answer.outcome == "aborted":
                return
            await asyncio.sleep(0.2)

    async def conditional(self) -> None:
        """Read two rows, write them if they have not changed since."""
        collection = self.random.choice(("a", "b"))
        ids = sorted(f"r{n:02}" for n in self.random.sample(range(self.shared.rows), 2))
        begin = time.monotonic()
        answer = await self.ask(f"/v1/collections/{collection}/vectors/fetch", {"ids": ids})
        if not answer.ok:
            return
        reads = rows_of(answer, collection, ids)
        self.record(begin, "committed", reads, **snapshot_of(answer, {}))
        writes = [Write(r.key, self.row(), r.version) for r in reads if r.row is not None]
        tag = self.tag()
        writes.append(Write(f"marks/{tag}", Row(tag, (1.0, 1.0), {"tag": tag})))
        begin = time.monotonic()
        answer = await self.write("/v1/transactions/commit", {"operations": operations_of(writes)})
        await self._record_write(begin, answer, writes, note="if_version")

    async def insert_once(self) -> None:
        """Insert rows that others try to insert as well."""
        numbers = sorted(self.random.sample(range(ONCE), 2))
        writes = [Write(f"once/e{self.shared.epoch}-{n:02}", self.row(), "absent") for n in numbers]
        begin = time.monotonic()
        body = {"vectors": [row_json(w) for w in writes], "mode": "insert"}
        answer = await self.write("/v1/collections/once/vectors", body)
        await self._record_write(begin, answer, writes, note="insert")

    # --- reads ------------------------------------------------------------------------------------

    async def look(self) -> None:
        """One read of rows."""
        await self._look(self.consistency())

    async def look_back(self) -> None:
        """One read of the past."""
        if self.token:
            await self._look({"consistency": {"as_of": self.token}})

    async def _look(self, asked: dict[str, Any]) -> None:
        begin = time.monotonic()
        found = await self.read_something(asked, {})
        if found is not None:
            answer, operation = found
            self.record(begin, "committed", operation, **snapshot_of(answer, asked))

    async def read_something(
        self, asked: dict[str, Any], headers: dict[str, str], edge: Edge | None = None
    ) -> tuple[Answer, Sequence[Operation]] | None:
        """A random read and what it saw; None if it was not answered."""
        collection = self.random.choice(("a", "b"))
        path = f"/v1/collections/{collection}"
        filter = self.filter()
        narrowed = asked if filter is None else asked | {"filter": filter}
        operations: Sequence[Operation]
        match self.random.randrange(4):
            case 0:
                ids = [f"r{n:02}" for n in self.random.sample(range(self.shared.rows), 5)]
                answer = await self.ask(
                    f"{path}/vectors/fetch", {"ids": ids, **asked}, edge, headers=headers
                )
                operations = rows_of(answer, collection, ids) if answer.ok else []
            case 1:
                answer = await self.ask(f"{path}/count", narrowed, edge, headers=headers)
                operations = [Count(collection, filter, answer.body.get("count", 0))]
            case 2:
                body = {"limit": 1000, **narrowed}
                answer = await self.ask(f"{path}/scroll", body, edge, headers=headers)
                operations = [scroll_of(answer, collection, filter)] if answer.ok else []
            case _:
                vector = self.row().vector
                body = {"vector": vector, "k": self.random.choice((1, 5, 50)), **narrowed}
                answer = await self.ask(f"{path}/query", body, edge, headers=headers)
                hits = tuple((h["id"], h["similarity"]) for h in answer.body.get("vectors", ()))
                metric = METRICS[collection]
                operations = [Search(collection, filter, metric, vector, body["k"], hits)]
        return (answer, operations) if answer.ok else None

    # --- interactive transactions -----------------------------------------------------------------

    async def transact(self) -> None:
        """Begin, read and write, commit or abort."""
        isolation: Isolation = "serializable" if self.random.random() < 0.3 else "snapshot"
        begin = time.monotonic()
        answer = await self.ask("/v1/transactions", {"isolation": isolation, "timeout_s": 30})
        if not answer.ok:
            return
        one = OpenTransaction(self, answer)
        failed = False
        for _ in range(self.random.randrange(1, 5)):
            failed = not await one.statement()
            if failed:
                break
        snapshot_ts = answer.body["snapshot_ts"]
        outcome: Outcome = "aborted"
        commit_ts = 0
        if failed or self.random.random() < 0.08:
            await one.abort()
        else:
            outcome, commit_ts = await one.commit()
        told = {"isolation": isolation, "snapshot_ts": snapshot_ts, "commit_ts": commit_ts}
        self.record(begin, outcome, one.operations, **told, note=one.txn_id)
        if one.moved:
            self._sessions += 1
