"""Which replica moves next: the placement of a domain, one step on. Pure and deterministic.

Replicas move as in Raft's single-server changes (Ongaro, "Consensus: Bridging Theory and Practice",
2014, section 4.1): a worker joins and copies the shard without a vote, then it is made a replica,
then another one is removed. A controller asks again and again, each time with the placement and
the workers as they are. Nothing is remembered between two calls.

Owns the invariants of moves. Between two placements
- the replicas of a shard differ by one member at most, so any two majorities share a replica;
- a shard without a live majority of its replicas does not change, and each change leaves one;
- a shard has one replica at least, and `factor` + 1 at most once it had no more.
And with the same workers the calls come to an end. Each works out the *draft*: who holds what once
all that is under way is done, as evenly as can be (`assignment`). Promotions, removals and
cancellations carry the draft out and leave it as even; a join is only begun when with it the draft
lacks fewer replicas, or lies in more zones, or else has a smaller sum of squared loads.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from vector_db.common.core.domain import majority
from vector_db.common.core.placement import weight
from vector_db.coordinator.core.assignment import Assignment, Swap
from vector_db.coordinator.core.moves import Change, Copies, Placement, WorkerFacts


def next_placement(
    now: Placement, workers: Mapping[str, WorkerFacts], factor: int, moves_max: int
) -> tuple[Placement, tuple[Change, ...]] | None:
    """The placement that should follow `now`, or None while there is nothing to do but wait.

    :param workers: every one that was heard of, and every one that `now` names.
    :param factor: the replicas that each shard should have.
    :param moves_max: joins under way at a time, those of shards without a live majority apart.
    """
    step = _Step(now, workers, factor, moves_max)
    step.carry_out()
    if step.fill() and step.spread_over_zones():
        step.even_out()
    return step.result()


class _Step:
    """One call: the next placement in the making."""

    def __init__(
        self, now: Placement, workers: Mapping[str, WorkerFacts], factor: int, moves_max: int
    ) -> None:
        self._workers, self._factor, self._moves_max = workers, factor, moves_max
        self._replicas, self._joining = dict(now.replicas), dict(now.joining)
        self._leaving = dict(now.leaving)
        self._changes: dict[int, Change] = {}
        self._movable = sorted(s for s, ws in now.replicas.items() if self._is_live(ws))
        eligible = {w for w, f in workers.items() if f.alive and not f.draining}
        # Replicas and the worker that joins, but for those that must leave.
        self._staying: dict[int, set[str]] = {}
        # A worker that still holds an old copy must drop it before it makes a new one.
        self._candidates: dict[int, set[str]] = {}
        for shard, replicas in now.replicas.items():
            held = {*replicas, self._joining[shard]} if shard in self._joining else {*replicas}
            self._staying[shard] = {w for w in held if not self._must_leave(w)}
            self._candidates[shard] = eligible - held - {*self._leaving.get(shard, ())}
        self._eligible = eligible
        self._copies = Copies(moves_max)
        self._draft = Assignment({w: f.zone for w, f in workers.items()})
        self._make_draft()

    def result(self) -> tuple[Placement, tuple[Change, ...]] | None:
        if not self._changes:
            return None
        placement = Placement(self._replicas, self._joining, self._leaving)
        return placement, tuple(self._changes.values())

    def _make_draft(self) -> None:
        draft = self._draft
        for shard, staying in self._staying.items():
            draft.put(shard, *staying)
        pools: dict[int, set[str]] = {}
        for shard in self._movable:
            staying = self._staying[shard]
            for _ in range(len(staying) - self._factor):
                # Of equals the one that has not finished its copy: that saves the rest of it.
                draft.take(shard, draft.best_giver(shard, self._joining.get(shard)))
                pools[shard] = staying
        for shard in sorted(self._movable, key=self._urgency):
            candidates = self._candidates[shard]
            missing = self._factor - len(self._staying[shard])
            for _ in range(min(missing, len(candidates))):
                free = candidates - draft.holders[shard]
                draft.put(shard, draft.best_taker(shard, free))
                pools[shard] = candidates
        for shard in filter(self._is_whole, self._movable):
            zones, candidates = draft.zones(shard), self._candidates[shard]
            elsewhere = {w for w in candidates if self._workers[w].zone not in zones}
            if elsewhere and len(zones) < self._factor:
                draft.put(shard, draft.best_taker(shard, elsewhere))
                pools[shard] = {*draft.holders[shard]}
                draft.take(shard, draft.best_giver(shard))
        draft.even_out(pools)

    def _urgency(self, shard: int) -> tuple[bool, int, int]:
        """Shards with a replica too few first, then those with one that drains."""
        replicas = self._replicas[shard]
        return len(replicas) >= self._factor, len(self._live(shard)), shard

    def _must_leave(self, worker: str) -> bool:
        return self._workers[worker].gone or self._workers[worker].draining

    def _is_live(self, replicas: Sequence[str]) -> bool:
        return sum(self._workers[w].alive for w in replicas) >= majority(len(replicas))

    # --- promote, cancel, remove ------------------------------------------------------------------

    def carry_out(self) -> None:
        """Of each shard the next change, if any, that leads from what is under way to the draft."""
        for shard in self._movable:
            if not self._end_join(shard):
                self._remove(shard)
        for shard in self._movable:
            if shard in self._joining:
                self._copies.add(shard, self._joining[shard], self._live(shard))

    def _end_join(self, shard: int) -> bool:
        worker = self._joining.get(shard)
        if worker is None:
            return False
        facts = self._workers[worker]
        if self._must_leave(worker):
            change = Change("cancel", shard, worker, self._reason(worker))
        elif worker not in self._draft.holders[shard]:
            change = Change("cancel", shard, worker, "is not needed any more")
        elif facts.alive and shard in facts.joined and self._has_room(shard):
            change = Change("promote", shard, worker, "has copied the shard")
            self._replicas[shard] += (worker,)
        else:
            return False
        del self._joining[shard]
        self._changes[shard] = change
        return True

    def _remove(self, shard: int) -> None:
        for worker, reason in self._superfluous(shard):
            rest = tuple(w for w in self._replicas[shard] if w != worker)
            if rest and self._is_live(rest):
                self._replicas[shard] = rest
                self._leaving[shard] = (*self._leaving.get(shard, ()), worker)
                self._changes[shard] = Change("remove", shard, worker, reason)
                return

    def _superfluous(self, shard: int) -> list[tuple[str, str]]:
        """Replicas that should go, the first choice first, with the reasons.

        Dead ones before those that drain, for these still count for a majority.
        """
        replicas = self._replicas[shard]
        dead_first = sorted(replicas, key=lambda w: self._workers[w].alive)
        must_leave = [(w, self._reason(w)) for w in dead_first if self._must_leave(w)]
        if self._has_room(shard):
            return [(w, reason) for w, reason in must_leave if self._workers[w].gone]
        staying = self._draft.holders[shard]
        reason = f"one of {len(replicas)} replicas where {self._factor} are wanted"
        return must_leave or [(w, reason) for w in replicas if w not in staying]

    def _reason(self, worker: str) -> str:
        return "is gone" if self._workers[worker].gone else "is drained"

    def _has_room(self, shard: int) -> bool:
        return len(self._replicas[shard]) <= self._factor

    # --- join -------------------------------------------------------------------------------------

    def fill(self) -> bool:
        """Begin the joins that the draft has for shards with too few replicas that stay.

        :returns: whether none is left to begin; until then nothing else is worth a copy.
        """
        is_done = True
        for shard in sorted(self._movable, key=self._urgency):
            added = self._draft.holders[shard] - self._staying[shard]
            if added and len(self._staying[shard]) < self._factor:
                join = self._first_of(shard, added)
                is_done &= self._is_settled(shard) and self._begin(join) and len(added) == 1
        return is_done

    def _first_of(self, shard: int, added: Collection[str]) -> Change:
        taken = {self._workers[w].zone for w in self._staying[shard]}
        worker = min(added, key=lambda w: (self._workers[w].zone in taken, -weight(shard, w), w))
        replicas = self._replicas[shard]
        reason = f"{len(replicas)} of {self._factor} replicas"
        if drained := [w for w in replicas if self._must_leave(w)]:
            reason += f", {', '.join(drained)} drained"
        return Change("join", shard, worker, reason)

    def spread_over_zones(self) -> bool:
        """Begin the joins that the draft has for shards in fewer zones than they could be in.

        :returns: whether none is left to begin.
        """
        is_done = True
        for shard in filter(self._is_whole, self._movable):
            for worker in self._draft.holders[shard] - self._staying[shard]:
                reason = f"zone {self._workers[worker].zone!r} has no replica"
                is_done &= self._begin(Change("join", shard, worker, reason))
        return is_done

    def even_out(self) -> None:
        """Begin joins that take load off workers with two replicas more than others."""
        is_calm = self._is_calm()
        while True:
            pools = {
                s: self._candidates[s] | (self._staying[s] & self._eligible)
                for s in filter(self._is_whole, self._movable)
                if self._copies.has_source(self._live(s))
            }
            swaps = self._draft.evening(pools, 1)
            if not swaps or not self._exchange(swaps):
                break
        if not swaps and is_calm and not self._changes:
            # A chain of moves makes the load more even as a whole only, so it is begun as a whole.
            self._exchange(self._draft.evening(pools, self._moves_max))

    def _exchange(self, swaps: Sequence[Swap]) -> bool:
        loads = self._draft.load
        joins = [
            Change("join", s.shard, s.taker, f"{s.giver} has {loads[s.giver]}, it {loads[s.taker]}")
            for s in swaps
        ]
        if not self._begin(*joins):
            return False
        self._draft.swap(*swaps)
        return True

    def _is_calm(self) -> bool:
        """Whether nothing is under way that could make a single move possible."""
        waiting = {w for ws in self._leaving.values() for w in ws}
        return not waiting & self._eligible and not any(s in self._joining for s in self._movable)

    def _is_settled(self, shard: int) -> bool:
        return shard not in self._changes and shard not in self._joining and self._has_room(shard)

    def _is_whole(self, shard: int) -> bool:
        """Whether the shard lacks nothing that could be had, and nothing of it is under way."""
        return self._is_settled(shard) and len(self._staying[shard]) == self._factor

    def _begin(self, *joins: Change) -> bool:
        """Begin all of them; none where one must wait for what is under way."""
        if not self._copies.begin([(j.shard, j.worker, self._live(j.shard)) for j in joins]):
            return False
        for join in joins:
            self._joining[join.shard] = join.worker
            self._changes[join.shard] = join
        return True

    def _live(self, shard: int) -> list[str]:
        return [w for w in self._replicas[shard] if self._workers[w].alive]
