"""The writes of the asynchronous client: each call atomic, but for inserts of several batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vector_db_client import calls, wire
from vector_db_client.calls import DEFAULT_COLLECTION, Request
from vector_db_client.insert import Batches, insert_batches
from vector_db_client.progress import reporting
from vector_db_client.reads import AsyncReads
from vector_db_client.values import (
    Delete,
    Filter,
    IdempotencyKey,
    IfVersion,
    Metadata,
    Mode,
    Progress,
    RowBatch,
    Upsert,
    VectorLike,
    WriteResult,
)


class AsyncWrites(AsyncReads):
    """Reads, and writes of their own transaction each.

    `idempotency_key` makes a write count once however often it is sent: a text of the caller, or
    ``"auto"`` for a new one. The client then repeats every write whose connection broke, and the
    server answers what it answered first. Without a key it repeats those that change nothing when
    they are applied twice.
    """

    async def insert_vectors(
        self,
        ids: Sequence[str],
        vectors: VectorLike,
        metadata: Sequence[Mapping[str, Any] | None] | None = None,
        *,
        collection: str = DEFAULT_COLLECTION,
        mode: Mode = "upsert",
        if_version: IfVersion | None = None,
        batch_size: int = 1000,
        progress: Progress = False,
        idempotency_key: IdempotencyKey | None = None,
    ) -> WriteResult:
        """Write n rows: n ids, vectors [n, dimension] of any real dtype, n metadata objects.

        Everything is checked before anything is sent. More than `batch_size` rows (or 16 MiB of
        vectors) go as several batches, up to 8 in flight. Each batch is atomic, the whole is not;
        for one atomic write of any size use `transaction`.

        :param mode: ``"upsert"``; ``"insert"``: no id may exist; ``"update"``: every id must.
        :param if_version: the versions that the rows must still have, n of them or one for all.
        :param progress: True draws a bar; a function hears (rows done, rows in all).
        :param idempotency_key: of several batches each has its own, made of this one and its place.
        :raises InvalidArgument: shapes, values or ids do not fit, or an id comes twice.
        :raises AlreadyExists: mode ``"insert"`` and an id exists.
        :raises NotFound: no such collection, or mode ``"update"`` and an id is absent.
        :raises PreconditionFailed: a row has another version.
        :raises VectorDatabaseError: of the first batch that failed; its `committed` has the ranges
            of rows that are durable nevertheless.
        """
        batch = wire.checked(RowBatch(ids, vectors, metadata, if_version))
        with reporting(progress, "inserting", len(batch.ids)) as advance:
            return await self._insert(
                [batch], collection, mode, batch_size, advance, idempotency_key
            )

    async def insert_stream(
        self,
        batches: Batches,
        *,
        collection: str = DEFAULT_COLLECTION,
        mode: Mode = "upsert",
        batch_size: int = 1000,
        progress: Progress = False,
        rows_total: int | None = None,
        idempotency_key: IdempotencyKey | None = None,
    ) -> WriteResult:
        """`insert_vectors` for rows that need not fit into memory: at most 8 batches are held.

        The caller sees to it that no id comes twice in the stream: of two batches in flight,
        either may win. `rows_total` is for the bar only.
        """
        with reporting(progress, "inserting", rows_total) as advance:
            return await self._insert(
                batches, collection, mode, batch_size, advance, idempotency_key
            )

    async def _insert(
        self,
        batches: Batches,
        collection: str,
        mode: Mode,
        batch_size: int,
        advance: Callable[[int], None],
        key: IdempotencyKey | None,
    ) -> WriteResult:
        calls.check_insert(mode, batch_size)

        async def send(batch: RowBatch, start: int) -> WriteResult:
            return await self._write(calls.insert(batch, collection, mode), key, start)

        return await insert_batches(batches, batch_size, send, advance)

    async def update_metadata(
        self,
        id: str,
        metadata: Metadata,
        *,
        collection: str = DEFAULT_COLLECTION,
        if_version: int | None = None,
        idempotency_key: IdempotencyKey | None = None,
    ) -> WriteResult:
        """Merge `metadata` into a row's; a None removes its key (RFC 7396). The vector stays.

        :raises NotFound: no such collection or row.
        :raises PreconditionFailed: the row has another version than `if_version`.
        """
        request = calls.patch(id, metadata, collection, if_version)
        return await self._write(request, idempotency_key)

    async def delete(
        self,
        ids: Sequence[str] | None = None,
        *,
        filter: Filter | None = None,
        collection: str = DEFAULT_COLLECTION,
        if_version: IfVersion | None = None,
        idempotency_key: IdempotencyKey | None = None,
    ) -> WriteResult:
        """Delete rows by id, or all that match a filter, in one transaction.

        The count has the rows found alive; when a broken connection made the client repeat the
        call, rows that the first try deleted are not counted, unless it has an `idempotency_key`.

        :param if_version: with `ids`: the versions that the rows must still have.
        :raises InvalidArgument: not exactly one of `ids` and `filter`.
        :raises PreconditionFailed: a row has another version, or is gone.
        """
        request = calls.delete(ids, filter, collection, if_version)
        return await self._write(request, idempotency_key)

    async def commit(
        self,
        operations: Sequence[Upsert | Delete],
        *,
        idempotency_key: IdempotencyKey | None = None,
    ) -> WriteResult:
        """One atomic write over any collections: all of it at one commit timestamp, or nothing.

        :raises InvalidArgument: the operations do not fit together, or not their collections.
        :raises NotFound: no such collection.
        """
        return await self._write(calls.commit(operations), idempotency_key)

    async def _write(
        self, request: Request, key: IdempotencyKey | None, part: int = 0
    ) -> WriteResult:
        keyed = calls.with_key(request, key, part)
        return calls.write_result(await self._transport.send(keyed))
