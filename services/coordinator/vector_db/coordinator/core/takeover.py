"""The survey of a takeover: promises in, the first decision of a new term out.

Pure (architecture, section 4, "Takeover"). Owns the invariant that a term begins only after a
majority of *every* shard, under the newest placement that any promise knows, promised the term; the
highest cursor among them is the base. A placement is in force only once it is durable on a majority
of every shard of the placement before it, so any such survey learns of the newest one.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from vector_db.common.core.domain import DomainState, majority
from vector_db.common.core.history import common_ts
from vector_db.common.core.messages.decisions import DecisionRecord, Takeover
from vector_db.common.core.messages.takeover import Promise
from vector_db.common.model.ids import make_ts

TAKEOVER_BYTES_MAX = 4 * 1024 * 1024
"""Of decisions in a takeover record, which is one message: a worker further behind asks a peer."""


class ClusterMismatch(Exception):
    """Workers of two clusters answered one survey: the operator mixed data directories."""


class HistoryLost(Exception):
    """Decisions that were acknowledged are known to nobody who answered."""


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
        return max(known, key=lambda p: (p.cursor, -p.tail_from, p.worker), default=None)

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

    def lacks_founders(self) -> bool:
        """Whether no shard is placed, and no majority of the founders has promised yet."""
        best = self._best()
        if best is None or best.replicas:
            return False
        promised = self.workers.intersection(best.founders)
        return len(promised) < majority(len(best.founders))

    def complete(self) -> bool:
        """Whether a majority of every shard promised (never true of fresh workers alone)."""
        return self._best() is not None and not self.missing() and not self.lacks_founders()

    def wall_ms(self) -> int:
        """The newest wall time that any surveyed decision carries."""
        return max((p.wall_ms for p in self._promises.values()), default=0)

    def bootstrap(self, cluster_id: str) -> Takeover:
        """The first decision of a new cluster."""
        founders = tuple(sorted(self._promises))
        return Takeover(make_ts(self.term, 0), 0, {}, cluster_id, (), {}, 0, 0, (), founders)

    def takeover(self, stable_ts: int = 0) -> Takeover:
        """The first decision of the term, once `complete`.

        :param stable_ts: what is known to have been acknowledged, by whoever knows.
        :raises ValueError: the survey is not complete.
        :raises HistoryLost: the workers that answered have lost what they had acknowledged: their
            disks were damaged or restored from a copy.
        """
        best = self._best()
        if best is None or not self.complete():
            raise ValueError("the survey is not complete")
        base = best.cursor
        if base < stable_ts:
            raise HistoryLost(
                f"decisions up to {stable_ts} were acknowledged, and the shard workers that answer "
                f"know them only up to {base}"
            )
        bases = best.bases | {self.term: base}
        placed = {w for workers in best.replicas.values() for w in workers}
        placed.update(best.founders)
        copying = set(best.moves.joining.values()) - placed
        # Who entered the cluster lately knows the newest decisions alone; others know older ones.
        reach = min([best.tail_from, *self._tails(placed, best, bases)])
        # A placed worker that was not surveyed may be as far behind as the tails reach.
        least = min(
            (self._kept(w, bases) if w in self._promises else reach for w in placed.union(copying)),
            default=base,
        )
        surveyed = placed.intersection(self._promises)
        lost = [w for w in surveyed if self._kept(w, bases) < reach]
        if lost:
            # A tail is cut only below what every placed worker had reported as durable.
            raise HistoryLost(
                f"workers {sorted(lost)} had decisions up to {reach} and lack them now"
            )
        after, decisions = _newest(best, max(least, best.tail_from))
        return Takeover(
            ts=make_ts(self.term, 0),
            base=base,
            bases=bases,
            cluster_id=best.cluster_id,
            collections=best.collections,
            replicas=best.replicas,
            catalog_ts=best.catalog_ts,
            decisions_after=after,
            decisions=decisions,
            founders=best.founders,
            aliases=best.aliases,
            moves=best.moves,
        )

    def _tails(self, placed: set[str], best: Promise, bases: dict[int, int]) -> Iterator[int]:
        """From where placed workers can tell all that comes before the tail of the best one."""
        for worker in placed.intersection(self._promises):
            if self._kept(worker, bases) >= best.tail_from:
                yield self._promises[worker].tail_from

    def _kept(self, worker: str, bases: dict[int, int]) -> int:
        """How much of a worker's history is also in the one with these bases."""
        promise = self._promises[worker]
        return common_ts(promise.cursor, promise.bases, bases)


def _newest(best: Promise, after: int) -> tuple[int, tuple[DecisionRecord, ...]]:
    """(after, records of (after, cursor]): from the end back to `after`, or as many as fit."""
    kept: list[DecisionRecord] = []
    room = TAKEOVER_BYTES_MAX
    for record in reversed(best.tail):
        if record.last_ts <= after:
            break
        room -= len(msgspec.msgpack.encode(record))
        if room < 0:
            return kept[-1].prev_ts if kept else best.cursor, tuple(_stripped(kept))
        kept.append(record)
    return after, tuple(_stripped(kept))


def _stripped(newest_first: list[DecisionRecord]) -> Iterator[DecisionRecord]:
    for record in reversed(newest_first):
        plain = _without_takeovers(record)
        if plain.decisions:
            yield plain
