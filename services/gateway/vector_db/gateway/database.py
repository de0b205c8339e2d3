"""The database behind both edges: `DatabaseApi` over the cluster view, transactions and reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from vector_db.common.core.messages import (
    CreateCollectionRequest,
    DropCollectionRequest,
    RowsReply,
)
from vector_db.common.model.collection import Collection
from vector_db.common.model.errors import (
    Conflict,
    InvalidArgument,
    NotFound,
    PreconditionFailed,
)
from vector_db.common.model.limits import Limits
from vector_db.common.model.rows import RowBlock
from vector_db.gateway.cluster import ClusterView
from vector_db.gateway.coalesce import Shape
from vector_db.gateway.core.cursor import Cursor, decode_cursor, encode_cursor, filter_hash
from vector_db.gateway.core.partition import ShardPart, block_of, partition
from vector_db.gateway.core.requests import (
    CollectionStats,
    Consistency,
    Delete,
    Hits,
    Page,
    Query,
    QueryResult,
    Rows,
    RowsIn,
    Upsert,
    WriteResult,
)
from vector_db.gateway.core.rows import (
    check_distinct,
    check_metadata_size,
    validate_queries,
    validate_rows,
)
from vector_db.gateway.reads import Reader
from vector_db.gateway.transactions import Transactions

PATCH_RETRIES_MAX = 8


class Database:
    """One gateway's `DatabaseApi`."""

    def __init__(
        self,
        view: ClusterView,
        transactions: Transactions,
        reader: Reader,
        limits: Limits,
        walk_rows: int,
    ) -> None:
        """`walk_rows`: rows that are read at a time when a whole collection is walked."""
        self._view = view
        self._transactions = transactions
        self._reader = reader
        self._limits = limits
        self._walk_rows = walk_rows

    # --- collections ------------------------------------------------------------------------------

    async def create_collection(
        self, name: str, dimension: int, metric: str, shards: int = 0, if_absent: bool = False
    ) -> Collection:
        if not 1 <= dimension <= self._limits.dimension_max:
            raise InvalidArgument(
                f"dimension: {dimension}, the limits are 1 and dimension_max = "
                f"{self._limits.dimension_max}"
            )
        request = CreateCollectionRequest(name, dimension, metric, shards, if_absent)
        self._view.take_catalog(await self._view.ask(request))
        return await self._view.collection(name)

    async def drop_collection(self, name: str) -> int:
        self._view.take_catalog(await self._view.ask(DropCollectionRequest(name)))
        return self._view.catalog_ts

    async def collections(self) -> list[Collection]:
        await self._view.refresh()
        return self._view.collections()

    async def collection(self, name: str) -> Collection:
        return await self._view.collection(name)

    async def stats(self, name: str) -> CollectionStats:
        reply = await self._reader.stats(await self._view.collection(name))
        return CollectionStats(
            rows=reply.rows,
            rows_indexed=reply.rows_indexed,
            segments=reply.segments,
            bytes_memory=reply.bytes_memory,
            bytes_disk=reply.bytes_disk,
        )

    # --- writes -----------------------------------------------------------------------------------

    async def write(self, operations: Sequence[Upsert | Delete]) -> WriteResult:
        blocks: list[tuple[RowBlock, Collection]] = []
        seen: dict[str, list[bytes]] = {}
        written = 0
        for i, operation in enumerate(operations):
            collection = await self._view.collection(operation.collection)
            where = "vectors" if len(operations) == 1 else f"operations[{i}]"
            if isinstance(operation, Upsert):
                validate_rows(operation.rows, collection, self._limits, where)
                ids = operation.rows.ids
                written += len(ids)
            else:
                ids = operation.ids
                check_distinct(ids, where)
            if operation.collection in seen:
                check_distinct(seen[operation.collection] + ids, f"{where} and those before it")
            seen.setdefault(operation.collection, []).extend(ids)
            if ids:
                blocks.append((block_of(operation, collection), collection))
        if not blocks:
            return WriteResult(0, self._view.stable_ts)
        return await self._commit(blocks, written)

    async def _commit(
        self,
        blocks: Sequence[tuple[RowBlock, Collection]],
        written: int,
        snapshot_ts: int = 0,
    ) -> WriteResult:
        checked = snapshot_ts or any(b.delete or b.precondition != "none" for b, _ in blocks)
        parts = partition(blocks)

        def attempt() -> dict[int, ShardPart]:
            return parts

        mode = "snapshot" if checked else "blind"
        done = await self._transactions.commit(attempt, mode, snapshot_ts)
        return WriteResult(written + done.deleted, done.commit_ts)

    async def delete_where(self, collection: str, filter: dict[str, Any]) -> WriteResult:
        found = await self._view.collection(collection)
        text = orjson.dumps(filter)
        for retry in range(PATCH_RETRIES_MAX + 1):
            snapshot_ts = await self._snapshot(found, Consistency())
            ids: list[bytes] = []
            page = self._walk_rows
            while True:
                after = ids[-1] if ids else b""
                rows = await self._reader.scroll(found, snapshot_ts, page, after, text, False)
                got = rows.ids.unpack()
                ids.extend(got)
                if len(got) < page:
                    break
            if not ids:
                return WriteResult(0, snapshot_ts)
            block = block_of(Delete(collection, ids), found)
            try:
                return await self._commit([(block, found)], 0, snapshot_ts)
            except Conflict:
                if retry == PATCH_RETRIES_MAX:
                    raise
        raise Conflict("lost against other transactions")

    async def patch_metadata(
        self, collection: str, row_id: bytes, patch: dict[str, Any]
    ) -> WriteResult:
        found = await self._view.collection(collection)
        for retry in range(PATCH_RETRIES_MAX + 1):
            rows = await self.fetch(collection, [row_id], Consistency())
            if not rows.ids or rows.vectors is None:
                raise NotFound(f"id {row_id.decode()!r} does not exist in {collection!r}")
            before = orjson.loads(rows.metadata[0]) if rows.metadata[0] else {}
            text = orjson.dumps(_merge_patch(before, patch))
            check_metadata_size([text], self._limits, "metadata")
            version = np.array(rows.versions, dtype=np.int64)
            upsert = Upsert(collection, RowsIn([row_id], rows.vectors, [text]), if_version=version)
            try:
                return await self._commit([(block_of(upsert, found), found)], 1)
            except PreconditionFailed:
                # Somebody wrote the row since it was read: merge into what is there now.
                if retry == PATCH_RETRIES_MAX:
                    raise Conflict("the row changes too fast") from None
        raise Conflict("the row changes too fast")

    # --- reads ------------------------------------------------------------------------------------

    async def _snapshot(self, collection: Collection, consistency: Consistency) -> int:
        """A snapshot that knows the collection."""
        if collection.id > self._view.stable_ts:
            await self._view.wait_stable(collection.id)
        return await self._view.snapshot(consistency)

    async def query(self, query: Query) -> QueryResult:
        collection = await self._view.collection(query.collection)
        snapshot_ts = await self._snapshot(collection, query.consistency)
        vectors = query.vectors
        k = query.k
        if query.id is not None:
            rows = await self._reader.fetch(collection, [query.id], snapshot_ts, True)
            if not len(rows.ids):
                raise NotFound(f"id {query.id.decode()!r} does not exist in {collection.name!r}")
            vectors = np.frombuffer(rows.vectors, dtype="<f4").reshape(1, -1)
            k += 1
        elif vectors is None:
            raise InvalidArgument("one of vector, vectors and id is needed")
        else:
            validate_queries(vectors, collection, "vector" if len(vectors) == 1 else "vectors")
        shape = Shape(
            collection_id=collection.id,
            shards=(),
            snapshot_ts=snapshot_ts,
            k=k,
            filter=b"" if query.filter is None else orjson.dumps(query.filter),
            min_similarity=query.min_similarity,
            include_metadata=query.include_metadata,
            include_vectors=query.include_vectors,
        )
        hits = await self._reader.search(collection, shape, vectors)
        if query.id is not None:
            hits = [_without(hits[0], query.id, query.k)]
        return QueryResult(hits, snapshot_ts, collection.metric)

    async def fetch(
        self,
        collection: str,
        ids: Sequence[bytes],
        consistency: Consistency,
        include_vectors: bool = True,
    ) -> Rows:
        found = await self._view.collection(collection)
        snapshot_ts = await self._snapshot(found, consistency)
        distinct = list(dict.fromkeys(ids))
        reply = await self._reader.fetch(found, distinct, snapshot_ts, include_vectors)
        return _rows(reply, snapshot_ts, found.dimension, include_vectors)

    async def count(
        self, collection: str, filter: dict[str, Any] | None, consistency: Consistency
    ) -> tuple[int, int]:
        found = await self._view.collection(collection)
        snapshot_ts = await self._snapshot(found, consistency)
        text = b"" if filter is None else orjson.dumps(filter)
        return await self._reader.count(found, snapshot_ts, text), snapshot_ts

    async def scroll(
        self,
        collection: str,
        limit: int,
        filter: dict[str, Any] | None,
        cursor: str | None,
        consistency: Consistency,
        include_vectors: bool = True,
    ) -> Page:
        found = await self._view.collection(collection)
        text = b"" if filter is None else orjson.dumps(filter)
        after = b""
        if cursor is None:
            snapshot_ts = await self._snapshot(found, consistency)
        else:
            position = decode_cursor(cursor, found.id, text)
            snapshot_ts, after = position.snapshot_ts, position.after
        # One more than asked tells whether this page is the last.
        reply = await self._reader.scroll(
            found, snapshot_ts, limit + 1, after, text, include_vectors
        )
        rows = _rows(reply, snapshot_ts, found.dimension, include_vectors)
        if len(rows.ids) <= limit:
            return Page(rows, None)
        kept = Rows(
            rows.ids[:limit],
            rows.versions[:limit],
            rows.metadata[:limit],
            None if rows.vectors is None else rows.vectors[:limit],
            snapshot_ts,
        )
        position = Cursor(1, found.id, snapshot_ts, kept.ids[-1], filter_hash(text))
        return Page(kept, encode_cursor(position))

    # --- status -----------------------------------------------------------------------------------

    async def transaction_status(self, txn_id: str) -> dict[str, Any]:
        try:
            raw = bytes.fromhex(txn_id)
        except ValueError:
            raise InvalidArgument("transaction: not a transaction id") from None
        if len(raw) != 16:
            raise InvalidArgument("transaction: not a transaction id")
        status = await self._transactions.status(raw, self._view.term, ())
        answer: dict[str, Any] = {"state": status.state}
        if status.commit_ts:
            answer["commit_ts"] = status.commit_ts
        if status.reason:
            answer["reason"] = status.reason
        return answer

    async def cluster(self) -> dict[str, Any]:
        await self._view.refresh()
        view = self._view
        reply = view.reply
        return {
            "term": view.term,
            "stable_ts": view.stable_ts,
            "catalog_ts": view.catalog_ts,
            "shards": {str(s): list(w) for s, w in sorted(view.replicas.items())},
            "workers": [
                {
                    "id": member.worker,
                    "zone": member.zone,
                    "ready": member.ready,
                    "cursor": member.cursor,
                    "shards": list(member.shards),
                }
                for member in (reply.workers if reply else ())
            ],
        }


def _merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7396, JSON Merge Patch: null removes, objects merge, anything else replaces."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merge_patch(merged.get(key), value)
    return merged


def _without(hits: Hits, row_id: bytes, k: int) -> Hits:
    """The first `k` hits but the row itself."""
    keep = [i for i, hit in enumerate(hits.ids) if hit != row_id][:k]
    return Hits(
        [hits.ids[i] for i in keep],
        [hits.similarities[i] for i in keep],
        None if hits.metadata is None else [hits.metadata[i] for i in keep],
        None if hits.vectors is None else hits.vectors[keep],
    )


def _rows(reply: RowsReply, snapshot_ts: int, dimension: int, with_vectors: bool) -> Rows:
    vectors = None
    if with_vectors:
        vectors = np.frombuffer(reply.vectors, dtype="<f4").reshape(-1, dimension)
    return Rows(
        reply.ids.unpack(),
        np.frombuffer(reply.versions, dtype="<i8").tolist(),
        reply.metadata.unpack(),
        vectors,
        snapshot_ts,
    )
