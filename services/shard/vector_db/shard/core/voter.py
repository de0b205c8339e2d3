"""Votes on the parts of undecided transactions: when each is given, and given again.

Owns two invariants: no vote before the cursor has reached the part's snapshot; and of two parts
that conflict, never both had YES from this replica, restarts included.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from vector_db.common.core.domain import DomainState
from vector_db.common.core.messages.transactions import Prepare, Vote
from vector_db.shard.core.judge import judge
from vector_db.shard.core.parts import RowStore
from vector_db.shard.core.staging import Part
from vector_db.shard.core.steps import Steps, exhaust
from vector_db.shard.core.undecided import Undecided


class Standing(Protocol):
    """Where the worker is when it votes; `full` says why rows cannot be taken now."""

    worker: str
    full: str

    @property
    def cursor(self) -> int: ...

    @property
    def state(self) -> DomainState: ...

    def votes_on(self, shard: int) -> bool:
        """Whether this worker is a replica of the shard: others have no vote."""

    @property
    def retention_floor_ts(self) -> int:
        """Snapshots below it are too old to be read."""


class Voter:
    """The votes of one worker."""

    def __init__(self, at: Standing, store: RowStore, undecided: Undecided) -> None:
        self._at = at
        self._store = store
        self._undecided = undecided
        self._waiting: list[Part] = []

    def forget_waiting(self) -> None:
        """The parts that wait are void, or are voted on anew."""
        self._waiting.clear()

    def consider(self, part: Part) -> Steps[list[Vote]]:
        """The vote on a part whose PREPARE has come, unless it waits for its snapshot."""
        prepare = part.prepare
        if prepare is None or part.fetched or not self._at.votes_on(part.shard):
            return []
        if prepare.snapshot_ts > self._at.cursor:
            self._waiting.append(part)
            return []
        return [(yield from self._vote(part, prepare))]

    def cursor_moved(self) -> Steps[list[Vote]]:
        """Votes on those that waited for the cursor."""
        waiting, self._waiting = self._waiting, []
        votes: list[Vote] = []
        for part in waiting:
            if self._undecided.get(part.txn_id, part.shard) is part:
                votes += yield from self.consider(part)
        return votes

    def revote(self) -> Iterable[Vote]:
        """Votes on everything undecided again: votes are not in the log.

        Nor is the order in which they were given. A PREPARE that may have waited for its snapshot
        may have been voted on after later ones: then neither it nor a later one that conflicts gets
        YES now.
        """
        self._undecided.forget_votes()
        self._waiting.clear()
        unsure: list[tuple[Part, Prepare]] = []
        for part in sorted(self._undecided, key=lambda p: p.prepare_lsn):
            prepare = part.prepare
            if prepare is None or part.fetched or not self._at.votes_on(part.shard):
                continue
            if prepare.snapshot_ts > self._at.cursor:
                self._waiting.append(part)
            elif part.prompt:
                yield exhaust(self._vote(part, prepare))
            else:
                unsure.append((part, prepare))
                self._undecided.others(part.shard).add(part.txn_id, part.footprint(prepare))
        for part, prepare in unsure:
            self._undecided.others(part.shard).remove(part.txn_id)
            yield exhaust(self._vote(part, prepare))

    def _vote(self, part: Part, prepare: Prepare) -> Steps[Vote]:
        at = self._at
        others = self._undecided.others(part.shard)
        touches = part.footprint(prepare)
        verdict = yield from judge(
            part, prepare, touches, at.state, others, self._store, at.full, at.retention_floor_ts
        )
        others.add(part.txn_id, touches)
        read = {r.collection_id for r in prepare.reads}
        part.vote = Vote(
            txn_id=part.txn_id,
            term=prepare.term,
            shard=part.shard,
            worker=at.worker,
            yes=not verdict.reason,
            participants=prepare.participants,
            catalog_ts=prepare.catalog_ts,
            collections=tuple(sorted(read.union(touches.collections))),
            gateway=prepare.gateway,
            deadline_ms=prepare.deadline_ms,
            deleted=verdict.deleted,
            reason=verdict.reason,
            detail=verdict.detail,
            at_ts=at.cursor,
        )
        return part.vote
