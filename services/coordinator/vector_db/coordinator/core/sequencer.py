"""The sequencer of one domain in one term: counts votes, decides, orders, releases outcomes.

A pure machine (architecture, section 4, steps 3 and 5): the shell feeds it events with the time and
carries out its `Effects`. Here is only how it is made of its parts, and what the shell asks. Each
part owns invariants of its own: `order` the numbers and the records of all decisions, `placements`
whose votes count, `two_phase_commit` what is decided of transactions, `changes` of catalog and
placement, `releases` what is told and stable, by the `durability` that workers report.
"""

from __future__ import annotations

from vector_db.common.core.domain import DomainState
from vector_db.common.core.messages.decisions import DecisionRecord, Takeover
from vector_db.common.core.messages.transactions import Durable, TxnStatus, Vote
from vector_db.coordinator.core.changes import DomainChanges
from vector_db.coordinator.core.durability import Durability
from vector_db.coordinator.core.effects import Effects
from vector_db.coordinator.core.generations import Generations
from vector_db.coordinator.core.order import Order
from vector_db.coordinator.core.placements import Placements
from vector_db.coordinator.core.releases import Releases, Unreleased
from vector_db.coordinator.core.two_phase_commit import TwoPhaseCommit


class Sequencer:
    """One domain, one term. Made by a takeover; a term that is lost is never resumed."""

    def __init__(self, term: int, takeover: Takeover, wall_ms: int) -> None:
        """`takeover` is the first decision of the term; it is in the first record."""
        self.term = term
        self.cluster_id = takeover.cluster_id
        self._order = Order(term, takeover, wall_ms)
        self._durability = Durability(term)
        self._placements = Placements(self._order, self._durability, takeover.ts)
        self._releases = Releases(self._order, self._durability, self._placements)
        found = self._order.state
        self._releases.add(Unreleased(takeover.ts, tuple(found.replicas), founders=found.founders))
        generations = Generations(takeover.bases)
        self._transactions = TwoPhaseCommit(
            self._order, self._placements, self._releases, generations
        )
        self.changes = DomainChanges(
            self._order, self._placements, self._releases, generations, self._transactions
        )

    # --- events ---------------------------------------------------------------------------------

    def vote(self, vote: Vote, now_ms: int) -> Effects:
        """Count one vote; decides as soon as it can be decided."""
        return self._transactions.vote(vote, now_ms)

    def durable(self, durable: Durable) -> Effects:
        """A worker's cursor moved: release what that makes durable."""
        effects = Effects()
        if durable.term != self.term:
            return effects
        self._durability.take(durable)
        self._releases.release(effects)
        return effects

    def abort(
        self, txn_id: bytes, participants: tuple[int, ...], deadline_ms: int, now_ms: int
    ) -> tuple[TxnStatus, Effects]:
        """Its client gives a transaction up: decided unless it is already; what it is now.

        `participants` hold chunks of it; with its PREPAREs on the way, their votes come too late.
        """
        return self._transactions.abort(txn_id, participants, deadline_ms, now_ms)

    def tick(self, now_ms: int) -> Effects:
        """Abort what passed its deadline; forget old outcomes."""
        return self._transactions.tick(now_ms)

    # --- decisions to publish -------------------------------------------------------------------

    def has_decisions(self) -> bool:
        """Whether `take_record` would give one."""
        return self._order.queued > 0

    def take_record(self, now_ms: int) -> DecisionRecord:
        """The next record to append: everything decided and not yet taken, in order."""
        return self._order.take_record(now_ms)

    @property
    def last_ts(self) -> int:
        """The newest decision, published or not."""
        return self._order.last_ts

    @property
    def state(self) -> DomainState:
        """Catalog and placement by all decisions, published or not."""
        return self._order.state

    @property
    def wall_ms(self) -> int:
        """The newest time that was looked at."""
        return self._order.wall_ms

    def wall_now(self, now_ms: int) -> int:
        """The wall time of this moment, as decisions carry it: later ones carry no earlier one."""
        self._order.advance_wall(now_ms)
        return self._order.wall_ms

    # --- what the shell asks --------------------------------------------------------------------

    @property
    def stable_ts(self) -> int:
        """The newest decision that nothing can undo: all up to it are released."""
        return self._releases.stable_ts

    @property
    def placement_settled(self) -> bool:
        """False while the last placement change is not in force; the next one has to wait."""
        return self._placements.settled

    @property
    def placement_ts(self) -> int:
        """The newest change of the placement, or the takeover that took it over."""
        return self._placements.newest_ts

    def status(
        self, txn_id: bytes, term: int = 0, deadline_ms: int = 0, now_ms: int = 0
    ) -> TxnStatus:
        """What this term knows, for good, of a transaction that was sent in `term`.

        A commit that is not released yet may be undone: this sequencer may have been replaced.
        """
        return self._transactions.status(txn_id, term, deadline_ms, now_ms)

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
            "undecided": self._transactions.undecided,
            "unreleased": self._releases.waiting,
            "queued": self._order.queued,
        }
