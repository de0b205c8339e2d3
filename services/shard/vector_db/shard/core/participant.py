"""The participant of the two-phase commit at one worker: votes, follows decisions, applies rows.

A pure machine (architecture, section 4, steps 2 and 4): events in, `Effects` out. Rows are kept and
looked up through the `RowStore` it is given. Owns these invariants:

- nothing is voted on before its record is in the log that the caller syncs first;
- records of terms other than the promised one are ignored;
- decisions are applied in the order of their chain, once each, and a COMMIT waits for its rows;
- rows are kept until their transaction is decided, whatever was voted.
"""

from __future__ import annotations

from collections import deque

from vector_db.common.core.domain import DomainState
from vector_db.common.core.messages import (
    Abort,
    Commit,
    CreateCollection,
    Decision,
    DecisionRecord,
    DropCollection,
    Prepare,
    Promise,
    PromiseRequest,
    Stage,
    Takeover,
    TxnStatus,
    Vote,
)
from vector_db.common.model.ids import ts_term
from vector_db.common.model.rows import Buffer
from vector_db.shard.core.conflicts import Conflicts
from vector_db.shard.core.judge import judge
from vector_db.shard.core.parts import ChainBroken, Checkpoint, Effects, Part, RowStore

DECIDED_MEMORY_MS = 600_000


class Participant:
    """One worker's participant in one domain."""

    def __init__(self, worker: str, store: RowStore) -> None:
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
        self._store = store
        self._states: list[tuple[int, DomainState]] = [(0, DomainState())]
        self._parts: dict[tuple[bytes, int], Part] = {}
        self._conflicts: dict[int, Conflicts] = {}
        self._waiting: list[Part] = []
        self._held: deque[tuple[DecisionRecord, int, Buffer]] = deque()
        self._decided: dict[bytes, tuple[int, int]] = {}
        self._applied: deque[tuple[int, int]] = deque()
        self._tail: deque[DecisionRecord] = deque()
        self._tail_from = 0
        self._floor = 0
        self._dropped: deque[tuple[int, int]] = deque()

    # --- recovery -------------------------------------------------------------------------------

    @classmethod
    def restore(cls, worker: str, store: RowStore, saved: Checkpoint) -> Participant:
        """The participant as of a checkpoint; the caller replays the WAL from its `replay_lsn`."""
        self = cls(worker, store)
        self.cluster_id = saved.cluster_id
        self.promised = saved.promised
        self.promised_to = saved.promised_to
        self.cursor = saved.cursor
        self.wall_ms = saved.wall_ms
        self.bases = dict(saved.bases)
        self.positions = dict(saved.positions)
        self.decision_seq = saved.decision_seq
        self._states = [(saved.cursor, saved.state)]
        self._tail = deque(saved.tail)
        self._tail_from = saved.tail_from
        return self

    def revote(self) -> Effects:
        """Votes on every undecided transaction again: votes are not in the log."""
        effects = Effects()
        self._conflicts.clear()
        self._waiting.clear()
        for part in sorted(self._parts.values(), key=lambda p: p.lsn):
            if part.prepare is not None:
                self._consider(part, effects)
        return effects

    # --- shard logs -----------------------------------------------------------------------------

    def wants(self, message: Prepare | Stage) -> bool:
        """Whether a shard-log record is to be logged and taken, by term and deadline."""
        if message.term != self.promised or message.txn_id in self._decided:
            return False
        return message.deadline_ms > self.wall_ms

    def take(
        self, message: Prepare | Stage, seq: int, lsn: int, replaying: bool = False
    ) -> Effects:
        """A wanted shard-log record, logged at `lsn`: a chunk is kept, a PREPARE voted on.

        `replaying`: it comes from the WAL; nothing is voted on until `revote`.
        """
        effects = Effects()
        if message.term == self.promised:
            self.skip(message.shard, seq)
        if message.txn_id in self._decided:
            return effects
        key = (message.txn_id, message.shard)
        part = self._parts.get(key)
        if part is None:
            part = Part(message.txn_id, message.shard, lsn, message.deadline_ms)
            self._parts[key] = part
        if isinstance(message, Stage):
            part.stages[message.index] = message
            return effects
        if part.prepare is None:
            part.prepare = message
            if not replaying:
                self._consider(part, effects)
        return effects

    def skip(self, shard: int, seq: int) -> None:
        """An unwanted record was passed over."""
        self.positions[shard] = max(self.positions.get(shard, 0), seq)

    def _consider(self, part: Part, effects: Effects) -> None:
        prepare = part.prepare
        if prepare is not None and prepare.snapshot_ts > self.cursor:
            self._waiting.append(part)
        else:
            effects.votes.append(self._vote(part))

    def _vote(self, part: Part) -> Vote:
        prepare = part.prepare
        if prepare is None:
            raise ValueError("a part without its PREPARE has no vote")
        others = self._conflicts.setdefault(part.shard, Conflicts())
        verdict = judge(part, prepare, self.state, others, self._store, self.full)
        others.add(part.txn_id, part.keys, prepare.mode == "blind")
        part.vote = Vote(
            txn_id=part.txn_id,
            term=prepare.term,
            shard=part.shard,
            worker=self.worker,
            yes=not verdict.reason,
            participants=prepare.participants,
            catalog_ts=prepare.catalog_ts,
            collections=part.collections(),
            gateway=prepare.gateway,
            deadline_ms=prepare.deadline_ms,
            deleted=verdict.deleted,
            reason=verdict.reason,
            detail=verdict.detail,
        )
        return part.vote

    def votes_again(self) -> list[Vote]:
        """The votes on everything undecided, as they were: a message may have been lost."""
        return [part.vote for part in self._parts.values() if part.vote is not None]

    # --- decisions ------------------------------------------------------------------------------

    @property
    def state(self) -> DomainState:
        """Catalog and placement at the cursor."""
        return self._states[-1][1]

    def offer(self, record: DecisionRecord, seq: int, raw: Buffer) -> None:
        """A record of the decision log, in the order of the log; `raw` is its framed bytes.

        :raises ChainBroken: a record is missing before this one.
        """
        if record.term != self.promised:
            return
        last = self._held[-1][0].last_ts if self._held else self.cursor
        if record.last_ts <= last:
            if not self._held:
                self.decision_seq = max(self.decision_seq, seq)
            return
        first = record.decisions[0]
        if record.prev_ts != last and not isinstance(first, Takeover):
            raise ChainBroken(f"record after {record.prev_ts}, the last one known ends at {last}")
        self._held.append((record, seq, raw))

    def next_ready(self) -> tuple[DecisionRecord, int, Buffer] | None:
        """The next record that can be applied now: log it, then `apply` it."""
        if not self._held:
            return None
        record, seq, raw = self._held[0]
        for decision in record.decisions:
            if isinstance(decision, Commit) and self._lacks_rows(decision):
                return None
        self._held.popleft()
        return record, seq, raw

    def _lacks_rows(self, commit: Commit) -> bool:
        mine = set(self.state.shards_of(self.worker))
        for shard in mine.intersection(commit.participants):
            part = self._parts.get((commit.txn_id, shard))
            if part is None or part.prepare is None or len(part.stages) != part.prepare.stages:
                return True
        return False

    def apply(self, record: DecisionRecord, seq: int, lsn: int) -> Effects:
        """Apply a record that is logged at `lsn`; what is at or below the cursor is only noted."""
        effects = Effects(cursor_moved=True)
        if record.term == self.promised:
            self.decision_seq = max(self.decision_seq, seq)
        is_news = record.last_ts > self.cursor
        for decision in record.decisions:
            if isinstance(decision, Takeover):
                self._take_over(decision, lsn)
            else:
                self._apply_one(decision, lsn)
        self.wall_ms = max(self.wall_ms, record.wall_ms)
        if is_news:
            self._tail.append(record)
        self._expire_memory()
        waiting, self._waiting = self._waiting, []
        for part in waiting:
            if (part.txn_id, part.shard) in self._parts:
                self._consider(part, effects)
        return effects

    def _apply_one(self, decision: Decision, lsn: int) -> None:
        ts = decision.ts
        if isinstance(decision, Commit | Abort):
            parts = self._release(decision)
            if ts > self.cursor and isinstance(decision, Commit):
                for part in parts:
                    for block in part.blocks():
                        if block.collection_id in self.state.collections:
                            self._store.apply(part.shard, block, ts)
                    lsn = min(lsn, part.lsn)
        if ts <= self.cursor:
            return
        self._applied.append((ts, lsn))
        before = self.state
        after = before.after(decision)
        if after is not before:
            self._states.append((ts, after))
        if isinstance(decision, CreateCollection):
            self._store.add_collection(decision.collection)
        elif isinstance(decision, DropCollection):
            self._dropped.append((ts, decision.collection_id))
        self.cursor = ts

    def _release(self, decision: Commit | Abort) -> list[Part]:
        """Take a decided transaction's parts out of the undecided ones."""
        ts = decision.ts if isinstance(decision, Commit) else 0
        parts = []
        deadline_ms = self.wall_ms
        for shard in decision.participants:
            part = self._parts.pop((decision.txn_id, shard), None)
            if part is None:
                continue
            parts.append(part)
            deadline_ms = max(deadline_ms, part.deadline_ms)
            if shard in self._conflicts:
                self._conflicts[shard].remove(decision.txn_id)
        if decision.txn_id not in self._decided:
            self._decided[decision.txn_id] = (deadline_ms, ts)
        return parts

    def _expire_memory(self) -> None:
        while self._decided:
            oldest = next(iter(self._decided))
            if self._decided[oldest][0] + DECIDED_MEMORY_MS > self.wall_ms:
                break
            del self._decided[oldest]

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
            tail=tuple(self._tail),
            tail_from=self._tail_from,
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
        self._waiting.clear()

    def _take_over(self, takeover: Takeover, lsn: int) -> None:
        if takeover.ts <= self.cursor:
            self._drop_old_terms(ts_term(takeover.ts))
            return
        keep = self.cursor
        for term in sorted(takeover.bases):
            if term > ts_term(self.cursor):
                keep = min(keep, takeover.bases[term])
                break
        if keep < self.cursor:
            self._undo_above(keep)
        placed = any(self.worker in workers for workers in takeover.replicas.values())
        joins_here = self.cursor < takeover.decisions_after
        if placed and joins_here:
            raise ChainBroken(
                f"the takeover tells what follows {takeover.decisions_after}, known up to "
                f"{self.cursor}"
            )
        if joins_here:
            self._tail.clear()
            self._tail_from = takeover.base
        else:
            for old in takeover.decisions:
                if old.last_ts > self.cursor:
                    for decision in old.decisions:
                        if isinstance(decision, Commit) and self._lacks_rows(decision):
                            raise ChainBroken(f"the rows of the commit {decision.ts} are missing")
                        self._apply_one(decision, lsn)
                    self._tail.append(old)
        self._drop_old_terms(ts_term(takeover.ts))
        self.cluster_id = takeover.cluster_id
        self.bases = dict(takeover.bases)
        self._states.append((takeover.ts, DomainState().after(takeover)))
        for collection in takeover.collections:
            self._store.add_collection(collection)
        self.cursor = takeover.ts
        self._applied.append((takeover.ts, lsn))

    def _undo_above(self, ts: int) -> None:
        self._store.undo_above(ts)
        self._states = [s for s in self._states if s[0] <= ts] or self._states[:1]
        self._tail = deque(r for r in self._tail if r.last_ts <= ts)
        self._applied = deque(a for a in self._applied if a[0] <= ts)
        self._dropped = deque(d for d in self._dropped if d[0] <= ts)
        # What was committed beyond the base is void, like every undecided PREPARE of its term.
        for txn_id, (deadline_ms, commit_ts) in self._decided.items():
            if commit_ts > ts:
                self._decided[txn_id] = (deadline_ms, 0)
        self.cursor = ts

    def _drop_old_terms(self, term: int) -> None:
        """Every undecided PREPARE of an older term is void: its gateway retries or says so."""
        for key, part in list(self._parts.items()):
            source = part.prepare or next(iter(part.stages.values()))
            if source.term < term:
                del self._parts[key]
                if part.shard in self._conflicts:
                    self._conflicts[part.shard].remove(part.txn_id)
                self._decided.setdefault(part.txn_id, (part.deadline_ms, 0))

    # --- what is stable, checkpoints, questions ---------------------------------------------------

    def stable(self, stable_ts: int, floor_ts: int) -> list[int]:
        """Note what nothing can undo; returns the collections whose files may go."""
        self.stable_ts = max(self.stable_ts, min(stable_ts, self.cursor))
        while len(self._states) > 1 and self._states[1][0] <= self.stable_ts:
            self._states.pop(0)
        self._floor = max(self._floor, floor_ts)
        while self._tail and self._tail[0].last_ts <= self._floor:
            self._tail_from = self._tail.popleft().last_ts
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
        lsns = [next_lsn, *(lsn for _, lsn in self._applied)]
        lsns.extend(part.lsn for part in self._parts.values())
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
            tail=tuple(r for r in self._tail if r.last_ts <= ts),
            tail_from=self._tail_from,
        )

    def status(self, txn_id: bytes) -> TxnStatus:
        """What this worker remembers of a transaction."""
        known = self._decided.get(txn_id)
        if known is not None:
            return TxnStatus("committed", known[1]) if known[1] else TxnStatus("aborted")
        pending = any(key[0] == txn_id for key in self._parts)
        return TxnStatus("pending" if pending else "unknown")

    def counts(self) -> dict[str, int]:
        """A few facts for health and metrics."""
        return {"undecided": len(self._parts), "held": len(self._held)}
