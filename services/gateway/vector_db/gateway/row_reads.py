"""Query, fetch, count and scroll at a snapshot: what reads on their own and reads of an open
transaction share.

Owns the invariant that both read in the same way: they differ in the snapshot, in the overlay and
in what is noted of a read, each a hook here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import orjson

from vector_db.common.core.messages.reads import Overlay, RowsReply
from vector_db.common.model.collection import Collection
from vector_db.common.model.errors import InvalidArgument, NotFound, PreconditionFailed
from vector_db.common.model.limits import Limits
from vector_db.common.model.rows import F32
from vector_db.gateway.cluster import ClusterView
from vector_db.gateway.coalesce import Shape
from vector_db.gateway.core.cursor import (
    Cursor,
    decode_cursor,
    encode_cursor,
    filter_hash,
    parse_cursor,
)
from vector_db.gateway.core.distance import least_similarity
from vector_db.gateway.core.hits import first, without
from vector_db.gateway.core.patch import patched_metadata
from vector_db.gateway.core.query_cursor import (
    CURSOR_VERSION,
    QueryCursor,
    check_query,
    decode_query_cursor,
    query_hash,
)
from vector_db.gateway.core.requests import (
    Consistency,
    Page,
    Query,
    QueryResult,
    Rows,
    RowsIn,
    Upsert,
)
from vector_db.gateway.core.rows import validate_queries
from vector_db.gateway.explaining import Notes
from vector_db.gateway.reads import Reader


class SnapshotReads:
    """Reads of rows; a subclass says at which snapshot."""

    def __init__(self, view: ClusterView, reader: Reader, limits: Limits, walk_rows: int) -> None:
        """`walk_rows`: rows that are read at a time when many are read."""
        self._view = view
        self._reader = reader
        self._limits = limits
        self._walk_rows = walk_rows

    # --- what differs -----------------------------------------------------------------------------

    async def _snapshot(self, collection: Collection, consistency: Consistency) -> int:
        """The snapshot of a read of `collection`."""
        raise NotImplementedError

    async def _cursor_snapshot(self, snapshot_ts: int, where: str = "cursor") -> None:
        """Refuse the snapshot of a cursor that cannot have been given out; `where` is named."""
        raise NotImplementedError

    def _overlay(self) -> Overlay | None:
        """What the reads see above their snapshot."""
        return None

    def _overlay_then(self, chunks: dict[int, int]) -> Overlay | None:
        """What the reads saw when this had been staged, as a query's cursor says."""
        return None

    def _note_read(self, collection: Collection, keys: Iterable[bytes] | None) -> None:
        """These keys were read, or (None) anything of the collection."""

    def _txn_id(self) -> bytes:
        """The transaction that cursors belong to."""
        return b""

    # --- names ------------------------------------------------------------------------------------

    async def _found(self, name: str, consistency: Consistency) -> tuple[Collection, int]:
        """The collection of a read, and its snapshot."""
        collection = await self._view.collection(name)
        return collection, await self._snapshot(collection, consistency)

    async def _begun_in(self, name: str, cursor: str) -> Collection:
        """The collection of a scroll, which stays the same when its alias is switched.

        :raises NotFound: it was dropped.
        """
        begun = parse_cursor(cursor)
        if not begun.alias or begun.alias != name:
            return await self._view.collection(name)
        found = await self._view.of_origin(begun.collection_id)
        if found is None:
            raise NotFound("the collection that the scroll began in was dropped")
        return found

    def _chunks_of(self, overlay: Overlay, collection: Collection, ts: int) -> dict[int, int]:
        """What of the overlay concerns the collection as reads of this snapshot see it."""
        chunks, shards = overlay.chunks, self._view.entries.at(collection, ts).shards
        return {shard: chunks[shard] for shard in shards if shard in chunks}

    # --- reads ------------------------------------------------------------------------------------

    async def query(self, query: Query) -> QueryResult:
        """See `RowsApi.query`."""
        collection = await self._view.collection(query.collection)
        text = b"" if query.filter is None else orjson.dumps(query.filter)
        notes = Notes() if query.explain else None
        after: QueryCursor | None = None
        if query.after is None:
            snapshot_ts = await self._snapshot(collection, query.consistency)
            overlay = self._overlay()
        else:
            after = decode_query_cursor(
                query.after, collection.origin, text, self._txn_id(), query.k
            )
            snapshot_ts = after.snapshot_ts
            await self._cursor_snapshot(snapshot_ts, "after")
            overlay = self._overlay_then(after.chunks)
        if notes is not None:
            notes.snapshot_known()
        vectors = await self._query_vectors(query, collection, snapshot_ts, overlay)
        if after is not None:
            check_query(after, query_hash(vectors, query.id))
        paged = query.paged
        # The row that is searched by is left out, and one hit more tells whether any follow.
        k = query.k + (query.id is not None) + paged
        shape = _shape(query, collection, snapshot_ts, k, text, after)
        hits = await self._reader.search(collection, shape, vectors, overlay, notes)
        self._note_read(collection, None)
        cursor = None
        if k != query.k:
            found = hits[0] if query.id is None else without(hits[0], query.id)
            hits = [first(found, query.k)]
            if paged and len(found.ids) > query.k:
                cursor = QueryCursor(
                    CURSOR_VERSION,
                    collection.origin,
                    snapshot_ts,
                    similarity=hits[0].similarities[-1],
                    row_id=hits[0].ids[-1],
                    skip=shape.skip + query.k,
                    query_hash=query_hash(vectors, query.id),
                    filter_hash=filter_hash(text),
                    txn_id=self._txn_id(),
                    chunks={}
                    if overlay is None
                    else self._chunks_of(overlay, collection, snapshot_ts),
                ).encode()
        told = None if notes is None else notes.plain()
        return QueryResult(hits, snapshot_ts, collection.metric, paged, cursor, told)

    async def _query_vectors(
        self, query: Query, collection: Collection, snapshot_ts: int, overlay: Overlay | None
    ) -> F32:
        """What to search for: as given, or the vector of a row.

        :raises NotFound: there is no such row.
        """
        if query.id is None:
            if query.vectors is None:
                raise InvalidArgument("one of vector, vectors and id is needed")
            where = "vector" if len(query.vectors) == 1 else "vectors"
            validate_queries(query.vectors, collection, where)
            return query.vectors
        rows = await self._reader.fetch(collection, [query.id], snapshot_ts, True, overlay)
        if not len(rows.ids):
            self._note_read(collection, [query.id])
            raise NotFound(f"id {query.id.decode()!r} does not exist in {collection.name!r}")
        return np.frombuffer(rows.vectors, dtype="<f4").reshape(1, -1)

    async def fetch(
        self,
        collection: str,
        ids: Sequence[bytes],
        consistency: Consistency,
        include_vectors: bool = True,
    ) -> Rows:
        """See `RowsApi.fetch`."""
        found, snapshot_ts = await self._found(collection, consistency)
        distinct = list(dict.fromkeys(ids))
        rows = await self._fetch_at(found, distinct, snapshot_ts, include_vectors)
        self._note_read(found, distinct)
        return rows

    async def count(
        self, collection: str, filter: dict[str, Any] | None, consistency: Consistency
    ) -> tuple[int, int]:
        """See `RowsApi.count`."""
        found, snapshot_ts = await self._found(collection, consistency)
        text = b"" if filter is None else orjson.dumps(filter)
        count = await self._reader.count(found, snapshot_ts, text, self._overlay())
        self._note_read(found, None)
        return count, snapshot_ts

    async def scroll(
        self,
        collection: str,
        limit: int,
        filter: dict[str, Any] | None,
        cursor: str | None,
        consistency: Consistency,
        include_vectors: bool = True,
    ) -> Page:
        """See `RowsApi.scroll`."""
        text = b"" if filter is None else orjson.dumps(filter)
        after = b""
        if cursor is None:
            found, snapshot_ts = await self._found(collection, consistency)
        else:
            found = await self._begun_in(collection, cursor)
            position = decode_cursor(cursor, found.origin, text, self._txn_id())
            snapshot_ts, after = position.snapshot_ts, position.after
            await self._cursor_snapshot(snapshot_ts)
        # One more than asked tells whether this page is the last.
        reply = await self._reader.scroll(
            found, snapshot_ts, limit + 1, after, text, include_vectors, self._overlay()
        )
        self._note_read(found, None)
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
        alias = "" if collection == found.name else collection
        position = Cursor(
            1, found.origin, snapshot_ts, kept.ids[-1], filter_hash(text), self._txn_id(), alias
        )
        return Page(kept, encode_cursor(position))

    # --- what writes read first -------------------------------------------------------------------

    async def _fetch_at(
        self,
        collection: Collection,
        ids: Sequence[bytes],
        snapshot_ts: int,
        include_vectors: bool,
    ) -> Rows:
        """Rows of distinct ids, in their order; absent ones are left out."""
        reply = await self._reader.fetch(
            collection, ids, snapshot_ts, include_vectors, self._overlay()
        )
        return _rows(reply, snapshot_ts, collection.dimension, include_vectors)

    async def _versions_at(
        self, collection: Collection, ids: Sequence[bytes], snapshot_ts: int
    ) -> dict[bytes, int]:
        """The version of each of distinct ids that exists; staged rows have version 0."""
        versions: dict[bytes, int] = {}
        for start in range(0, len(ids), self._walk_rows):
            some = ids[start : start + self._walk_rows]
            rows = await self._fetch_at(collection, some, snapshot_ts, False)
            versions.update(zip(rows.ids, rows.versions, strict=True))
        return versions

    async def _matching_at(
        self, collection: Collection, filter: dict[str, Any], snapshot_ts: int
    ) -> list[bytes]:
        """The ids of all rows that the filter matches."""
        text = orjson.dumps(filter)
        ids: list[bytes] = []
        while True:
            after = ids[-1] if ids else b""
            rows = await self._reader.scroll(
                collection, snapshot_ts, self._walk_rows, after, text, False, self._overlay()
            )
            got = rows.ids.unpack()
            ids.extend(got)
            if len(got) < self._walk_rows:
                return ids

    async def _patched_at(
        self,
        collection: Collection,
        row_id: bytes,
        patch: dict[str, Any],
        if_version: int | None,
        snapshot_ts: int,
    ) -> tuple[Upsert, int]:
        """The row with `patch` merged into its metadata, and the version that it was read in.

        :raises NotFound: there is no such row.
        :raises PreconditionFailed: it has another version than `if_version`.
        """
        rows = await self._fetch_at(collection, [row_id], snapshot_ts, True)
        if not rows.ids or rows.vectors is None:
            raise NotFound(f"id {row_id.decode()!r} does not exist in {collection.name!r}")
        version = rows.versions[0]
        if if_version is not None and version != if_version:
            raise PreconditionFailed(f"id {row_id.decode()!r} has version {version}")
        text = patched_metadata(rows.metadata[0], patch, self._limits)
        return Upsert(collection.name, RowsIn([row_id], rows.vectors, [text])), version


def _shape(
    query: Query,
    collection: Collection,
    snapshot_ts: int,
    k: int,
    filter: bytes,
    after: QueryCursor | None,
) -> Shape:
    """What is asked of the shard workers, but for the vectors."""
    least = query.min_similarity
    if query.radius is not None:
        least = least_similarity(collection.metric, query.radius)
    return Shape(
        collection.id,
        (),
        snapshot_ts,
        k,
        filter,
        least,
        query.include_metadata,
        query.include_vectors,
        query.effort,
        None if after is None else after.place,
        0 if after is None else after.skip,
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
