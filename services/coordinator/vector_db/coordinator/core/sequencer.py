"""The sequencer of one domain in one term: counts votes, decides, orders, releases outcomes.

A pure machine (architecture, section 4, steps 3 and 5): the shell feeds it events with the time and
carries out its `Effects`. Owns these invariants:

- every decision takes the next n of this term and names the one before; nothing is decided twice;
- COMMIT needs YES from a majority of the replicas of every participant shard, given in the
  knowledge of the placement that it is counted by, and none is written past its transaction's
  deadline;
- the replicas of a shard change by one at a time, and the next change waits until the last is
  durable on a majority of every shard;
- nothing is committed that the generations of its collections forbid (`core/generations`);
- an outcome is released only once its decision is durable on a majority of some shard it concerns,
  in commit order, and `stable_ts` is the highest released.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from vector_db.common.core.domain import DomainState, majority
from vector_db.common.core.messages.decisions import (
    Abort,
    AlterCollection,
    Commit,
    CreateCollection,
    Decision,
    DecisionRecord,
    DropCollection,
    Moves,
    SetAliases,
    SetPlacement,
    SwitchCollection,
    Takeover,
)
from vector_db.common.core.messages.transactions import Durable, Outcome, TxnStatus, Vote
from vector_db.common.model.collection import RECALL_TARGET, Collection, IndexOptions, Metric
from vector_db.common.model.ids import make_ts, txn_deadline_ms, txn_term
from vector_db.coordinator.core.durability import Durability
from vector_db.coordinator.core.generations import Generations, second_generation

DECISIONS_PER_RECORD_MAX = 1024
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


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer to the catalog request that `token` stands for."""

    token: int
    ts: int
    collection: Collection | None


@dataclass(slots=True)
class Effects:
    """What the shell has to do: tell outcomes to gateways, answer catalog requests."""

    outcomes: list[tuple[str, Outcome]] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    stable_advanced: bool = False


@dataclass(frozen=True, slots=True)
class _Unreleased:
    """A decision that is written and waits for durability."""

    ts: int
    shards: tuple[int, ...]
    gateway: str = ""
    outcome: Outcome | None = None
    reply: Reply | None = None
    founders: tuple[str, ...] = ()
    """While no placement is in force, a majority of them has to know."""


@dataclass(frozen=True, slots=True)
class _Placing:
    """A placement that is decided and not in force yet."""

    ts: int
    founders: tuple[str, ...]


class Sequencer:
    """One domain, one term. Made by a takeover; a term that is lost is never resumed."""

    def __init__(self, term: int, takeover: Takeover, wall_ms: int) -> None:
        """`takeover` is the first decision of the term; it is in the first record."""
        self.term = term
        self.cluster_id = takeover.cluster_id
        self.state = DomainState().after(takeover)
        self.wall_ms = wall_ms
        self.stable_ts = 0
        self._next_n = 1
        self._prev_ts = takeover.base
        self._queue: list[Decision] = [takeover]
        self._transactions: dict[bytes, _Transaction] = {}
        self._deadlines: list[tuple[int, bytes]] = []
        self._decided: dict[bytes, TxnStatus] = {}
        self._decided_until: list[tuple[int, bytes]] = []
        self._durability = Durability(term)
        self._unreleased: deque[_Unreleased] = deque(
            [_Unreleased(takeover.ts, tuple(self.state.replicas), founders=self.state.founders)]
        )
        # What a survey found may not have been in force: until every shard's majority knows of
        # it, another survey may not find it, and what is released by it might be missed.
        self._generations = Generations(takeover.bases)
        self._placing: _Placing | None = _Placing(takeover.ts, self.state.founders)
        self.placement_ts = takeover.ts
        """The newest change of the placement, or the takeover that took it over."""
        self._begun = False
        self._awaiting_placement: list[Reply] = []
        self._in_force = self.state.replicas
        self._since: dict[int, int] = dict.fromkeys(self.state.replicas, takeover.ts)
        """Shard → the change of its replicas that is in force: older votes do not count."""
        self._settle_placement(Effects())

    # --- events ---------------------------------------------------------------------------------

    def vote(self, vote: Vote, now_ms: int) -> Effects:
        """Count one vote; decides as soon as it can be decided."""
        effects = Effects()
        if vote.term != self.term or vote.txn_id in self._decided:
            return effects
        if vote.worker not in self._in_force.get(vote.shard, ()):
            return effects
        if vote.at_ts < self._since[vote.shard]:
            # It may not know of what was committed by other replicas' votes. It votes again.
            return effects
        self._advance_wall(now_ms)
        if vote.deadline_ms + DECIDED_MEMORY_MS <= self.wall_ms:
            # It may have been decided and forgotten: never count it again, only let the voter drop
            # it
            # (a worker that has applied a COMMIT ignores what comes later for that transaction).
            ts = self._take_ts()
            self._decide(Abort(ts, vote.txn_id, vote.participants, "unavailable", "deadline"))
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

    def durable(self, durable: Durable) -> Effects:
        """A worker's cursor moved: release what that makes durable."""
        effects = Effects()
        if durable.term != self.term:
            return effects
        self._durability.take(durable)
        self._release(effects)
        return effects

    def abort(
        self, txn_id: bytes, participants: tuple[int, ...], deadline_ms: int, now_ms: int
    ) -> tuple[TxnStatus, Effects]:
        """Its client gives a transaction up: decided unless it is already; what it is now.

        `participants` hold chunks of it; with its PREPAREs on the way, their votes come too late.
        """
        effects = Effects()
        self._advance_wall(now_ms)
        if txn_id not in self._decided:
            txn = self._transactions.get(txn_id)
            if txn is None:
                txn = _Transaction(txn_id, participants, "", deadline_ms, 0)
                self._transactions[txn_id] = txn
            txn.participants = tuple(sorted({*txn.participants, *participants}))
            self._abort(txn, "aborted", "by its client", effects)
        return self._told(self._decided[txn_id]), effects

    def _told(self, status: TxnStatus) -> TxnStatus:
        return TxnStatus("pending") if status.commit_ts > self.stable_ts else status

    def tick(self, now_ms: int) -> Effects:
        """Abort what passed its deadline; forget old outcomes."""
        effects = Effects()
        self._advance_wall(now_ms)
        while self._deadlines and self._deadlines[0][0] <= self.wall_ms:
            _, txn_id = heapq.heappop(self._deadlines)
            txn = self._transactions.get(txn_id)
            if txn is not None:
                self._abort(txn, txn.reason or "unavailable", txn.detail or "deadline", effects)
        while self._decided_until and self._decided_until[0][0] <= self.wall_ms:
            del self._decided[heapq.heappop(self._decided_until)[1]]
        return effects

    def create_collection(
        self,
        name: str,
        dimension: int,
        metric: Metric,
        shards: tuple[int, ...],
        replicas: dict[int, tuple[str, ...]],
        token: int,
        index: IndexOptions = IndexOptions(),
        recall_target: float = RECALL_TARGET,
        fields: tuple[str, ...] = (),
    ) -> Effects:
        """Decide a new collection on `shards`; `replicas` is the placement that it needs.

        The shell has checked name and options and chosen the shards; a placement that differs from
        today's is decided first, and the collection is answered for once it is in force.
        """
        effects = Effects()
        entry = Collection(0, name, dimension, metric, shards, index, recall_target, fields)
        self._create(entry, replicas, token)
        self._release(effects)
        return effects

    def spread_collection(
        self,
        collection: Collection,
        shards: tuple[int, ...],
        replicas: dict[int, tuple[str, ...]],
        token: int,
    ) -> Effects:
        """Decide a second generation, on `shards`, of a collection in force that has no other one
        on its way. Whatever is undecided there was not written to both.

        `replicas` as in `create_collection`.
        """
        effects = Effects()
        self._create(second_generation(collection, shards), replicas, token)
        detail = f"collection {collection.name} is being spread, try again"
        self._abort_all((collection.id,), "conflict", detail, effects)
        self._release(effects)
        return effects

    def switch_collection(self, generation: Collection, now_ms: int, token: int) -> Effects:
        """Decide that a generation that was filled takes the place of the one in force."""
        effects = Effects()
        self._advance_wall(now_ms)
        self._change(
            SwitchCollection(self._take_ts(), generation.id, self.wall_ms), generation, token
        )
        detail = f"collection {generation.name} was spread over other shards, try again"
        self._abort_all((generation.replaces,), "conflict", detail, effects)
        self._release(effects)
        return effects

    def set_placement(
        self, replicas: dict[int, tuple[str, ...]], moves: Moves, token: int
    ) -> Effects:
        """Decide another placement; answered for once it is in force.

        :raises ValueError: the last one is not in force, or a shard changes by more than a worker.
        """
        effects = Effects()
        self._place(replicas, moves, Reply(token, 0, None))
        self._release(effects)
        return effects

    def drop_collection(self, generations: Sequence[Collection], token: int) -> Effects:
        """Decide the end of a collection, of all its generations; undecided transactions on it are
        aborted. The one in force comes last: what is there in between is a catalog, too."""
        effects = Effects()
        for generation in generations:
            token_ = token if generation is generations[-1] else None
            self._change(DropCollection(self._take_ts(), generation.id), generation, token_)
        detail = f"collection {generations[-1].name} was dropped"
        self._abort_all([g.id for g in generations], "not_found", detail, effects)
        self._release(effects)
        return effects

    def drop_generation(self, generation: Collection, token: int) -> Effects:
        """Decide the end of a generation that is not in force: it was given up, or its time is
        over."""
        effects = Effects()
        self._change(DropCollection(self._take_ts(), generation.id), generation, token)
        self._generations.drop(generation)
        detail = f"collection {generation.name} is not spread that way any more, try again"
        self._abort_all((generation.id,), "conflict", detail, effects)
        self._release(effects)
        return effects

    def alter_collection(self, entries: Sequence[Collection], token: int) -> Effects:
        """Decide other catalog entries for generations of a collection; transactions go on.

        The shell has made them of those that are there: what rows depend on is as it was.
        """
        effects = Effects()
        for entry in entries:
            token_ = token if entry is entries[-1] else None
            self._change(AlterCollection(self._take_ts(), entry), entry, token_)
        self._release(effects)
        return effects

    def set_aliases(self, aliases: dict[str, int], token: int) -> Effects:
        """Decide all aliases anew, at once; the shell has checked them."""
        effects = Effects()
        self._change(SetAliases(self._take_ts(), aliases), None, token)
        self._release(effects)
        return effects

    # --- what the shell asks --------------------------------------------------------------------

    @property
    def placement_settled(self) -> bool:
        """False while the last placement change is not in force; the next one has to wait."""
        return self._placing is None

    def has_decisions(self) -> bool:
        """Whether `take_record` would give one."""
        return bool(self._queue)

    def take_record(self, now_ms: int) -> DecisionRecord:
        """The next record to append: everything decided and not yet taken, in order."""
        self._advance_wall(now_ms)
        taken, self._queue = (
            self._queue[:DECISIONS_PER_RECORD_MAX],
            self._queue[DECISIONS_PER_RECORD_MAX:],
        )
        record = DecisionRecord(self.term, self._prev_ts, self.wall_ms, tuple(taken))
        self._prev_ts = record.last_ts
        return record

    def status(
        self, txn_id: bytes, term: int = 0, deadline_ms: int = 0, now_ms: int = 0
    ) -> TxnStatus:
        """What this term knows, for good, of a transaction that was sent in `term`.

        A commit that is not released yet may be undone: this sequencer may have been replaced.
        """
        if txn_id in self._decided:
            return self._told(self._decided[txn_id])
        if txn_id in self._transactions:
            return TxnStatus("pending")
        self._advance_wall(now_ms)
        expired = deadline_ms <= self.wall_ms < deadline_ms + DECIDED_MEMORY_MS
        if term == self.term and expired:
            # Not decided yet, or it would be remembered; and no commit is written past a deadline.
            return TxnStatus("aborted", 0, "unavailable", "no shard worker voted in time")
        return TxnStatus("unknown")

    @property
    def last_ts(self) -> int:
        """The newest decision, published or not."""
        return make_ts(self.term, self._next_n - 1)

    def wall_now(self, now_ms: int) -> int:
        """The wall time of this moment, as decisions carry it: later ones carry no earlier one."""
        self._advance_wall(now_ms)
        return self.wall_ms

    def floor_ts(self) -> int:
        """Every placed worker is durable up to here, and on this history: 0 while one was not
        heard to have applied this term's takeover."""
        return self._durability.floor_ts(self.state)

    def reached(self, worker: str) -> int:
        """How far a worker is durable, with all that it needs of its peers; 0: not heard of."""
        return self._durability.reached(worker)

    def trim_points(self) -> tuple[dict[int, int], int]:
        """Per shard, and for the decision log, the sequence that every replica has in its own
        WAL."""
        return self._durability.trim_points(self.state)

    def counts(self) -> dict[str, int]:
        """A few facts for health and metrics."""
        return {
            "undecided": len(self._transactions),
            "unreleased": len(self._unreleased),
            "queued": len(self._queue),
        }

    # --- transitions ----------------------------------------------------------------------------

    def _advance_wall(self, now_ms: int) -> None:
        self.wall_ms = max(self.wall_ms, now_ms)

    def _take_ts(self) -> int:
        ts = make_ts(self.term, self._next_n)
        self._next_n += 1
        return ts

    def _decide(self, decision: Decision) -> None:
        self._queue.append(decision)
        self.state = self.state.after(decision)

    def _place(
        self, replicas: dict[int, tuple[str, ...]], moves: Moves, reply: Reply | None = None
    ) -> None:
        if self._placing is not None:
            raise ValueError("the last placement is not in force yet")
        for shard, before in self.state.replicas.items():
            after = replicas.get(shard, ())
            if not after or len(set(before) ^ set(after)) > 1:
                raise ValueError(f"shard {shard} changes from {before} to {after}")
        known, founders = tuple(self.state.replicas), self.state.founders
        ts = self._take_ts()
        self._placing = _Placing(ts, founders)
        self.placement_ts = ts
        self._decide(SetPlacement(ts, replicas, moves))
        self._unreleased.append(_Unreleased(ts, known, reply=reply, founders=founders))

    def _create(self, entry: Collection, replicas: dict[int, tuple[str, ...]], token: int) -> None:
        """Decide a catalog entry, still without an id, and before it the placement it needs."""
        # Until a change is in force only the old shards (or the founders) are sure to be surveyed.
        known, founders = tuple(self.state.replicas), self.state.founders
        if replicas != self.state.replicas:
            self._place(replicas, self.state.moves)
        ts = self._take_ts()
        collection = msgspec.structs.replace(entry, id=ts)
        self._decide(CreateCollection(ts, collection))
        reply = Reply(token, ts, collection)
        self._unreleased.append(_Unreleased(ts, known, reply=reply, founders=founders))

    def _change(self, decision: Decision, collection: Collection | None, token: int | None) -> None:
        """Decide a change of the catalog, answered for once it is durable; without a token: with
        what follows."""
        self._decide(decision)
        reply = None if token is None else Reply(token, decision.ts, collection)
        self._unreleased.append(_Unreleased(decision.ts, tuple(self.state.replicas), reply=reply))

    def _maybe_decide(self, txn: _Transaction, now_ms: int, effects: Effects) -> None:
        for shard, no in txn.no.items():
            replicas = self._in_force.get(shard, ())
            if len(set(replicas) - no) < majority(len(replicas)):
                self._abort(txn, txn.reason, txn.detail, effects)
                return
        for shard in txn.participants:
            replicas = self._in_force.get(shard, ())
            voted, since = txn.yes.get(shard, {}), self._since.get(shard, 0)
            yes = sum(voted.get(w, -1) >= since for w in replicas)
            if not replicas or yes < majority(len(replicas)):
                return
        self._advance_wall(now_ms)
        if txn.deadline_ms <= self.wall_ms:
            self._abort(txn, "unavailable", "deadline", effects)
            return
        refusal = self._generations.refusal(self.state, txn.collections, txn.catalog_ts)
        if refusal is not None:
            self._abort(txn, *refusal, effects)
            return
        ts = self._take_ts()
        deleted = sum(txn.deleted.values())
        self._decide(Commit(ts, txn.txn_id, txn.participants, deleted))
        self._remember(txn, TxnStatus("committed", ts, deleted=deleted))
        outcome = Outcome(txn.txn_id, ts, deleted)
        self._unreleased.append(_Unreleased(ts, txn.participants, txn.gateway, outcome))

    def _abort_all(
        self, collections: Iterable[int], reason: str, detail: str, effects: Effects
    ) -> None:
        """Abort what is undecided and known to touch one of these."""
        touched = set(collections)
        for txn in [t for t in self._transactions.values() if t.collections & touched]:
            self._abort(txn, reason, detail, effects)

    def _abort(self, txn: _Transaction, reason: str, detail: str, effects: Effects) -> None:
        ts = self._take_ts()
        self._decide(Abort(ts, txn.txn_id, txn.participants, reason, detail))
        self._remember(txn, TxnStatus("aborted", 0, reason, detail))
        if txn.gateway:
            effects.outcomes.append((txn.gateway, Outcome(txn.txn_id, 0, 0, reason, detail)))

    def _remember(self, txn: _Transaction, status: TxnStatus) -> None:
        del self._transactions[txn.txn_id]
        self._decided[txn.txn_id] = status
        known_ms = txn.deadline_ms
        if txn_term(txn.txn_id) == self.term:
            # An open transaction may be asked for until it expires, which its id says.
            known_ms = max(known_ms, min(txn_deadline_ms(txn.txn_id), self.wall_ms + OPEN_MS_MAX))
        heapq.heappush(self._decided_until, (known_ms + DECIDED_MEMORY_MS, txn.txn_id))

    def _is_known(self, placing: _Placing) -> bool:
        """Whether a majority of every shard is durable up to a placement."""
        durability, ts = self._durability, placing.ts
        return durability.is_known_to(placing.founders, ts) and durability.is_everywhere(
            self.state, ts
        )

    def _settle_placement(self, effects: Effects) -> None:
        """A placement counts once every majority of every shard knows of it."""
        if self._placing is None or not self._is_known(self._placing):
            return
        for shard, replicas in self.state.replicas.items():
            if set(replicas) != set(self._in_force.get(shard, ())):
                self._since[shard] = self._placing.ts
        self._in_force = self.state.replicas
        self._placing = None
        self._begun = True
        effects.replies.extend(self._awaiting_placement)
        self._awaiting_placement = []

    def _release(self, effects: Effects) -> None:
        self._settle_placement(effects)
        if not self._begun:
            return
        while self._unreleased:
            head = self._unreleased[0]
            if head.shards and not any(
                self._durability.is_on(self.state, s, head.ts) for s in head.shards
            ):
                return
            if not self._durability.is_known_to(head.founders, head.ts):
                return
            self._unreleased.popleft()
            self.stable_ts = head.ts
            effects.stable_advanced = True
            if head.outcome is not None:
                effects.outcomes.append((head.gateway, head.outcome))
            if head.reply is not None:
                if self._placing is None:
                    effects.replies.append(head.reply)
                else:
                    self._awaiting_placement.append(head.reply)
