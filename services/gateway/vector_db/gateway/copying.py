"""Pages of a collection's rows, copied from the generation in force to the one that is being filled
(docs/adr/0019), for the coordinator, which asks any gateway for one after the other.

Owns the invariants that a row is copied by a transaction that commits only if the generation in
force still has it as it was read, and that nothing of a pass is kept here between two pages.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np

from vector_db.common.core.messages import AnyMessage
from vector_db.common.core.messages.catalog import CopyReply, CopyRequest
from vector_db.common.core.messages.reads import RowsReply
from vector_db.common.core.subjects import gateways
from vector_db.common.model.collection import Collection
from vector_db.common.model.errors import AlreadyExists, Conflict, Internal, InvalidArgument
from vector_db.common.model.rows import RowBlock, hash_ids
from vector_db.common.ports import Bus, Subscription
from vector_db.gateway.cluster import ClusterView
from vector_db.gateway.core.partition import Routed, ShardPart, partition
from vector_db.gateway.core.read_sets import read_sets
from vector_db.gateway.reads import Reader
from vector_db.gateway.transactions import Transactions

PAGE_BYTES_MAX = 1024 * 1024
"""Vectors and metadata that one transaction copies: writers of its rows wait for it."""
RETRIES_MAX = 8


class Copier:
    """Copies pages for one gateway."""

    def __init__(
        self,
        bus: Bus,
        view: ClusterView,
        transactions: Transactions,
        reader: Reader,
    ) -> None:
        self._bus = bus
        self._view = view
        self._transactions = transactions
        self._reader = reader
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        self._subscription = await self._bus.serve(gateways(), self._answer)

    async def stop(self) -> None:
        if self._subscription is not None:
            await self._subscription.close()

    async def _answer(self, message: AnyMessage) -> AnyMessage:
        if not isinstance(message, CopyRequest):
            raise InvalidArgument(f"a gateway does not answer {type(message).__name__}")
        return await self.copy(message)

    async def copy(self, asked: CopyRequest) -> CopyReply:
        """Copy one page, again at a newer snapshot when its rows were written meanwhile.

        :raises Conflict: they are written all the time; the target is not being filled from the
            source (any more).
        :raises Internal: the whole is copied, and not the same number of rows.
        :raises VectorDBError: why it is not copied now.
        """
        if asked.rows_max < 1:
            raise InvalidArgument(f"rows_max: {asked.rows_max}, at least 1 is needed")
        known = self._view.collection_by_id
        if known(asked.source) is None or known(asked.target) is None:
            # Whoever asks may know of it sooner.
            await self._view.refresh()
        await self._view.caught_up()
        rows_max = asked.rows_max
        for retry in range(RETRIES_MAX + 1):
            source, target = self._entries(asked)
            try:
                reply = await self._page(asked, source, target, rows_max)
                break
            except (AlreadyExists, Conflict):
                if retry == RETRIES_MAX:
                    raise
                # Fewer rows are seldom written all.
                rows_max = max(1, rows_max // 2)
                await self._transactions.bounds.pause(retry)
        if reply.done:
            await self._compare(source, target)
        # What was read after another switch was of other generations.
        await self._view.caught_up()
        self._entries(asked)
        return reply

    def _entries(self, asked: CopyRequest) -> tuple[Collection, Collection]:
        """Source and target.

        :raises Conflict: the target is not being filled from the source.
        """
        source = self._view.collection_by_id(asked.source)
        target = self._view.collection_by_id(asked.target)
        if source is None or target is None or target.replaces != source.id:
            raise Conflict(f"generation {asked.target} is not being filled from {asked.source}")
        return source, target

    async def _page(
        self, asked: CopyRequest, source: Collection, target: Collection, rows_max: int
    ) -> CopyReply:
        # From its creation on every write of the source goes to the target as well.
        await self._view.wait_stable(target.id)
        snapshot_ts = self._view.stable_ts
        page = await self._reader.scroll(source, snapshot_ts, rows_max, asked.after, b"", False)
        ids = page.ids.unpack()
        if not ids:
            return CopyReply(asked.after, True, 0, 0)
        there = await self._reader.fetch(target, ids, snapshot_ts, False, filling=True)
        known = set(there.ids.unpack())
        read, lacking = _within_bytes(page, ids, known, 4 * source.dimension)
        if lacking:
            rows = await self._reader.fetch(source, lacking, snapshot_ts, True)
            await self._write(asked, rows, snapshot_ts)
        done = read == len(ids) < rows_max
        return CopyReply(ids[read - 1], done, read, len(lacking))

    async def _write(self, asked: CopyRequest, rows: RowsReply, snapshot_ts: int) -> None:
        """Write the rows to the target, if none of them was written to the source since."""
        ids = rows.ids.unpack()

        def attempt() -> Routed:
            source, target = self._entries(asked)
            block = RowBlock(
                collection_id=target.id,
                dimension=target.dimension,
                ids=rows.ids,
                hashes=hash_ids(ids).tobytes(),
                vectors=rows.vectors,
                metadata=rows.metadata,
                precondition="copied",
                versions=rows.versions,
            )
            parts = partition([(block, target)])
            reads = read_sets({source.id: tuple(ids)}, {source.id: source})
            for shard, sets in reads.items():
                parts.setdefault(shard, ShardPart(shard)).reads = sets
            return Routed(parts, self._view.catalog_ts)

        done = await self._transactions.commit(attempt, "snapshot", snapshot_ts)
        await self._view.wait_stable(done.commit_ts)

    async def _compare(self, source: Collection, target: Collection) -> None:
        """:raises Internal: the generations do not show the same number of rows."""
        snapshot_ts = self._view.stable_ts
        before, after = await asyncio.gather(
            self._reader.count(source, snapshot_ts, b""),
            self._reader.count(target, snapshot_ts, b"", filling=True),
        )
        if before != after:
            # No conflict: the same page again would not mend it.
            raise Internal(
                f"at {snapshot_ts} generation {source.id} of collection {source.name!r} has "
                f"{before} rows, and {target.id}, to which all were copied, {after}"
            )


def _within_bytes(
    page: RowsReply, ids: Sequence[bytes], known: set[bytes], vector_bytes: int
) -> tuple[int, list[bytes]]:
    """How many rows of the page go with one transaction, and those of them that are copied: all
    that are not `known`, up to `PAGE_BYTES_MAX`, and at least one row."""
    absent = np.array([row_id not in known for row_id in ids])
    sizes = np.where(absent, page.metadata.lengths() + vector_bytes, 0)
    read = max(1, int(np.searchsorted(np.cumsum(sizes), PAGE_BYTES_MAX, side="right")))
    return read, [row_id for row_id in ids[:read] if row_id not in known]
