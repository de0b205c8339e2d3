"""Which placement of the shards counts: the one in force, until all know of the next one. Pure.

Owns these invariants:

- the replicas of a shard change by one at a time, and the next change waits until the last is
  durable on a majority of every shard;
- a vote counts only if it is a replica's by the placement in force, given in the knowledge of that
  placement.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vector_db.common.core.domain import majority
from vector_db.common.core.messages.decisions import Moves, SetPlacement
from vector_db.common.core.messages.transactions import Vote
from vector_db.coordinator.core.durability import Durability
from vector_db.coordinator.core.order import Order


@dataclass(frozen=True, slots=True)
class _Placing:
    """A placement that is decided and not in force yet."""

    ts: int
    founders: tuple[str, ...]


class Placements:
    """Of one term; the first is the one that its takeover, decided at `ts`, found."""

    def __init__(self, order: Order, durability: Durability, ts: int) -> None:
        self._order = order
        self._durability = durability
        # What a survey found may not have been in force: until every shard's majority knows of
        # it, another survey may not find it, and what is released by it might be missed.
        self._placing: _Placing | None = _Placing(ts, order.state.founders)
        self.newest_ts = ts
        """The newest change of the placement, or the takeover that took it over."""
        self.begun = False
        """Whether any was in force in this term."""
        self._in_force = order.state.replicas
        self._since: dict[int, int] = dict.fromkeys(self._in_force, ts)
        """Shard → the change of its replicas that is in force: older votes do not count."""
        self.settle()

    # --- changes --------------------------------------------------------------------------------

    @property
    def settled(self) -> bool:
        """False while the last change is not in force; the next one has to wait."""
        return self._placing is None

    def change(self, replicas: dict[int, tuple[str, ...]], moves: Moves) -> int:
        """Decide another placement; its ts.

        :raises ValueError: the last one is not in force, or a shard changes by more than a worker.
        """
        state = self._order.state
        if self._placing is not None:
            raise ValueError("the last placement is not in force yet")
        for shard, before in state.replicas.items():
            after = replicas.get(shard, ())
            if not after or len(set(before) ^ set(after)) > 1:
                raise ValueError(f"shard {shard} changes from {before} to {after}")
        ts = self._order.take_ts()
        self._placing = _Placing(ts, state.founders)
        self.newest_ts = ts
        self._order.decide(SetPlacement(ts, replicas, moves))
        return ts

    def settle(self) -> bool:
        """Put the last change in force once every majority of every shard knows of it; whether it
        came into force just now."""
        if self._placing is None or not self._is_known(self._placing):
            return False
        replicas_now = self._order.state.replicas
        for shard, replicas in replicas_now.items():
            if set(replicas) != set(self._in_force.get(shard, ())):
                self._since[shard] = self._placing.ts
        self._in_force = replicas_now
        self._placing = None
        self.begun = True
        return True

    def _is_known(self, placing: _Placing) -> bool:
        """Whether a majority of every shard is durable up to a placement."""
        durability, ts = self._durability, placing.ts
        return durability.is_known_to(placing.founders, ts) and durability.is_everywhere(
            self._order.state, ts
        )

    # --- votes ----------------------------------------------------------------------------------

    def counts(self, vote: Vote) -> bool:
        """Whether a replica gave it, in the knowledge of the placement in force."""
        if vote.worker not in self._in_force.get(vote.shard, ()):
            return False
        # It may not know of what was committed by other replicas' votes. It votes again.
        return vote.at_ts >= self._since[vote.shard]

    def is_agreed(self, shard: int, yes: Mapping[str, int]) -> bool:
        """Whether a majority of the shard said YES; `yes`: worker → the cursor it voted at."""
        replicas, since = self._in_force.get(shard, ()), self._since.get(shard, 0)
        counted = sum(yes.get(w, -1) >= since for w in replicas)
        return bool(replicas) and counted >= majority(len(replicas))

    def is_refused(self, shard: int, no: set[str]) -> bool:
        """Whether those that said NO leave no majority of the shard."""
        replicas = self._in_force.get(shard, ())
        return len(set(replicas) - no) < majority(len(replicas))
