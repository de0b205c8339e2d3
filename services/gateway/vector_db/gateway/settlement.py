"""How an open transaction ends: committed, aborted, or what became of it when nobody said.

Owns these promises: a commit that is repeated, at whichever gateway, is answered as the first one
was; nothing is prepared before the sequencer and the shards that hold its chunks were asked what
they know; "aborted" is said only on their word.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

from vector_db.common.core.messages.transactions import (
    AbortRequest,
    Outcome,
    Prepare,
    ReadSet,
    TxnStatus,
    TxnStatusRequest,
)
from vector_db.common.core.subjects import shard_log
from vector_db.common.model.errors import (
    Aborted,
    AlreadyCommitted,
    Conflict,
    OutcomeUnknown,
    TransactionExpired,
    Unavailable,
    VectorDBError,
    error_from_code,
)
from vector_db.common.ports import Bus, BusUnavailable
from vector_db.gateway.cluster import ClusterView
from vector_db.gateway.core.partition import Routed
from vector_db.gateway.core.read_sets import read_sets
from vector_db.gateway.core.token import StagedAt, Token
from vector_db.gateway.transactions import (
    STATUS_PAUSE_S,
    TXN_TIMEOUT_S,
    UNKNOWN_AFTER_S,
    Transactions,
)

TOLD_TIMEOUT_S = 2.0
"""How long an outcome is waited for before it is asked for, and the commit sent again."""
SENT_MAX = 4
DEADLINE_SLACK_MS = 500
"""How far past its deadline a prepared transaction is given up."""
STABLE_TIMEOUT_S = 2.0
REMEMBERED_MS = 500_000
"""Workers remember what became of a transaction for 600 s past its expiry; with a margin."""

_NOTHING_STAGED = StagedAt(0, 0)


class Settlement:
    """Ends open transactions for one gateway."""

    def __init__(self, bus: Bus, view: ClusterView, transactions: Transactions) -> None:
        self._bus = bus
        self._view = view
        self._transactions = transactions

    # --- what is known ----------------------------------------------------------------------------

    async def word(self, token: Token) -> TxnStatus | None:
        """What the sequencer knows, else what the shards with chunks of it remember.

        The sequencer forgets a decision two minutes past its deadline, the shards later. "open":
        a shard holds chunks of it, and nobody knows of a decision. None: nobody answers.
        """
        heard: TxnStatus | None = None
        try:
            reply = await self._view.ask(TxnStatusRequest(token.txn_id, token.term))
        except VectorDBError:
            # No sequencer now is no word on the transaction: a shard may know.
            reply = None
        if isinstance(reply, TxnStatus):
            if reply.state != "unknown":
                return reply
            heard = reply
        remembered = await self._transactions.remembered(token.txn_id, token.staged)
        if remembered is None:
            return heard if not token.staged else None
        return TxnStatus("open") if remembered.state == "pending" else remembered

    async def explained(self, token: Token, error: VectorDBError) -> VectorDBError:
        """Why a call of the transaction failed: that it has ended, or `error` itself."""
        status = await self.word(token)
        if status is not None and status.state == "committed":
            return AlreadyCommitted(
                f"the transaction is committed at {status.commit_ts}, nothing can be added to it"
            )
        if status is not None and status.state == "aborted":
            return self._void(token, status)
        if self.expired(token):
            return expired_error()
        return error

    def expired(self, token: Token) -> bool:
        """Whether the transaction was open for too long."""
        return self._view.wall_ms() >= token.deadline_ms

    def _void(self, token: Token, status: TxnStatus) -> VectorDBError:
        """The error of an aborted transaction."""
        if status.reason == "aborted":
            return Aborted("the transaction was aborted by its client")
        if status.reason in ("", "unavailable"):
            if self._view.term > token.term:
                return Conflict("the coordinator changed: begin the transaction again")
            if self.expired(token):
                return expired_error()
            detail = status.detail or "aborted"
            return Conflict(f"nothing was written ({detail}): begin the transaction again")
        return error_from_code(status.reason, status.detail or "aborted", {})

    # --- commit -----------------------------------------------------------------------------------

    async def commit(self, token: Token, along: Routed | None = None) -> int:
        """Commit what is staged: the commit_ts. What is written `along` is small.

        :raises VectorDBError: why it is not applied; `OutcomeUnknown` when that is not known.
        """
        if self._transactions.expects(token.txn_id):
            # The same commit is under way here.
            return await self._find_out(token, token.deadline_ms)
        status = await self.word(token)
        if status is not None and status.state == "aborted":
            raise self._void(token, status)
        if status is not None and status.state in ("committed", "pending"):
            return await self._find_out(token, token.deadline_ms)
        if self._view.term > token.term:
            return await self._find_out(token, token.deadline_ms)
        if status is None:
            # Expired or not: an earlier try may have committed it.
            raise Unavailable("the shards of the transaction do not answer: commit it again")
        if self._view.wall_ms() >= token.deadline_ms + REMEMBERED_MS:
            raise _unknown(token, "the transaction ended too long ago to be remembered")
        if self.expired(token):
            raise expired_error()
        if status.state == "unknown":
            raise _unknown(token, "no shard remembers the transaction")
        along = along or Routed({}, token.catalog_ts)
        reads = await self._reads(token)
        shards = tuple(sorted({*token.staged, *reads, *along.parts}))
        await self._transactions.check_reachable(shards)
        since_s = await self._transactions.bounds.take_slot()
        if self._transactions.expects(token.txn_id):
            self._transactions.bounds.give_slot(since_s, 0)
            return await self._find_out(token, token.deadline_ms)
        told = self._transactions.expect(token.txn_id)
        return await self._transactions.settled(
            self._prepare(token, shards, along, reads, since_s, told)
        )

    async def _prepare(
        self,
        token: Token,
        shards: tuple[int, ...],
        along: Routed,
        reads: Mapping[int, tuple[ReadSet, ...]],
        since_s: float,
        told: asyncio.Future[Outcome | None],
    ) -> int:
        soon_ms = self._view.wall_ms() + int(TXN_TIMEOUT_S * 1000)
        deadline_ms = min(token.deadline_ms, soon_ms)
        outcome: Outcome | None = None
        try:
            await self._publish(token, shards, along, reads, deadline_ms)
            for _ in range(SENT_MAX):
                with contextlib.suppress(TimeoutError):
                    outcome = await asyncio.wait_for(asyncio.shield(told), TOLD_TIMEOUT_S)
                    break
                status = await self.word(token)
                if status is not None and status.state in ("committed", "aborted"):
                    break
                # Again, since it may have been lost with the leader of a log: replicas pass over
                # what they have. With the broker away now, the first copy may be there.
                with contextlib.suppress(Unavailable):
                    await self._publish(token, shards, along, reads, deadline_ms)
        finally:
            self._transactions.bounds.give_slot(since_s, 0)
            self._transactions.forget(token.txn_id)
        if outcome is None:
            return await self._find_out(token, deadline_ms)
        if outcome.commit_ts:
            return outcome.commit_ts
        raise self._void(token, TxnStatus("aborted", 0, outcome.reason, outcome.detail))

    async def _reads(self, token: Token) -> dict[int, tuple[ReadSet, ...]]:
        """What was read, by shard.

        :raises Conflict: a collection of it was dropped.
        """
        if any(self._view.collection_by_id(c) is None for c in token.reads):
            # Another gateway may have heard of it before this one.
            await self._view.refresh()
        collections = {c: self._view.collection_by_id(c) for c in token.reads}
        known = {c: collection for c, collection in collections.items() if collection is not None}
        if len(known) < len(token.reads):
            raise Conflict("a collection that the transaction read was dropped: begin again")
        return read_sets(token.reads, known)

    async def _publish(
        self,
        token: Token,
        shards: tuple[int, ...],
        along: Routed,
        reads: Mapping[int, tuple[ReadSet, ...]],
        deadline_ms: int,
    ) -> None:
        published = False
        try:
            for shard in shards:
                staged = token.staged.get(shard, _NOTHING_STAGED)
                part = along.parts.get(shard)
                prepare = Prepare(
                    txn_id=token.txn_id,
                    term=token.term,
                    shard=shard,
                    participants=shards,
                    snapshot_ts=token.snapshot_ts,
                    mode="snapshot",
                    deadline_ms=deadline_ms,
                    catalog_ts=token.oldest(along.catalog_ts),
                    gateway=self._transactions.gateway,
                    blocks=() if part is None else part.chunks[0],
                    stages=staged.chunks,
                    stages_crc=staged.crc,
                    reads=reads.get(shard, ()),
                )
                await self._bus.append(shard_log(token.term, shard), prepare)
                published = True
        except BusUnavailable as error:
            if not published:
                raise Unavailable("the broker is away: commit the transaction again") from error
            # A part is missing, so it cannot commit; its outcome is still the sequencer's to say.

    async def _find_out(self, token: Token, prepared_until_ms: int) -> int:
        """The commit_ts of what may be committed already: asked for until it is known, bounded.

        Past `prepared_until_ms` the sequencer is asked to give it up, which settles it.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + TXN_TIMEOUT_S + UNKNOWN_AFTER_S
        while loop.time() < until:
            status = await self.word(token)
            past = self._view.wall_ms() > prepared_until_ms + DEADLINE_SLACK_MS
            undecided = status is not None and status.state in ("open", "pending")
            if past and undecided and self._view.term == token.term:
                status = await self._give_up(token)
            if status is not None and status.state == "aborted":
                raise self._void(token, status)
            if status is not None and status.state == "committed":
                if await self._is_stable(status.commit_ts):
                    return status.commit_ts
                continue
            await asyncio.sleep(STATUS_PAUSE_S)
        raise _unknown(token, "the commit was sent and its outcome is not known yet")

    async def _is_stable(self, commit_ts: int) -> bool:
        """Whether nothing can undo it, after waiting a while: only then is a client told."""
        try:
            await self._view.wait_stable(commit_ts, STABLE_TIMEOUT_S)
        except Unavailable:
            return False
        return True

    # --- abort ------------------------------------------------------------------------------------

    async def abort(self, token: Token) -> None:
        """Abort what is staged; nothing to do where it is aborted, void or expired.

        :raises AlreadyCommitted: it is committed.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + UNKNOWN_AFTER_S
        while True:
            status = await self.word(token)
            state = "" if status is None else status.state
            if state == "unknown" and self.expired(token):
                return
            if state in ("open", "unknown", "pending") and self._view.term == token.term:
                status = await self._give_up(token)
            if status is not None and status.state == "aborted":
                return
            if status is not None and status.state == "committed":
                if await self._is_stable(status.commit_ts):
                    raise AlreadyCommitted(
                        f"the transaction is committed at {status.commit_ts}",
                        commit_ts=status.commit_ts,
                    )
            elif loop.time() < until:
                await asyncio.sleep(STATUS_PAUSE_S)
            if loop.time() >= until:
                raise _unknown(token, "it is not known yet whether the transaction is committed")

    async def _give_up(self, token: Token) -> TxnStatus | None:
        """Ask the sequencer to abort unless it is decided: what it is now; None: no answer."""
        request = AbortRequest(
            token.txn_id, token.term, tuple(sorted(token.staged)), token.deadline_ms
        )
        try:
            reply = await self._view.ask(request)
        except VectorDBError:
            # Nobody leads now; asked again until the wait is over.
            return None
        return reply if isinstance(reply, TxnStatus) else None


def expired_error() -> TransactionExpired:
    """What every call of an expired transaction is told."""
    return TransactionExpired("the transaction was open longer than its timeout: begin again")


def _unknown(token: Token, why: str) -> OutcomeUnknown:
    return OutcomeUnknown(why, outcome="unknown", transaction=token.txn_id.hex())
