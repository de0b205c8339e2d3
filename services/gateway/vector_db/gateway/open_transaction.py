"""One open transaction, for the length of one request: `TransactionApi` over its token.

Owns the invariants that nothing of it is kept here between requests, that a statement is judged
against what its reads would show (its snapshot under its own rows) before anything of it is sent,
and that the token moves on only when the statement is staged whole.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

from vector_db.common.core.messages.reads import Overlay
from vector_db.common.model.collection import Collection
from vector_db.common.model.errors import (
    Aborted,
    AlreadyExists,
    Conflict,
    InvalidArgument,
    NotFound,
    PreconditionFailed,
    TransactionExpired,
    Unavailable,
)
from vector_db.common.model.limits import Limits
from vector_db.gateway.cluster import ClusterView
from vector_db.gateway.core.operations import (
    Operations,
    ids_of,
    judged,
    looks_first,
    unconditional,
)
from vector_db.gateway.core.partition import block_of
from vector_db.gateway.core.requests import (
    Consistency,
    Delete,
    Idempotency,
    Page,
    Query,
    QueryResult,
    Rows,
    Upsert,
    WriteResult,
)
from vector_db.gateway.core.token import StagedAt, Token, encode_token
from vector_db.gateway.idempotency import IdempotentWrites
from vector_db.gateway.reads import Reader
from vector_db.gateway.row_reads import SnapshotReads
from vector_db.gateway.settlement import Settlement, expired_error
from vector_db.gateway.staging import Stager

TERM_TIMEOUT_S = 1.0
_DEFAULT = Consistency()
_ENDED = (Aborted, Conflict, TransactionExpired, Unavailable)
"""What shards and staging say when the transaction may have ended meanwhile."""


class ResumedTransaction(SnapshotReads):
    """What `DatabaseApi.resume` gives.

    A cursor goes on in its transaction only. Each page of a scroll shows the rows as the
    transaction sees them then: rows written between two pages are in the later one if they lie
    behind its beginning. The pages of a query show all what it saw at the first.
    """

    def __init__(
        self,
        token: Token,
        key: bytes,
        view: ClusterView,
        reader: Reader,
        stager: Stager,
        settlement: Settlement,
        idempotent: IdempotentWrites,
        limits: Limits,
        walk_rows: int,
    ) -> None:
        """`key` signs the tokens."""
        super().__init__(view, reader, limits, walk_rows)
        self._token = token
        self._key = key
        self._stager = stager
        self._settlement = settlement
        self._idempotent = idempotent

    @property
    def txn_id(self) -> str:
        """The id of the transaction, in hex."""
        return self._token.txn_id.hex()

    @property
    def token(self) -> str:
        """The token as of now."""
        return encode_token(self._token, self._key)

    # --- reads ------------------------------------------------------------------------------------

    async def query(self, query: Query) -> QueryResult:
        """See `RowsApi.query`."""
        async with self._call():
            return await super().query(query)

    async def fetch(
        self,
        collection: str,
        ids: Sequence[bytes],
        consistency: Consistency,
        include_vectors: bool = True,
    ) -> Rows:
        """See `RowsApi.fetch`; rows that were staged have version 0."""
        async with self._call():
            return await super().fetch(collection, ids, consistency, include_vectors)

    async def count(
        self, collection: str, filter: dict[str, Any] | None, consistency: Consistency
    ) -> tuple[int, int]:
        """See `RowsApi.count`."""
        async with self._call():
            return await super().count(collection, filter, consistency)

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
        async with self._call():
            return await super().scroll(
                collection, limit, filter, cursor, consistency, include_vectors
            )

    async def _snapshot(self, collection: Collection, consistency: Consistency) -> int:
        if consistency != _DEFAULT:
            raise InvalidArgument(
                "consistency: reads of a transaction are of its snapshot, no other can be asked"
            )
        return self._known_then(collection)

    async def _cursor_snapshot(self, snapshot_ts: int, where: str = "cursor") -> None:
        if snapshot_ts != self._token.snapshot_ts:
            raise InvalidArgument(f"{where}: not of this transaction's snapshot")

    def _overlay(self) -> Overlay | None:
        token = self._token
        if not token.staged:
            return None
        chunks = {shard: at.chunks for shard, at in token.staged.items()}
        return Overlay(token.txn_id, token.term, chunks)

    def _overlay_then(self, chunks: dict[int, int]) -> Overlay | None:
        token = self._token
        for shard, count in chunks.items():
            if shard not in token.staged or not 0 < count <= token.staged[shard].chunks:
                raise InvalidArgument("after: of a later statement of the transaction")
        return Overlay(token.txn_id, token.term, chunks) if chunks else None

    def _note_read(self, collection: Collection, keys: Iterable[bytes] | None) -> None:
        # Of a later generation the transaction saw nothing.
        then = self._view.entries.at(collection, self._token.snapshot_ts)
        self._token = self._token.with_read(then.id, keys)

    def _txn_id(self) -> bytes:
        return self._token.txn_id

    # --- statements -------------------------------------------------------------------------------

    async def write(
        self, operations: Sequence[Upsert | Delete], idempotency: Idempotency | None = None
    ) -> WriteResult:
        """See `RowsApi.write`: staged, and judged at once."""
        _refuse_key(idempotency)
        async with self._call():
            given = Operations(self._limits, len(operations))
            found = await self._view.named(o.collection for o in operations)
            for i, operation in enumerate(operations):
                given.add(operation, found[operation.collection], i)
            count = 0
            for operation, collection in given.checked:
                snapshot_ts = self._known_then(collection)
                versions: dict[bytes, int] = {}
                if looks_first(operation):
                    ids = ids_of(operation)
                    versions = await self._versions_at(collection, ids, snapshot_ts)
                count += judged(operation, versions)
            return await self._stage(given.checked, count)

    async def delete_where(
        self, collection: str, filter: dict[str, Any], idempotency: Idempotency | None = None
    ) -> WriteResult:
        """See `RowsApi.delete_where`: of the rows as the transaction sees them."""
        _refuse_key(idempotency)
        async with self._call():
            found = await self._view.collection(collection)
            ids = await self._matching_at(found, filter, self._known_then(found))
            self._note_read(found, None)
            return await self._stage([(Delete(collection, ids), found)] if ids else [], len(ids))

    async def patch_metadata(
        self,
        collection: str,
        row_id: bytes,
        patch: dict[str, Any],
        if_version: int | None = None,
        idempotency: Idempotency | None = None,
    ) -> WriteResult:
        """See `RowsApi.patch_metadata`: of the row as the transaction sees it."""
        _refuse_key(idempotency)
        async with self._call():
            found = await self._view.collection(collection)
            snapshot_ts = self._known_then(found)
            self._note_read(found, [row_id])
            upsert, _ = await self._patched_at(found, row_id, patch, if_version, snapshot_ts)
            return await self._stage([(upsert, found)], 1)

    async def _stage(
        self, operations: Sequence[tuple[Upsert | Delete, Collection]], count: int
    ) -> WriteResult:
        if not operations:
            return WriteResult(count, 0)
        for _, collection in operations:
            self._check_not_spread(collection)
        routed = self._view.routed((block_of(unconditional(o), c), c) for o, c in operations)
        # Refused before anything of it is sent.
        self._token.with_staged(dict.fromkeys(routed.parts, StagedAt(0, 0)), 0, 0)
        staged = await self._stager.stage(self._token, routed.parts)
        self._token = self._token.with_staged(staged, count, routed.catalog_ts)
        return WriteResult(count, 0)

    def _check_not_spread(self, collection: Collection) -> None:
        """:raises Conflict: another generation came into force since the snapshot."""
        current = self._view.entries.current(collection)
        if current is not None and current.since_ts > self._token.snapshot_ts:
            raise Conflict(
                f"collection {collection.name!r} was spread over other shards after the "
                "transaction began: begin it again"
            )

    # --- the end ----------------------------------------------------------------------------------

    async def commit(self, idempotency: Idempotency | None = None) -> WriteResult:
        """See `TransactionApi.commit`."""
        token = self._token
        if idempotency is None:
            if not token.staged:
                return self._nothing_written()
            return WriteResult(token.rows, await self._settlement.commit(token))
        known = await self._idempotent.look(idempotency)
        if known.answer is not None:
            return known.answer
        if not token.staged:
            answer = self._nothing_written()
            return await self._idempotent.remember(idempotency, answer)
        operation = self._idempotent.row(known, idempotency, token.rows)
        row = self._view.routed([(block_of(operation, known.collection), known.collection)])
        try:
            return WriteResult(token.rows, await self._settlement.commit(token, row))
        except (Conflict, AlreadyExists, PreconditionFailed):
            answer_now = await self._idempotent.look_again(idempotency, known)
            if answer_now is None:
                raise
            return answer_now

    def _nothing_written(self) -> WriteResult:
        if self._settlement.expired(self._token):
            raise expired_error()
        return WriteResult(self._token.rows, self._token.snapshot_ts)

    async def abort(self) -> None:
        """See `TransactionApi.abort`."""
        if self._token.staged:
            await self._settlement.abort(self._token)

    # --- checks -----------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _call(self) -> AsyncIterator[None]:
        """A statement or read: refused when the transaction is over, and told so when it ended.

        :raises TransactionExpired: it was open too long.
        :raises Conflict: a new term began.
        """
        token = self._token
        if self._settlement.expired(token):
            raise await self._settlement.explained(token, expired_error())
        if self._view.term < token.term:
            await self._view.wait_term(token.term, TERM_TIMEOUT_S)
        if self._view.term > token.term:
            raise await self._settlement.explained(
                token, Conflict("the coordinator changed: begin the transaction again")
            )
        # Which generations serve it is told by the catalog that is announced with the snapshot.
        await self._view.wait_stable(token.snapshot_ts)
        try:
            yield
        except _ENDED as error:
            raise await self._settlement.explained(token, error) from error

    def _known_then(self, collection: Collection) -> int:
        """The transaction's snapshot.

        :raises NotFound: it does not know the collection.
        """
        if collection.origin > self._token.snapshot_ts:
            raise NotFound(
                f"collection {collection.name!r} was created after the transaction began"
            )
        return self._token.snapshot_ts


def _refuse_key(idempotency: Idempotency | None) -> None:
    if idempotency is not None:
        raise InvalidArgument("idempotency key: within a transaction it goes with the commit")
