"""A database in a dict, with exact search: what the REST edge is tested over."""

from __future__ import annotations

import itertools
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
from vector_db.common.model.collection import Collection, Metric
from vector_db.common.model.errors import AlreadyExists, InvalidArgument, NotFound
from vector_db.common.model.filters import matches, parse_filter
from vector_db.common.model.limits import Limits
from vector_db.common.model.rows import F32
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


@dataclass
class StoredRow:
    vector: F32
    metadata: bytes
    version: int


@dataclass
class Table:
    entry: Collection
    rows: dict[bytes, StoredRow] = field(default_factory=dict)


class MemoryDatabase(MemoryCatalog):
    """Implements `DatabaseApi`; `calls` names what was called, in order."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.state = DomainState()
        self.tables: dict[str, Table] = {}
        self.calls: list[str] = []
        self.last_consistency = Consistency()
        self.failure: Exception | None = None
        self._clock = itertools.count(1)
        self._staging = False
        self.stable_ts = 0
        self.draining: set[str] = set()
        self.book = Book(self)
        self.history: dict[int, dict[str, Table]] = {}

    def tick(self) -> int:
        if self._staging:
            return 0
        if self.stable_ts:
            self.history[self.stable_ts] = self._tables_copied()
        self.stable_ts = next(self._clock)
        return self.stable_ts

    def now_ts(self) -> int:
        return self.stable_ts

    def contents(self) -> dict[str, dict[bytes, StoredRow]]:
        return {name: table.rows for name, table in self.tables.items()}

    def copy(self) -> Self:
        copy = type(self)(self.limits)
        copy.tables, copy.stable_ts, copy._staging = self._tables_copied(), self.stable_ts, True
        copy.state = self.state
        return copy

    def _tables_copied(self) -> dict[str, Table]:
        return {name: Table(t.entry, dict(t.rows)) for name, t in self.tables.items()}

    def _enter(self, call: str) -> None:
        self.calls.append(call)
        if self.failure is not None:
            raise self.failure

    def _table(self, name: str, consistency: Consistency | None = None) -> Table:
        tables = self.tables
        if consistency is not None:
            self.last_consistency = consistency
            tables = past(self.history, consistency, self.stable_ts) or tables
        name = self.real_name(name)
        if name not in tables:
            raise NotFound(f"collection {name!r} does not exist")
        return tables[name]

    async def create_collection(
        self,
        name: str,
        dimension: int,
        metric: str,
        shards: int = 0,
        if_absent: bool = False,
        **options: Any,
    ) -> Collection:
        self._enter("create_collection")
        entry, is_new = self.make(name, dimension, metric, shards, if_absent, **options)
        if is_new:
            self.tables[name] = Table(entry)
        return entry

    async def drop_collection(self, name: str) -> int:
        self._enter("drop_collection")
        self.forget(name)
        del self.tables[name]
        return self.tick()

    async def collections(self) -> list[Collection]:
        self._enter("collections")
        return [c for c in self.state.collections.values() if c.in_force]

    async def collection(self, name: str) -> Collection:
        self._enter("collection")
        return self.state.collections[self._table(name).entry.id]

    async def stats(self, name: str) -> CollectionStats:
        self._enter("stats")
        return CollectionStats(len(self._table(name).rows), 0, 0, 0, 0)

    async def write(
        self, operations: Sequence[Upsert | Delete], idempotency: Idempotency | None = None
    ) -> WriteResult:
        self._enter("write")
        if (replayed := self.book.replay(idempotency)) is not None:
            return replayed
        for operation in operations:
            table = self._table(operation.collection)
            check_versions(table.rows, operation)
            if isinstance(operation, Delete):
                continue
            validate_rows(operation.rows, table.entry, self.limits, "vectors")
            for row_id in operation.rows.ids:
                if operation.mode == "insert" and row_id in table.rows:
                    raise AlreadyExists(f"id {row_id.decode()!r} exists already")
                if operation.mode == "update" and row_id not in table.rows:
                    raise NotFound(f"id {row_id.decode()!r} does not exist")
        ts, count = self.tick(), 0
        for operation in operations:
            rows = self._table(operation.collection).rows
            if isinstance(operation, Delete):
                count += sum(rows.pop(row_id, None) is not None for row_id in operation.ids)
                continue
            given = operation.rows
            count += len(given.ids)
            for i, row_id in enumerate(given.ids):
                text = given.metadata[i] if given.metadata else b""
                rows[row_id] = StoredRow(given.vectors[i], text, ts)
        return self.book.remember(idempotency, WriteResult(count, ts))

    async def delete_where(
        self, collection: str, filter: dict[str, Any], idempotency: Idempotency | None = None
    ) -> WriteResult:
        self._enter("delete_where")
        ids = self._matching(collection, filter)
        return await self.write([Delete(collection, ids)], idempotency)

    def _matching(
        self,
        collection: str,
        filter: dict[str, Any] | None,
        consistency: Consistency | None = None,
    ) -> list[bytes]:
        rows = self._table(collection, consistency).rows
        if filter is None:
            return sorted(rows)
        tree = parse_filter(filter, self.limits)
        return sorted(
            row_id
            for row_id, row in rows.items()
            if matches(tree, orjson.loads(row.metadata) if row.metadata else None)
        )

    async def patch_metadata(
        self,
        collection: str,
        row_id: bytes,
        patch: dict[str, Any],
        if_version: int | None = None,
        idempotency: Idempotency | None = None,
    ) -> WriteResult:
        self._enter("patch_metadata")
        if (replayed := self.book.replay(idempotency)) is not None:
            return replayed
        rows = self._table(collection).rows
        if if_version is not None:
            check_version(rows.get(row_id), if_version, row_id)
        if row_id not in rows:
            raise NotFound(f"id {row_id.decode()!r} does not exist")
        row = rows[row_id]
        merged = {**(orjson.loads(row.metadata) if row.metadata else {}), **patch}
        merged = {key: value for key, value in merged.items() if value is not None}
        ts = self.tick()
        rows[row_id] = StoredRow(row.vector, orjson.dumps(merged), ts)
        return self.book.remember(idempotency, WriteResult(1, ts))

    async def query(self, query: Query) -> QueryResult:
        self._enter("query")
        table = self._table(query.collection, query.consistency)
        if query.vectors is None:
            if query.id not in table.rows:
                raise NotFound("the row to search by does not exist")
            vectors = table.rows[query.id].vector.reshape(1, -1)
        else:
            vectors = query.vectors
            validate_queries(vectors, table.entry, "vector" if len(vectors) == 1 else "vectors")
        matching = self._matching(query.collection, query.filter, query.consistency)
        ids = [i for i in matching if i != query.id]
        hits = [self._search(table, query, vector, ids) for vector in vectors]
        return QueryResult(hits, self.stable_ts, table.entry.metric.value)

    def _search(self, table: Table, query: Query, vector: F32, ids: list[bytes]) -> Hits:
        scored = sorted(
            (-_similarity(table.entry.metric, vector, table.rows[row_id].vector), row_id)
            for row_id in ids
        )
        best = [
            (row_id, -negative)
            for negative, row_id in scored
            if query.min_similarity is None or -negative >= query.min_similarity
        ][: query.k]
        rows = [table.rows[row_id] for row_id, _ in best]
        stacked = np.array([row.vector for row in rows], dtype=np.float32)
        return Hits(
            [row_id for row_id, _ in best],
            [similarity for _, similarity in best],
            [row.metadata for row in rows] if query.include_metadata else None,
            stacked.reshape(len(rows), -1) if query.include_vectors else None,
        )

    async def fetch(
        self,
        collection: str,
        ids: Sequence[bytes],
        consistency: Consistency,
        include_vectors: bool = True,
    ) -> Rows:
        self._enter("fetch")
        table = self._table(collection, consistency)
        return self._rows(table, [i for i in ids if i in table.rows], include_vectors)

    def _rows(self, table: Table, ids: list[bytes], include_vectors: bool) -> Rows:
        rows = [table.rows[row_id] for row_id in ids]
        stacked = np.array([row.vector for row in rows], dtype=np.float32)
        return Rows(
            ids,
            [row.version for row in rows],
            [row.metadata for row in rows],
            stacked.reshape(len(rows), table.entry.dimension) if include_vectors else None,
            self.stable_ts,
        )

    async def count(
        self, collection: str, filter: dict[str, Any] | None, consistency: Consistency
    ) -> tuple[int, int]:
        self._enter("count")
        return len(self._matching(collection, filter, consistency)), self.stable_ts

    async def scroll(
        self,
        collection: str,
        limit: int,
        filter: dict[str, Any] | None,
        cursor: str | None,
        consistency: Consistency,
        include_vectors: bool = True,
    ) -> Page:
        self._enter("scroll")
        try:
            after = bytes.fromhex(cursor) if cursor else b""
        except ValueError:
            raise InvalidArgument("cursor: not one of ours") from None
        ids = [i for i in self._matching(collection, filter, consistency) if i > after]
        rows = self._rows(self._table(collection, consistency), ids[:limit], include_vectors)
        return Page(rows, ids[limit - 1].hex() if len(ids) > limit else None)

    async def begin(self, isolation: Isolation, timeout_s: float | None = None) -> OpenTransaction:
        self._enter("begin")
        return self.book.begin(isolation, timeout_s)

    def resume(self, token: str) -> MemoryTransaction:
        self._enter("resume")
        return self.book.resume(token)

    async def transaction_status(self, txn_id: str) -> dict[str, Any]:
        self._enter("transaction_status")
        return {"state": "unknown"}

    async def cluster(self) -> dict[str, Any]:
        self._enter("cluster")
        return {
            "workers": [{"id": "w1", "draining": "w1" in self.draining}],
            "shards": {},
            "joining": {},
            "leaving": {},
            "draining": [],
            "replication_factor": 1,
            "stable_ts": self.stable_ts,
        }

    async def drain(self, worker: str, drain: bool) -> None:
        self._enter("drain")
        if worker != "w1":
            raise NotFound(f"shard worker {worker!r} is not known; known are w1")
        (self.draining.add if drain else self.draining.discard)(worker)


def _similarity(metric: Metric, a: F32, b: F32) -> float:
    x, y = a.astype(np.float64), b.astype(np.float64)
    match metric:
        case Metric.DOT:
            return float(x @ y)
        case Metric.EUCLIDEAN:
            return float(1.0 / (1.0 + np.linalg.norm(x - y)))
        case Metric.COSINE:
            return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))
