"""A small database in memory, behind the real edge in these tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import orjson

from tests.unit.gateway_rest.memory_catalog import MemoryCatalog
from tests.unit.gateway_rest.memory_transactions import (
    Book,
    MemoryTransaction,
    check_version,
    check_versions,
    past,
)
from vector_db.common.core.domain import DomainState
from vector_db.common.model.collection import Collection
from vector_db.common.model.errors import AlreadyExists, NotFound
from vector_db.common.model.filters import matches, parse_filter
from vector_db.common.model.limits import Limits
from vector_db.gateway.core.requests import (
    CollectionStats,
    Consistency,
    Delete,
    Hits,
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
from vector_db.gateway.core.rows import validate_queries, validate_rows

LIMITS = Limits(
    body_bytes_max=1 << 20,
    rows_per_batch_max=20_000,
    k_max=100,
    queries_per_batch_max=8,
    dimension_max=2_048,
    filter_depth_max=4,
    metadata_bytes_max=2_000,
    scroll_limit_max=20_000,
)


@dataclass
class Stored:
    """One row in memory."""

    vector: Any
    metadata: bytes
    version: int


@dataclass
class MemoryDatabase(MemoryCatalog):
    """A `DatabaseApi` over dicts with exact search. `failure` is raised by the next call."""

    tables: dict[str, dict[bytes, Stored]] = field(default_factory=dict)
    state: DomainState = field(default_factory=DomainState)
    ts: int = 0
    failure: Exception | None = None
    consistencies: list[Consistency] = field(default_factory=list)
    scroll_limits: list[int] = field(default_factory=list)
    staging: bool = False
    history: dict[int, dict[str, dict[bytes, Stored]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.book = Book(self)

    def tick(self) -> int:
        if self.staging:
            return 0
        self.history[self.ts] = self._copied()
        self.ts += 1
        return self.ts

    def now_ts(self) -> int:
        return self.ts

    def contents(self) -> dict[str, dict[bytes, Stored]]:
        return self.tables

    def copy(self) -> Self:
        return type(self)(self._copied(), self.state, self.ts, staging=True)

    def _copied(self) -> dict[str, dict[bytes, Stored]]:
        return {name: dict(rows) for name, rows in self.tables.items()}

    def _table(self, name: str, consistency: Consistency | None = None) -> dict[bytes, Stored]:
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        self._entry(name)
        name = self.real_name(name)
        tables = self.tables
        if consistency is not None:
            tables = past(self.history, consistency, self.ts) or tables
        return tables[name]

    def _entry(self, name: str) -> Collection:
        found = self.state.by_name(name)
        if found is None:
            raise NotFound(f"no collection {name!r}")
        return found

    async def create_collection(
        self,
        name: str,
        dimension: int,
        metric: str,
        shards: int = 0,
        if_absent: bool = False,
        **options: Any,
    ) -> Collection:
        made, is_new = self.make(name, dimension, metric, shards, if_absent, **options)
        if is_new:
            self.tables[name] = {}
        return made

    async def drop_collection(self, name: str) -> int:
        self._table(name)
        self.forget(name)
        del self.tables[name]
        return self.tick()

    async def collections(self) -> list[Collection]:
        return [c for c in self.state.collections.values() if c.in_force]

    async def collection(self, name: str) -> Collection:
        self._table(name)
        return self._entry(name)

    async def stats(self, name: str) -> CollectionStats:
        return CollectionStats(len(self._table(name)), 3, 1, 1_000, 2_000)

    async def write(
        self, operations: Sequence[Upsert | Delete], idempotency: Idempotency | None = None
    ) -> WriteResult:
        if (replayed := self.book.replay(idempotency)) is not None:
            return replayed
        for operation in operations:
            table = self._table(operation.collection)
            check_versions(table, operation)
            if isinstance(operation, Upsert):
                where = "vectors"
                validate_rows(operation.rows, self._entry(operation.collection), LIMITS, where)
                for row_id in operation.rows.ids:
                    if operation.mode == "insert" and row_id in table:
                        raise AlreadyExists(f"id {row_id.decode()!r} exists")
                    if operation.mode == "update" and row_id not in table:
                        raise NotFound(f"id {row_id.decode()!r} does not exist")
        ts = self.tick()
        count = sum(self._apply(operation, ts) for operation in operations)
        return self.book.remember(idempotency, WriteResult(count, ts))

    def _apply(self, operation: Upsert | Delete, ts: int) -> int:
        table = self.tables[self.real_name(operation.collection)]
        if isinstance(operation, Delete):
            return sum(table.pop(row_id, None) is not None for row_id in operation.ids)
        rows = operation.rows
        for i, row_id in enumerate(rows.ids):
            metadata = rows.metadata[i] if rows.metadata is not None else b""
            table[row_id] = Stored(rows.vectors[i], metadata, ts)
        return len(rows.ids)

    async def delete_where(
        self, collection: str, filter: dict[str, Any], idempotency: Idempotency | None = None
    ) -> WriteResult:
        ids = [row_id for row_id, _ in self._matching(collection, filter)]
        return await self.write([Delete(collection, ids)], idempotency)

    async def patch_metadata(
        self,
        collection: str,
        row_id: bytes,
        patch: dict[str, Any],
        if_version: int | None = None,
        idempotency: Idempotency | None = None,
    ) -> WriteResult:
        if (replayed := self.book.replay(idempotency)) is not None:
            return replayed
        rows = self._table(collection)
        row = rows.get(row_id)
        if if_version is not None:
            check_version(row, if_version, row_id)
        if row is None:
            raise NotFound(f"id {row_id.decode()!r} does not exist")
        merged = {**orjson.loads(row.metadata or b"{}"), **patch}
        ts = self.tick()
        text = orjson.dumps({k: v for k, v in merged.items() if v is not None})
        rows[row_id] = Stored(row.vector, text, ts)
        return self.book.remember(idempotency, WriteResult(1, ts))

    def _matching(
        self,
        collection: str,
        filter: dict[str, Any] | None,
        consistency: Consistency | None = None,
    ) -> list[tuple[bytes, Stored]]:
        parsed = None if filter is None else parse_filter(filter, LIMITS)
        return [
            (row_id, row)
            for row_id, row in sorted(self._table(collection, consistency).items())
            if parsed is None or matches(parsed, orjson.loads(row.metadata or b"{}"))
        ]

    async def query(self, query: Query) -> QueryResult:
        self.consistencies.append(query.consistency)
        table = self._table(query.collection, query.consistency)
        if query.id is not None:
            vectors = np.stack([table[query.id].vector])
        else:
            assert query.vectors is not None
            vectors = query.vectors
            validate_queries(vectors, self._entry(query.collection), "vectors")
        matching = self._matching(query.collection, query.filter, query.consistency)
        rows = [r for r in matching if r[0] != query.id]
        hits = []
        for vector in vectors:
            scored = [(float(row.vector @ vector), row_id, row) for row_id, row in rows]
            scored.sort(key=lambda s: (-s[0], s[1]))
            least = -np.inf if query.min_similarity is None else query.min_similarity
            top = [s for s in scored if s[0] >= least][: query.k]
            hits.append(
                Hits(
                    ids=[row_id for _, row_id, _ in top],
                    similarities=[similarity for similarity, _, _ in top],
                    metadata=[r.metadata for *_, r in top] if query.include_metadata else None,
                    vectors=np.stack([r.vector for *_, r in top])
                    if query.include_vectors and top
                    else None,
                )
            )
        return QueryResult(hits, self.ts, self._entry(query.collection).metric)

    async def fetch(
        self,
        collection: str,
        ids: Sequence[bytes],
        consistency: Consistency,
        include_vectors: bool = True,
    ) -> Rows:
        self.consistencies.append(consistency)
        table = self._table(collection, consistency)
        return self._rows([(i, table[i]) for i in ids if i in table], include_vectors)

    def _rows(self, rows: list[tuple[bytes, Stored]], include_vectors: bool) -> Rows:
        return Rows(
            ids=[row_id for row_id, _ in rows],
            versions=[row.version for _, row in rows],
            metadata=[row.metadata for _, row in rows],
            vectors=np.stack([row.vector for _, row in rows]) if include_vectors and rows else None,
            snapshot_ts=self.ts,
        )

    async def count(
        self, collection: str, filter: dict[str, Any] | None, consistency: Consistency
    ) -> tuple[int, int]:
        self.consistencies.append(consistency)
        return len(self._matching(collection, filter, consistency)), self.ts

    async def scroll(
        self,
        collection: str,
        limit: int,
        filter: dict[str, Any] | None,
        cursor: str | None,
        consistency: Consistency,
        include_vectors: bool = True,
    ) -> Page:
        self.scroll_limits.append(limit)
        rows = self._matching(collection, filter, consistency)
        after = (cursor or "").encode()
        rows = [r for r in rows if r[0] > after]
        more = len(rows) > limit
        page = rows[:limit]
        return Page(self._rows(page, include_vectors), page[-1][0].decode() if more else None)

    async def begin(self, isolation: Isolation, timeout_s: float | None = None) -> OpenTransaction:
        return self.book.begin(isolation, timeout_s)

    def resume(self, token: str) -> MemoryTransaction:
        return self.book.resume(token)

    async def transaction_status(self, txn_id: str) -> dict[str, Any]:
        return {"state": "aborted", "reason": f"conflict of {txn_id}"}

    async def cluster(self) -> dict[str, Any]:
        return {}

    async def drain(self, worker: str, drain: bool) -> None:
        raise NotFound(f"shard worker {worker!r} is not known")
