"""What workers have reported as durable in one term, and what follows from it. Pure.

Owns two promises to the others: a worker counts as past a decision only by its own word, and what
is told as reached by all (`floor_ts`, where logs are trimmed) minds every placed worker, those that
copy a shard and may need their peers included.
"""

from __future__ import annotations

from collections.abc import Sequence

from vector_db.common.core.domain import DomainState, majority
from vector_db.common.core.messages.transactions import Durable
from vector_db.common.model.ids import make_ts


class Durability:
    """Of one term."""

    def __init__(self, term: int) -> None:
        self._term = term
        self._cursors: dict[str, int] = {}
        self._needs: dict[str, int] = {}
        self._flushed: dict[int, dict[str, int]] = {}
        self._decision_seqs: dict[str, int] = {}

    def take(self, durable: Durable) -> None:
        """A worker's word; cursors only rise."""
        self._cursors[durable.worker] = max(self._cursors.get(durable.worker, 0), durable.cursor)
        needs_ts = durable.needs_ts or durable.cursor
        self._needs[durable.worker] = max(self._needs.get(durable.worker, 0), needs_ts)
        for shard, seq in durable.flushed.items():
            self._flushed.setdefault(shard, {})[durable.worker] = seq
        self._decision_seqs[durable.worker] = durable.decision_seq

    def reached(self, worker: str) -> int:
        """How far a worker is durable, with all that it needs of its peers; 0: not heard of."""
        return min(self._cursors.get(worker, 0), self._needs.get(worker, 0))

    def floor_ts(self, state: DomainState) -> int:
        """Every placed worker is durable up to here, and on this history: 0 while one was not
        heard to have applied this term's takeover."""
        least = min((self.reached(w) for w in state.workers()), default=0)
        return least if least >= make_ts(self._term, 0) else 0

    def trim_points(self, state: DomainState) -> tuple[dict[int, int], int]:
        """Per shard, and for the decision log, the sequence that every replica has in its own
        WAL."""
        shards = {}
        for shard, workers in state.replicas.items():
            known = self._flushed.get(shard, {})
            joining = state.moves.joining.get(shard)
            readers = workers if joining is None else (*workers, joining)
            shards[shard] = min((known.get(w, 0) for w in readers), default=0)
        placed = state.workers()
        return shards, min((self._decision_seqs.get(w, 0) for w in placed), default=0)

    def is_on(self, state: DomainState, shard: int, ts: int) -> bool:
        """Whether a majority of the shard is durable up to `ts`."""
        reached = {w for w, cursor in self._cursors.items() if cursor >= ts}
        return state.has_majority(shard, reached)

    def is_everywhere(self, state: DomainState, ts: int) -> bool:
        """Whether a majority of every shard is."""
        return all(self.is_on(state, shard, ts) for shard in state.replicas)

    def is_known_to(self, founders: Sequence[str], ts: int) -> bool:
        """Whether a majority of the founders (of none: at once) is durable up to `ts`."""
        reached = sum(self._cursors.get(w, 0) >= ts for w in founders)
        return not founders or reached >= majority(len(founders))
