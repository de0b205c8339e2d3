"""A controller that moves replicas, played: workers come, die, drain and return between its steps.

Every placement that the planner gives is checked here against the one before, from the outside:
nothing is shared with the planner but its plain values.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from vector_db.common.core.placement import place_collection
from vector_db.coordinator.core.moves import Change, Placement, WorkerFacts
from vector_db.coordinator.core.rebalance import next_placement


@dataclass(slots=True)
class Worker:
    zone: str
    alive: bool = True
    gone: bool = False
    draining: bool = False
    joined: set[int] = field(default_factory=set)

    def facts(self) -> WorkerFacts:
        return WorkerFacts(self.zone, self.alive, self.gone, self.draining, frozenset(self.joined))


class Controller:
    """The placement that is in force, and the workers."""

    def __init__(
        self,
        factor: int,
        moves_max: int,
        zones: Collection[str],
        seed: int = 0,
        shard_count: int = 8,
    ) -> None:
        self.rng = random.Random(seed)
        self.factor, self.moves_max, self.shard_count = factor, moves_max, shard_count
        self.workers: dict[str, Worker] = {}
        for zone in zones:
            self.add(zone)
        self.now = Placement({}, {}, {})
        self.changes: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"factor {self.factor}, at most {self.moves_max}: {self.now}, {self.workers}"

    # --- what is there ----------------------------------------------------------------------------

    def eligible(self) -> set[str]:
        return {n for n, w in self.workers.items() if w.alive and not w.draining}

    def is_movable(self, shard: int, placement: Placement | None = None) -> bool:
        replicas = (placement or self.now).replicas[shard]
        return 2 * sum(self.workers[w].alive for w in replicas) > len(replicas)

    def zones(self, names: Collection[str]) -> set[str]:
        return {self.workers[w].zone for w in names}

    def loads(self) -> dict[str, int]:
        """Of each eligible worker: what it holds or joins."""
        held = Counter(w for ws in self.now.replicas.values() for w in ws)
        held.update(self.now.joining.values())
        return {w: held[w] for w in self.eligible()}

    # --- events -----------------------------------------------------------------------------------

    def add(self, zone: str) -> None:
        self.workers[f"w{len(self.workers)}"] = Worker(zone)

    def place(self, name: str, count: int) -> None:
        alive = {n: w.zone for n, w in self.workers.items() if w.alive and not w.draining}
        try:
            _, placed = place_collection(
                name, count, self.shard_count, dict(self.now.replicas), alive, self.factor
            )
        except ValueError:
            return
        self.now = Placement(placed, self.now.joining, self.now.leaving)

    def turn_off(self, name: str) -> None:
        self.workers[name].alive = False

    def give_up(self, name: str) -> None:
        self.workers[name].alive, self.workers[name].gone = False, True

    def turn_on(self, name: str) -> None:
        self.workers[name].alive, self.workers[name].gone = True, False

    def copied(self) -> None:
        """One worker that can has copied the shard that it joins."""
        copying = [
            (s, w)
            for s, w in sorted(self.now.joining.items())
            if s not in self.workers[w].joined and self._can_copy(s, w)
        ]
        if copying:
            shard, worker = self.rng.choice(copying)
            self.workers[worker].joined.add(shard)

    def _can_copy(self, shard: int, worker: str) -> bool:
        live = any(self.workers[w].alive for w in self.now.replicas[shard])
        return live and self.workers[worker].alive

    def clear_leaving(self) -> None:
        """A record says that workers hold no longer what they had to leave."""
        kept = {
            s: tuple(w for w in ws if not self.workers[w].alive)
            for s, ws in self.now.leaving.items()
        }
        self.now = Placement(
            self.now.replicas, self.now.joining, {s: ws for s, ws in kept.items() if ws}
        )

    def happen(self) -> None:
        """Something at random."""
        rng, names = self.rng, sorted(self.workers)
        name = rng.choice(names)
        worker = self.workers[name]
        match rng.randrange(12):
            case 0 if len(names) < 8:
                self.add(rng.choice([*sorted(self.zones(names)), "new"]))
            case 1:
                worker.draining = not worker.draining
            case 2 | 3:
                self.turn_off(name)
            case 4 if not worker.alive:
                self.give_up(name)
            case 5 | 6:
                self.turn_on(name)
            case 7:
                self.place(f"c{rng.randrange(5)}", rng.randint(1, self.shard_count))
            case 8:
                self.clear_leaving()
            case _:
                self.copied()

    # --- steps ------------------------------------------------------------------------------------

    def step(self) -> tuple[Change, ...]:
        """Ask the planner once, check what it says, and put it in force."""
        facts = {n: w.facts() for n, w in self.workers.items()}
        found = next_placement(self.now, facts, self.factor, self.moves_max)
        if found is None:
            return ()
        after, changes = found
        assert changes, "a placement that differs in nothing"
        self._check(after, changes)
        for change in changes:
            self.changes[change.kind] += 1
            if change.kind in ("cancel", "promote"):
                self.workers[change.worker].joined.discard(change.shard)
        self.now = after
        return changes

    def settle(self, steps_max: int) -> None:
        """Step, copy and clear until nothing more happens.

        No worker joins a shard twice on the way, nor one that it left: that would be ping-pong.
        Two things may bring one back for a reason: where zones are uneven, a chain of moves; and
        that another worker has dropped an old copy, so that it can join and could not before.
        """
        may_return = len(self.zones(self.eligible())) > 1 or bool(self.now.leaving)
        joined, left = set[tuple[int, str]](), set[tuple[int, str]]()
        for _ in range(steps_max):
            if changes := self.step():
                for change in changes:
                    place = (change.shard, change.worker)
                    if change.kind == "join":
                        assert place not in joined, f"{change} once more"
                        assert place not in left or may_return, f"{change} is back"
                        joined.add(place)
                    elif change.kind == "remove":
                        left.add(place)
                if self.rng.random() < 0.7:
                    continue
                self.copied()
            elif any(self._copies_on(s, w) for s, w in self.now.joining.items()):
                self.copied()
            elif any(self.workers[w].alive for ws in self.now.leaving.values() for w in ws):
                self.clear_leaving()
            else:
                return
        raise AssertionError(f"still moving after {steps_max} steps: {self.changes}")

    def _copies_on(self, shard: int, worker: str) -> bool:
        return shard not in self.workers[worker].joined and self._can_copy(shard, worker)

    def _check(self, after: Placement, changes: tuple[Change, ...]) -> None:
        now, factor = self.now, self.factor
        assert applied(now, changes) == after, "the changes tell what differs, one per shard"
        for change in changes:
            shard, worker = change.shard, self.workers[change.worker]
            replicas = after.replicas[shard]
            assert self.is_movable(shard), f"no live majority could make {change} durable"
            assert self.is_movable(shard, after), f"{change} leaves no live majority"
            assert len(set(replicas)) == len(replicas) >= 1
            assert len(replicas) <= max(factor + 1, len(now.replicas[shard]))
            joins = after.joining.get(shard)
            assert joins not in (*replicas, *after.leaving.get(shard, ()))
            if change.kind == "promote":
                assert worker.alive and shard in worker.joined and not worker.draining
            if change.kind == "join":
                assert worker.alive and not worker.draining
                assert len(replicas) <= factor
        if any(c.kind == "join" for c in changes):
            copying = [w for s, w in after.joining.items() if self.is_movable(s)]
            assert len(copying) <= self.moves_max
            begun = [c.worker for c in changes if c.kind == "join"]
            assert all(copying.count(w) == 1 for w in begun), "one copy at a time"

    def check_settled(self) -> None:
        """What must hold once nothing happens any more. No worker is dead and not given up."""
        eligible, factor = self.eligible(), self.factor
        movable = [s for s in self.now.replicas if self.is_movable(s)]
        zones_max = min(factor, len(self.zones(eligible)))
        for shard in movable:
            replicas = set(self.now.replicas[shard])
            assert shard not in self.now.joining
            assert not any(self.workers[w].gone for w in replicas), "the gone hold nothing"
            assert len(replicas & eligible) == min(factor, len(eligible)), "as many as can be"
            assert len(replicas) <= factor
            if len(eligible) >= factor:
                assert replicas <= eligible, "drained"
            assert len(self.zones(replicas & eligible)) == zones_max, "in as many zones as can be"
        loads = self.loads()
        if len(movable) == len(self.now.replicas) and len(self.zones(eligible)) == 1:
            assert max(loads.values()) - min(loads.values()) <= 1, f"uneven: {loads}"
        if loads and max(loads.values()) - min(loads.values()) >= 2:
            self._check_no_move_helps(loads, [m for s in movable for m in self._moves_of(s)])

    def _moves_of(self, shard: int) -> list[tuple[int, str, str]]:
        """(shard, giver, taker) of all moves that take the shard to no fewer zones."""
        replicas, eligible = set(self.now.replicas[shard]), self.eligible()
        return [
            (shard, giver, taker)
            for giver in sorted(replicas & eligible)
            for taker in sorted(eligible - replicas)
            if len(self.zones(replicas - {giver} | {taker})) >= len(self.zones(replicas))
        ]

    def _check_no_move_helps(
        self, loads: Mapping[str, int], moves: list[tuple[int, str, str]]
    ) -> None:
        for shard, giver, taker in moves:
            assert loads[giver] < loads[taker] + 2, f"{shard} could go: {giver} {taker} {loads}"
        if self.moves_max < 2:
            return
        onward = Counter(giver for _, giver, _ in moves)
        for shard, giver, between in moves:
            if not onward[between]:
                continue
            for shard_2, giver_2, taker in moves:
                if giver_2 == between and shard_2 != shard:
                    found = f"{shard} {giver} {between}, {shard_2} {taker} {loads}"
                    assert loads[giver] < loads[taker] + 2, f"two could go: {found}"


def applied(now: Placement, changes: tuple[Change, ...]) -> Placement:
    """`now` with the changes made, as their words say."""
    replicas, joining, leaving = dict(now.replicas), dict(now.joining), dict(now.leaving)
    assert len({c.shard for c in changes}) == len(changes), "a shard changes once in a step"
    for change in changes:
        shard, worker = change.shard, change.worker
        assert change.reason
        if change.kind == "join":
            assert shard not in joining and worker not in replicas[shard]
            assert worker not in leaving.get(shard, ())
            joining[shard] = worker
            continue
        if change.kind in ("promote", "cancel"):
            assert joining.pop(shard) == worker
        if change.kind == "promote":
            replicas[shard] += (worker,)
        if change.kind == "remove":
            assert worker in replicas[shard]
            replicas[shard] = tuple(w for w in replicas[shard] if w != worker)
            leaving[shard] = (*leaving.get(shard, ()), worker)
    return Placement(replicas, joining, leaving)
