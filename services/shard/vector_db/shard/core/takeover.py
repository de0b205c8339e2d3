"""How a worker leaves the history of one term for that of a newer one: promise, takeover, entering.

The worker's side of architecture, section 4, *Takeover*. The candidate for a term asks workers for
their promises; once a majority of every shard has told how far it is, the highest cursor told is
the *base*: the new history goes on from there. Owns the invariant that a worker is on one history,
with no decision missing that matters to it and nothing left of another one, and that leaving a
history never loses what was acknowledged. What makes that safe:

1. **A promise ends the older terms here.** It is to one candidate, synced before it is told, and
   nothing of an older term is taken after it, what was held back included. Acknowledged is only
   what a majority of some shard has durable; one of these workers is among those asked, and had it
   before it promised. So all that was acknowledged lies at or below the base.
2. **What both histories have is kept, the rest is undone.** The bases tell where they part. What
   is undone was acknowledged to nobody. Nor was it stable, so no checkpoint has it: a worker
   believes what is stable only from the term that it promised, and on that term's history.
3. **Then it applies what it lacks, without a gap, or stops**, and before anything of an older term
   is dropped: those are the rows that it needs. Only a worker that holds nothing by the new
   placement may skip decisions.
4. **What is still undecided of older terms is void**: nobody decides it any more. It counts as
   aborted once the takeover is stable, since another one may undo the takeover until then.

A worker that holds nothing may also *enter* a term's history where a replica stands in it, since
the takeover's record may be trimmed away. The same is kept, undone, skipped and void then.
"""

from __future__ import annotations

from vector_db.common.core import history
from vector_db.common.core.domain import DomainState
from vector_db.common.core.messages.catching_up import EnterReply
from vector_db.common.core.messages.decisions import Abort, Commit, Takeover
from vector_db.common.core.messages.takeover import Promise, PromiseRequest
from vector_db.common.model.ids import make_ts, ts_term
from vector_db.shard.core.applied import Applied
from vector_db.shard.core.held import Held
from vector_db.shard.core.history import common_ts, end_of, follows, told_after
from vector_db.shard.core.parts import ChainBroken
from vector_db.shard.core.steps import Steps
from vector_db.shard.core.term import Term
from vector_db.shard.core.undecided import Undecided
from vector_db.shard.core.voter import Voter


class Takeovers:
    """The side of one worker in the takeovers of its domain."""

    def __init__(
        self, term: Term, applied: Applied, undecided: Undecided, held: Held, voter: Voter
    ) -> None:
        self._term = term
        self._applied = applied
        self._undecided = undecided
        self._held = held
        self._voter = voter

    # --- promises ---------------------------------------------------------------------------------

    def promise(self, request: PromiseRequest) -> bool:
        """Promise a candidate its term; true when that is news, to be logged and synced first.

        `promise_message` then says whether it was granted: a term is promised to one candidate.
        """
        if request.term <= self._term.promised or self.is_foreign(request.cluster_id):
            return False
        self.adopt_term(request.term, request.coordinator)
        return True

    def promise_message(self, request: PromiseRequest) -> Promise:
        """What this worker promised, and what it knows."""
        term, applied, state = self._term, self._applied, self._applied.state
        mine = (term.promised, term.promised_to) == (request.term, request.coordinator)
        return Promise(
            worker=applied.worker,
            granted=mine and not self.is_foreign(request.cluster_id),
            promised=term.promised,
            cluster_id=applied.cluster_id,
            cursor=applied.cursor,
            bases=applied.bases,
            collections=tuple(state.collections.values()),
            catalog_ts=state.catalog_ts,
            replicas=state.replicas,
            wall_ms=applied.wall_ms,
            tail=applied.tail.up_to(applied.cursor),
            tail_from=applied.tail.after_ts,
            founders=state.founders,
            aliases=state.aliases,
            moves=state.moves,
        )

    def is_foreign(self, cluster_id: str) -> bool:
        """Whether both sides know their cluster, and it is not the same."""
        mine = self._applied.cluster_id
        return bool(cluster_id and mine and cluster_id != mine)

    def adopt_term(self, term: int, coordinator: str) -> None:
        """From now on only records and sequencers of `term` count. Log and sync before telling."""
        if self._term.adopt(term, coordinator):
            self._held.clear()
            self._voter.forget_waiting()

    # --- a takeover -------------------------------------------------------------------------------

    def apply(self, takeover: Takeover, lsn: int) -> Steps[None]:
        """Go over to the history that the takeover, logged at `lsn`, states.

        :raises ChainBroken: decisions before it, or their rows, are not here.
        """
        applied = self._applied
        if takeover.ts <= applied.cursor:
            # Replayed above a checkpoint: what it told was applied, and may be asked for.
            for old in takeover.decisions:
                for decision in old.decisions:
                    if isinstance(decision, Commit | Abort):
                        applied.release(decision)
            self._drop_old_terms(ts_term(takeover.ts))
            return
        keep = common_ts(applied.cursor, applied.bases, takeover)
        if keep < applied.cursor:
            applied.undo_above(keep, takeover.ts)
        taken = DomainState().after(takeover)
        told = told_after(takeover, applied.cursor)
        last = applied.cursor
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
                    yield from applied.apply(decision, lsn)
                applied.note(old)
        elif taken.is_placed(applied.worker):
            raise ChainBroken(
                f"the takeover tells what follows {takeover.decisions_after}, known up to "
                f"{applied.cursor}"
            )
        else:
            applied.skip_to(takeover.base, applied.wall_ms)
        self._drop_old_terms(ts_term(takeover.ts))
        applied.stand_at(takeover.ts, taken, takeover.cluster_id, takeover.bases, lsn)

    def _drop_old_terms(self, term: int) -> None:
        """Every undecided PREPARE of an older term is void: its gateway retries or says so."""
        for part in [p for p in self._undecided if p.term < term]:
            self._undecided.remove(part.txn_id, part.shard)
            self._applied.decided.note(part.txn_id, part.deadline_ms, -make_ts(term, 0))

    # --- entering without a takeover --------------------------------------------------------------

    def enter_reply(self, term: int, worker: str) -> EnterReply | None:
        """Where this worker stands, for one that holds nothing; None: it cannot say now, or the
        other one holds something. Asked only when no record is half applied."""
        applied, state = self._applied, self._applied.state
        stands = self._term.promised == term and applied.stable_ts >= make_ts(term, 0)
        if not stands or state.founders or state.is_placed(worker):
            return None
        records = applied.tail.between(applied.stable_ts, applied.cursor)
        ts = records[0].prev_ts if records else applied.cursor
        if ts > applied.stable_ts:
            return None
        state = applied.state_at(ts)
        return EnterReply(
            term=term,
            ts=ts,
            cluster_id=applied.cluster_id,
            bases=applied.bases,
            collections=tuple(state.collections.values()),
            replicas=state.replicas,
            catalog_ts=state.catalog_ts,
            aliases=state.aliases,
            moves=state.moves,
            wall_ms=applied.wall_ms,
            records=tuple(records),
            decision_seq=self._term.decision_seq,
        )

    def can_enter(self, reply: EnterReply) -> bool:
        """Whether to stand where a replica does: this worker holds nothing there."""
        state = _state_of(reply)
        known = reply.term == self._term.promised and not self.is_foreign(reply.cluster_id)
        applied = self._applied
        return known and reply.ts > applied.cursor and not state.is_placed(applied.worker)

    def stand_beside(self, reply: EnterReply, lsn: int) -> None:
        """Stand where a replica does, at `reply.ts`, before what `reply` tells beyond; it is logged
        at `lsn`."""
        applied = self._applied
        keep = history.common_ts(applied.cursor, applied.bases, reply.bases)
        if keep < applied.cursor:
            applied.undo_above(keep, reply.ts)
        self._held.clear()
        applied.skip_to(reply.ts, max(applied.wall_ms, reply.wall_ms))
        self._drop_old_terms(ts_term(reply.ts))
        applied.stand_at(reply.ts, _state_of(reply), reply.cluster_id, reply.bases, lsn)


def _state_of(reply: EnterReply) -> DomainState:
    return DomainState(
        reply.catalog_ts,
        {c.id: c for c in reply.collections},
        dict(reply.replicas),
        aliases=dict(reply.aliases),
        moves=reply.moves,
    )
