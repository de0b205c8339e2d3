"""The database behind both edges: `DatabaseApi` over the cluster view, transactions and reads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from random import Random
from typing import Any

import numpy as np

from vector_db.common.core.messages.catalog import DrainRequest
from vector_db.common.core.messages.decisions import Moves
from vector_db.common.model.collection import Collection
from vector_db.common.model.errors import (
    Conflict,
    InvalidArgument,
    PreconditionFailed,
    Unavailable,
)
from vector_db.common.model.ids import txn_deadline_ms, txn_term
from vector_db.common.model.limits import Limits
from vector_db.common.model.rows import RowBlock
from vector_db.common.ports import Bus
from vector_db.common.service.config import TransactionsConfig
from vector_db.gateway.catalog import CatalogCalls, again_if_moved
from vector_db.gateway.cluster import ClusterView
from vector_db.gateway.core.operations import Operations
from vector_db.gateway.core.partition import block_of
from vector_db.gateway.core.requests import (
    Consistency,
    Delete,
    Idempotency,
    Isolation,
    OpenTransaction,
    Upsert,
    WriteResult,
)
from vector_db.gateway.core.token import Token, decode_token, encode_token, signing_key
from vector_db.gateway.idempotency import IdempotentWrites, Planned
from vector_db.gateway.open_transaction import ResumedTransaction
from vector_db.gateway.reads import Reader
from vector_db.gateway.settlement import Settlement
from vector_db.gateway.snapshots import Snapshots
from vector_db.gateway.staging import Stager
from vector_db.gateway.transactions import HEARD_TIMEOUT_S, Transactions
from vector_db.gateway.turns import keys_of

PATCH_RETRIES_MAX = 8
STATUS_STABLE_TIMEOUT_S = 1.0


class Database(CatalogCalls):
    """One gateway's `DatabaseApi`."""

    def __init__(
        self,
        bus: Bus,
        view: ClusterView,
        transactions: Transactions,
        reader: Reader,
        limits: Limits,
        walk_rows: int,
        config: TransactionsConfig,
        random: Random,
    ) -> None:
        """`walk_rows`: rows that are read at a time when a whole collection is walked."""
        super().__init__(view, reader, limits, walk_rows)
        self._transactions = transactions
        self._snapshots = Snapshots(bus, view)
        self._stager = Stager(bus, view, transactions)
        self._settlement = Settlement(bus, view, transactions)
        self._config = config
        secret = config.token_secret
        self._secret = None if secret is None else secret.get_secret_value()
        self.idempotent = IdempotentWrites(
            view, transactions, reader, random, config.idempotency_ttl_s
        )

    # --- snapshots --------------------------------------------------------------------------------

    async def _snapshot(self, collection: Collection, consistency: Consistency) -> int:
        if consistency.as_of or consistency.as_of_ms:
            return await self._snapshots.of_the_past(collection, consistency)
        if collection.origin > self._view.stable_ts:
            await self._view.wait_stable(collection.origin)
        return await self._view.snapshot(consistency)

    async def _newest(self, collection: Collection) -> int:
        """The snapshot that a write of the collection can be based on."""
        current = self._view.entries.current(collection) or collection
        # Shards take nothing that is based on what lies before their generation came into force.
        await self._view.wait_stable(max(current.origin, current.since_ts))
        return self._view.stable_ts

    async def _cursor_snapshot(self, snapshot_ts: int, where: str = "cursor") -> None:
        await self._snapshots.reach(snapshot_ts, where)

    # --- reads ------------------------------------------------------------------------------------

    query = again_if_moved(CatalogCalls.query)
    fetch = again_if_moved(CatalogCalls.fetch)
    count = again_if_moved(CatalogCalls.count)
    scroll = again_if_moved(CatalogCalls.scroll)

    # --- writes -----------------------------------------------------------------------------------

    @again_if_moved
    async def write(
        self, operations: Sequence[Upsert | Delete], idempotency: Idempotency | None = None
    ) -> WriteResult:
        """See `RowsApi.write`."""
        given = Operations(self._limits, len(operations))
        found = await self._view.named(o.collection for o in operations)
        for i, operation in enumerate(operations):
            given.add(operation, found[operation.collection], i)
        blocks = [(block_of(o, c), c) for o, c in given.checked]
        if idempotency is not None:
            return await self._write_once(given, blocks, idempotency)
        if not blocks:
            return WriteResult(0, self._view.stable_ts)
        async with self._transactions.turns.turn(keys_of(blocks), alone=_is_checked(blocks)):
            return await self._commit(blocks, given.written)

    async def _write_once(
        self,
        given: Operations,
        blocks: list[tuple[RowBlock, Collection]],
        idempotency: Idempotency,
    ) -> WriteResult:
        async def plan(snapshot_ts: int) -> Planned:
            # The answer is stored with the write, so what deletes find is counted before.
            count = given.written
            for operation, collection in given.checked:
                if isinstance(operation, Delete):
                    count += len(await self._versions_at(collection, operation.ids, snapshot_ts))
            return blocks, count

        floor_ts = max((c.origin for _, c in given.checked), default=0)
        return await self.idempotent.run(idempotency, floor_ts, plan, keys_of(blocks))

    async def _commit(
        self,
        blocks: Sequence[tuple[RowBlock, Collection]],
        written: int,
        snapshot_ts: int = 0,
    ) -> WriteResult:
        checked = bool(snapshot_ts) or _is_checked(blocks)
        mode = "snapshot" if checked else "blind"
        routed = partial(self._view.routed, blocks)
        done = await self._transactions.commit(routed, mode, snapshot_ts)
        return WriteResult(written + done.deleted, done.commit_ts)

    @again_if_moved
    async def delete_where(
        self, collection: str, filter: dict[str, Any], idempotency: Idempotency | None = None
    ) -> WriteResult:
        """See `RowsApi.delete_where`."""
        found = await self._view.collection(collection)

        async def plan(snapshot_ts: int) -> Planned:
            ids = await self._matching_at(found, filter, snapshot_ts)
            return [(block_of(Delete(collection, ids), found), found)] if ids else [], len(ids)

        if idempotency is not None:
            return await self.idempotent.run(idempotency, found.origin, plan)
        for retry in range(PATCH_RETRIES_MAX + 1):
            snapshot_ts = await self._newest(found)
            blocks, _ = await plan(snapshot_ts)
            if not blocks:
                return WriteResult(0, snapshot_ts)
            try:
                async with self._transactions.turns.turn(keys_of(blocks), alone=True):
                    return await self._commit(blocks, 0, snapshot_ts)
            except Conflict:
                if retry == PATCH_RETRIES_MAX:
                    raise
        raise Conflict("lost against other transactions")

    @again_if_moved
    async def patch_metadata(
        self,
        collection: str,
        row_id: bytes,
        patch: dict[str, Any],
        if_version: int | None = None,
        idempotency: Idempotency | None = None,
    ) -> WriteResult:
        """See `RowsApi.patch_metadata`."""
        found = await self._view.collection(collection)

        async def plan(snapshot_ts: int) -> Planned:
            upsert, version = await self._patched_at(found, row_id, patch, if_version, snapshot_ts)
            versions = np.array([version], dtype=np.int64)
            checked = Upsert(collection, upsert.rows, if_version=versions)
            return [(block_of(checked, found), found)], 1

        keys = [(found.name, row_id)]
        if idempotency is not None:
            return await self.idempotent.run(idempotency, found.origin, plan, keys)
        for retry in range(PATCH_RETRIES_MAX + 1):
            try:
                # Read in its turn: what others write before it is there to be merged into.
                async with self._transactions.turns.turn(keys, alone=True):
                    blocks, _ = await plan(await self._newest(found))
                    return await self._commit(blocks, 1)
            except PreconditionFailed:
                if if_version is not None:
                    raise
                # Somebody wrote the row since it was read: merge into what is there now.
                if retry == PATCH_RETRIES_MAX:
                    raise Conflict("the row changes too fast") from None
        raise Conflict("the row changes too fast")

    # --- open transactions ------------------------------------------------------------------------

    async def begin(self, isolation: Isolation, timeout_s: float | None = None) -> OpenTransaction:
        """See `DatabaseApi.begin`."""
        retention_s = self._config.retention_s
        if timeout_s is None:
            timeout_s = min(self._config.txn_timeout_s, retention_s)
        if not (math.isfinite(timeout_s) and 0 < timeout_s <= retention_s):
            raise InvalidArgument(
                f"timeout_s: {timeout_s:g}, it must be above 0 and at most retention_s = "
                f"{retention_s:g}"
            )
        view = self._view
        if not await view.heard(HEARD_TIMEOUT_S):
            raise Unavailable("no coordinator leads now, try again")
        # Whoever made a collection through this gateway finds it in the transaction.
        await view.wait_stable(max(1, view.catalog_ts))
        deadline_ms = view.wall_ms() + max(1, int(timeout_s * 1000))
        token = Token(
            txn_id=self._transactions.new_id(view.term, deadline_ms),
            term=view.term,
            snapshot_ts=view.stable_ts,
            serializable=isolation == "serializable",
            deadline_ms=deadline_ms,
        )
        return OpenTransaction(
            txn_id=token.txn_id.hex(),
            token=encode_token(token, self._signing_key()),
            isolation=isolation,
            snapshot_ts=token.snapshot_ts,
            expires_ms=token.deadline_ms,
        )

    def resume(self, token: str) -> ResumedTransaction:
        """See `DatabaseApi.resume`."""
        key = self._signing_key()
        return ResumedTransaction(
            decode_token(token, key),
            key,
            self._view,
            self._reader,
            self._stager,
            self._settlement,
            self.idempotent,
            self._limits,
            self._walk_rows,
        )

    def _signing_key(self) -> bytes:
        return signing_key(self._secret, self._view.cluster_id)

    # --- status -----------------------------------------------------------------------------------

    async def transaction_status(self, txn_id: str) -> dict[str, Any]:
        """See `DatabaseApi.transaction_status`; ``committed`` once nothing can undo it."""
        try:
            raw = bytes.fromhex(txn_id)
        except ValueError:
            raise InvalidArgument("transaction: not a transaction id") from None
        if len(raw) != 16:
            raise InvalidArgument("transaction: not a transaction id")
        status = await self._transactions.status(raw, txn_term(raw), (), txn_deadline_ms(raw))
        if status.state == "unknown":
            # Open ones are known to the shards that hold rows of theirs.
            status = await self._transactions.remembered(raw) or status
        if status.state == "committed":
            try:
                await self._view.wait_stable(status.commit_ts, STATUS_STABLE_TIMEOUT_S)
            except Unavailable:
                return {"state": "pending"}
        answer: dict[str, Any] = {"state": status.state}
        if status.commit_ts:
            answer["commit_ts"] = status.commit_ts
        if status.reason:
            answer["reason"] = status.reason
        return answer

    async def cluster(self) -> dict[str, Any]:
        """See `DatabaseApi.cluster`."""
        await self._view.refresh()
        view = self._view
        reply = view.reply
        moves = Moves() if reply is None else reply.moves
        return {
            "term": view.term,
            "stable_ts": view.stable_ts,
            "catalog_ts": view.catalog_ts,
            "shards": {str(s): list(w) for s, w in sorted(view.replicas.items())},
            "joining": {str(s): w for s, w in sorted(moves.joining.items())},
            "leaving": {str(s): list(w) for s, w in sorted(moves.leaving.items())},
            "draining": list(moves.draining),
            "replication_factor": 0 if reply is None else reply.replication_factor,
            "workers": [
                {
                    "id": member.worker,
                    "zone": member.zone,
                    "ready": member.ready,
                    "draining": member.worker in moves.draining,
                    "cursor": member.cursor,
                    "shards": list(member.shards),
                    "copying": {
                        str(shard): {"bytes_done": done, "bytes_all": whole}
                        for shard, (done, whole) in sorted(member.copying.items())
                    },
                    "simd": member.simd,
                    "native": member.native,
                }
                for member in (reply.workers if reply else ())
            ],
        }

    async def drain(self, worker: str, drain: bool) -> None:
        """See `DatabaseApi.drain`."""
        self._view.take_catalog(await self._view.ask(DrainRequest(worker, drain)))


def _is_checked(blocks: Sequence[tuple[RowBlock, Collection]]) -> bool:
    """Whether anything but blind upserts is among the blocks."""
    return any(block.delete or block.precondition != "none" for block, _ in blocks)
