"""The client's side of the two-phase commit: publish PREPAREs, await the outcome, find out, retry.

Owns two promises: "aborted" is said only on the sequencer's or a participant's word (or when
nothing was published), and an outcome that is not known is said to be so.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from random import Random, SystemRandom
from typing import Any, TypeVar

import structlog

from vector_db.common.core.messages.transactions import (
    Outcome,
    Prepare,
    Stage,
    TxnStatus,
    TxnStatusRequest,
)
from vector_db.common.core.subjects import outcomes, shard_log, worker
from vector_db.common.model.errors import (
    Conflict,
    NotFound,
    OutcomeUnknown,
    Unavailable,
    VectorDBError,
    error_from_code,
)
from vector_db.common.model.ids import make_txn_id
from vector_db.common.model.rows import chunks_checksum
from vector_db.common.ports import (
    Bus,
    BusTimeout,
    BusUnavailable,
    NoResponders,
    Subscription,
)
from vector_db.gateway.bounds import Bounds
from vector_db.gateway.cluster import ClusterView
from vector_db.gateway.core.admission import SMALL_BYTES_MAX
from vector_db.gateway.core.partition import Routed
from vector_db.gateway.turns import Turns

TXN_TIMEOUT_S = 10.0
AGAIN_AFTER_S = (2.0, 2.0, 2.0, 2.0)
"""A transaction of which nothing was heard is sent again after so long, and so on: a log may be
without a leader for most of the time that a transaction has."""
HEARD_TIMEOUT_S = 1.0
STATUS_PAUSE_S = 0.2
STATUS_TIMEOUT_S = 2.0
UNKNOWN_AFTER_S = 5.0
"""How long past the deadline the outcome is asked for before it is said to be unknown."""
RETRIES_MAX = 12


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Committed:
    commit_ts: int
    deleted: int


class Transactions:
    """One gateway's transactions in flight."""

    def __init__(self, bus: Bus, gateway: str, random: Random | None = None) -> None:
        """`random`: where transaction ids and pauses come from; None: the operating system."""
        self._bus = bus
        self._random = SystemRandom() if random is None else random
        self._gateway = gateway
        self._log = structlog.get_logger("vector_db.gateway")
        self._waiting: dict[bytes, asyncio.Future[Outcome | None]] = {}
        self.bounds = Bounds(self._random)
        self.turns = Turns()
        """Whoever waits for a row of which a write is undecided."""
        self._settling: set[asyncio.Task[Any]] = set()
        self._subscription: Subscription | None = None

    async def start(self, view: ClusterView) -> None:
        self._view = view
        view.on_new_term.append(self._on_new_term)
        self._subscription = await self._bus.subscribe(outcomes(self._gateway), view.on_beat)

    async def stop(self) -> None:
        """Wait for what is in flight, bounded, then stop listening."""
        if self._waiting:
            await asyncio.wait(list(self._waiting.values()), timeout=TXN_TIMEOUT_S)
        if self._subscription is not None:
            await self._subscription.close()

    def on_outcome(self, outcome: Outcome) -> None:
        """An outcome of this gateway's transaction (others' are ignored)."""
        future = self._waiting.get(outcome.txn_id)
        if future is not None and not future.done():
            future.set_result(outcome)

    def _on_new_term(self) -> None:
        # What was prepared in the old term is void unless it was decided: ask for each.
        for future in self._waiting.values():
            if not future.done():
                future.set_result(None)

    def in_flight(self) -> int:
        return len(self._waiting)

    # --- what open transactions use as well -------------------------------------------------------

    @property
    def gateway(self) -> str:
        """The name under which this gateway is told outcomes."""
        return self._gateway

    def new_id(self, term: int, deadline_ms: int) -> bytes:
        """The id of a new transaction, which can commit in this term until that time."""
        return make_txn_id(term, deadline_ms, self._random.randbytes(7))

    async def check_reachable(self, shards: Iterable[int]) -> None:
        """:raises Unavailable: no sequencer is heard, or not the workers of these shards."""
        if not await self._view.heard(HEARD_TIMEOUT_S):
            raise Unavailable("no coordinator leads now, nothing was written", final=True)
        if silent := self._view.silent_shards(shards):
            raise Unavailable(
                f"the workers of shards {silent} are not heard, nothing was written", final=True
            )

    def expect(self, txn_id: bytes) -> asyncio.Future[Outcome | None]:
        """What the sequencer tells of a transaction; None: a new term began. `forget` it after."""
        future: asyncio.Future[Outcome | None] = asyncio.get_running_loop().create_future()
        self._waiting[txn_id] = future
        return future

    def expects(self, txn_id: bytes) -> bool:
        """Whether somebody here waits for this outcome."""
        return txn_id in self._waiting

    def forget(self, txn_id: bytes) -> None:
        """Nobody waits for this outcome any more."""
        self._waiting.pop(txn_id, None)

    # --- commit -----------------------------------------------------------------------------------

    async def commit(
        self, attempt: Callable[[], Routed], mode: str, snapshot_ts: int = 0
    ) -> Committed:
        """Run one atomic write, retried after conflicts and lost terms.

        :param attempt: the parts of the write, made again for each try: the catalog may change.
        :param mode: ``blind`` or ``snapshot``.
        :param snapshot_ts: what the write is based on; 0: the newest, chosen again for each try.
        :raises VectorDBError: why it was not applied; `OutcomeUnknown` when that is not known.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + TXN_TIMEOUT_S
        for retry in range(RETRIES_MAX + 1):
            routed = attempt()
            try:
                return await self._once(routed, mode, snapshot_ts or self._view.stable_ts)
            except (Conflict, Unavailable, NotFound) as error:
                if isinstance(error, NotFound) and not await self._overtaken(routed):
                    raise
                based = snapshot_ts and isinstance(error, Conflict)
                late = loop.time() >= until or retry == RETRIES_MAX
                if based or late or error.details.get("final"):
                    raise
                await self.bounds.pause(retry)
        raise Conflict("lost against other transactions")

    async def _overtaken(self, routed: Routed) -> bool:
        """Whether what was not found may be a generation of a collection that ended meanwhile,
        and not what the write is about."""
        with contextlib.suppress(Unavailable):  # nobody leads who could say more
            await self._view.caught_up()
        return self._view.catalog_ts != routed.catalog_ts

    async def _once(self, routed: Routed, mode: str, snapshot_ts: int) -> Committed:
        await self.check_reachable(routed.parts)
        since_s = await self.bounds.take_slot()
        return await self.settled(self._in_slot(routed, mode, snapshot_ts, since_s))

    async def _in_slot(
        self, routed: Routed, mode: str, snapshot_ts: int, since_s: float
    ) -> Committed:
        try:
            return await self._sent(routed, mode, snapshot_ts)
        finally:
            self.bounds.give_slot(since_s, sum(part.size_bytes for part in routed.parts.values()))

    async def settled(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` gives; it goes on when whoever waits for it has left. What was sent is in the
        way of others until it is decided, and may have to be sent again for that."""
        task = asyncio.create_task(work)
        self._settling.add(task)
        task.add_done_callback(self._on_settled)
        return await asyncio.shield(task)

    def _on_settled(self, task: asyncio.Task[Any]) -> None:
        self._settling.discard(task)
        if not task.cancelled():
            task.exception()  # who waits has it; nobody else needs it

    async def _sent(self, routed: Routed, mode: str, snapshot_ts: int) -> Committed:
        sizes = {shard: part.size_bytes for shard, part in routed.parts.items()}
        async with self.bounds.room(sizes):
            outcome = await self._outcome(routed, mode, snapshot_ts, sum(sizes.values()))
        if outcome.commit_ts:
            return Committed(outcome.commit_ts, outcome.deleted)
        raise error_from_code(outcome.reason, outcome.detail or "aborted", {})

    async def _outcome(
        self, routed: Routed, mode: str, snapshot_ts: int, size_bytes: int
    ) -> Outcome:
        view = self._view
        deadline_ms = view.wall_ms() + int(TXN_TIMEOUT_S * 1000)
        term = view.term
        txn_id = self.new_id(term, deadline_ms)

        async def publish() -> None:
            await self._publish(txn_id, term, routed, mode, snapshot_ts, deadline_ms)

        try:
            future = self.expect(txn_id)
            await publish()
            outcome = await self._told(future, publish if size_bytes <= SMALL_BYTES_MAX else None)
            if outcome is None:
                outcome = await self._find_out(txn_id, term, tuple(routed.parts), deadline_ms)
            return outcome
        finally:
            self.forget(txn_id)

    async def _told(
        self, future: asyncio.Future[Outcome | None], again: Callable[[], Awaitable[None]] | None
    ) -> Outcome | None:
        """What the sequencer tells of a transaction; None: a new term began, or nothing came.

        `again` sends it once more: while the broker elects a leader for a log, what is sent there
        is lost, and replicas pass over what they have.
        """
        left_s = TXN_TIMEOUT_S + 1.0
        if again is not None:
            for wait_s in AGAIN_AFTER_S:
                with contextlib.suppress(TimeoutError):
                    return await asyncio.wait_for(asyncio.shield(future), wait_s)
                left_s -= wait_s
                # With the broker away, the first copy may be there all the same.
                with contextlib.suppress(Unavailable):
                    await again()
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(future, left_s)
        return None

    async def _publish(
        self,
        txn_id: bytes,
        term: int,
        routed: Routed,
        mode: str,
        snapshot_ts: int,
        deadline_ms: int,
    ) -> None:
        participants = tuple(sorted(routed.parts))
        published = False
        try:
            for shard, part in routed.parts.items():
                log = shard_log(term, shard)
                staged = part.chunks[:-1]
                for index, chunk in enumerate(staged):
                    stage = Stage(txn_id, term, shard, index, deadline_ms, chunk)
                    await self._bus.append(log, stage)
                    published = True
                prepare = Prepare(
                    txn_id=txn_id,
                    term=term,
                    shard=shard,
                    participants=participants,
                    snapshot_ts=snapshot_ts,
                    mode=mode,
                    deadline_ms=deadline_ms,
                    catalog_ts=routed.catalog_ts,
                    gateway=self._gateway,
                    blocks=part.chunks[-1] if part.chunks else (),
                    stages=len(staged),
                    stages_crc=chunks_checksum(staged),
                    reads=part.reads,
                )
                await self._bus.append(log, prepare)
                published = True
        except BusUnavailable as error:
            if not published:
                raise Unavailable("the broker is away, nothing was written", final=True) from error
            # A part is missing, so it cannot commit; its outcome is still the sequencer's to say.
            self._log.warning("a transaction was sent in part", txn=txn_id.hex())

    async def _find_out(
        self, txn_id: bytes, term: int, shards: tuple[int, ...], deadline_ms: int
    ) -> Outcome:
        """The outcome of a transaction that nobody told: ask until it is known, bounded.

        :raises OutcomeUnknown: nobody knows in time.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + TXN_TIMEOUT_S + UNKNOWN_AFTER_S
        while loop.time() < until:
            status = await self.status(txn_id, term, shards, deadline_ms)
            if status.state == "committed":
                # Told to the client only once nothing can undo it.
                if self._view.stable_ts < status.commit_ts:
                    await asyncio.sleep(STATUS_PAUSE_S)
                    continue
                return Outcome(txn_id, status.commit_ts, status.deleted)
            if status.state == "aborted":
                reason = status.reason or "unavailable"
                detail = status.detail or "the coordinator changed, nothing was written"
                return Outcome(txn_id, 0, 0, reason, detail)
            await asyncio.sleep(STATUS_PAUSE_S)
        raise OutcomeUnknown(
            "the write was sent and its outcome is not known yet",
            outcome="unknown",
            transaction=txn_id.hex(),
        )

    async def status(
        self, txn_id: bytes, term: int, shards: tuple[int, ...], deadline_ms: int = 0
    ) -> TxnStatus:
        """What the sequencer says, else (after its term) what a participant remembers."""
        request = TxnStatusRequest(txn_id, term, deadline_ms)
        try:
            reply = await self._view.ask(request)
        except VectorDBError:
            # No sequencer now is no word on the transaction: the caller asks again.
            return TxnStatus("unknown")
        if isinstance(reply, TxnStatus) and reply.state != "unknown":
            return reply
        if self._view.term == term and self._view.reply is not None:
            return TxnStatus("unknown")
        remembered = await self.remembered(txn_id, shards)
        return remembered or TxnStatus("unknown")

    async def remembered(self, txn_id: bytes, shards: Iterable[int] = ()) -> TxnStatus | None:
        """What the workers of these shards (none: of all) remember of a transaction.

        The first who knows how it ended is believed; None: nobody answers.
        """
        request = TxnStatusRequest(txn_id, 0)
        found: TxnStatus | None = None
        placement = self._view.replicas
        workers = (w for shard in shards or tuple(placement) for w in placement.get(shard, ()))
        for replica in self._view.heard_first(workers):
            try:
                answer = await self._bus.request(worker(replica), request, STATUS_TIMEOUT_S)
            except (BusTimeout, BusUnavailable, NoResponders, VectorDBError):
                # This replica does not say; another one or a later try may.
                continue
            if not isinstance(answer, TxnStatus):
                continue
            if answer.state in ("committed", "aborted"):
                return answer
            if found is None or answer.state == "pending":
                found = answer
        return found
