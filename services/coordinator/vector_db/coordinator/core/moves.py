"""How a move of a replica is said, and how many of them go on at once. Plain values, and pure.

Owns the bounds of copying: a worker takes one copy at a time and gives one at a time, and there are
never more than so many in all, so that moves leave room for the work that they interrupt.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from vector_db.common.core.placement import weight

Kind = Literal["join", "promote", "cancel", "remove"]


@dataclass(frozen=True, slots=True)
class Placement:
    """Of shards: `replicas` vote and are read; the one worker `joining` copies the shard from a
    replica; those `leaving` are replicas no longer, and hold it until a later record.
    """

    replicas: Mapping[int, tuple[str, ...]]
    joining: Mapping[int, str]
    leaving: Mapping[int, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """What is known of a worker.

    `gone`: not heard for longer than the grace time, so not `alive` either. `draining`: its
    replicas are to leave. `joined`: the shards that it joins and has copied whole, durably.
    """

    zone: str
    alive: bool
    gone: bool = False
    draining: bool = False
    joined: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Change:
    """What differs in the placement of one shard, and why, for people."""

    kind: Kind
    shard: int
    worker: str
    reason: str


class Copies:
    """The copies under way. Each comes from a live replica that gives no other where there is one.

    That is how joining workers are expected to choose; a copy that comes from elsewhere does no
    harm.
    """

    def __init__(self, moves_max: int) -> None:
        self._room = moves_max
        self._takers: frozenset[str] = frozenset()
        self._givers: frozenset[str] = frozenset()

    def has_source(self, live: Collection[str]) -> bool:
        """Whether one of the `live` replicas of a shard gives no copy yet."""
        return not self._givers.issuperset(live)

    def add(self, shard: int, worker: str, live: Collection[str]) -> None:
        """`worker` copies `shard`, whatever the bounds."""
        self._room -= 1
        self._takers |= {worker}
        if free := set(live) - self._givers:
            self._givers |= {max(free, key=lambda w: (weight(shard, w), w))}

    def begin(self, copies: Collection[tuple[int, str, Collection[str]]]) -> bool:
        """Add all of these (shard, worker, live replicas), or none where one is out of bounds."""
        before = self._room, self._takers, self._givers
        for shard, worker, live in copies:
            if self._room <= 0 or worker in self._takers or not self.has_source(live):
                self._room, self._takers, self._givers = before
                return False
            self.add(shard, worker, live)
        return True
