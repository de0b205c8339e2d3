"""Clients of a simulated cluster, and the history of what they were told.

Each client is a session over one gateway at a time. Rows carry a tag that is used once, so a read
tells which write it saw; lists live in rows of a collection of their own, whose metadata is the
list. A client records what it asked and what it was told, never what it could know from inside.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

import numpy as np
import orjson

from tests.checkers.history import (
    Append,
    Count,
    Operation,
    Outcome,
    ReadList,
    ReadRow,
    Row,
    Scroll,
    Search,
    Transaction,
    Write,
)
from tests.sim.services.cluster import Cluster, ConnectionLost, Life, Node, NotServing
from vector_db.common.model.errors import (
    AlreadyExists,
    NotFound,
    OutcomeUnknown,
    VectorDBError,
)
from vector_db.gateway.api import DatabaseApi, TransactionApi
from vector_db.gateway.core.requests import (
    Consistency,
    Delete,
    Idempotency,
    Isolation,
    Query,
    Rows,
    RowsIn,
    Upsert,
    WriteResult,
)

T = TypeVar("T")
DIMENSION = 4
REQUEST_TIMEOUT_S = 40.0
LISTS = "lists"
GROUPS = 3


@dataclass(frozen=True, slots=True)
class Shape:
    """What a run's clients do."""

    clients: int = 4
    keys: int = 12
    lists: int = 5
    collections: tuple[str, ...] = ("a", "b")
    pause_s: float = 0.02
    text_bytes: int = 16
    """Extra metadata of a row: long texts make chunks."""
    catalog: bool = True


@dataclass(slots=True)
class History:
    """Everything that all clients saw."""

    transactions: list[Transaction] = field(default_factory=list)
    metrics: dict[str, str] = field(default_factory=dict)

    def outcomes(self) -> dict[str, int]:
        """How many writes ended how."""
        found = {"committed": 0, "aborted": 0, "unknown": 0}
        for transaction in self.transactions:
            if transaction.writes:
                found[transaction.outcome] += 1
        return found


@dataclass(slots=True)
class Conversation:
    """An open transaction as its client knows it."""

    token: str
    ops: list[Operation] = field(default_factory=list)


class Client:
    """One session."""

    def __init__(
        self, cluster: Cluster, history: History, shape: Shape, name: str, random: Random
    ) -> None:
        self._cluster = cluster
        self._history = history
        self._shape = shape
        self._name = name
        self._random = random
        self._sessions = 0
        self._tags = 0
        self._token = 0
        self._known: list[int] = []
        """Timestamps that this client was told and may read at."""
        self._gateway: Node = random.choice(cluster.gateways)
        self._life: Life | None = None
        self.stopping = False

    # --- life ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until `stopping`."""
        steps: list[tuple[Callable[[], Awaitable[None]], float]] = [
            (self.upsert, 5.0),
            (self.large, 1.0),
            (self.delete, 1.5),
            (self.insert, 1.0),
            (self.if_version, 1.5),
            (self.mixed, 1.5),
            (self.append, 4.0),
            (self.read_lists, 1.5),
            (self.fetch, 2.0),
            (self.scroll, 0.7),
            (self.count, 0.7),
            (self.search, 0.7),
            (self.interactive, 3.0),
            (self.idempotent, 1.0),
        ]
        if self._shape.catalog:
            steps.append((self.churn, 0.15))
        what, weights = [s[0] for s in steps], [s[1] for s in steps]
        while not self.stopping:
            await self._random.choices(what, weights)[0]()
            await asyncio.sleep(self._shape.pause_s * self._random.random() * 2)

    async def _call(self, request: Callable[[DatabaseApi], Awaitable[T]]) -> T:
        if self._gateway.life is not self._life:
            # The connection broke while nobody used it: what follows is a session of its own.
            self._life = self._gateway.life
            self._sessions += 1
            self._token = 0
        return await self._gateway.call(request, REQUEST_TIMEOUT_S)

    def _new_session(self) -> None:
        """The next requests go to another gateway, or to the same one anew."""
        self._gateway = self._random.choice(self._cluster.gateways)
        self._sessions += 1
        self._token = 0

    @property
    def _session(self) -> str:
        return f"{self._name}.{self._sessions}"

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _tag(self) -> str:
        self._tags += 1
        return f"{self._name}-{self._tags}"

    def _note(self, begin: float, outcome: Outcome, ops: list[Operation], **more: object) -> None:
        transaction = Transaction(
            self._session,
            begin,
            self._now(),
            outcome,
            tuple(ops),
            **more,  # type: ignore[arg-type]
        )
        self._history.transactions.append(transaction)
        self._cluster.trace.note(
            f"{self._session} {outcome} {transaction.snapshot_ts} {transaction.commit_ts} "
            f"{transaction.note} {[type(o).__name__ for o in ops]}"
        )

    # --- writes -------------------------------------------------------------------------------

    def _rows(self, count: int, text_bytes: int | None = None) -> tuple[list[bytes], list[Row]]:
        size = self._shape.text_bytes if text_bytes is None else text_bytes
        keys = self._random.sample(range(self._shape.keys), min(count, self._shape.keys))
        rows = []
        for _ in keys:
            vector = tuple(
                float(np.float32(self._random.uniform(0.1, 1))) for _ in range(DIMENSION)
            )
            metadata = {"group": self._random.randrange(GROUPS), "text": "x" * size}
            rows.append(Row(self._tag(), vector, metadata))
        return [b"k%d" % key for key in keys], rows

    @staticmethod
    def _rows_in(ids: list[bytes], rows: list[Row]) -> RowsIn:
        vectors = np.array([row.vector for row in rows], dtype="<f4").reshape(-1, DIMENSION)
        metadata = [orjson.dumps({"tag": row.tag, **row.metadata}) for row in rows]
        return RowsIn(ids, vectors, metadata)

    async def _write(
        self,
        operations: list[Upsert | Delete],
        ops: list[Operation],
        snapshot_ts: int = 0,
        blind: bool = False,
    ) -> None:
        begin = self._now()
        try:
            result = await self._call(lambda database: database.write(operations))
        except NotServing:
            self._new_session()
            await asyncio.sleep(0.1)
            return
        except (ConnectionLost, OutcomeUnknown) as error:
            self._note(begin, "unknown", ops, note=type(error).__name__, snapshot_ts=snapshot_ts)
            self._new_session()
            return
        except VectorDBError as error:
            self._note(begin, "aborted", ops, note=error.code, snapshot_ts=snapshot_ts)
            if self._random.random() < 0.3:
                self._new_session()
            return
        self._told(result)
        self._note(
            begin,
            "committed",
            ops,
            commit_ts=result.commit_ts,
            count=result.count,
            snapshot_ts=snapshot_ts,
            isolation="blind" if blind else "snapshot",
        )

    def _told(self, result: WriteResult) -> None:
        if not result.replayed:
            self._token = max(self._token, result.commit_ts)
            # A collection may be younger than the others: all of them must be there by then.
            self._known.append(result.commit_ts)

    async def idempotent(self) -> None:
        """One write with a key, tried until it is answered, and sometimes once more."""
        name = self._random.choice(self._shape.collections)
        ids, rows = self._rows(self._random.randint(1, 3))
        operations: list[Upsert | Delete] = [Upsert(name, self._rows_in(ids, rows))]
        ops: list[Operation] = [Write(_key(name, i), row) for i, row in zip(ids, rows, strict=True)]
        key = self._tag()
        idempotency = Idempotency(key.encode(), key.encode())
        for _ in range(4):
            begin = self._now()
            try:
                result = await self._call(lambda database: database.write(operations, idempotency))
            except NotServing:
                self._new_session()
                await asyncio.sleep(0.1)
                continue
            except (ConnectionLost, OutcomeUnknown) as error:
                self._note(begin, "unknown", ops, note=type(error).__name__, idempotency_key=key)
                self._new_session()
                continue
            except VectorDBError as error:
                self._note(begin, "aborted", ops, note=error.code, idempotency_key=key)
                self._new_session()
                if self._random.random() < 0.5:
                    return
                continue
            self._told(result)
            self._note(
                begin,
                "committed",
                ops,
                commit_ts=result.commit_ts,
                count=result.count,
                idempotency_key=key,
                replayed=result.replayed,
            )
            if self._random.random() < 0.7:
                return

    async def upsert(self) -> None:
        """Blind rows of one collection."""
        name = self._random.choice(self._shape.collections)
        ids, rows = self._rows(self._random.randint(1, 4))
        ops: list[Operation] = [Write(_key(name, i), row) for i, row in zip(ids, rows, strict=True)]
        await self._write([Upsert(name, self._rows_in(ids, rows))], ops, blind=True)

    async def large(self) -> None:
        """Rows long enough to travel in chunks."""
        name = self._random.choice(self._shape.collections)
        ids, rows = self._rows(8, 900)
        ops: list[Operation] = [Write(_key(name, i), row) for i, row in zip(ids, rows, strict=True)]
        await self._write([Upsert(name, self._rows_in(ids, rows))], ops, blind=True)

    async def delete(self) -> None:
        name = self._random.choice(self._shape.collections)
        ids, _ = self._rows(self._random.randint(1, 2))
        await self._write([Delete(name, ids)], [Write(_key(name, i), None) for i in ids])

    async def insert(self) -> None:
        """Rows that must be absent."""
        name = self._random.choice(self._shape.collections)
        ids, rows = self._rows(self._random.randint(1, 2))
        ops: list[Operation] = [
            Write(_key(name, i), row, "absent") for i, row in zip(ids, rows, strict=True)
        ]
        await self._write([Upsert(name, self._rows_in(ids, rows), "insert")], ops)

    async def if_version(self) -> None:
        """Read rows, then write them on condition that they are the same."""
        name = self._random.choice(self._shape.collections)
        ids, rows = self._rows(self._random.randint(1, 2))
        found = await self._read_rows(name, ids)
        if found is None or len(found.ids) != len(ids):
            return
        versions = dict(zip(found.ids, found.versions, strict=True))
        ops: list[Operation] = [
            Write(_key(name, i), row, versions[i]) for i, row in zip(ids, rows, strict=True)
        ]
        upsert = Upsert(
            name,
            self._rows_in(ids, rows),
            if_version=np.array([versions[i] for i in ids], dtype=np.int64),
        )
        await self._write([upsert], ops)

    async def mixed(self) -> None:
        """Upserts and deletes over two collections in one transaction."""
        operations: list[Upsert | Delete] = []
        ops: list[Operation] = []
        for name in self._shape.collections[:2]:
            ids, rows = self._rows(3)
            gone, ids, rows = ids[:1], ids[1:], rows[1:]
            operations += [Upsert(name, self._rows_in(ids, rows)), Delete(name, gone)]
            ops += [Write(_key(name, i), row) for i, row in zip(ids, rows, strict=True)]
            ops += [Write(_key(name, i), None) for i in gone]
        await self._write(operations, ops)

    # --- lists --------------------------------------------------------------------------------

    async def append(self) -> None:
        """Append to lists on condition that they are as they were read."""
        ids = [b"l%d" % n for n in self._random.sample(range(self._shape.lists), 2)]
        ids = ids[: self._random.randint(1, 2)]
        found = await self._rows_of(LISTS, ids)
        if found is None:
            return
        lists = _lists(found)
        versions = dict(zip(found.ids, found.versions, strict=True))
        ops: list[Operation] = []
        operations: dict[bool, tuple[list[bytes], list[bytes], list[int]]] = {}
        for i in ids:
            value = self._tag()
            ops += [ReadList(i.decode(), lists.get(i, ())), Append(i.decode(), value)]
            to = operations.setdefault(i in lists, ([], [], []))
            to[0].append(i)
            to[1].append(orjson.dumps({"list": [*lists.get(i, ()), value]}))
            to[2].append(versions.get(i, 0))
        upserts: list[Upsert | Delete] = []
        for exists, (mine, metadata, seen) in operations.items():
            rows = RowsIn(mine, np.ones((len(mine), DIMENSION), dtype="<f4"), metadata)
            if exists:
                wanted = np.array(seen, dtype=np.int64)
                upserts.append(Upsert(LISTS, rows, if_version=wanted))
            else:
                upserts.append(Upsert(LISTS, rows, "insert"))
        await self._write(upserts, ops, found.snapshot_ts)

    async def read_lists(self) -> None:
        """All lists at one snapshot."""
        ids = [b"l%d" % n for n in range(self._shape.lists)]
        begin = self._now()
        consistency = self._consistency()
        found = await self._rows_of(LISTS, ids, consistency)
        if found is not None:
            lists = _lists(found)
            ops: list[Operation] = [ReadList(i.decode(), lists.get(i, ())) for i in ids]
            self._note_read(begin, ops, found.snapshot_ts, consistency)

    # --- interactive --------------------------------------------------------------------------

    async def interactive(self) -> None:
        """A transaction of several requests, at any gateways, of either isolation."""
        isolation: Isolation = self._random.choice(["snapshot", "serializable"])
        begin = self._now()
        opened = await self._ask(lambda database: database.begin(isolation))
        if opened is None:
            return
        self._cluster.count(f"begun: {isolation}")
        talk = Conversation(opened.token)
        steps = [self._append_in, self._append_in, self._fetch_in, self._upsert_in, self._count_in]
        said: dict[str, Any] = {"snapshot_ts": opened.snapshot_ts, "isolation": isolation}
        for _ in range(self._random.randint(1, 5)):
            try:
                await self._random.choice(steps)(talk)
            except NotServing:
                self._gateway = self._random.choice(self._cluster.gateways)
            except ConnectionLost:
                # Whether the statement was staged is not known, so this is never committed.
                self._note(begin, "aborted", talk.ops, note="left", **said)
                self._new_session()
                return
            except VectorDBError as error:
                self._note(begin, "aborted", talk.ops, note=error.code, **said)
                self._new_session()
                return
            if self._random.random() < 0.3:
                await asyncio.sleep(self._random.random() * self._shape.pause_s * 4)
            if self._random.random() < 0.2:
                # The token is good at every gateway.
                self._gateway = self._random.choice(self._cluster.gateways)
        if self._random.random() < 0.1:
            await self._ask(lambda database: database.resume(talk.token).abort())
            self._note(begin, "aborted", talk.ops, note="by its client", **said)
            self._new_session()
            return
        await self._commit(talk, begin, said)

    async def _commit(self, talk: Conversation, begin: float, said: dict[str, Any]) -> None:
        """Commit, and ask again where no answer came."""
        unknown = ""
        for _ in range(3):
            try:
                result = await self._call(lambda database: database.resume(talk.token).commit())
            except NotServing:
                self._new_session()
                await asyncio.sleep(0.1)
                continue
            except (ConnectionLost, OutcomeUnknown) as error:
                unknown = type(error).__name__
                self._new_session()
                continue
            except VectorDBError as error:
                # After an unanswered try only "aborted" says what became of it.
                sure = not unknown or error.code in ("conflict", "aborted")
                outcome: Outcome = "aborted" if sure else "unknown"
                self._note(begin, outcome, talk.ops, note=error.code, **said)
                self._new_session()
                return
            self._told(result)
            note = "asked again" if unknown else ""
            said["commit_ts"] = result.commit_ts
            self._note(begin, "committed", talk.ops, note=note, **said)
            return
        outcome = "unknown" if unknown else "aborted"
        self._note(begin, outcome, talk.ops, note=unknown, **said)
        self._new_session()

    async def _in(self, talk: Conversation, act: Callable[[TransactionApi], Awaitable[T]]) -> T:
        """One statement; the token goes on."""

        async def request(database: DatabaseApi) -> tuple[T, str]:
            transaction = database.resume(talk.token)
            result = await act(transaction)
            return result, transaction.token

        result, talk.token = await self._call(request)
        return result

    async def _append_in(self, talk: Conversation) -> None:
        i = b"l%d" % self._random.randrange(self._shape.lists)
        found = await self._in(talk, lambda t: t.fetch(LISTS, [i], Consistency()))
        seen = _lists(found).get(i, ())
        talk.ops.append(ReadList(i.decode(), seen))
        if self._random.random() < 0.25:
            return
        value = self._tag()
        metadata = [orjson.dumps({"list": [*seen, value]})]
        rows = RowsIn([i], np.ones((1, DIMENSION), dtype="<f4"), metadata)
        await self._in(talk, lambda t: t.write([Upsert(LISTS, rows)]))
        talk.ops.append(Append(i.decode(), value))

    async def _fetch_in(self, talk: Conversation) -> None:
        name = self._random.choice(self._shape.collections)
        ids = [b"k%d" % n for n in self._random.sample(range(self._shape.keys), 2)]
        found = await self._in(talk, lambda t: t.fetch(name, ids, Consistency()))
        seen = _seen(found)
        for i in ids:
            row, version = seen.get(i, (None, 0))
            talk.ops.append(ReadRow(_key(name, i), row, version))

    async def _upsert_in(self, talk: Conversation) -> None:
        name = self._random.choice(self._shape.collections)
        large = self._random.random() < 0.2
        ids, rows = self._rows(self._random.randint(1, 3), 900 if large else None)
        operation: Upsert | Delete = Upsert(name, self._rows_in(ids, rows))
        ops = [Write(_key(name, i), row) for i, row in zip(ids, rows, strict=True)]
        if self._random.random() < 0.3:
            operation, ops = Delete(name, ids), [Write(_key(name, i), None) for i in ids]
        await self._in(talk, lambda t: t.write([operation]))
        talk.ops += ops

    async def _count_in(self, talk: Conversation) -> None:
        name, text = self._random.choice(self._shape.collections), self._filter()
        found = await self._in(talk, lambda t: t.count(name, text, Consistency()))
        talk.ops.append(Count(name, text, found[0]))

    # --- reads --------------------------------------------------------------------------------

    def _consistency(self) -> Consistency:
        dice = self._random.random()
        if dice < 0.15:
            return Consistency(strong=True)
        if dice > 0.9 and self._known:
            return Consistency(as_of=self._random.choice(self._known[-20:]))
        if dice < 0.4:
            return Consistency(at_least=self._token)
        return Consistency()

    def _note_read(
        self,
        begin: float,
        ops: list[Operation],
        snapshot_ts: int,
        consistency: Consistency,
        final: bool = False,
    ) -> None:
        self._note(
            begin,
            "committed",
            ops,
            snapshot_ts=snapshot_ts,
            at_least=consistency.at_least,
            as_of=consistency.as_of,
            strong=consistency.strong,
            final=final,
        )

    async def _ask(self, request: Callable[[DatabaseApi], Awaitable[T]]) -> T | None:
        """A read's answer; None: there was none."""
        try:
            return await self._call(request)
        except (NotServing, ConnectionLost):
            self._new_session()
            await asyncio.sleep(0.1)
        except VectorDBError as error:
            self._cluster.count(f"reads failed: {error.code}")
            if self._random.random() < 0.3:
                self._new_session()
        return None

    async def _rows_of(
        self, name: str, ids: list[bytes], consistency: Consistency | None = None
    ) -> Rows | None:
        wanted = consistency or Consistency()
        return await self._ask(lambda database: database.fetch(name, ids, wanted))

    async def _read_rows(self, name: str, ids: list[bytes]) -> Rows | None:
        begin = self._now()
        consistency = self._consistency()
        found = await self._rows_of(name, ids, consistency)
        if found is not None:
            seen = _seen(found)
            ops: list[Operation] = []
            for i in ids:
                row, version = seen.get(i, (None, 0))
                ops.append(ReadRow(_key(name, i), row, version))
            self._note_read(begin, ops, found.snapshot_ts, consistency)
        return found

    async def fetch(self) -> None:
        ids = [b"k%d" % n for n in self._random.sample(range(self._shape.keys), 4)]
        await self._read_rows(self._random.choice(self._shape.collections), ids)

    def _filter(self) -> dict[str, int] | None:
        return {"group": self._random.randrange(GROUPS)} if self._random.random() < 0.5 else None

    async def scroll(self) -> None:
        """A whole collection, page by page."""
        await self.scroll_all(self._random.choice(self._shape.collections), 5, self._consistency())

    async def scroll_all(
        self, name: str, limit: int, consistency: Consistency, final: bool = False
    ) -> bool:
        """Whether it went to the end; noted then."""
        begin = self._now()
        text = None if final else self._filter()
        cursor: str | None = None
        rows: list[tuple[str, Row, int]] = []
        while True:
            at = cursor
            page = await self._ask(
                lambda database, at=at: database.scroll(name, limit, text, at, consistency)  # type: ignore[misc]
            )
            if page is None:
                return False
            rows += [(i.decode(), *seen) for i, seen in _seen(page.rows).items()]
            cursor = page.cursor
            if cursor is None:
                op = Scroll(name, text, tuple(rows))
                self._note_read(begin, [op], page.rows.snapshot_ts, consistency, final)
                return True

    async def count(self) -> None:
        name, text = self._random.choice(self._shape.collections), self._filter()
        begin, consistency = self._now(), self._consistency()
        found = await self._ask(lambda database: database.count(name, text, consistency))
        if found is not None:
            self._note_read(begin, [Count(name, text, found[0])], found[1], consistency)

    async def search(self) -> None:
        name, text = self._random.choice(self._shape.collections), self._filter()
        vector = [float(np.float32(self._random.uniform(0.1, 1))) for _ in range(DIMENSION)]
        begin, consistency = self._now(), self._consistency()
        query = Query(
            name, np.array([vector], dtype="<f4"), k=5, filter=text, consistency=consistency
        )
        found = await self._ask(lambda database: database.query(query))
        if found is not None:
            hits = found.hits[0]
            pairs = tuple((i.decode(), s) for i, s in zip(hits.ids, hits.similarities, strict=True))
            metric = self._history.metrics[name]
            op = Search(name, text, metric, tuple(vector), 5, pairs)  # type: ignore[arg-type]
            self._note_read(begin, [op], found.snapshot_ts, consistency)

    async def writes_everywhere(self) -> bool:
        """Write to every shard of every collection; whether all was taken."""
        for name in self._shape.collections:
            rows = [Row(self._tag(), (1.0,) * DIMENSION, {"group": 0}) for _ in range(16)]
            ids = [b"live%d" % n for n in range(16)]
            ops: list[Operation] = [
                Write(_key(name, i), row) for i, row in zip(ids, rows, strict=True)
            ]
            before = len(self._history.transactions)
            await self._write([Upsert(name, self._rows_in(ids, rows))], ops, blind=True)
            done = self._history.transactions[before:]
            if not done or done[-1].outcome != "committed":
                return False
        return True

    async def read_all(self) -> bool:
        """Everything, as the end of a run sees it; whether it could be read."""
        strong = Consistency(strong=True)
        for name in self._shape.collections:
            if not await self.scroll_all(name, 7, strong, final=True):
                return False
        begin = self._now()
        ids = [b"l%d" % n for n in range(self._shape.lists)]
        found = await self._rows_of(LISTS, ids, strong)
        if found is None:
            return False
        lists = _lists(found)
        ops: list[Operation] = [ReadList(i.decode(), lists.get(i, ())) for i in ids]
        self._note_read(begin, ops, found.snapshot_ts, strong, final=True)
        return True

    # --- catalog ------------------------------------------------------------------------------

    async def create(self, name: str, metric: str, shards: int) -> bool:
        """Make a collection; whether it is there."""
        self._history.metrics[name] = metric
        try:
            await self._call(
                lambda database: database.create_collection(name, DIMENSION, metric, shards, True)
            )
        except (NotServing, ConnectionLost, VectorDBError):
            self._new_session()
            return False
        return True

    async def churn(self) -> None:
        """Make a collection of its own, write to it, drop it."""
        name = f"churn-{self._tag()}"
        try:
            await self._call(
                lambda database: database.create_collection(name, DIMENSION, "dot", 2, False)
            )
            ids, rows = self._rows(3)
            await self._call(
                lambda database: database.write([Upsert(name, self._rows_in(ids, rows))])
            )
            await self._call(lambda database: database.drop_collection(name))
            await self._call(lambda database: database.count(name, None, Consistency()))
        except NotFound:
            self._cluster.count("collections dropped")
        except AlreadyExists as error:
            self._cluster.violation(f"a name that was never used: {error}")
        except (NotServing, ConnectionLost, VectorDBError):
            self._new_session()
        else:
            self._cluster.violation(f"collection {name} answers after its drop")


def _key(collection: str, row_id: bytes) -> str:
    return f"{collection}/{row_id.decode()}"


def _seen(found: Rows) -> dict[bytes, tuple[Row, int]]:
    """Id → row and version."""
    rows = {}
    vectors = found.vectors
    if vectors is None:
        raise ValueError("rows without vectors")
    for n, (i, version) in enumerate(zip(found.ids, found.versions, strict=True)):
        metadata = orjson.loads(found.metadata[n])
        tag = metadata.pop("tag")
        rows[i] = (Row(tag, tuple(vectors[n].tolist()), metadata), version)
    return rows


def _lists(found: Rows) -> dict[bytes, tuple[str, ...]]:
    return {
        i: tuple(orjson.loads(text)["list"])
        for i, text in zip(found.ids, found.metadata, strict=True)
    }
