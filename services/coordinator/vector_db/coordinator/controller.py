"""Moves replicas to where they should be, one step after another, while a term lasts.

Placements are decisions of the term's one sequencer, so the term is the fence: whoever was replaced
places nothing any more. What a step may be is `core/rebalance`'s to say; owns the facts that it
goes by, and when workers that a shard has left may drop it: once all replicas are past that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec
import structlog

from vector_db.common.core.messages.catalog import Member
from vector_db.common.core.messages.decisions import Moves
from vector_db.common.model.errors import Unavailable
from vector_db.common.model.ids import make_ts
from vector_db.common.ports import Clock
from vector_db.coordinator.changes import Placed
from vector_db.coordinator.core.moves import Change, Placement, WorkerFacts
from vector_db.coordinator.core.rebalance import next_placement
from vector_db.coordinator.term import Term

TURN_S = 0.25
MEMBER_TIMEOUT_S = 3.0
"""A worker unheard for so long is not counted as alive."""


@dataclass(frozen=True, slots=True)
class Placing:
    """What the operator wants: replicas of each shard, copies at a time, and for how long a worker
    may be away."""

    factor: int
    copies_max: int
    grace_s: float


@dataclass(frozen=True, slots=True)
class Standing:
    """How things stand, in numbers: replicas of placed shards, and the workers."""

    replicas_wanted: int = 0
    replicas_held: int = 0
    replicas_missing: int = 0
    joins: int = 0
    workers_alive: int = 0
    workers_draining: int = 0
    workers_gone: int = 0


class Controller:
    """Of one term. `heard` gives when each worker was last heard, and its heartbeat; `on_moved`
    takes the steps that are decided."""

    def __init__(
        self,
        term: Term,
        clock: Clock,
        heard: Callable[[], Mapping[str, tuple[float, Member]]],
        wanted: Placing,
        on_moved: Callable[[tuple[Change, ...]], None],
    ) -> None:
        self._term = term
        self._on_moved = on_moved
        self._clock = clock
        self._heard = heard
        self._wanted = wanted
        self._began_s = clock.monotonic_s()
        self._log = structlog.get_logger("vector_db.coordinator").bind(term=term.sequencer.term)

    async def run(self) -> None:
        """Until cancelled: a step whenever one is due."""
        while True:
            await asyncio.sleep(TURN_S)
            if self._next() is None:
                continue
            try:
                await self._term.changes.place(self._step)
            except Unavailable as error:
                self._log.warning("the placement is not in force yet", error=str(error))

    def _step(self) -> Placed | None:
        """`_next`, told; runs in its turn among the changes of the catalog."""
        found = self._next()
        if found is None:
            return None
        placed, told, changes = found
        for line in told:
            self._log.info("moves replicas", change=line)
        self._on_moved(changes)
        return placed

    def standing(self) -> Standing:
        """How things stand now."""
        state, factor = self._term.state, self._wanted.factor
        workers = self._facts()
        held = [sum(workers[w].alive for w in ws) for ws in state.replicas.values()]
        return Standing(
            replicas_wanted=factor * len(held),
            replicas_held=sum(held),
            replicas_missing=sum(max(0, factor - replicas) for replicas in held),
            joins=len(state.moves.joining),
            workers_alive=sum(facts.alive for facts in workers.values()),
            workers_draining=len(state.moves.draining),
            workers_gone=sum(workers[w].gone for w in state.workers()),
        )

    def _next(self) -> tuple[Placed, list[str], tuple[Change, ...]] | None:
        """The next placement, and what is new in it; None: all is as it should be, or waits."""
        sequencer, state = self._term.sequencer, self._term.state
        if not sequencer.placement_settled or not state.replicas:
            return None
        workers = self._facts()
        alive = {w for w, facts in workers.items() if facts.alive}
        if not all(state.has_majority(shard, alive) for shard in state.replicas):
            # Any placement has to be confirmed by a majority of every shard.
            return None
        told: list[str] = []
        changes: tuple[Change, ...] = ()
        moves = state.moves
        if moves.leaving and sequencer.floor_ts() >= sequencer.placement_ts:
            told.append(f"dropped by those that left: shards {sorted(moves.leaving)}")
            moves = msgspec.structs.replace(moves, leaving={})
        now = Placement(state.replicas, moves.joining, moves.leaving)
        planned = next_placement(now, workers, self._wanted.factor, self._wanted.copies_max)
        if planned is not None:
            now, changes = planned
            told += map(str, changes)
        if not told:
            return None
        moves = Moves(dict(now.joining), dict(now.leaving), moves.draining)
        return (dict(now.replicas), moves), told, changes

    def _facts(self) -> dict[str, WorkerFacts]:
        sequencer, state = self._term.sequencer, self._term.state
        now_s = self._clock.monotonic_s()
        named = state.workers().union(*state.moves.leaving.values())
        heard = self._heard()
        # Who is further behind may lack what its peers keep for nobody.
        least = max(sequencer.floor_ts(), make_ts(sequencer.term, 0))
        facts = {}
        for worker in sorted(named.union(heard)):
            seen_s, member = heard.get(worker, (self._began_s, None))
            quiet_s = now_s - max(seen_s, self._began_s - MEMBER_TIMEOUT_S)
            alive = member is not None and member.ready and now_s - seen_s < MEMBER_TIMEOUT_S
            # Only what it says in the knowledge of this placement is about this one.
            joined = member is not None and member.cursor >= sequencer.placement_ts
            facts[worker] = WorkerFacts(
                zone="" if member is None else member.zone,
                alive=alive and sequencer.reached(worker) >= least,
                gone=quiet_s >= self._wanted.grace_s,
                draining=worker in state.moves.draining,
                joined=frozenset(member.joined if member is not None and joined else ()),
            )
        return facts
