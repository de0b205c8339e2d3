"""The participant of the two-phase commit at one worker: votes, follows decisions, applies rows.

A pure machine (architecture, section 4, steps 2 and 4): events in, `Effects` out. Rows are kept and
looked up through the `RowStore` it is given, large transactions read back through `RecordSource`.
Owns these invariants:

- nothing is voted on before its record is in the log that the caller syncs first;
- records of terms other than the promised one are ignored;
- decisions are applied in the order of their chain, once each, and a COMMIT waits for its rows;
- the cursor reaches a commit only once all of its rows are applied;
- rows are kept until their transaction is decided, whatever was voted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from vector_db.common.core import history
from vector_db.common.core.domain import DomainState
from vector_db.common.core.messages import (
    Abort,
    AlterCollection,
    Commit,
    CreateCollection,
    Decision,
    DecisionRecord,
    DropCollection,
    EnterReply,
    Overlay,
    Prepare,
    Promise,
    PromiseRequest,
    SetPlacement,
    Stage,
    SwitchCollection,
    Takeover,
    TxnStatus,
    Vote,
)
from vector_db.common.model.ids import make_ts, ts_term, txn_deadline_ms, txn_term
from vector_db.common.model.rows import Buffer, RowBlock
from vector_db.shard.core.decided import Decided
from vector_db.shard.core.held import Held
from vector_db.shard.core.history import common_ts, end_of, follows, told_after
from vector_db.shard.core.holdings import Holdings
from vector_db.shard.core.kept import KeptParts
from vector_db.shard.core.parts import ChainBroken, Checkpoint, Effects, Missing, RowStore
from vector_db.shard.core.staging import Part, RecordSource
from vector_db.shard.core.steps import Steps, exhaust
from vector_db.shard.core.tail import Tail
from vector_db.shard.core.timeline import Timeline
from vector_db.shard.core.undecided import Undecided
from vector_db.shard.core.voter import Voter


class Participant:
    """One worker's participant in one domain."""

    def __init__(
        self,
        worker: str,
        store: RowStore,
        records: RecordSource | None = None,
        retention_s: float = 0.0,
    ) -> None:
        """`records`: the log, to read large transactions back from; None: memory keeps them.

        `retention_s`: how far back reads may go; 0: endlessly.
        """
        self.worker = worker
        self.cluster_id = ""
        self.promised = 0
        self.promised_to = ""
        self.cursor = 0
        self.stable_ts = 0
        self.wall_ms = 0
        self.bases: dict[int, int] = {}
        self.positions: dict[int, int] = {}
        """Shard → newest shard-log sequence of the promised term that was taken."""
        self.decision_seq = 0
        self.full = ""
        """Why rows cannot be taken now (an error's message), or empty."""
        self.holdings = Holdings(worker)
        self._store = store
        self._states: list[tuple[int, DomainState]] = [(0, DomainState())]
        self._undecided = Undecided(records)
        self._kept = KeptParts()
        self._voter = Voter(self, store, self._undecided)
        self._held = Held(self)
        self._decided = Decided()
        self._timeline = Timeline(retention_s)
        self._retention_s = retention_s
        self._log_ts = 0
        """The newest decision replayed so far: the cursor was there at this place of the log."""
        self._prompt: set[tuple[bytes, int]] = set()
        self._applied: deque[tuple[int, int]] = deque()
        self._tail = Tail()
        self._floor = 0
        self._dropped: deque[tuple[int, int]] = deque()
        self._moved = True
        """Shards may have gone from here by the placement."""

    # --- recovery -------------------------------------------------------------------------------

    @classmethod
    def restore(
        cls,
        worker: str,
        store: RowStore,
        saved: Checkpoint,
        records: RecordSource | None = None,
        retention_s: float = 0.0,
    ) -> Participant:
        """The participant as of a checkpoint; the caller replays the WAL from its `replay_lsn`."""
        self = cls(worker, store, records, retention_s)
        self.cluster_id = saved.cluster_id
        self.promised = saved.promised
        self.promised_to = saved.promised_to
        # Nothing above what is stable is ever checkpointed.
        self.cursor = self.stable_ts = saved.cursor
        self.wall_ms = saved.wall_ms
        self.bases = dict(saved.bases)
        self.positions = dict(saved.positions)
        self.decision_seq = saved.decision_seq
        self._states = [(saved.cursor, saved.state)]
        self._tail = Tail(saved.tail, saved.tail_from)
        self._decided = Decided(saved.decided, saved.wall_ms)
        self._timeline = Timeline(retention_s, saved.timeline)
        self._prompt = set(saved.prompt)
        self.holdings = Holdings(worker, saved.joined, saved.lost)
        return self

    def revote(self) -> Effects:
        """Votes on every undecided transaction again: votes are not in the log."""
        return Effects(votes=list(self._voter.revote()))

    # --- shard logs -----------------------------------------------------------------------------

    def wants(self, message: Prepare | Stage) -> bool:
        """Whether a shard-log record is to be logged and taken, by term and deadline."""
        if message.term != self.promised or message.txn_id in self._decided:
            return False
        return message.deadline_ms > self.wall_ms

    def take(
        self, message: Prepare | Stage, seq: int, lsn: int, replaying: bool = False
    ) -> Effects:
        """`take_steps` in one go."""
        return exhaust(self.take_steps(message, seq, lsn, replaying))

    def take_steps(
        self, message: Prepare | Stage, seq: int, lsn: int, replaying: bool = False
    ) -> Steps[Effects]:
        """A wanted record, logged at `lsn`: a chunk is kept, a PREPARE voted on.

        `seq` 0: a peer gave it, since the transaction is committed; it is not voted on.
        `replaying`: it comes from the WAL; nothing is voted on until `revote`.
        """
        effects = Effects()
        fetched = seq == 0
        if message.term == self.promised and not fetched:
            self.skip(message.shard, seq)
        # What is in the WAL is followed there by its decision, if it has one.
        if message.txn_id in self._decided and not (replaying or fetched):
            return effects
        part = self._undecided.open(message, lsn)
        if isinstance(message, Stage):
            part.add_chunk(message, lsn, replace=fetched)
        elif part.prepare is None:
            part.add_prepare(message, lsn, fetched)
            known = self._log_ts if replaying else self.cursor
            part.prompt = message.snapshot_ts <= known or (
                replaying and (part.txn_id, part.shard) in self._prompt
            )
            if not replaying:
                effects.votes += yield from self._voter.consider(part)
        return effects

    def skip(self, shard: int, seq: int) -> None:
        """An unwanted record was passed over."""
        self.positions[shard] = max(self.positions.get(shard, 0), seq)

    def votes_again(self) -> list[Vote]:
        """The votes on everything undecided, as they were: a message may have been lost."""
        return [part.vote for part in self._undecided if part.vote is not None]

    # --- open transactions ------------------------------------------------------------------------

    def staged(
        self, txn_id: bytes, shard: int, start: int, stop: int
    ) -> list[tuple[RowBlock, ...]] | None:
        """The blocks of chunks [start, stop) of an undecided transaction; None: one is not here."""
        part = self._undecided.get(txn_id, shard)
        if part is None or part.in_order < stop:
            return [] if start >= stop else None
        return [part.chunk(index) for index in range(start, stop)]

    def has_chunks(self, overlay: Overlay) -> bool:
        """Whether all that the overlay names is here, at all of its shards."""
        for shard, chunks in overlay.chunks.items():
            part = self._undecided.get(overlay.txn_id, shard)
            if (0 if part is None else part.in_order) < chunks:
                return False
        return True

    def is_over(self, overlay: Overlay) -> bool:
        """Whether the transaction is decided, or void with its term."""
        return overlay.term != self.promised or overlay.txn_id in self._decided

    # --- shards that come and go ------------------------------------------------------------------

    def followed_in(self, state: DomainState) -> frozenset[int]:
        """Shards whose rows have to be here before a decision about them is applied."""
        return self.holdings.followed_in(state)

    def votes_on(self, shard: int) -> bool:
        """Whether this worker is a replica of the shard: others neither vote nor answer."""
        return shard in self.holdings.voted_in(self.state)

    def undecided_lsns(self, shard: int) -> list[int]:
        """Where the records of what is undecided at the shard lie in the WAL, ascending, but for
        what peers gave."""
        parts = (p for p in self._undecided if p.shard == shard and not p.fetched)
        return sorted(lsn for part in parts for lsn in part.all_lsns())

    def follow(self, shard: int, position: int) -> None:
        """A replica's undecided records are taken: the shard's log is followed from `position`."""
        self.positions[shard] = position
        self.holdings.follow(shard, self.cursor)

    def committed_since(self, shard: int, ts: int) -> list[tuple[int, Sequence[int]]]:
        """(commit_ts, places in the WAL) of the parts of a followed shard after `ts`, in order."""
        return list(self._kept.of(shard, ts))

    def join(self, shard: int, snapshot_ts: int, timeline: bytes, decided: bytes) -> None:
        """All rows of a followed shard are here now; `timeline` and `decided` are the replica's."""
        self._timeline.adopt(timeline, snapshot_ts)
        self._decided.adopt(decided)
        self.holdings.join(shard, snapshot_ts)

    def memory_at(self, ts: int) -> tuple[bytes, bytes]:
        """(timeline, decided) as of `ts`, packed, for a worker that copies a shard."""
        return self._timeline.pack(ts), self._decided.pack(ts)

    def lose(self, shard: int) -> None:
        """Peers keep nothing of the shard for this worker: it is none of its replicas by now."""
        self.holdings.lose(shard)
        self._moved = True

    def was_removed(self, shard: int, worker: str, cursor: int) -> bool:
        """Whether the placement has taken the shard from `worker`, as nothing can undo, and it has
        not come so far yet."""
        at, state = self._states[0]
        there = worker in state.replicas.get(shard, ()) or state.moves.joining.get(shard) == worker
        return cursor < at <= self.stable_ts and not there

    def shards_to_drop(self) -> list[int]:
        """Shards whose rows are here and of no use, as nothing can undo; each is told once."""
        if not self._moved or len(self._states) > 1 or self._states[0][0] > self.stable_ts:
            return []
        self._moved = False
        return [s for s in self._store.shards() if not self.holdings.keeps(s, self.state)]

    # --- decisions ------------------------------------------------------------------------------

    @property
    def state(self) -> DomainState:
        """Catalog and placement at the cursor."""
        return self._states[-1][1]

    def state_at(self, ts: int) -> DomainState:
        """Catalog and placement at `ts`, which is at least what is stable."""
        return next((s for at, s in reversed(self._states) if at <= ts), self._states[0][1])

    def has_whole(self, txn_id: bytes, shard: int) -> bool:
        """Whether an undecided part is here with all of its rows."""
        part = self._undecided.get(txn_id, shard)
        return part is not None and part.whole

    def offer(self, record: DecisionRecord, seq: int, raw: Buffer) -> None:
        """A record of the decision log, in the order of the log; `raw` is its framed bytes.

        :raises ChainBroken: a record is missing before this one.
        """
        known = record.term == self.promised and not self._held.offer(record, seq, raw)
        if known and not self._held:
            self.decision_seq = max(self.decision_seq, seq)

    def next_ready(self) -> tuple[DecisionRecord, int, Buffer] | None:
        """The next record that can be applied now: log it, then `apply` it."""
        return self._held.next_ready()

    def missing(self) -> Missing | None:
        """What the next record waits for, if it waits."""
        return self._held.missing()

    def lacks(self, message: Prepare | Stage) -> bool:
        """Whether the next record waits for the part that a peer's record belongs to."""
        missing = self.missing()
        return missing is not None and (message.txn_id, message.shard) in missing.parts

    def skippable(self, txn_id: bytes, shard: int) -> int:
        """Chunks from 0 on that need not be fetched: they are here, and may be the right ones."""
        part = self._undecided.get(txn_id, shard)
        if part is None:
            return 0
        wrong = part.prepare is not None and part.in_order >= part.prepare.stages
        return 0 if wrong else part.in_order

    def supply_tail(self, records: Sequence[DecisionRecord]) -> bool:
        """Decisions that a takeover did not tell, from a peer; true when they were news."""
        return self._held.supply_tail(records)

    def apply(self, record: DecisionRecord, seq: int, lsn: int, replaying: bool = False) -> Effects:
        """`apply_steps` in one go."""
        return exhaust(self.apply_steps(record, seq, lsn, replaying))

    def apply_steps(
        self, record: DecisionRecord, seq: int, lsn: int, replaying: bool = False
    ) -> Steps[Effects]:
        """Apply a record that is logged at `lsn`; what is at or below the cursor is only noted.

        Between steps reads go on as before: a half applied commit lies above the cursor. A new
        placement or term counts only votes that were given in the knowledge of it, so everything
        undecided is voted on again; not when `replaying`, which `revote` follows.

        :raises ChainBroken: its rows, or decisions before it, are not here.
        """
        effects = Effects(cursor_moved=True)
        if record.term == self.promised:
            self.decision_seq = max(self.decision_seq, seq)
        is_news = record.last_ts > self.cursor
        self._log_ts = record.last_ts
        for decision in record.decisions:
            if isinstance(decision, Takeover):
                yield from self._take_over(decision, lsn)
            else:
                yield from self._apply_one(decision, lsn)
        self._pass_time(record.wall_ms)
        if is_news:
            self._note(record)
        self._decided.expire(self.wall_ms)
        anew = any(isinstance(d, SetPlacement | Takeover) for d in record.decisions)
        if is_news and anew and not replaying:
            effects.votes += self._voter.revote()
        else:
            effects.votes += yield from self._voter.cursor_moved()
        return effects

    def _note(self, record: DecisionRecord) -> None:
        self._timeline.note(record.wall_ms, record.last_ts)
        self._tail.note(record)

    def _apply_one(self, decision: Decision, lsn: int) -> Steps[None]:
        ts = decision.ts
        is_news = ts > self.cursor
        if isinstance(decision, Commit | Abort):
            if is_news and isinstance(decision, Commit):
                self._check_rows(decision)
            held = self.holdings.held_in(self.state)
            for part in self._release(decision):
                if is_news and isinstance(decision, Commit) and part.shard in held:
                    lsn = min(lsn, part.lsn)
                    yield from self._apply_part(part, ts)
        if not is_news:
            return
        self._applied.append((ts, lsn))
        before = self.state
        after = before.after(decision)
        if after is not before:
            self._states.append((ts, after))
        if isinstance(decision, CreateCollection | AlterCollection):
            self._store.add_collection(decision.collection)
        elif isinstance(decision, SwitchCollection):
            for collection in after.collections.values():
                self._store.add_collection(collection)
        elif isinstance(decision, DropCollection):
            self._dropped.append((ts, decision.collection_id))
        elif isinstance(decision, SetPlacement):
            self._placed(before, after)
        self.cursor = ts

    def _placed(self, before: DomainState, after: DomainState) -> None:
        self.holdings.placed(before, after)
        self._moved = True

    def _check_rows(self, commit: Commit) -> None:
        mine = self.followed_in(self.state).intersection(commit.participants)
        if not all(self.has_whole(commit.txn_id, shard) for shard in mine):
            raise ChainBroken(f"the rows of the commit {commit.ts} are missing")

    def _apply_part(self, part: Part, ts: int) -> Steps[None]:
        for block in part.blocks():
            if block.collection_id in self.state.collections:
                self._store.apply(part.shard, block, ts)
                yield len(block)

    def _release(self, decision: Commit | Abort) -> list[Part]:
        """Take a decided transaction's parts out of the undecided ones."""
        ts = decision.ts if isinstance(decision, Commit) else 0
        parts = []
        deadline_ms = self.wall_ms
        for shard in decision.participants:
            part = self._undecided.remove(decision.txn_id, shard)
            if part is None:
                continue
            parts.append(part)
            deadline_ms = max(deadline_ms, part.deadline_ms)
            # Another replica may have to ask for it; the only one has nobody who would.
            if ts > self._floor and self.state.is_shared(shard) and part.whole:
                self._kept.add(part, ts)
        deleted = decision.deleted if isinstance(decision, Commit) else 0
        self._decided.note(decision.txn_id, deadline_ms, ts, deleted)
        return parts

    # --- takeover -------------------------------------------------------------------------------

    def promise(self, request: PromiseRequest) -> bool:
        """Promise a candidate its term; true when that is news, to be logged and synced first.

        `promise_message` then says whether it was granted: a term is promised to one candidate.
        """
        if request.term <= self.promised or self.is_foreign(request.cluster_id):
            return False
        self.adopt_term(request.term, request.coordinator)
        return True

    def promise_message(self, request: PromiseRequest) -> Promise:
        """What this worker promised, and what it knows."""
        state = self.state
        mine = (self.promised, self.promised_to) == (request.term, request.coordinator)
        return Promise(
            worker=self.worker,
            granted=mine and not self.is_foreign(request.cluster_id),
            promised=self.promised,
            cluster_id=self.cluster_id,
            cursor=self.cursor,
            bases=self.bases,
            collections=tuple(state.collections.values()),
            catalog_ts=state.catalog_ts,
            replicas=state.replicas,
            wall_ms=self.wall_ms,
            tail=self._tail.up_to(self.cursor),
            tail_from=self._tail.after_ts,
            founders=state.founders,
            aliases=state.aliases,
            moves=state.moves,
        )

    def is_foreign(self, cluster_id: str) -> bool:
        """Whether both sides know their cluster, and it is not the same."""
        return bool(cluster_id and self.cluster_id and cluster_id != self.cluster_id)

    def adopt_term(self, term: int, coordinator: str) -> None:
        """From now on only records and sequencers of `term` count. Log and sync before telling."""
        if term <= self.promised:
            return
        self.promised = term
        self.promised_to = coordinator
        self.positions = {}
        self.decision_seq = 0
        self._held.clear()
        self._voter.forget_waiting()

    def _take_over(self, takeover: Takeover, lsn: int) -> Steps[None]:
        if takeover.ts <= self.cursor:
            # Replayed above a checkpoint: what it told was applied, and may be asked for.
            for old in takeover.decisions:
                for decision in old.decisions:
                    if isinstance(decision, Commit | Abort):
                        self._release(decision)
            self._drop_old_terms(ts_term(takeover.ts))
            return
        keep = common_ts(self.cursor, self.bases, takeover)
        if keep < self.cursor:
            self._undo_above(keep, takeover.ts)
        taken = DomainState().after(takeover)
        told = told_after(takeover, self.cursor)
        last = self.cursor
        if last < takeover.decisions_after and follows(
            takeover.decisions_after, last, takeover.bases
        ):
            last = takeover.decisions_after
        if last >= takeover.decisions_after:
            end = end_of(last, told, takeover.bases)
            if end < 0 or not follows(takeover.base, end, takeover.bases):
                raise ChainBroken(f"the takeover does not tell all that follows {last}")
            for old in told:
                for decision in old.decisions:
                    yield from self._apply_one(decision, lsn)
                self._note(old)
        elif taken.is_placed(self.worker):
            raise ChainBroken(
                f"the takeover tells what follows {takeover.decisions_after}, known up to "
                f"{self.cursor}"
            )
        else:
            self._tail.begin_at(takeover.base)
            self._decided.joined(self.wall_ms)
        self.cluster_id = takeover.cluster_id
        self.bases = dict(takeover.bases)
        self._stand_at(takeover.ts, taken, lsn)

    def _stand_at(self, ts: int, state: DomainState, lsn: int) -> None:
        """History up to `ts` is known, or nothing of it concerns this worker."""
        self._drop_old_terms(ts_term(ts))
        self._placed(self.state, state)
        self._states.append((ts, state))
        for collection in state.collections.values():
            self._store.add_collection(collection)
        self.cursor = ts
        self._applied.append((ts, lsn))

    # --- entering without a takeover --------------------------------------------------------------

    def enter_reply(self, term: int, worker: str) -> EnterReply | None:
        """Where this worker stands, for one that holds nothing; None: it cannot say now, or the
        other one holds something. Asked only when no record is half applied."""
        state = self.state
        stands = self.promised == term and self.stable_ts >= make_ts(term, 0)
        if not stands or state.founders or state.is_placed(worker):
            return None
        records = self._tail.between(self.stable_ts, self.cursor)
        ts = records[0].prev_ts if records else self.cursor
        if ts > self.stable_ts:
            return None
        state = self.state_at(ts)
        return EnterReply(
            term=term,
            ts=ts,
            cluster_id=self.cluster_id,
            bases=self.bases,
            collections=tuple(state.collections.values()),
            replicas=state.replicas,
            catalog_ts=state.catalog_ts,
            aliases=state.aliases,
            moves=state.moves,
            wall_ms=self.wall_ms,
            records=tuple(records),
            decision_seq=self.decision_seq,
        )

    def can_enter(self, reply: EnterReply) -> bool:
        """Whether to stand where a replica does: this worker holds nothing there."""
        state = _state_of(reply)
        known = reply.term == self.promised and not self.is_foreign(reply.cluster_id)
        return known and reply.ts > self.cursor and not state.is_placed(self.worker)

    def enter(self, reply: EnterReply, lsn: int) -> None:
        """Stand where a replica does; `reply` is logged at `lsn`."""
        keep = history.common_ts(self.cursor, self.bases, reply.bases)
        if keep < self.cursor:
            self._undo_above(keep, reply.ts)
        self._held.clear()
        self._tail.begin_at(reply.ts)
        self._decided.joined(max(self.wall_ms, reply.wall_ms))
        self.cluster_id = reply.cluster_id
        self.bases = dict(reply.bases)
        self._stand_at(reply.ts, _state_of(reply), lsn)
        self._log_ts = reply.ts
        for record in reply.records:
            self.apply(record, 0, lsn, replaying=True)
        self.decision_seq = reply.decision_seq

    def _undo_above(self, ts: int, by: int) -> None:
        self._store.undo_above(ts)
        self._states = [s for s in self._states if s[0] <= ts] or self._states[:1]
        self._tail.undo_above(ts)
        self._applied = deque(a for a in self._applied if a[0] <= ts)
        self._dropped = deque(d for d in self._dropped if d[0] <= ts)
        # What was committed beyond the base is void, like every undecided PREPARE of its term.
        self._decided.undo_above(ts, by)
        self._kept.undo_above(ts)
        self._timeline.undo_above(ts)
        self.cursor = ts
        self.holdings.forget(self.state)

    def _drop_old_terms(self, term: int) -> None:
        """Every undecided PREPARE of an older term is void: its gateway retries or says so."""
        for part in [p for p in self._undecided if p.term < term]:
            self._undecided.remove(part.txn_id, part.shard)
            self._decided.note(part.txn_id, part.deadline_ms, -make_ts(term, 0))

    # --- time, what is stable, checkpoints, questions ---------------------------------------------

    def hear(self, wall_ms: int, last_ts: int) -> None:
        """Every decision up to `last_ts` was made at or before `wall_ms`, every later one after."""
        if last_ts and self.cursor >= last_ts:
            self._pass_time(wall_ms)

    def _pass_time(self, wall_ms: int) -> None:
        self.wall_ms = max(self.wall_ms, wall_ms)
        self._undecided.expire(self.wall_ms)
        self._timeline.advance(self.wall_ms)

    def as_of(self, wall_ms: int) -> int:
        """The newest stable ts whose decisions all lie at or before `wall_ms`, in steps of 100 ms.

        0: there is none, or it lies before the window (see `retention_floor_ts`). The answer is
        final once `self.wall_ms` has passed `wall_ms`.
        """
        return min(self._timeline.as_of(wall_ms), self.stable_ts)

    @property
    def retention_floor_ts(self) -> int:
        """Snapshots below it are too old to be read."""
        return self._timeline.floor_ts

    def stable(self, stable_ts: int, floor_ts: int) -> list[int]:
        """Note what nothing can undo; returns the collections whose files may go.

        The word of the promised term's sequencer, about its own history: a worker that has not
        applied the takeover may be on another one.
        """
        if ts_term(self.cursor) == self.promised:
            self.stable_ts = max(self.stable_ts, min(stable_ts, self.cursor))
        while len(self._states) > 1 and self._states[1][0] <= self.stable_ts:
            self._states.pop(0)
        self._floor = max(self._floor, floor_ts)
        self._kept.release(self._floor)
        self._tail.release(self._floor)
        gone = []
        while self._dropped and self._dropped[0][0] <= self.stable_ts:
            gone.append(self._dropped.popleft()[1])
        return gone

    def checkpoint(self, next_lsn: int) -> Checkpoint | None:
        """The protocol's part of a checkpoint at `stable_ts`; None while a catalog change hangs."""
        if len(self._states) > 1 or self._states[0][0] > self.stable_ts:
            return None
        ts = self.stable_ts
        while self._applied and self._applied[0][0] <= ts:
            self._applied.popleft()
        lsns = [self._kept.least_lsn(next_lsn), *(lsn for _, lsn in self._applied)]
        lsns.extend(part.lsn for part in self._undecided)
        return Checkpoint(
            cluster_id=self.cluster_id,
            promised=self.promised,
            promised_to=self.promised_to,
            cursor=ts,
            wall_ms=self.wall_ms,
            bases=dict(self.bases),
            state=self.state,
            positions=dict(self.positions),
            decision_seq=self.decision_seq,
            replay_lsn=min(lsns),
            tail=self._tail.up_to(ts),
            tail_from=self._tail.after_ts,
            decided=self._decided.pack(ts),
            timeline=self._timeline.pack(ts),
            prompt=tuple((p.txn_id, p.shard) for p in self._undecided if p.prompt),
            joined=dict(self.holdings.joined),
            lost=tuple(sorted(self.holdings.lost)),
        )

    def part_lsns(self, txn_id: bytes, shard: int) -> Sequence[int]:
        """Where a part's records lie in the WAL, for a peer; empty: it is not whole here."""
        if (kept := self._kept.lsns(txn_id, shard)) is not None:
            return kept
        part = self._undecided.get(txn_id, shard)
        return part.lsns() if part is not None and part.whole else ()

    def tail_after(self, term: int, after_ts: int, up_to_ts: int) -> list[DecisionRecord]:
        """The decisions in (after, up to] as history goes in `term`; []: not known here."""
        return self._tail.between(after_ts, up_to_ts) if term in self.bases else []

    def status(self, txn_id: bytes) -> TxnStatus:
        """What this worker knows, for good, of a transaction.

        Neither a commit nor the end of a term is told before it is stable: it may be undone.
        """
        fate = self._decided.fate(txn_id)
        if fate == 0:
            return TxnStatus("aborted")
        if fate is not None:
            if abs(fate) > self.stable_ts:
                return TxnStatus("pending")
            if fate < 0:
                return TxnStatus("aborted")
            return TxnStatus("committed", fate, deleted=self._decided.deleted(txn_id))
        if self._undecided.has_any(txn_id):
            return TxnStatus("pending")
        past = 0 < txn_term(txn_id) < ts_term(self.stable_ts)
        if past and self._decided.covers(txn_deadline_ms(txn_id), self.wall_ms):
            # All that its term decided is known here, and nothing of it is decided any more.
            return TxnStatus("aborted")
        return TxnStatus("unknown")

    def counts(self) -> dict[str, int]:
        """A few facts for health and metrics."""
        return {"undecided": len(self._undecided), "held": len(self._held)}


def _state_of(reply: EnterReply) -> DomainState:
    return DomainState(
        reply.catalog_ts,
        {c.id: c for c in reply.collections},
        dict(reply.replicas),
        aliases=dict(reply.aliases),
        moves=reply.moves,
    )
