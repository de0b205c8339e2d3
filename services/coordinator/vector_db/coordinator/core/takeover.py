"""The survey of a takeover: promises in, the first decision of a new term out.

Pure (architecture, section 4, "Takeover"). Owns the invariant that a term begins only after a
majority of *every* shard, under the newest placement that any promise knows, promised the term; the
highest cursor among them is the base. A placement is in force only once it is durable on a majority
of every shard of the placement before it, so any such survey learns of the newest one.
"""

from __future__ import annotations

from vector_db.common.core.domain import DomainState
from vector_db.common.core.messages import DecisionRecord, Promise, Takeover
from vector_db.common.model.ids import make_ts, ts_term


class ClusterMismatch(Exception):
    """Workers of two clusters answered one survey: the operator mixed data directories."""


def corrected_cursor(cursor: int, bases: dict[int, int]) -> int:
    """How much of a history up to `cursor` counts, given where earlier terms' histories ended."""
    for term in sorted(bases):
        if term > ts_term(cursor):
            return min(cursor, bases[term])
    return cursor


def _without_takeovers(record: DecisionRecord) -> DecisionRecord:
    """The record less its takeover, whose effects the new one states: records must not nest."""
    kept = tuple(d for d in record.decisions if not isinstance(d, Takeover))
    return DecisionRecord(record.term, record.prev_ts, record.wall_ms, kept)


class Survey:
    """One candidate's survey for one term."""

    def __init__(self, term: int, cluster_id: str) -> None:
        """`cluster_id` "" when not known yet; the promises then say it."""
        self.term = term
        self.cluster_id = cluster_id
        self.refused_term = 0
        self._promises: dict[str, Promise] = {}

    def promise(self, promise: Promise) -> None:
        """Take one answer.

        :raises ClusterMismatch: the worker belongs to another cluster than another worker.
        """
        if not promise.granted:
            self.refused_term = max(self.refused_term, promise.promised)
            return
        if promise.promised != self.term:
            return
        if promise.cluster_id:
            if self.cluster_id and promise.cluster_id != self.cluster_id:
                raise ClusterMismatch(
                    f"worker {promise.worker} belongs to cluster {promise.cluster_id}, "
                    f"not to {self.cluster_id}"
                )
            self.cluster_id = promise.cluster_id
        self._promises[promise.worker] = promise

    @property
    def workers(self) -> set[str]:
        """Workers that promised."""
        return set(self._promises)

    def _best(self) -> Promise | None:
        known = [p for p in self._promises.values() if p.cluster_id]
        return max(known, key=lambda p: (p.cursor, p.worker), default=None)

    def is_fresh(self) -> bool:
        """Whether workers answered and none of them has ever belonged to a cluster."""
        return bool(self._promises) and self._best() is None

    def missing(self) -> list[int]:
        """Shards of which no majority has promised yet."""
        best = self._best()
        if best is None:
            return []
        state = DomainState(replicas=best.replicas)
        return [s for s in sorted(state.replicas) if not state.has_majority(s, self.workers)]

    def complete(self) -> bool:
        """Whether a majority of every shard promised (never true of fresh workers alone)."""
        return self._best() is not None and not self.missing()

    def wall_ms(self) -> int:
        """The newest wall time that any surveyed decision carries."""
        return max((p.wall_ms for p in self._promises.values()), default=0)

    def bootstrap(self, cluster_id: str) -> Takeover:
        """The first decision of a new cluster."""
        return Takeover(make_ts(self.term, 0), 0, {}, cluster_id, (), {}, 0, 0, ())

    def takeover(self) -> Takeover:
        """The first decision of the term, once `complete`.

        :raises ValueError: the survey is not complete, or no surveyed tail reaches far enough back.
        """
        best = self._best()
        if best is None or not self.complete():
            raise ValueError("the survey is not complete")
        base = best.cursor
        bases = best.bases | {self.term: base}
        placed = {w for workers in best.replicas.values() for w in workers}
        # A placed worker that was not surveyed may be as far behind as the tail reaches.
        least = min(
            (
                corrected_cursor(self._promises[w].cursor, bases)
                if w in self._promises
                else best.tail_from
                for w in placed
            ),
            default=base,
        )
        if least < best.tail_from:
            raise ValueError(f"decisions after {least} are needed, known from {best.tail_from}")
        decisions = tuple(_without_takeovers(r) for r in best.tail if r.last_ts > least)
        return Takeover(
            ts=make_ts(self.term, 0),
            base=base,
            bases=bases,
            cluster_id=best.cluster_id,
            collections=best.collections,
            replicas=best.replicas,
            catalog_ts=best.catalog_ts,
            decisions_after=least,
            decisions=tuple(r for r in decisions if r.decisions),
        )
