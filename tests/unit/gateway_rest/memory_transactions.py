"""Open transactions, idempotency keys and the past over a database in memory.

A transaction is a copy of the tables. Each statement makes another copy under another token, so a
token means just what was staged up to it, and one that was not given out means nothing. A commit
writes what the copy has that the snapshot had not, unless somebody else changed it first.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self

from vector_db.common.model.errors import (
    Aborted,
    AlreadyCommitted,
    Conflict,
    IdempotencyMismatch,
    InvalidArgument,
    PreconditionFailed,
    SnapshotTooOld,
    TransactionExpired,
)
from vector_db.common.model.rows import F32
from vector_db.gateway.api import RowsApi
from vector_db.gateway.core.requests import (
    Consistency,
    Delete,
    Idempotency,
    Isolation,
    OpenTransaction,
    Page,
    Query,
    QueryResult,
    Rows,
    Upsert,
    WriteResult,
)

TICK_MS = 1_000
"""Between two commits of the databases here."""
EPOCH_MS = 1_700_000_000_000
TIMEOUT_S_DEFAULT, TIMEOUT_S_MAX = 60.0, 3600.0


class Row(Protocol):
    vector: F32
    metadata: bytes
    version: int


Contents = dict[str, dict[bytes, Any]]


class Store(RowsApi, Protocol):
    """What a database in memory offers to the transactions over it."""

    def contents(self) -> Contents:
        """The rows by collection and id, themselves."""

    def copy(self) -> Self:
        """A database of the same rows, which writes version 0."""

    def tick(self) -> int:
        """The next commit_ts."""

    def now_ts(self) -> int:
        """The newest commit_ts."""


@dataclass(frozen=True)
class _State:
    txn_id: str
    isolation: Isolation
    before: Any
    now: Any
    deadline_ms: int
    count: int = 0
    statements: int = 0


@dataclass
class Book:
    """The transactions and the keys of one database. `now_ms` is set by tests."""

    store: Any
    now_ms: int = EPOCH_MS
    states: dict[str, _State] = field(default_factory=dict)
    ends: dict[str, WriteResult | None] = field(default_factory=dict)
    keys: dict[bytes, tuple[bytes, WriteResult]] = field(default_factory=dict)
    padding: int = 0

    def begin(self, isolation: Isolation, timeout_s: float | None) -> OpenTransaction:
        timeout_s = TIMEOUT_S_DEFAULT if timeout_s is None else timeout_s
        if timeout_s > TIMEOUT_S_MAX:
            raise InvalidArgument(f"timeout_s: {timeout_s}, the limit is {TIMEOUT_S_MAX}")
        txn_id = f"{len(self.states) + 1:032x}"
        copy = self.store.copy()
        deadline_ms = self.now_ms + int(1000 * timeout_s)
        state = _State(txn_id, isolation, copy, copy, deadline_ms)
        token = self.keep(state)
        return OpenTransaction(txn_id, token, isolation, self.store.now_ts(), deadline_ms)

    def keep(self, state: _State) -> str:
        """The token of `state`."""
        text = f"{state.txn_id}.{state.statements}"
        token = f"{text}.{hmac.digest(b'a secret', text.encode(), 'sha256').hex()}"
        token += "x" * (self.padding - len(token))
        self.states[token] = state
        return token

    def resume(self, token: str) -> MemoryTransaction:
        state = self.states.get(token)
        if state is None:
            raise InvalidArgument("transaction: not a token of this database")
        if self.now_ms > state.deadline_ms and state.txn_id not in self.ends:
            raise TransactionExpired(f"transaction {state.txn_id} was open for too long")
        return MemoryTransaction(self, state, token)

    def replay(self, idempotency: Idempotency | None) -> WriteResult | None:
        """The answer to an earlier request with the key."""
        if idempotency is None or idempotency.key not in self.keys:
            return None
        request_hash, result = self.keys[idempotency.key]
        if request_hash != idempotency.request_hash:
            raise IdempotencyMismatch("the idempotency key came with another request")
        return replace(result, replayed=True)

    def remember(self, idempotency: Idempotency | None, result: WriteResult) -> WriteResult:
        if idempotency is not None:
            self.keys[idempotency.key] = (idempotency.request_hash, result)
        return result

    def commit(self, state: _State, idempotency: Idempotency | None) -> WriteResult:
        replayed = self.replay(idempotency)
        if replayed is not None:
            return replayed
        if state.txn_id in self.ends:
            end = self.ends[state.txn_id]
            if end is None:
                raise Aborted(f"transaction {state.txn_id} was aborted")
            return end
        before, after, now = (s.contents() for s in (state.before, state.now, self.store))
        changes = [
            (name, row_id)
            for name, rows in after.items()
            for row_id in before[name].keys() | rows.keys()
            if before[name].get(row_id) is not rows.get(row_id)
        ]
        read = [(n, i) for n, rows in before.items() for i in rows.keys() | now.get(n, {}).keys()]
        for name, row_id in [*changes, *(read if state.isolation == "serializable" else ())]:
            if now.get(name, {}).get(row_id) is not before[name].get(row_id):
                raise Conflict(f"id {row_id.decode()!r} was written by another transaction")
        ts = self.store.tick() if changes else self.store.now_ts()
        for name, row_id in changes:
            row = after[name].get(row_id)
            if row is None:
                now[name].pop(row_id, None)
            else:
                now[name][row_id] = replace(row, version=ts)
        result = self.remember(idempotency, WriteResult(state.count, ts))
        self.ends[state.txn_id] = result
        return result

    def abort(self, state: _State) -> None:
        if self.ends.get(state.txn_id) is not None:
            raise AlreadyCommitted(f"transaction {state.txn_id} is committed")
        self.ends[state.txn_id] = None


class MemoryTransaction:
    """Implements `TransactionApi` over a copy of the tables."""

    def __init__(self, book: Book, state: _State, token: str) -> None:
        self._book, self._state, self._token = book, state, token

    @property
    def txn_id(self) -> str:
        return self._state.txn_id

    @property
    def token(self) -> str:
        return self._token

    async def _stage(self, write: Any, idempotency: Idempotency | None) -> WriteResult:
        if idempotency is not None:
            raise AssertionError("the edge let a key into a transaction")
        state, store = self._state, self._state.now.copy()
        if self._state.txn_id in self._book.ends:
            raise Aborted(f"transaction {state.txn_id} has ended")
        count: int = (await write(store)).count
        self._state = replace(
            state, now=store, count=state.count + count, statements=state.statements + 1
        )
        self._token = self._book.keep(self._state)
        return WriteResult(count, 0)

    async def write(
        self, operations: Sequence[Upsert | Delete], idempotency: Idempotency | None = None
    ) -> WriteResult:
        return await self._stage(lambda store: store.write(operations), idempotency)

    async def delete_where(
        self, collection: str, filter: dict[str, Any], idempotency: Idempotency | None = None
    ) -> WriteResult:
        return await self._stage(lambda store: store.delete_where(collection, filter), idempotency)

    async def patch_metadata(
        self,
        collection: str,
        row_id: bytes,
        patch: dict[str, Any],
        if_version: int | None = None,
        idempotency: Idempotency | None = None,
    ) -> WriteResult:
        return await self._stage(
            lambda store: store.patch_metadata(collection, row_id, patch, if_version), idempotency
        )

    async def query(self, query: Query) -> QueryResult:
        result: QueryResult = await self._reader(query.consistency).query(query)
        return result

    async def fetch(
        self,
        collection: str,
        ids: Sequence[bytes],
        consistency: Consistency,
        include_vectors: bool = True,
    ) -> Rows:
        reader = self._reader(consistency)
        rows: Rows = await reader.fetch(collection, ids, consistency, include_vectors)
        return rows

    async def count(
        self, collection: str, filter: dict[str, Any] | None, consistency: Consistency
    ) -> tuple[int, int]:
        answer: tuple[int, int] = await self._reader(consistency).count(
            collection, filter, consistency
        )
        return answer

    async def scroll(
        self,
        collection: str,
        limit: int,
        filter: dict[str, Any] | None,
        cursor: str | None,
        consistency: Consistency,
        include_vectors: bool = True,
    ) -> Page:
        page: Page = await self._reader(consistency).scroll(
            collection, limit, filter, cursor, consistency, include_vectors
        )
        return page

    def _reader(self, consistency: Consistency) -> Any:
        if consistency != Consistency():
            raise AssertionError("the edge let a consistency into a transaction")
        return self._state.now

    async def commit(self, idempotency: Idempotency | None = None) -> WriteResult:
        return self._book.commit(self._state, idempotency)

    async def abort(self) -> None:
        self._book.abort(self._state)


def check_version(row: Row | None, version: int, row_id: bytes) -> None:
    """What `if_version` asks of a row (None: there is none)."""
    if row is None or row.version != version:
        raise PreconditionFailed(f"id {row_id.decode()!r} has another version than {version}")


def check_versions(rows: dict[bytes, Any], operation: Upsert | Delete) -> None:
    """What `if_version` asks of every row of an operation."""
    if operation.if_version is None:
        return
    ids = operation.ids if isinstance(operation, Delete) else operation.rows.ids
    for row_id, version in zip(ids, operation.if_version.tolist(), strict=True):
        check_version(rows.get(row_id), version, row_id)


def past(history: dict[int, Any], consistency: Consistency, now_ts: int) -> Any:
    """What `history` (by commit_ts) had at `as_of`; None for the present."""
    as_of = consistency.as_of
    if consistency.as_of_ms:
        as_of = (consistency.as_of_ms - EPOCH_MS) // TICK_MS
        if as_of < 1:
            raise SnapshotTooOld("as_of lies before the first commit")
    if as_of in (0, now_ts):
        return None
    if as_of > now_ts:
        raise InvalidArgument("as_of lies in the future")
    return history[max(ts for ts in history if ts <= as_of)]
