"""The decisions that a worker has applied: one history up to its cursor, and all that it made.

Rows, catalog and placement, what is remembered of decisions and where their records lie in the WAL:
all of it goes on with the cursor and is undone with it. Owns these invariants:

- a decision is applied once, and a commit only with all of its rows;
- the cursor reaches a decision only once all that follows from it is there;
- after `undo_above(ts)` nothing is left that follows from a decision after `ts`;
- nothing is given up (a collection's files, a shard, a place in the WAL) for a decision that can
  still be undone.
"""

from __future__ import annotations

from collections import deque

from vector_db.common.core.domain import DomainState
from vector_db.common.core.messages.decisions import (
    Abort,
    AlterCollection,
    Commit,
    CreateCollection,
    Decision,
    DecisionRecord,
    DropCollection,
    SetPlacement,
    SwitchCollection,
)
from vector_db.shard.core.decided import Decided
from vector_db.shard.core.holdings import Holdings
from vector_db.shard.core.kept import KeptParts
from vector_db.shard.core.parts import ChainBroken, Checkpoint, RowStore
from vector_db.shard.core.staging import Part
from vector_db.shard.core.steps import Steps
from vector_db.shard.core.tail import Tail
from vector_db.shard.core.timeline import Timeline
from vector_db.shard.core.undecided import Undecided


class Applied:
    """What one worker has applied, in one domain.

    Rows of a commit come from the parts in `undecided`, which it takes out of there.
    """

    def __init__(
        self,
        worker: str,
        store: RowStore,
        undecided: Undecided,
        retention_s: float,
        saved: Checkpoint,
    ) -> None:
        self.worker = worker
        self.cluster_id = saved.cluster_id
        # Nothing above what is stable is ever checkpointed.
        self.cursor = self.stable_ts = saved.cursor
        self.bases: dict[int, int] = dict(saved.bases)
        """Term → where the history before it ended."""
        self.wall_ms = saved.wall_ms
        """The newest time that was consumed, on the sequencers' clocks; it is never undone."""
        self.holdings = Holdings(worker, saved.joined, saved.lost)
        self.decided = Decided(saved.decided, saved.wall_ms)
        self.kept = KeptParts()
        self.tail = Tail(saved.tail, saved.tail_from)
        self.timeline = Timeline(retention_s, saved.timeline)
        self._store = store
        self._undecided = undecided
        self._states: list[tuple[int, DomainState]] = [(saved.cursor, saved.state)]
        """(ts, what the decision at `ts` made of it): the newest stable one, and all later ones."""
        self._lsns: deque[tuple[int, int]] = deque()
        """(ts, the oldest record in the WAL that it was applied from), of what may be undone."""
        self._dropped: deque[tuple[int, int]] = deque()
        """(ts, collection) of drops that may be undone."""
        self._floor_ts = 0
        """Every placed worker is durable up to here."""
        self._moved = True
        """Shards may have gone from here by the placement."""

    # --- where it stands --------------------------------------------------------------------------

    @property
    def state(self) -> DomainState:
        """Catalog and placement at the cursor."""
        return self._states[-1][1]

    def state_at(self, ts: int) -> DomainState:
        """Catalog and placement at `ts`, which is at least what is stable."""
        return next((s for at, s in reversed(self._states) if at <= ts), self._states[0][1])

    @property
    def is_settled(self) -> bool:
        """Whether nothing can undo the catalog and the placement at the cursor."""
        return len(self._states) == 1 and self._states[0][0] <= self.stable_ts

    def followed_in(self, state: DomainState) -> frozenset[int]:
        """Shards whose rows have to be here before a decision about them is applied."""
        return self.holdings.followed_in(state)

    def has_whole(self, txn_id: bytes, shard: int) -> bool:
        """Whether an undecided part is here with all of its rows."""
        part = self._undecided.get(txn_id, shard)
        return part is not None and part.whole

    def was_removed(self, shard: int, worker: str, cursor: int) -> bool:
        """Whether the placement has taken the shard from `worker`, as nothing can undo, and it has
        not come so far yet."""
        at, state = self._states[0]
        there = worker in state.replicas.get(shard, ()) or state.moves.joining.get(shard) == worker
        return cursor < at <= self.stable_ts and not there

    # --- onwards ----------------------------------------------------------------------------------

    def apply(self, decision: Decision, lsn: int) -> Steps[None]:
        """Apply one that is logged at `lsn`, other than a takeover; one at or below the cursor is
        only noted.

        :raises ChainBroken: its rows are not here.
        """
        ts = decision.ts
        is_news = ts > self.cursor
        if isinstance(decision, Commit | Abort):
            if is_news and isinstance(decision, Commit):
                self._check_rows(decision)
            held = self.holdings.held_in(self.state)
            for part in self.release(decision):
                if is_news and isinstance(decision, Commit) and part.shard in held:
                    lsn = min(lsn, part.lsn)
                    yield from self._apply_part(part, ts)
        if not is_news:
            return
        self._lsns.append((ts, lsn))
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

    def _check_rows(self, commit: Commit) -> None:
        mine = self.followed_in(self.state).intersection(commit.participants)
        if not all(self.has_whole(commit.txn_id, shard) for shard in mine):
            raise ChainBroken(f"the rows of the commit {commit.ts} are missing")

    def _apply_part(self, part: Part, ts: int) -> Steps[None]:
        for block in part.blocks():
            if block.collection_id in self.state.collections:
                self._store.apply(part.shard, block, ts)
                yield len(block)

    def release(self, decision: Commit | Abort) -> list[Part]:
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
            if ts > self._floor_ts and self.state.is_shared(shard) and part.whole:
                self.kept.add(part, ts)
        deleted = decision.deleted if isinstance(decision, Commit) else 0
        self.decided.note(decision.txn_id, deadline_ms, ts, deleted)
        return parts

    def note(self, record: DecisionRecord) -> None:
        """All decisions of the record are applied."""
        self.timeline.note(record.wall_ms, record.last_ts)
        self.tail.note(record)

    def pass_time(self, wall_ms: int) -> None:
        """It is `wall_ms` by the decisions and beats that were consumed."""
        self.wall_ms = max(self.wall_ms, wall_ms)
        self._undecided.expire(self.wall_ms)
        self.timeline.advance(self.wall_ms)

    def _placed(self, before: DomainState, after: DomainState) -> None:
        self.holdings.placed(before, after)
        self._moved = True

    # --- to another history -----------------------------------------------------------------------

    def undo_above(self, ts: int, by: int) -> None:
        """What was decided after `ts` is void by the takeover at `by`."""
        self._store.undo_above(ts)
        self._states = [s for s in self._states if s[0] <= ts] or self._states[:1]
        self.tail.undo_above(ts)
        self._lsns = deque(a for a in self._lsns if a[0] <= ts)
        self._dropped = deque(d for d in self._dropped if d[0] <= ts)
        self.decided.undo_above(ts, by)
        self.kept.undo_above(ts)
        self.timeline.undo_above(ts)
        self.cursor = ts
        self.holdings.forget(self.state)

    def skip_to(self, ts: int, wall_ms: int) -> None:
        """Decisions up to `ts`, made until `wall_ms`, are not known here and do not matter here."""
        self.tail.begin_at(ts)
        self.decided.joined(wall_ms)

    def stand_at(
        self, ts: int, state: DomainState, cluster_id: str, bases: dict[int, int], lsn: int
    ) -> None:
        """The history with these bases is applied up to `ts`, as far as it matters here.

        :raises ChainBroken: by `state` this worker is a replica of a shard whose rows it lacks.
        """
        self.cluster_id = cluster_id
        self.bases = dict(bases)
        self._placed(self.state, state)
        self._states.append((ts, state))
        for collection in state.collections.values():
            self._store.add_collection(collection)
        self.cursor = ts
        self._lsns.append((ts, lsn))

    # --- what nothing can undo --------------------------------------------------------------------

    def settle(self, stable_ts: int, floor_ts: int) -> list[int]:
        """Nothing undoes what was decided up to `stable_ts`, and every placed worker is durable up
        to `floor_ts`; returns the collections whose files may go."""
        self.stable_ts = max(self.stable_ts, min(stable_ts, self.cursor))
        while len(self._states) > 1 and self._states[1][0] <= self.stable_ts:
            self._states.pop(0)
        self._floor_ts = max(self._floor_ts, floor_ts)
        self.kept.release(self._floor_ts)
        self.tail.release(self._floor_ts)
        gone = []
        while self._dropped and self._dropped[0][0] <= self.stable_ts:
            gone.append(self._dropped.popleft()[1])
        return gone

    def lose(self, shard: int) -> None:
        """Peers keep nothing of the shard for this worker: it is none of its replicas by now."""
        self.holdings.lose(shard)
        self._moved = True

    def shards_to_drop(self) -> list[int]:
        """Shards whose rows are here and of no use, as nothing can undo; each is told once."""
        if not self._moved or not self.is_settled:
            return []
        self._moved = False
        return [s for s in self._store.shards() if not self.holdings.keeps(s, self.state)]

    def least_lsn(self, next_lsn: int) -> int:
        """The oldest record in the WAL that is needed to go on from what is stable, or that a peer
        may ask for; `next_lsn`: none."""
        while self._lsns and self._lsns[0][0] <= self.stable_ts:
            self._lsns.popleft()
        return min([self.kept.least_lsn(next_lsn), *(lsn for _, lsn in self._lsns)])
