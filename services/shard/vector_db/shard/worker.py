"""The driver of one participant: takes from the logs, appends to the WAL, and owes what to send.

Owns what durability rests on: a record is appended before its vote is owed, and decisions before
the cursor is; `GroupCommit` syncs, then sends. One task changes the participant and the storage, so
they change on one thread only; large work gives other tasks of the loop a turn now and then.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

import structlog

from vector_db.common.core.codec import BadMessage, decode, encode
from vector_db.common.core.messages import AnyMessage
from vector_db.common.core.messages.catching_up import (
    EnterReply,
    EnterRequest,
    PartReply,
    PartRequest,
    TailReply,
    TailRequest,
)
from vector_db.common.core.messages.copies import FollowReply, FollowRequest
from vector_db.common.core.messages.decisions import DecisionRecord
from vector_db.common.core.messages.reads import Overlay
from vector_db.common.core.messages.takeover import Promise, PromiseRequest
from vector_db.common.core.messages.transactions import Beat, Durable, Prepare, Stage, Vote
from vector_db.common.core.subjects import promise_replies
from vector_db.common.model.errors import NewerFormat, StorageCorrupt, Unavailable, VectorDBError
from vector_db.common.ports import Bus, BusTimeout, BusUnavailable, NoResponders
from vector_db.shard.core.participant import Participant
from vector_db.shard.core.parts import ChainBroken, Checkpoint
from vector_db.shard.core.steps import Steps
from vector_db.shard.fetching import (
    Entered,
    Fetcher,
    Followed,
    Supplied,
    ask_to_enter,
    follow_reply,
    part_reply,
    tail_reply,
)
from vector_db.shard.following import LogFollower
from vector_db.shard.group_commit import GroupCommit
from vector_db.shard.storage.records import RecordType, lost, promised, sequenced
from vector_db.shard.storage.wal import Wal

GROUP_BYTES_MAX = 4 * 1024 * 1024
RESEND_S = 1.0
"""A vote that is not decided after so long is sent again, and so on: it may have been lost."""
REPORT_AGAIN_S = 0.1
"""A cursor beyond what is stable is told again after so long."""
PROMISE_TIMEOUT_S = 5.0
ROWS_PER_TURN = 10_000
"""Rows applied or voted on before the loop gets a turn: about 20 ms."""

T = TypeVar("T")


class Worker:
    """Drives one participant. `on_applied` runs after each group, on the loop."""

    def __init__(
        self,
        bus: Bus,
        participant: Participant,
        wal: Wal,
        executor: Executor,
        on_applied: Callable[[], None],
        on_dropped: Callable[[int], None],
        on_removed: Callable[[int], None],
        checkpoint: Checkpoint | None = None,
    ) -> None:
        """`on_dropped`: a collection is gone for good; `on_removed`: a shard is, from here.
        `checkpoint`: the last durable one, if there is one."""
        self._bus = bus
        self._participant = participant
        self._wal = wal
        self._on_applied = on_applied
        self._on_dropped = on_dropped
        self._on_removed = on_removed
        self._log = structlog.get_logger("vector_db.shard").bind(worker=participant.worker)
        self._checkpoint = checkpoint
        self._commits = GroupCommit(
            bus, wal, executor, self._no_room, self._report_again, self._wake_up
        )
        self.follower = LogFollower(
            bus, participant.worker, participant.term, self._on_record, self._enter
        )
        self.fetcher = Fetcher(bus, participant, self._on_supplied)
        self._inbox: deque[tuple[int | None, int, int, bytes]] = deque()
        self._control: deque[AnyMessage | Supplied | Followed | Entered] = deque()
        self._between: deque[tuple[Callable[[], object], asyncio.Future[object]]] = deque()
        self._wake = asyncio.Event()
        self._promises: set[asyncio.Task[None]] = set()
        self._cursor_waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._chunk_waiters: list[tuple[Overlay, asyncio.Future[None]]] = []
        self._begun_term = 0
        self._reported = (0, 0)
        self._reported_s = self._resent_s = 0.0
        self._unanswered: dict[tuple[bytes, int], Vote] = {}
        """What was undecided when votes were sent again for the last time."""

    # --- inputs (any time, on the loop) -----------------------------------------------------------

    def _on_record(self, shard: int | None, term: int, seq: int, data: bytes) -> None:
        self._inbox.append((shard, term, seq, data))
        self._wake.set()

    def on_control(self, message: AnyMessage) -> None:
        """A beat or a promise request."""
        self._control.append(message)
        self._wake.set()

    def _on_supplied(self, supplied: Supplied) -> None:
        self._control.append(supplied)
        self._wake.set()

    def on_followed(self, followed: Followed) -> None:
        """What a replica told of a shard that this worker copies."""
        self._control.append(followed)
        self._wake.set()

    def joined(self) -> tuple[int, ...]:
        """Shards that are copied whole, which a checkpoint has made durable."""
        saved = {} if self._checkpoint is None else self._checkpoint.joined
        joined = self._participant.holdings.joined
        return tuple(sorted(s for s, ts in joined.items() if saved.get(s) == ts))

    def checkpointed(self, checkpoint: Checkpoint) -> None:
        """It is durable: logs are needed only from its positions on."""
        self._checkpoint = checkpoint
        self._reported = (0, 0)

    async def between_groups(self, action: Callable[[], object]) -> object:
        """Run `action` when the WAL is synced and nothing is half applied; its result."""
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._between.append((action, future))
        self._wake.set()
        return await future

    async def wait_for_cursor(self, ts: int, timeout_s: float) -> bool:
        """Whether decisions up to `ts` are applied, waiting for them up to `timeout_s`."""
        if self._participant.cursor >= ts:
            return True
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._cursor_waiters.append((ts, future))
        try:
            await asyncio.wait_for(future, timeout_s)
        except TimeoutError:
            return self._participant.cursor >= ts
        return True

    async def wait_for_chunks(self, overlay: Overlay, timeout_s: float) -> bool:
        """Whether all that the overlay names is here, waiting for it up to `timeout_s`.

        False at once when it cannot come any more: the transaction is decided, or void with its
        term.
        """
        participant = self._participant
        if participant.has_chunks(overlay) or participant.is_over(overlay):
            return not participant.is_over(overlay)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._chunk_waiters.append((overlay, future))
        try:
            await asyncio.wait_for(future, timeout_s)
        except TimeoutError:
            return False
        return participant.has_chunks(overlay) and not participant.is_over(overlay)

    # --- what other workers ask -------------------------------------------------------------------

    def part(self, request: PartRequest) -> PartReply:
        """Records of a part that is whole here, for a replica that lacks them."""
        return part_reply(self._participant, self._wal, request)

    def follow(self, request: FollowRequest) -> FollowReply:
        """What is undecided at a shard, for a worker that is to copy it.

        :raises Unavailable: this worker is no replica of it, or not yet.
        """
        return follow_reply(self._participant, self._wal, request)

    async def let_enter(self, request: EnterRequest) -> EnterReply:
        """Where this worker stands, for one that holds nothing.

        :raises Unavailable: it cannot say now, or the other one holds something.
        """
        reply = await self.between_groups(
            lambda: self._participant.takeovers.enter_reply(request.term, request.worker)
        )
        if not isinstance(reply, EnterReply):
            raise Unavailable("the shard worker cannot say where it stands")
        return reply

    def tail(self, request: TailRequest) -> TailReply:
        """Decisions as this worker applied them, for one that is further behind."""
        return tail_reply(self._participant, request)

    # --- the loop ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled; raises what the worker cannot survive (an fsync error, corruption)."""
        if self._participant.promised:
            self._commits.owe([*self._participant.revote().votes])
            await self._commits.settle()
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                self._commits.check()
                while self._inbox or self._control:
                    await self._group()
                while self._between:
                    await self._commits.settle()
                    action, future = self._between.popleft()
                    self._settle(action, future)
        finally:
            await self._commits.close()

    def _settle(self, action: Callable[[], object], future: asyncio.Future[object]) -> None:
        try:
            result = action()
        except Exception as error:
            if not future.done():
                future.set_exception(error)
                return
            raise
        if not future.done():
            future.set_result(result)

    async def _group(self) -> None:
        """One group: step everything that waits, and owe what it leads to."""
        sends: list[Vote] = []
        promises: list[PromiseRequest] = []
        lags = False
        begun = self._participant.promised
        while self._control:
            message = self._control.popleft()
            if isinstance(message, Beat):
                lags |= self._on_beat(message)
            elif isinstance(message, PromiseRequest):
                self._on_promise(message)
                promises.append(message)
            elif isinstance(message, Supplied):
                await self._take_supplied(message, sends)
            elif isinstance(message, Entered):
                self._take_entered(message)
            elif isinstance(message, Followed):
                await self._take_followed(message, sends)
        size = 0
        while self._inbox and size < GROUP_BYTES_MAX:
            shard, term, seq, data = self._inbox.popleft()
            size += len(data)
            if term == self._participant.promised:
                await self._step(shard, seq, data, sends)
        self._owe(sends, lags)
        if promises or self._participant.promised != begun:
            # What is told of a new term says how far this worker is durable.
            await self._commits.settle()
            for request in promises:
                self._answer_candidate(request)
        self._follow()
        self._on_applied()
        self._wake_readers()
        self.fetcher.look()
        await self._commits.advance()

    def _owe(self, sends: list[Vote], lags: bool) -> None:
        """Owe the votes, and the cursor where it moved; or where what is stable `lags` behind it,
        since a report may be lost."""
        participant = self._participant
        now_s = asyncio.get_running_loop().time()
        messages: list[Vote | Durable] = []
        standing = (participant.promised, participant.cursor)
        again_s = REPORT_AGAIN_S if lags else RESEND_S
        if standing > self._reported or now_s - self._reported_s >= again_s:
            self._reported, self._reported_s = standing, now_s
            messages.append(self._durable())
        messages += sends
        if now_s - self._resent_s >= RESEND_S:
            self._resent_s = now_s
            messages += self._votes_unanswered()
        self._commits.owe(messages)

    def _votes_unanswered(self) -> list[Vote]:
        """Votes that were given before the last time that this was asked, and are not decided."""
        given = {(vote.txn_id, vote.shard): vote for vote in self._participant.votes_again()}
        before, self._unanswered = self._unanswered, given
        return [vote for key, vote in given.items() if before.get(key) is vote]

    async def _step(self, shard: int | None, seq: int, data: bytes, sends: list[Vote]) -> None:
        if shard is None:
            await self._decisions(seq, data, sends)
            return
        participant = self._participant
        part = self._readable(shard, seq, data)
        if part is None or not participant.wants(part):
            participant.skip(shard, seq)
            return
        lsn = self._wal.append(RecordType.LOG, sequenced(seq, data))
        effects = await self._in_turns(participant.take_steps(part, seq, lsn))
        sends.extend(effects.votes)
        await self._apply_ready(sends)

    async def _in_turns(self, steps: Steps[T]) -> T:
        """Do all steps, with turns for the other tasks of the loop between them."""
        rows = 0
        while True:
            try:
                rows += next(steps)
            except StopIteration as stop:
                result: T = stop.value
                return result
            if rows >= ROWS_PER_TURN:
                rows = 0
                await asyncio.sleep(0)

    async def _take_supplied(self, supplied: Supplied, sends: list[Vote]) -> None:
        """Log and take what a peer gave, if it is still lacking; it is not voted on."""
        participant = self._participant
        if isinstance(supplied.reply, TailReply):
            participant.supply_tail(supplied.reply.records)
        elif supplied.reply.removed:
            if supplied.shard in participant.holdings.followed_in(participant.state):
                self._log.warning("the shard was taken from this worker", shard=supplied.shard)
                self._wal.append(RecordType.LOST, lost(supplied.shard))
                participant.lose(supplied.shard)
        else:
            for raw in supplied.reply.records:
                record = self._readable(supplied.shard, 0, raw)
                if record is not None and participant.lacks(record):
                    lsn = self._wal.append(RecordType.LOG, sequenced(0, raw))
                    participant.take(record, 0, lsn)
        await self._apply_ready(sends)
        if not supplied.done.done():
            supplied.done.set_result(None)

    async def _enter(self, term: int) -> bool:
        """Stand where a replica does, if this worker holds nothing; whether it does now."""
        reply = await ask_to_enter(self._bus, self._participant.worker, term)
        if reply is None:
            return False
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._control.append(Entered(reply, done))
        self._wake.set()
        return await done

    def _take_entered(self, entered: Entered) -> None:
        participant, reply = self._participant, entered.reply
        can = participant.takeovers.can_enter(reply)
        if can:
            participant.enter(reply, self._wal.append(RecordType.ENTERED, [encode(reply)]))
        if not entered.done.done():
            entered.done.set_result(can)

    async def _take_followed(self, followed: Followed, sends: list[Vote]) -> None:
        """Log and take a replica's undecided records as if they came from the log."""
        participant, shard = self._participant, followed.shard
        wanted = (
            followed.term == participant.promised
            and participant.state.moves.joining.get(shard) == participant.worker
        )
        if wanted:
            for seq, raw in followed.records:
                await self._step(shard, seq, raw, sends)
            if followed.position is not None:
                participant.follow(shard, followed.position)
        if not followed.done.done():
            followed.done.set_result(wanted)

    def _readable(self, shard: int, seq: int, data: bytes) -> Prepare | Stage | None:
        """The record, or None: what no vote is given on ends with its deadline."""
        try:
            message = decode(data)
            if isinstance(message, Prepare | Stage) and message.shard == shard:
                for block in message.blocks:
                    block.check()
                return message
            reason = "a foreign message"
        except (BadMessage, NewerFormat, ValueError) as error:
            reason = str(error)
        self._log.error("passed over a shard-log record", shard=shard, seq=seq, reason=reason)
        return None

    async def _decisions(self, seq: int, data: bytes, sends: list[Vote]) -> None:
        try:
            message = decode(data)
        except BadMessage as error:
            # Decisions are the sequencer's alone: this log is damaged, and only a new term mends
            # it.
            self.follower.ask_takeover(self._participant.promised, f"record {seq}: {error}")
            return
        if isinstance(message, DecisionRecord):
            await self._offer(message, seq, data, sends)

    async def _offer(self, record: DecisionRecord, seq: int, raw: bytes, sends: list[Vote]) -> None:
        try:
            self._participant.offer(record, seq, raw)
        except ChainBroken as broken:
            self.follower.ask_takeover(self._participant.promised, str(broken))
            return
        await self._apply_ready(sends)

    async def _apply_ready(self, sends: list[Vote]) -> None:
        participant = self._participant
        while (ready := participant.next_ready()) is not None:
            record, seq, raw = ready
            lsn = self._wal.append(RecordType.DECISIONS, sequenced(seq, raw))
            try:
                effects = await self._in_turns(participant.apply_steps(record, seq, lsn))
            except ChainBroken as broken:
                raise StorageCorrupt(f"the decision log contradicts itself: {broken}") from broken
            sends.extend(effects.votes)

    def _on_beat(self, beat: Beat) -> bool:
        """Note what is stable; true when it lags behind what this worker has applied."""
        participant = self._participant
        if participant.takeovers.is_foreign(beat.cluster_id) or beat.term < participant.promised:
            return False
        if beat.term > participant.promised:
            self._wal.append(RecordType.PROMISE, promised(beat.term, beat.coordinator))
            participant.takeovers.adopt_term(beat.term, beat.coordinator)
        participant.hear(beat.wall_ms, beat.last_ts)
        for collection_id in participant.stable(beat.stable_ts, beat.floor_ts):
            self._on_dropped(collection_id)
        for shard in participant.shards_to_drop():
            self._on_removed(shard)
        # A beat says that the term has begun, so its logs exist: a promise alone does not.
        self._begun_term = beat.term
        return beat.stable_ts < participant.cursor

    def _on_promise(self, request: PromiseRequest) -> None:
        if self._participant.takeovers.promise(request):
            record = promised(request.term, request.coordinator)
            self._wal.append(RecordType.PROMISE, record)

    def _follow(self) -> None:
        participant = self._participant
        if self._begun_term == participant.promised:
            shards = participant.holdings.followed_in(participant.state)
            self.follower.want(participant.promised, tuple(sorted(shards)))

    def _wake_readers(self) -> None:
        participant = self._participant
        if self._cursor_waiters:
            for ts, future in self._cursor_waiters:
                if ts <= participant.cursor and not future.done():
                    future.set_result(None)
            self._cursor_waiters = [w for w in self._cursor_waiters if not w[1].done()]
        if self._chunk_waiters:
            for overlay, future in self._chunk_waiters:
                settled = participant.has_chunks(overlay) or participant.is_over(overlay)
                if settled and not future.done():
                    future.set_result(None)
            self._chunk_waiters = [w for w in self._chunk_waiters if not w[1].done()]

    # --- outputs ----------------------------------------------------------------------------------

    def _wake_up(self) -> None:
        self._wake.set()

    def _no_room(self) -> None:
        self._participant.full = "the disk of the shard worker is full"

    def _report_again(self) -> None:
        self._reported = (0, 0)

    def _answer_candidate(self, request: PromiseRequest) -> None:
        """Tell the promise; the answer may be large, so it goes as a request, beside the loop.

        It is made here and now, since what it says of the cursor must be synced.
        """
        reply = self._participant.takeovers.promise_message(request)
        task = asyncio.create_task(self._tell_promise(request.coordinator, reply), name="promise")
        self._promises.add(task)
        task.add_done_callback(self._promises.discard)

    async def _tell_promise(self, coordinator: str, reply: Promise) -> None:
        try:
            await self._bus.request(promise_replies(coordinator), reply, PROMISE_TIMEOUT_S)
        except (BusUnavailable, BusTimeout, NoResponders, VectorDBError) as error:
            # The candidate asks again for as long as it wants to know.
            self._log.debug("a promise was not told", error=str(error))

    def _durable(self) -> Durable:
        participant, saved = self._participant, self._checkpoint
        # A WAL whose last records are damaged is refilled from the logs: they are kept to the
        # checkpoint. Positions of another term are in other logs.
        covers = saved is not None and saved.promised == participant.promised
        return Durable(
            worker=participant.worker,
            term=participant.promised,
            cursor=participant.cursor,
            flushed=dict(saved.positions) if saved is not None and covers else {},
            decision_seq=saved.decision_seq if saved is not None and covers else 0,
            needs_ts=participant.holdings.needs_ts(participant.cursor),
        )
