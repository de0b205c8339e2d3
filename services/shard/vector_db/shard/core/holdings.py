"""Which shards a worker follows, has all rows of, and answers and votes for.

A shard comes to a worker in steps. The placement names it as *joining*; it takes over the undecided
records of a replica and *follows* the shard's log from there, applying nothing; it copies a
snapshot and applies what was committed since: it has *joined*; a placement makes it a replica. Owns
the invariants that a worker follows a log from a place after which it misses nothing, that it votes
only as a replica, and that it never counts as having rows that it lacks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from vector_db.common.core.domain import DomainState
from vector_db.shard.core.parts import ChainBroken


class _View(NamedTuple):
    """What follows from one state of the placement."""

    state: DomainState
    voted: frozenset[int]
    followed: frozenset[int]
    held: frozenset[int]


class Holdings:
    """Of one worker, as of the state of the placement that it is asked about."""

    def __init__(
        self, worker: str, joined: Mapping[int, int] | None = None, lost: tuple[int, ...] = ()
    ) -> None:
        """`joined` and `lost` as they were saved."""
        self._worker = worker
        self._followed: dict[int, int] = {}
        self.joined: dict[int, int] = dict(joined or {})
        """Shard → the snapshot that was copied, while the placement has it as joining."""
        self.lost: set[int] = set(lost)
        """Shards whose rows nobody keeps for this worker, which the placement took from it: it is
        about to hear of that."""
        self._views: list[_View] = []
        """Of the last states that were asked for, until something here changes."""

    def voted_in(self, state: DomainState) -> frozenset[int]:
        """Shards that this worker is a replica of, with all rows."""
        return self._view(state).voted

    def followed_in(self, state: DomainState) -> frozenset[int]:
        """Shards whose records it takes: no decision about them is applied without their rows."""
        return self._view(state).followed

    def held_in(self, state: DomainState) -> frozenset[int]:
        """Shards whose commits are applied as they come."""
        return self._view(state).held

    def _view(self, state: DomainState) -> _View:
        for view in self._views:
            if view.state is state:
                return view
        joining = set(state.joining_of(self._worker))
        voted = frozenset(state.shards_of(self._worker)) - self.lost
        held = voted.union(joining & self.joined.keys())
        view = _View(state, voted, held.union(joining & self._followed.keys()), held)
        self._views = [view, *self._views[:3]]
        return view

    def keeps(self, shard: int, state: DomainState) -> bool:
        """Whether the rows that are here of `shard` are of any use."""
        if shard in self.lost:
            return False
        here = self._worker in state.replicas.get(shard, ())
        return here or state.is_leaving(shard, self._worker) or shard in self.held_in(state)

    def needs_ts(self, cursor: int) -> int:
        """What was decided after it may have to be asked of other replicas."""
        copying = (ts for shard, ts in self._followed.items() if shard not in self.joined)
        return min([cursor, *copying])

    # --- transitions ----------------------------------------------------------------------------

    def follow(self, shard: int, cursor: int) -> None:
        """From `cursor` on every commit of the shard comes with its rows."""
        self._followed[shard] = cursor
        self._views.clear()

    def followed_from(self, shard: int) -> int | None:
        """Where `follow` began; None: not, or not any more."""
        return self._followed.get(shard)

    def join(self, shard: int, snapshot_ts: int) -> None:
        """All rows are here: the snapshot's, and those of every commit since."""
        self.joined[shard] = snapshot_ts
        self._views.clear()

    def lose(self, shard: int) -> None:
        """Its peers keep nothing for this worker any more, which is no replica by now."""
        self.lost.add(shard)
        self._views.clear()

    def placed(self, before: DomainState, after: DomainState) -> None:
        """The placement is another one.

        :raises ChainBroken: this worker is to be a replica of a shard whose rows it lacks.
        """
        me = self._worker
        for shard in after.shards_of(me):
            known = before.replicas.get(shard)
            if known is not None and me not in known and shard not in self.joined:
                raise ChainBroken(f"a replica of shard {shard}, whose rows were not copied")
        self.forget(after)

    def forget(self, state: DomainState) -> None:
        """Whatever the placement does not want copied any more, copied or not, begins anew."""
        joining = set(state.joining_of(self._worker))
        self._followed = {s: ts for s, ts in self._followed.items() if s in joining}
        self.joined = {s: ts for s, ts in self.joined.items() if s in joining}
        self.lost.intersection_update(state.shards_of(self._worker))
        self._views.clear()
