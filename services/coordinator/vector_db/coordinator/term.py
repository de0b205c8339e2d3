"""One term of one domain, led: publishes decisions, tells outcomes, beats, trims.

Owns the promise that the bytes of a record are appended again unchanged until the broker has them
or the term is lost; a term that is lost is never resumed.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from vector_db.common.core.domain import DomainState
from vector_db.common.core.messages.takeover import NeedTakeover
from vector_db.common.core.messages.transactions import (
    AbortRequest,
    Beat,
    Durable,
    Outcome,
    TxnStatus,
    TxnStatusRequest,
    Vote,
    Votes,
)
from vector_db.common.core.subjects import (
    LogName,
    beats,
    decision_log,
    log_term,
    outcomes,
    shard_log,
)
from vector_db.common.model.errors import Unavailable
from vector_db.common.model.ids import make_ts
from vector_db.common.ports import Bus, BusTimeout, BusUnavailable, LogMissing
from vector_db.coordinator.changes import Changes
from vector_db.coordinator.core.effects import Effects
from vector_db.coordinator.core.sequencer import Sequencer

PUBLISH_TIMEOUT_S = 2.0
PUBLISH_RETRY_S = 0.1
BEAT_S = 0.1
"""A beat at least this often; at most every `BEAT_PAUSE_S` when `stable_ts` moves."""
BEAT_PAUSE_S = 0.005
ECHO_S_MAX = 3.0
"""A sequencer that sends beats and does not hear them for so long hears no votes either."""
ECHO_BEATS_MIN = 10
TICK_S = 0.05
TRIM_S = 2.0


class TermLost(Exception):
    """This term is over; the reason goes to the log, and the coordinator seeks a new one."""


class Term:
    """Drives one `Sequencer` until the term is lost."""

    def __init__(
        self, bus: Bus, coordinator: str, sequencer: Sequencer, wall_ms: Callable[[], int]
    ) -> None:
        self._bus = bus
        self._coordinator = coordinator
        self.sequencer = sequencer
        self._wall_ms = wall_ms
        self._log = structlog.get_logger("vector_db.coordinator").bind(term=sequencer.term)
        self._decisions = asyncio.Event()
        self._stable = asyncio.Event()
        self._outbox: defaultdict[str, list[Outcome]] = defaultdict(list)
        self._outcomes = asyncio.Event()
        self.changes = Changes(bus, sequencer, self._carry_out)
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stable_waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._swept = False
        self._echo_s = asyncio.get_running_loop().time()
        self._beats_unheard = 0

    @property
    def state(self) -> DomainState:
        return self.sequencer.state

    # --- inputs ----------------------------------------------------------------------------------

    def on_message(self, message: object) -> None:
        """A vote, a durable cursor, or a cry for help."""
        match message:
            case Vote():
                self._carry_out(self.sequencer.vote(message, self._wall_ms()))
            case Votes():
                for vote in message.votes:
                    self._carry_out(self.sequencer.vote(vote, self._wall_ms()))
            case Durable():
                self._carry_out(self.sequencer.durable(message))
            case NeedTakeover() if message.term == self.sequencer.term:
                self.lose(f"{message.sender}: {message.reason}")
            case _:
                pass

    def status(self, asked: TxnStatusRequest) -> TxnStatus:
        """What this term knows of a transaction."""
        return self.sequencer.status(asked.txn_id, asked.term, asked.deadline_ms, self._wall_ms())

    def abort(self, asked: AbortRequest) -> TxnStatus:
        """Abort a transaction for its client unless it is decided; what it is now."""
        if asked.term != self.sequencer.term:
            # Whatever an older term left undecided is void, and what it decided the workers know.
            return TxnStatus("unknown")
        status, effects = self.sequencer.abort(
            asked.txn_id, asked.participants, asked.deadline_ms, self._wall_ms()
        )
        self._carry_out(effects)
        return status

    def heard_itself(self) -> None:
        """A beat of this term has come back from the broker."""
        self._echo_s = asyncio.get_running_loop().time()
        self._beats_unheard = 0

    def lose(self, reason: str) -> None:
        """End the term."""
        if not self._lost.done():
            self._lost.set_exception(TermLost(reason))

    async def wait_stable(self, ts: int, timeout_s: float) -> None:
        """Until `stable_ts` reaches `ts`.

        :raises Unavailable: it does not in time.
        """
        if self.sequencer.stable_ts >= ts:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stable_waiters.append((ts, future))
        try:
            await asyncio.wait_for(future, timeout_s)
        except TimeoutError:
            raise Unavailable("the catalog is not durable yet") from None

    # --- outputs ----------------------------------------------------------------------------------

    def _carry_out(self, effects: Effects) -> None:
        for gateway, outcome in effects.outcomes:
            self._outbox[gateway].append(outcome)
        if effects.outcomes:
            self._outcomes.set()
        self.changes.answer(effects.replies)
        if effects.stable_advanced:
            self._stable.set()
            stable_ts = self.sequencer.stable_ts
            for ts, waiter in self._stable_waiters:
                if ts <= stable_ts and not waiter.done():
                    waiter.set_result(None)
            self._stable_waiters = [w for w in self._stable_waiters if not w[1].done()]
        if self.sequencer.has_decisions():
            self._decisions.set()

    def _beat(self, told: tuple[Outcome, ...] = ()) -> Beat:
        sequencer = self.sequencer
        return Beat(
            term=sequencer.term,
            coordinator=self._coordinator,
            cluster_id=sequencer.cluster_id,
            stable_ts=sequencer.stable_ts,
            catalog_ts=sequencer.state.catalog_ts,
            wall_ms=sequencer.wall_now(self._wall_ms()),
            floor_ts=sequencer.floor_ts(),
            outcomes=told,
            last_ts=sequencer.last_ts,
        )

    async def lead(self, *beside: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Until the term is lost; what goes on `beside` ends with it.

        :raises TermLost: why.
        """
        self._decisions.set()
        try:
            async with asyncio.TaskGroup() as tasks:
                own = (self._publish, self._tell, self._beats, self._ticks, self._trims)
                for part in (*own, *beside):
                    tasks.create_task(part(), name=part.__qualname__)
                await self._lost
        except* TermLost as lost:
            raise TermLost(str(lost.exceptions[0])) from None
        finally:
            self.changes.end()

    async def _publish(self) -> None:
        log = decision_log(self.sequencer.term)
        while True:
            await self._decisions.wait()
            self._decisions.clear()
            while self.sequencer.has_decisions():
                record = self.sequencer.take_record(self._wall_ms())
                while True:
                    try:
                        await self._bus.append_acked(log, record, PUBLISH_TIMEOUT_S)
                        break
                    except LogMissing as missing:
                        raise TermLost(f"the decision log is gone: {missing}") from missing
                    except (BusTimeout, BusUnavailable) as error:
                        # Not known whether the broker has it: the same bytes again do no harm.
                        self._log.warning("a decision is published again", error=str(error))
                        await asyncio.sleep(PUBLISH_RETRY_S)

    async def _tell(self) -> None:
        while True:
            await self._outcomes.wait()
            self._outcomes.clear()
            outbox, self._outbox = self._outbox, defaultdict(list)
            for gateway, told in outbox.items():
                try:
                    await self._bus.publish(outcomes(gateway), self._beat(tuple(told)))
                except BusUnavailable:
                    # The gateway asks for the status of what it was not told.
                    self._log.warning("the broker is away, outcomes not told", outcomes=len(told))

    async def _beats(self) -> None:
        while True:
            try:
                await self._bus.publish(beats(), self._beat())
                self._beats_unheard += 1
            except BusUnavailable:
                self._beats_unheard = 0
                self._log.debug("the broker is away, no beat")
            quiet_s = asyncio.get_running_loop().time() - self._echo_s
            if self._beats_unheard >= ECHO_BEATS_MIN and quiet_s > ECHO_S_MAX:
                raise TermLost(f"its own beats were not heard for {quiet_s:.1f} s")
            await asyncio.sleep(BEAT_PAUSE_S)
            try:
                # `wait_for` may take the end of the term for the event, if both come at once.
                async with asyncio.timeout(BEAT_S - BEAT_PAUSE_S):
                    await self._stable.wait()
            except TimeoutError:
                continue
            self._stable.clear()

    async def _ticks(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._carry_out(self.sequencer.tick(self._wall_ms()))

    async def _trims(self) -> None:
        while True:
            await asyncio.sleep(TRIM_S)
            try:
                await self._trim_once()
            except (BusUnavailable, BusTimeout) as error:
                self._log.warning("logs are not trimmed now", error=str(error))
            except LogMissing as missing:
                raise TermLost(f"a log is gone: {missing}") from missing

    async def _trim_once(self) -> None:
        term = self.sequencer.term
        shards, decision_seq = self.sequencer.trim_points()
        for shard, seq in shards.items():
            if seq:
                await self._bus.trim(shard_log(term, shard), seq)
        if decision_seq:
            await self._bus.trim(decision_log(term), decision_seq)
        if not self._swept and self.sequencer.floor_ts() >= make_ts(term, 0):
            # Every replica is past the takeover: nobody needs what older terms' logs hold.
            for name in await self._bus.log_names():
                await self._sweep(name, term)
            self._swept = True

    async def _sweep(self, stream: str, term: int) -> None:
        if 0 < log_term(stream) < term:
            await self._bus.delete_log(LogName(stream, ""))
