"""Two-phase commit at the sequencer: counts votes, decides, and tells what became of transactions.

A pure machine (architecture, section 4, step 3). Owns these invariants:

- nothing is decided twice;
- COMMIT needs YES from a majority of the replicas of every participant shard, as `placements`
  counts them, and none is written past its transaction's deadline;
- nothing is committed that the generations of its collections forbid (`core/generations`);
- a commit is told only once it is stable: until then another term may undo it.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field

from vector_db.common.core.messages.decisions import Abort, Commit
from vector_db.common.core.messages.transactions import Outcome, TxnStatus, Vote
from vector_db.common.model.ids import txn_deadline_ms, txn_term
from vector_db.coordinator.core.effects import Effects
from vector_db.coordinator.core.generations import Generations
from vector_db.coordinator.core.order import Order
from vector_db.coordinator.core.placements import Placements
from vector_db.coordinator.core.releases import Releases, Unreleased

DECIDED_MEMORY_MS = 120_000
"""How long outcomes are told to askers after their deadline (thousands a second are kept)."""
OPEN_MS_MAX = 7 * 86_400_000
"""No transaction may stay open for longer."""


@dataclass(slots=True)
class _Transaction:
    """What the votes said so far."""

    txn_id: bytes
    participants: tuple[int, ...]
    gateway: str
    deadline_ms: int
    catalog_ts: int
    collections: set[int] = field(default_factory=set)
    yes: dict[int, dict[str, int]] = field(default_factory=dict)
    """Shard → worker → the cursor that it voted at."""
    no: dict[int, set[str]] = field(default_factory=dict)
    deleted: dict[int, int] = field(default_factory=dict)
    reason: str = ""
    detail: str = ""


class TwoPhaseCommit:
    """The transactions of one term."""

    def __init__(
        self, order: Order, placements: Placements, releases: Releases, generations: Generations
    ) -> None:
        self._order = order
        self._placements = placements
        self._releases = releases
        self._generations = generations
        self._transactions: dict[bytes, _Transaction] = {}
        self._deadlines: list[tuple[int, bytes]] = []
        self._decided: dict[bytes, TxnStatus] = {}
        self._decided_until: list[tuple[int, bytes]] = []

    @property
    def undecided(self) -> int:
        """How many transactions are known and not decided."""
        return len(self._transactions)

    # --- events ---------------------------------------------------------------------------------

    def vote(self, vote: Vote, now_ms: int) -> Effects:
        """Count one vote; decides as soon as it can be decided."""
        effects, order = Effects(), self._order
        if vote.term != order.term or vote.txn_id in self._decided:
            return effects
        if not self._placements.counts(vote):
            return effects
        order.advance_wall(now_ms)
        if vote.deadline_ms + DECIDED_MEMORY_MS <= order.wall_ms:
            # It may have been decided and forgotten: never count it again, only let the voter drop
            # it (a worker that has applied a COMMIT ignores what comes later for it).
            ts = order.take_ts()
            order.decide(Abort(ts, vote.txn_id, vote.participants, "unavailable", "deadline"))
            return effects
        txn = self._transactions.get(vote.txn_id)
        if txn is None:
            txn = _Transaction(
                vote.txn_id, vote.participants, vote.gateway, vote.deadline_ms, vote.catalog_ts
            )
            self._transactions[vote.txn_id] = txn
            heapq.heappush(self._deadlines, (vote.deadline_ms, vote.txn_id))
        txn.catalog_ts = min(txn.catalog_ts, vote.catalog_ts)
        txn.collections.update(vote.collections)
        if vote.yes:
            txn.yes.setdefault(vote.shard, {})[vote.worker] = vote.at_ts
            txn.deleted[vote.shard] = vote.deleted
        else:
            txn.no.setdefault(vote.shard, set()).add(vote.worker)
            # A reason that no retry mends tells the client more than a conflict does.
            if not txn.reason or txn.reason == "conflict":
                txn.reason, txn.detail = vote.reason, vote.detail
            if txn.reason == "not_found" and self._generations.is_over(txn.collections):
                # Of the generation, not of the collection.
                txn.reason = "conflict"
        self._maybe_decide(txn, now_ms, effects)
        return effects

    def abort(
        self, txn_id: bytes, participants: tuple[int, ...], deadline_ms: int, now_ms: int
    ) -> tuple[TxnStatus, Effects]:
        """Its client gives a transaction up: decided unless it is already; what it is now.

        `participants` hold chunks of it; with its PREPAREs on the way, their votes come too late.
        """
        effects = Effects()
        self._order.advance_wall(now_ms)
        if txn_id not in self._decided:
            txn = self._transactions.get(txn_id)
            if txn is None:
                txn = _Transaction(txn_id, participants, "", deadline_ms, 0)
                self._transactions[txn_id] = txn
            txn.participants = tuple(sorted({*txn.participants, *participants}))
            self._abort(txn, "aborted", "by its client", effects)
        return self._told(self._decided[txn_id]), effects

    def abort_all(
        self, collections: Iterable[int], reason: str, detail: str, effects: Effects
    ) -> None:
        """Abort what is undecided and known to touch one of these."""
        touched = set(collections)
        for txn in [t for t in self._transactions.values() if t.collections & touched]:
            self._abort(txn, reason, detail, effects)

    def tick(self, now_ms: int) -> Effects:
        """Abort what passed its deadline; forget old outcomes."""
        effects = Effects()
        self._order.advance_wall(now_ms)
        wall_ms = self._order.wall_ms
        while self._deadlines and self._deadlines[0][0] <= wall_ms:
            _, txn_id = heapq.heappop(self._deadlines)
            txn = self._transactions.get(txn_id)
            if txn is not None:
                self._abort(txn, txn.reason or "unavailable", txn.detail or "deadline", effects)
        while self._decided_until and self._decided_until[0][0] <= wall_ms:
            del self._decided[heapq.heappop(self._decided_until)[1]]
        return effects

    # --- what is told ---------------------------------------------------------------------------

    def status(self, txn_id: bytes, term: int, deadline_ms: int, now_ms: int) -> TxnStatus:
        """What this term knows, for good, of a transaction that was sent in `term`."""
        if txn_id in self._decided:
            return self._told(self._decided[txn_id])
        if txn_id in self._transactions:
            return TxnStatus("pending")
        self._order.advance_wall(now_ms)
        expired = deadline_ms <= self._order.wall_ms < deadline_ms + DECIDED_MEMORY_MS
        if term == self._order.term and expired:
            # Not decided yet, or it would be remembered; and no commit is written past a deadline.
            return TxnStatus("aborted", 0, "unavailable", "no shard worker voted in time")
        return TxnStatus("unknown")

    def _told(self, status: TxnStatus) -> TxnStatus:
        return TxnStatus("pending") if status.commit_ts > self._releases.stable_ts else status

    # --- decisions ------------------------------------------------------------------------------

    def _maybe_decide(self, txn: _Transaction, now_ms: int, effects: Effects) -> None:
        order, placements = self._order, self._placements
        for shard, no in txn.no.items():
            if placements.is_refused(shard, no):
                self._abort(txn, txn.reason, txn.detail, effects)
                return
        for shard in txn.participants:
            if not placements.is_agreed(shard, txn.yes.get(shard, {})):
                return
        order.advance_wall(now_ms)
        if txn.deadline_ms <= order.wall_ms:
            self._abort(txn, "unavailable", "deadline", effects)
            return
        refusal = self._generations.refusal(order.state, txn.collections, txn.catalog_ts)
        if refusal is not None:
            self._abort(txn, *refusal, effects)
            return
        ts = order.take_ts()
        deleted = sum(txn.deleted.values())
        order.decide(Commit(ts, txn.txn_id, txn.participants, deleted))
        self._remember(txn, TxnStatus("committed", ts, deleted=deleted))
        outcome = Outcome(txn.txn_id, ts, deleted)
        self._releases.add(Unreleased(ts, txn.participants, txn.gateway, outcome))

    def _abort(self, txn: _Transaction, reason: str, detail: str, effects: Effects) -> None:
        ts = self._order.take_ts()
        self._order.decide(Abort(ts, txn.txn_id, txn.participants, reason, detail))
        self._remember(txn, TxnStatus("aborted", 0, reason, detail))
        if txn.gateway:
            effects.outcomes.append((txn.gateway, Outcome(txn.txn_id, 0, 0, reason, detail)))

    def _remember(self, txn: _Transaction, status: TxnStatus) -> None:
        del self._transactions[txn.txn_id]
        self._decided[txn.txn_id] = status
        known_ms = txn.deadline_ms
        if txn_term(txn.txn_id) == self._order.term:
            # An open transaction may be asked for until it expires, which its id says.
            expires_ms = min(txn_deadline_ms(txn.txn_id), self._order.wall_ms + OPEN_MS_MAX)
            known_ms = max(known_ms, expires_ms)
        heapq.heappush(self._decided_until, (known_ms + DECIDED_MEMORY_MS, txn.txn_id))
