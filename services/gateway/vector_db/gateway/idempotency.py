"""Writes under an idempotency key: applied once, answered the same for as long as it is remembered.

Owns the invariant that the key's row and the write are in one transaction, so that one is there
exactly when the other is. The row is insert-if-absent at the snapshot at which its absence was
seen: of two requests with the same key one commits, and the other one finds its answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

import numpy as np
import orjson
import structlog

from vector_db.common.core.messages.catalog import CreateCollectionRequest
from vector_db.common.model.collection import Collection, Metric
from vector_db.common.model.errors import (
    AlreadyExists,
    Conflict,
    PreconditionFailed,
    Unavailable,
    VectorDBError,
)
from vector_db.common.model.ids import IDEMPOTENCY_COLLECTION
from vector_db.common.model.rows import RowBlock
from vector_db.gateway.cluster import ClusterView
from vector_db.gateway.core.partition import block_of
from vector_db.gateway.core.remembered import (
    EXPIRES,
    Remembered,
    remembering,
    replay,
    row_id_of,
)
from vector_db.gateway.core.requests import Delete, Idempotency, Upsert, WriteResult
from vector_db.gateway.reads import Reader
from vector_db.gateway.transactions import Transactions
from vector_db.gateway.turns import Key

RETRIES_MAX = 12
SWEEP_PAUSE_S = 60.0
SWEEP_ROWS = 1000
SWEEP_BATCHES_MAX = 20

Planned = tuple[list[tuple[RowBlock, Collection]], int]
Plan = Callable[[int], Awaitable[Planned]]
"""What a write does when it is based on this snapshot, and the count it is answered with."""


@dataclass(frozen=True, slots=True)
class Known:
    """What `snapshot_ts` shows of a key: the answer, or the version of an expired row (None: no
    row)."""

    collection: Collection
    row_id: bytes
    snapshot_ts: int
    answer: WriteResult | None
    expired_version: int | None


class IdempotentWrites:
    """One gateway's writes under keys, and the sweep of the keys that expired."""

    def __init__(
        self,
        view: ClusterView,
        transactions: Transactions,
        reader: Reader,
        random: Random,
        ttl_s: float,
    ) -> None:
        """`ttl_s`: how long an answer is remembered."""
        self._view = view
        self._transactions = transactions
        self._reader = reader
        self._random = random
        self._ttl_ms = int(ttl_s * 1000)
        self._sweep_pause_s = min(SWEEP_PAUSE_S, ttl_s)
        self._log = structlog.get_logger("vector_db.gateway")

    # --- writes -----------------------------------------------------------------------------------

    async def run(
        self, key: Idempotency, floor_ts: int, plan: Plan, keys: Sequence[Key] = ()
    ) -> WriteResult:
        """Do what `plan` says, or answer as it was answered before.

        :param floor_ts: the snapshot that is used must be at least this one.
        :param keys: rows that are known to be written, for which others wait meanwhile.
        :raises IdempotencyMismatch: the key came with another request.
        :raises Conflict: lost against other transactions, retries included.
        """
        own = (IDEMPOTENCY_COLLECTION, row_id_of(key.key))
        async with self._transactions.turns.turn([*keys, own], alone=True):
            return await self._run(key, floor_ts, plan, 0)

    async def remember(self, key: Idempotency, answer: WriteResult) -> WriteResult:
        """Remember the answer to a request that writes nothing."""

        async def nothing(_snapshot_ts: int) -> Planned:
            return [], answer.count

        return await self._run(key, 0, nothing, answer.commit_ts)

    async def _run(
        self, key: Idempotency, floor_ts: int, plan: Plan, commit_ts: int
    ) -> WriteResult:
        for retry in range(RETRIES_MAX + 1):
            known = await self.look(key, floor_ts)
            if known.answer is not None:
                return known.answer
            blocks, count = await plan(known.snapshot_ts)
            row = self.row(known, key, count, commit_ts)
            whole = [*blocks, (block_of(row, known.collection), known.collection)]
            routed = partial(self._view.routed, whole)
            try:
                done = await self._transactions.commit(routed, "snapshot", known.snapshot_ts)
                return WriteResult(count, commit_ts or done.commit_ts)
            except Conflict:
                # Another writer was first, perhaps with this very key: look at a newer snapshot.
                if retry == RETRIES_MAX:
                    raise
                await self._transactions.bounds.pause(retry)
        raise Conflict("lost against other transactions")

    async def look(self, key: Idempotency, floor_ts: int = 0) -> Known:
        """What is remembered under the key, at the newest stable snapshot.

        :raises IdempotencyMismatch: the key came with another request.
        """
        row_id = row_id_of(key.key)
        collection = await self._collection()
        await self._view.wait_stable(max(collection.origin, floor_ts))
        snapshot_ts = self._view.stable_ts
        reply = await self._reader.fetch(collection, [row_id], snapshot_ts, False)
        if not len(reply.ids):
            return Known(collection, row_id, snapshot_ts, None, None)
        version = int(np.frombuffer(reply.versions, dtype="<i8")[0])
        answer = replay(reply.metadata.unpack()[0], version, key, self._view.wall_ms())
        return Known(collection, row_id, snapshot_ts, answer, version)

    async def look_again(self, key: Idempotency, before: Known) -> WriteResult | None:
        """The answer of whoever was first with the key; None: there is none after a while."""
        for retry in range(RETRIES_MAX // 2):
            known = await self.look(key)
            if known.answer is not None:
                return known.answer
            if known.snapshot_ts > before.snapshot_ts and retry:
                return None
            await self._transactions.bounds.pause(retry)
        return None

    def row(self, known: Known, key: Idempotency, count: int, commit_ts: int = 0) -> Upsert:
        """The write that remembers the answer, where none is remembered."""
        expires_ms = self._view.wall_ms() + self._ttl_ms
        what = Remembered(key.request_hash.hex(), count, expires_ms, commit_ts)
        return remembering(known.collection.name, known.row_id, what, known.expired_version)

    async def _collection(self) -> Collection:
        """The hidden collection, made when it is first needed."""
        found = await self._view.hidden(IDEMPOTENCY_COLLECTION)
        if found is None:
            request = CreateCollectionRequest(
                IDEMPOTENCY_COLLECTION, 1, Metric.EUCLIDEAN.value, 0, if_absent=True
            )
            self._view.take_catalog(await self._view.ask(request))
            found = await self._view.hidden(IDEMPOTENCY_COLLECTION)
        if found is None:
            raise Unavailable("the collection of idempotency keys is not there yet, try again")
        return found

    # --- sweep ------------------------------------------------------------------------------------

    async def run_sweeps(self) -> None:
        """Until cancelled: now and then remove what expired; a sweep that fails is only logged."""
        while True:
            await asyncio.sleep(self._sweep_pause_s * (0.5 + self._random.random()))
            try:
                removed = await self.sweep()
            except VectorDBError as error:
                self._log.warning("expired idempotency keys are not swept now", error=str(error))
                continue
            except Exception:
                # Requests do not depend on it: whatever is wrong, the gateway goes on.
                self._log.exception("expired idempotency keys are not swept now")
                continue
            if removed:
                self._log.info("expired idempotency keys swept", removed=removed)

    async def sweep(self) -> int:
        """Remove expired keys, a bounded number of them: how many are gone."""
        collection = await self._view.hidden(IDEMPOTENCY_COLLECTION)
        if collection is None or collection.origin > self._view.stable_ts:
            return 0
        removed = 0
        text = orjson.dumps({EXPIRES: {"$lte": self._view.wall_ms()}})
        for _ in range(SWEEP_BATCHES_MAX):
            snapshot_ts = self._view.stable_ts
            rows = await self._reader.scroll(collection, snapshot_ts, SWEEP_ROWS, b"", text, False)
            ids = rows.ids.unpack()
            if not ids:
                break
            block = block_of(Delete(collection.name, ids), collection)
            routed = partial(self._view.routed, [(block, collection)])
            try:
                done = await self._transactions.commit(routed, "snapshot", snapshot_ts)
            except (Conflict, AlreadyExists, PreconditionFailed):
                # A key among them was used again, or another gateway sweeps: the next sweep.
                break
            removed += done.deleted
            # What was removed must not be found again.
            await self._view.wait_stable(done.commit_ts)
        return removed
