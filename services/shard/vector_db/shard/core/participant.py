"""The participant of the two-phase commit at one worker: takes records, votes, follows decisions.

A pure machine (architecture, section 4, steps 2 and 4): events in, `Effects` out. Rows are kept and
looked up through the `RowStore` it is given, large transactions read back through `RecordSource`.
It runs the protocol within a term; from one term to the next it goes by `takeover`. Owns these
invariants, and leaves to its parts those of theirs (`undecided`, `voter`, `held`, `applied`):

- nothing is voted on before its record is in the log that the caller syncs first;
- records of terms other than the promised one are ignored;
- what it tells of a transaction, or puts in a checkpoint, nothing can undo.
"""

from __future__ import annotations

from collections.abc import Sequence

from vector_db.common.core.domain import DomainState
from vector_db.common.core.messages.catching_up import EnterReply
from vector_db.common.core.messages.decisions import DecisionRecord, SetPlacement, Takeover
from vector_db.common.core.messages.reads import Overlay
from vector_db.common.core.messages.transactions import Prepare, Stage, TxnStatus, Vote
from vector_db.common.model.ids import ts_term, txn_deadline_ms, txn_term
from vector_db.common.model.rows import Buffer, RowBlock
from vector_db.shard.core.applied import Applied
from vector_db.shard.core.held import Held
from vector_db.shard.core.parts import Checkpoint, Effects, Missing, RowStore
from vector_db.shard.core.staging import RecordSource
from vector_db.shard.core.steps import Steps, exhaust
from vector_db.shard.core.takeover import Takeovers
from vector_db.shard.core.term import Term
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
        saved: Checkpoint | None = None,
    ) -> None:
        """As of the checkpoint `saved`: the caller replays the WAL from its `replay_lsn`.

        `records`: the log, to read large transactions back from; None: memory keeps them.
        `retention_s`: how far back reads may go; 0: endlessly.
        """
        saved = Checkpoint.initial() if saved is None else saved
        self.worker = worker
        self.full = ""
        """Why rows cannot be taken now (an error's message), or empty."""
        self.term = Term(saved.promised, saved.promised_to, saved.positions, saved.decision_seq)
        self._undecided = Undecided(records)
        self._applied = Applied(worker, store, self._undecided, retention_s, saved)
        self._voter = Voter(self, store, self._undecided)
        self._held = Held(self._applied)
        self.holdings = self._applied.holdings
        self.takeovers = Takeovers(
            self.term, self._applied, self._undecided, self._held, self._voter
        )
        self._log_ts = 0
        """The newest decision replayed so far: the cursor was there at this place of the log."""
        self._prompt = set(saved.prompt)

    # --- where it stands --------------------------------------------------------------------------

    @property
    def promised(self) -> int:
        """The term that it follows."""
        return self.term.promised

    @property
    def cluster_id(self) -> str:
        """Empty before the first takeover."""
        return self._applied.cluster_id

    @property
    def cursor(self) -> int:
        """The newest decision that is applied."""
        return self._applied.cursor

    @property
    def stable_ts(self) -> int:
        """What was decided up to here, nothing can undo."""
        return self._applied.stable_ts

    @property
    def wall_ms(self) -> int:
        """The newest time that was consumed, on the sequencers' clocks."""
        return self._applied.wall_ms

    @property
    def state(self) -> DomainState:
        """Catalog and placement at the cursor."""
        return self._applied.state

    @property
    def retention_floor_ts(self) -> int:
        """Snapshots below it are too old to be read."""
        return self._applied.timeline.floor_ts

    # --- shard logs -------------------------------------------------------------------------------

    def wants(self, message: Prepare | Stage) -> bool:
        """Whether a shard-log record is to be logged and taken, by term and deadline."""
        if message.term != self.promised or message.txn_id in self._applied.decided:
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
            self.term.read(message.shard, seq)
        # What is in the WAL is followed there by its decision, if it has one.
        if message.txn_id in self._applied.decided and not (replaying or fetched):
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
        self.term.read(shard, seq)

    def revote(self) -> Effects:
        """Votes on every undecided transaction again: votes are not in the log."""
        return Effects(votes=list(self._voter.revote()))

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
        return overlay.term != self.promised or overlay.txn_id in self._applied.decided

    # --- shards that come and go ------------------------------------------------------------------

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
        self.term.positions[shard] = position
        self.holdings.follow(shard, self.cursor)

    def committed_since(self, shard: int, ts: int) -> list[tuple[int, Sequence[int]]]:
        """(commit_ts, places in the WAL) of the parts of a followed shard after `ts`, in order."""
        return list(self._applied.kept.of(shard, ts))

    def join(self, shard: int, snapshot_ts: int, timeline: bytes, decided: bytes) -> None:
        """All rows of a followed shard are here now; `timeline` and `decided` are the replica's."""
        self._applied.timeline.adopt(timeline, snapshot_ts)
        self._applied.decided.adopt(decided)
        self.holdings.join(shard, snapshot_ts)

    def memory_at(self, ts: int) -> tuple[bytes, bytes]:
        """(timeline, decided) as of `ts`, packed, for a worker that copies a shard."""
        return self._applied.timeline.pack(ts), self._applied.decided.pack(ts)

    def lose(self, shard: int) -> None:
        """Peers keep nothing of the shard for this worker: it is none of its replicas by now."""
        self._applied.lose(shard)

    def was_removed(self, shard: int, worker: str, cursor: int) -> bool:
        """Whether the placement has taken the shard from `worker`, as nothing can undo, and it has
        not come so far yet."""
        return self._applied.was_removed(shard, worker, cursor)

    def shards_to_drop(self) -> list[int]:
        """Shards whose rows are here and of no use, as nothing can undo; each is told once."""
        return self._applied.shards_to_drop()

    # --- decisions --------------------------------------------------------------------------------

    def offer(self, record: DecisionRecord, seq: int, raw: Buffer) -> None:
        """A record of the decision log, in the order of the log; `raw` is its framed bytes.

        :raises ChainBroken: a record is missing before this one.
        """
        known = record.term == self.promised and not self._held.offer(record, seq, raw)
        if known and not self._held:
            self.term.read_decisions(seq)

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
            self.term.read_decisions(seq)
        applied = self._applied
        is_news = record.last_ts > applied.cursor
        self._log_ts = record.last_ts
        for decision in record.decisions:
            if isinstance(decision, Takeover):
                yield from self.takeovers.apply(decision, lsn)
            else:
                yield from applied.apply(decision, lsn)
        applied.pass_time(record.wall_ms)
        if is_news:
            applied.note(record)
        applied.decided.expire(applied.wall_ms)
        anew = any(isinstance(d, SetPlacement | Takeover) for d in record.decisions)
        if is_news and anew and not replaying:
            effects.votes += self._voter.revote()
        else:
            effects.votes += yield from self._voter.cursor_moved()
        return effects

    def enter(self, reply: EnterReply, lsn: int) -> None:
        """Stand where a replica does, and apply what it has beyond; `reply` is logged at `lsn`."""
        self.takeovers.stand_beside(reply, lsn)
        self._log_ts = reply.ts
        for record in reply.records:
            self.apply(record, 0, lsn, replaying=True)
        self.term.decision_seq = reply.decision_seq

    # --- time, what is stable, checkpoints, questions ---------------------------------------------

    def hear(self, wall_ms: int, last_ts: int) -> None:
        """Every decision up to `last_ts` was made at or before `wall_ms`, every later one after."""
        if last_ts and self.cursor >= last_ts:
            self._applied.pass_time(wall_ms)

    def as_of(self, wall_ms: int) -> int:
        """The newest stable ts whose decisions all lie at or before `wall_ms`, in steps of 100 ms.

        0: there is none, or it lies before the window (see `retention_floor_ts`). The answer is
        final once `self.wall_ms` has passed `wall_ms`.
        """
        return min(self._applied.timeline.as_of(wall_ms), self.stable_ts)

    def stable(self, stable_ts: int, floor_ts: int) -> list[int]:
        """Note what nothing can undo; returns the collections whose files may go.

        The word of the promised term's sequencer, about its own history: a worker that has not
        applied the takeover may be on another one.
        """
        heeded = ts_term(self.cursor) == self.promised
        return self._applied.settle(stable_ts if heeded else 0, floor_ts)

    def checkpoint(self, next_lsn: int) -> Checkpoint | None:
        """The protocol's part of a checkpoint at `stable_ts`; None while a catalog change hangs."""
        applied = self._applied
        if not applied.is_settled:
            return None
        ts = applied.stable_ts
        lsns = [applied.least_lsn(next_lsn), *(part.lsn for part in self._undecided)]
        return Checkpoint(
            cluster_id=applied.cluster_id,
            promised=self.term.promised,
            promised_to=self.term.promised_to,
            cursor=ts,
            wall_ms=applied.wall_ms,
            bases=dict(applied.bases),
            state=applied.state,
            positions=dict(self.term.positions),
            decision_seq=self.term.decision_seq,
            replay_lsn=min(lsns),
            tail=applied.tail.up_to(ts),
            tail_from=applied.tail.after_ts,
            decided=applied.decided.pack(ts),
            timeline=applied.timeline.pack(ts),
            prompt=tuple((p.txn_id, p.shard) for p in self._undecided if p.prompt),
            joined=dict(applied.holdings.joined),
            lost=tuple(sorted(applied.holdings.lost)),
        )

    def part_lsns(self, txn_id: bytes, shard: int) -> Sequence[int]:
        """Where a part's records lie in the WAL, for a peer; empty: it is not whole here."""
        if (kept := self._applied.kept.lsns(txn_id, shard)) is not None:
            return kept
        part = self._undecided.get(txn_id, shard)
        return part.lsns() if part is not None and part.whole else ()

    def tail_after(self, term: int, after_ts: int, up_to_ts: int) -> list[DecisionRecord]:
        """The decisions in (after, up to] as history goes in `term`; []: not known here."""
        return self._applied.tail.between(after_ts, up_to_ts) if term in self._applied.bases else []

    def status(self, txn_id: bytes) -> TxnStatus:
        """What this worker knows, for good, of a transaction.

        Neither a commit nor the end of a term is told before it is stable: it may be undone.
        """
        fate = self._applied.decided.fate(txn_id)
        if fate == 0:
            return TxnStatus("aborted")
        if fate is not None:
            if abs(fate) > self.stable_ts:
                return TxnStatus("pending")
            if fate < 0:
                return TxnStatus("aborted")
            return TxnStatus("committed", fate, deleted=self._applied.decided.deleted(txn_id))
        if self._undecided.has_any(txn_id):
            return TxnStatus("pending")
        past = 0 < txn_term(txn_id) < ts_term(self.stable_ts)
        if past and self._applied.decided.covers(txn_deadline_ms(txn_id), self.wall_ms):
            # All that its term decided is known here, and nothing of it is decided any more.
            return TxnStatus("aborted")
        return TxnStatus("unknown")

    def counts(self) -> dict[str, int]:
        """A few facts for health and metrics."""
        return {"undecided": len(self._undecided), "held": len(self._held)}
