"""What is decided and not told yet: outcomes and answers that wait for their durability. Pure.

Owns the invariant that an outcome is released only once its decision is durable on a majority of
some shard it concerns, in commit order, and that `stable_ts` is the highest released.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from vector_db.common.core.messages.transactions import Outcome
from vector_db.coordinator.core.durability import Durability
from vector_db.coordinator.core.effects import Effects, Reply
from vector_db.coordinator.core.order import Order
from vector_db.coordinator.core.placements import Placements


@dataclass(frozen=True, slots=True)
class Unreleased:
    """A decision that is written and waits for durability."""

    ts: int
    shards: tuple[int, ...]
    gateway: str = ""
    outcome: Outcome | None = None
    reply: Reply | None = None
    founders: tuple[str, ...] = ()
    """While no placement is in force, a majority of them has to know."""


class Releases:
    """Of one term."""

    def __init__(self, order: Order, durability: Durability, placements: Placements) -> None:
        self._order = order
        self._durability = durability
        self._placements = placements
        self.stable_ts = 0
        self._unreleased: deque[Unreleased] = deque()
        self._awaiting_placement: list[Reply] = []

    @property
    def waiting(self) -> int:
        """How many decisions are not released."""
        return len(self._unreleased)

    def add(self, unreleased: Unreleased) -> None:
        """This is decided, after all that was added before."""
        self._unreleased.append(unreleased)

    def release(self, effects: Effects) -> None:
        """Add to `effects` what waits no longer, by what is durable and in force now."""
        if self._placements.settle():
            effects.replies.extend(self._awaiting_placement)
            self._awaiting_placement = []
        if not self._placements.begun:
            return
        while self._unreleased:
            head = self._unreleased[0]
            if not self._is_durable(head):
                return
            self._unreleased.popleft()
            self.stable_ts = head.ts
            effects.stable_advanced = True
            if head.outcome is not None:
                effects.outcomes.append((head.gateway, head.outcome))
            if head.reply is not None:
                if self._placements.settled:
                    effects.replies.append(head.reply)
                else:
                    self._awaiting_placement.append(head.reply)

    def _is_durable(self, waiting: Unreleased) -> bool:
        durability, state, ts = self._durability, self._order.state, waiting.ts
        if waiting.shards and not any(durability.is_on(state, s, ts) for s in waiting.shards):
            return False
        return durability.is_known_to(waiting.founders, ts)
