"""A small database in memory, behind the real edge in these tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from vector_db.common.model.collection import Collection, Metric
from vector_db.common.model.errors import AlreadyExists, NotFound
from vector_db.common.model.filters import matches, parse_filter
from vector_db.common.model.limits import Limits
from vector_db.gateway.core.requests import (
    CollectionStats,
    Consistency,
    Delete,
    Hits,
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
class MemoryDatabase:
    """A `DatabaseApi` over dicts with exact search. `failure` is raised by the next call."""

    tables: dict[str, dict[bytes, Stored]] = field(default_factory=dict)
    catalog: dict[str, Collection] = field(default_factory=dict)
    ts: int = 0
    failure: Exception | None = None
    consistencies: list[Consistency] = field(default_factory=list)
    scroll_limits: list[int] = field(default_factory=list)

    def _table(self, name: str) -> dict[bytes, Stored]:
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        if name not in self.catalog:
            raise NotFound(f"no collection {name!r}")
        return self.tables[name]

    async def create_collection(
        self, name: str, dimension: int, metric: str, shards: int = 0, if_absent: bool = False
    ) -> Collection:
        if name in self.catalog:
            if if_absent:
                return self.catalog[name]
            raise AlreadyExists(f"collection {name!r} exists")
        self.ts += 1
        made = Collection(self.ts, name, dimension, Metric(metric), tuple(range(shards or 1)))
        self.catalog[name] = made
        self.tables[name] = {}
        return made

    async def drop_collection(self, name: str) -> int:
        self._table(name)
        del self.catalog[name], self.tables[name]
        self.ts += 1
        return self.ts

    async def collections(self) -> list[Collection]:
        return list(self.catalog.values())

    async def collection(self, name: str) -> Collection:
        self._table(name)
        return self.catalog[name]

    async def stats(self, name: str) -> CollectionStats:
        return CollectionStats(len(self._table(name)), 3, 1, 1_000, 2_000)

    async def write(self, operations: Sequence[Upsert | Delete]) -> WriteResult:
        for operation in operations:
            table = self._table(operation.collection)
            if isinstance(operation, Upsert):
                where = "vectors"
                validate_rows(operation.rows, self.catalog[operation.collection], LIMITS, where)
                for row_id in operation.rows.ids:
                    if operation.mode == "insert" and row_id in table:
                        raise AlreadyExists(f"id {row_id.decode()!r} exists")
                    if operation.mode == "update" and row_id not in table:
                        raise NotFound(f"id {row_id.decode()!r} does not exist")
        self.ts += 1
        return WriteResult(sum(self._apply(operation) for operation in operations), self.ts)

    def _apply(self, operation: Upsert | Delete) -> int:
        table = self.tables[operation.collection]
        if isinstance(operation, Delete):
            return sum(table.pop(row_id, None) is not None for row_id in operation.ids)
        rows = operation.rows
        for i, row_id in enumerate(rows.ids):
            metadata = rows.metadata[i] if rows.metadata is not None else b""
            table[row_id] = Stored(rows.vectors[i], metadata, self.ts)
        return len(rows.ids)

    async def delete_where(self, collection: str, filter: dict[str, Any]) -> WriteResult:
        ids = [row_id for row_id, _ in self._matching(collection, filter)]
        return await self.write([Delete(collection, ids)])

    async def patch_metadata(
        self, collection: str, row_id: bytes, patch: dict[str, Any]
    ) -> WriteResult:
        row = self._table(collection).get(row_id)
        if row is None:
            raise NotFound(f"id {row_id.decode()!r} does not exist")
        merged = {**orjson.loads(row.metadata or b"{}"), **patch}
        self.ts += 1
        row.metadata = orjson.dumps({k: v for k, v in merged.items() if v is not None})
        return WriteResult(1, self.ts)

    def _matching(
        self, collection: str, filter: dict[str, Any] | None
    ) -> list[tuple[bytes, Stored]]:
        parsed = None if filter is None else parse_filter(filter, LIMITS)
        return [
            (row_id, row)
            for row_id, row in sorted(self._table(collection).items())
            if parsed is None or matches(parsed, orjson.loads(row.metadata or b"{}"))
        ]

    async def query(self, query: Query) -> QueryResult:
        self.consistencies.append(query.consistency)
        table = self._table(query.collection)
        if query.id is not None:
            vectors = np.stack([table[query.id].vector])
        else:
            assert query.vectors is not None
            vectors = query.vectors
            validate_queries(vectors, self.catalog[query.collection], "vectors")
        rows = [r for r in self._matching(query.collection, query.filter) if r[0] != query.id]
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
        return QueryResult(hits, self.ts, self.catalog[query.collection].metric)

    async def fetch(
        self,
        collection: str,
        ids: Sequence[bytes],
        consistency: Consistency,
        include_vectors: bool = True,
    ) -> Rows:
        self.consistencies.append(consistency)
        table = self._table(collection)
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
        return len(self._matching(collection, filter)), self.ts

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
        rows = self._matching(collection, filter)
        after = (cursor or "").encode()
        rows = [r for r in rows if r[0] > after]
        more = len(rows) > limit
        page = rows[:limit]
        return Page(self._rows(page, include_vectors), page[-1][0].decode() if more else None)

    async def transaction_status(self, txn_id: str) -> dict[str, Any]:
        return {"state": "aborted", "reason": f"conflict of {txn_id}"}

    async def cluster(self) -> dict[str, Any]:
        return {}
