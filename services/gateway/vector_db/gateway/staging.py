"""A statement's rows on their way to the shards: STAGE records, sent in bounded amounts and
confirmed.

Owns the invariant that a statement is answered only once a replica of each of its shards has every
chunk of it, and that no more than `UNACKED_BYTES_PER_SHARD_MAX` to a shard are unconfirmed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from vector_db.common.core.messages.reads import Overlay, StagedRequest
from vector_db.common.core.messages.transactions import Stage
from vector_db.common.core.subjects import shard_log, worker
from vector_db.common.model.errors import Conflict, Unavailable
from vector_db.common.model.rows import RowBlock, chunks_checksum
from vector_db.common.ports import Bus, BusTimeout, BusUnavailable, NoResponders
from vector_db.gateway.cluster import ClusterView
from vector_db.gateway.core.partition import ShardPart, row_bytes
from vector_db.gateway.core.token import StagedAt, Token
from vector_db.gateway.settlement import expired_error
from vector_db.gateway.transactions import Transactions

CONFIRM_BYTES_MAX = 4 * 1024 * 1024
"""A shard is asked for what it has after so many bytes."""
CONFIRM_TIMEOUT_S = 15.0
ASK_TIMEOUT_S = 6.0
ASK_PAUSE_S = 0.1

Chunk = tuple[RowBlock, ...]


class Stager:
    """Stages the rows of open transactions for one gateway."""

    def __init__(self, bus: Bus, view: ClusterView, transactions: Transactions) -> None:
        self._bus = bus
        self._view = view
        self._transactions = transactions

    async def stage(self, token: Token, parts: dict[int, ShardPart]) -> dict[int, StagedAt]:
        """Send the parts after what the token names; what their shards have then.

        Sent again with the same token it changes nothing. All shards are tried to the end.

        :raises Unavailable: not confirmed; what was sent may be there, so the same statement may be
            sent again, another one may not.
        :raises Conflict: the transaction is over, or void since a new term began.
        :raises TransactionExpired: it was open too long.
        """
        await self._transactions.check_reachable(parts)
        done = await asyncio.gather(
            *(self._stage_shard(token, shard, part.chunks) for shard, part in parts.items()),
            return_exceptions=True,
        )
        for one in done:
            if isinstance(one, BaseException):
                raise one
        return dict(zip(parts, (one for one in done if isinstance(one, StagedAt)), strict=True))

    async def _stage_shard(self, token: Token, shard: int, chunks: Sequence[Chunk]) -> StagedAt:
        at = token.staged.get(shard, StagedAt(0, 0))
        group: list[Chunk] = []
        size_bytes = 0
        for chunk in chunks:
            weight = sum(map(row_bytes, chunk))
            if group and size_bytes + weight > CONFIRM_BYTES_MAX:
                at = await self._stage_group(token, shard, at, group, size_bytes)
                group, size_bytes = [], 0
            group.append(chunk)
            size_bytes += weight
        return await self._stage_group(token, shard, at, group, size_bytes)

    async def _stage_group(
        self, token: Token, shard: int, at: StagedAt, group: Sequence[Chunk], size_bytes: int
    ) -> StagedAt:
        """Send some chunks behind `at`, and return once they are confirmed."""
        until = asyncio.get_running_loop().time() + CONFIRM_TIMEOUT_S
        after = StagedAt(at.chunks + len(group), chunks_checksum(group, at.crc))
        async with self._transactions.bounds.room({shard: size_bytes}):
            missing = True
            while True:
                if self._view.term > token.term:
                    raise Conflict("the coordinator changed: begin the transaction again")
                if self._view.wall_ms() >= token.deadline_ms:
                    raise expired_error()
                if missing:
                    await self._publish(token, shard, at.chunks, group)
                answer = await self._ask(token, shard, after.chunks)
                if answer:
                    return after
                if asyncio.get_running_loop().time() >= until:
                    raise Unavailable(
                        f"shard {shard} does not confirm the statement: send it again, "
                        "or abort the transaction"
                    )
                # Nobody answered: only the answer may be lost. Somebody lacks chunks: send them.
                missing = answer is False
                await asyncio.sleep(ASK_PAUSE_S)

    async def _publish(self, token: Token, shard: int, index: int, group: Sequence[Chunk]) -> None:
        log = shard_log(token.term, shard)
        try:
            for i, chunk in enumerate(group, index):
                stage = Stage(token.txn_id, token.term, shard, i, token.deadline_ms, chunk)
                await self._bus.append(log, stage)
        except BusUnavailable as error:
            raise Unavailable(
                "the broker is away: send the statement again, or abort the transaction"
            ) from error

    async def _ask(self, token: Token, shard: int, chunks: int) -> bool | None:
        """Whether a replica of the shard has so many chunks; None: nobody says.

        :raises Conflict: the transaction is over.
        """
        request = StagedRequest(Overlay(token.txn_id, token.term, {shard: chunks}))
        said: bool | None = None
        for replica in self._view.heard_first(self._view.replicas.get(shard, ())):
            try:
                reply = await self._bus.request(worker(replica), request, ASK_TIMEOUT_S)
            except (BusTimeout, BusUnavailable, NoResponders):
                continue
            except Unavailable:
                said = False
                continue
            except Conflict:
                # Chunks are missing: because the transaction is over, or lost on the way.
                known = await self._transactions.remembered(token.txn_id, (shard,))
                if known is not None and known.state in ("committed", "aborted"):
                    raise
                said = False
                continue
            if isinstance(reply, StagedRequest):
                if reply.overlay.chunks.get(shard, 0) >= chunks:
                    return True
                said = False
        return said
