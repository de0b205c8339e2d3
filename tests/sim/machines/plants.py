"""Mistakes planted into the protocol, one at a time: some seed must catch each of them.

A plant changes the product's machines (or the shells around them) for the length of a run. What no
seed catches is either harmless or not looked at by any checker: both would be worth knowing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from tests.sim.machines.run import ONE_REPLICA, THREE_REPLICAS, run
from tests.sim.machines.world import Flags, Shape
from vector_db.common.core.domain import DomainState
from vector_db.common.core.messages.decisions import DecisionRecord
from vector_db.common.core.messages.takeover import Promise, PromiseRequest
from vector_db.common.core.messages.transactions import Prepare, Stage, TxnStatus, Vote
from vector_db.coordinator.core.durability import Durability
from vector_db.coordinator.core.effects import Effects
from vector_db.coordinator.core.sequencer import Sequencer
from vector_db.coordinator.core.takeover import Survey
from vector_db.shard.core.applied import Applied
from vector_db.shard.core.conflicts import Conflicts, Footprint
from vector_db.shard.core.held import Held
from vector_db.shard.core.participant import Participant
from vector_db.shard.core.parts import ChainBroken
from vector_db.shard.core.staging import Part
from vector_db.shard.core.takeover import Takeovers
from vector_db.shard.core.voter import Voter


@dataclass(frozen=True, slots=True)
class Plant:
    """`apply` makes the mistake for the length of its context; `seed` is one that shows it."""

    name: str
    says: str
    shape: Shape
    seed: int
    apply: Callable[[Flags], contextlib.AbstractContextManager[None]]

    def caught_by(self, seed: int) -> str:
        """What the checkers, or the machines themselves, say of a run with the mistake; "" when
        nobody notices."""
        flags = Flags()
        with self.apply(flags):
            try:
                violations = run(seed, self.shape, flags).violations
            except (ChainBroken, ValueError, RuntimeError, KeyError, AssertionError) as error:
                return f"{type(error).__name__}: {error}"
        return violations[0] if violations else ""


@contextlib.contextmanager
def _patched(owner: type, name: str, made: Any) -> Iterator[None]:
    before = owner.__dict__[name]
    setattr(owner, name, made)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextlib.contextmanager
def _votes_before_sync(flags: Flags) -> Iterator[None]:
    flags.votes_before_sync = True
    yield


@contextlib.contextmanager
def _reads_at_cursor(flags: Flags) -> Iterator[None]:
    flags.reads_at_cursor = True
    yield


@contextlib.contextmanager
def _promise_not_kept(flags: Flags) -> Iterator[None]:
    """The worker grants a term and goes on following the old one."""

    def promise(self: Takeovers, request: PromiseRequest) -> bool:
        return False

    told = Takeovers.promise_message

    def promise_message(self: Takeovers, request: PromiseRequest) -> Promise:
        answer = told(self, request)
        return msgspec.structs.replace(answer, granted=True, promised=request.term)

    with (
        _patched(Takeovers, "promise", promise),
        _patched(Takeovers, "promise_message", promise_message),
    ):
        yield


@contextlib.contextmanager
def _promise_not_logged(flags: Flags) -> Iterator[None]:
    flags.promises_not_logged = True
    yield


@contextlib.contextmanager
def _prepare_without_term(flags: Flags) -> Iterator[None]:
    """PREPAREs of any term are taken and voted on in the worker's own."""
    flags.one_log_for_all_terms = True

    def wants(self: Participant, message: Prepare | Stage) -> bool:
        if message.txn_id in self._applied.decided:
            return False
        return message.deadline_ms > self.wall_ms

    vote = Voter._vote

    def renamed(self: Any, part: Part, prepare: Prepare) -> Any:
        made = yield from vote(self, part, prepare)
        part.vote = msgspec.structs.replace(made, term=self._at.promised)
        return part.vote

    with (
        _patched(Participant, "wants", wants),
        _patched(Voter, "_vote", renamed),
        _patched(Takeovers, "_drop_old_terms", lambda self, term: None),
    ):
        yield


@contextlib.contextmanager
def _vote_without_term(flags: Flags) -> Iterator[None]:
    """The sequencer counts votes that were given to another one."""
    vote = Sequencer.vote

    def counted(self: Sequencer, given: Vote, now_ms: int) -> Effects:
        taken = msgspec.structs.replace(given, term=self.term, at_ts=self.last_ts)
        return vote(self, taken, now_ms)

    with _patched(Sequencer, "vote", counted):
        yield


@contextlib.contextmanager
def _abort_told_early(flags: Flags) -> Iterator[None]:
    """A new term is taken for the end of everything that the old one left open."""
    status = Sequencer.status

    def hasty(
        self: Sequencer, txn_id: bytes, term: int = 0, deadline_ms: int = 0, now_ms: int = 0
    ) -> TxnStatus:
        known = status(self, txn_id, term, deadline_ms, now_ms)
        return TxnStatus("aborted") if known.state == "unknown" and term < self.term else known

    with _patched(Sequencer, "status", hasty):
        yield


@contextlib.contextmanager
def _acknowledged_by_one(flags: Flags) -> Iterator[None]:
    """One replica of three counts as durable, and one YES as a majority."""

    def is_on(self: Durability, state: DomainState, shard: int, ts: int) -> bool:
        replicas = state.replicas.get(shard, ())
        return any(self._cursors.get(w, 0) >= ts for w in replicas)

    with _patched(Durability, "is_on", is_on):
        yield


@contextlib.contextmanager
def _survey_without_majority(flags: Flags) -> Iterator[None]:
    """A term begins with whoever answers first."""

    def has_majority(self: DomainState, shard: int, workers: set[str]) -> bool:
        return bool(workers.intersection(self.replicas.get(shard, ())))

    def missing(self: Survey) -> list[int]:
        best = self._best()
        if best is None:
            return []
        state = DomainState(replicas=best.replicas)
        return [s for s in state.replicas if not has_majority(state, s, self.workers)]

    with _patched(Survey, "missing", missing):
        yield


@contextlib.contextmanager
def _conflicts_with_yes_only(flags: Flags) -> Iterator[None]:
    """A transaction that was voted NO on stands in nobody's way."""
    vote = Voter._vote

    def forgetful(self: Voter, part: Part, prepare: Prepare) -> Any:
        made = yield from vote(self, part, prepare)
        if not made.yes:
            self._undecided.others(part.shard).remove(part.txn_id)
        return made

    with _patched(Voter, "_vote", forgetful):
        yield


@contextlib.contextmanager
def _no_conflicts(flags: Flags) -> Iterator[None]:
    def any_with(self: Conflicts, new: Footprint) -> bool:
        return False

    with _patched(Conflicts, "any_with", any_with):
        yield


@contextlib.contextmanager
def _reads_not_guarded(flags: Flags) -> Iterator[None]:
    """Undecided serializable reads do not stand in the way of writers."""
    add = Conflicts.add

    def without_reads(self: Conflicts, txn_id: bytes, new: Footprint) -> None:
        add(self, txn_id, Footprint(new.collections, new.checked, new.blind))

    with _patched(Conflicts, "add", without_reads):
        yield


@contextlib.contextmanager
def _chain_ignored(flags: Flags) -> Iterator[None]:
    """A lost decision record is not noticed."""

    def offer(self: Held, record: DecisionRecord, seq: int, raw: Any) -> bool:
        last = self._records[-1][0].last_ts if self._records else self._at.cursor
        if record.last_ts <= last:
            return False
        self._records.append((record, seq, raw))
        return True

    with _patched(Held, "offer", offer):
        yield


@contextlib.contextmanager
def _nothing_undone(flags: Flags) -> Iterator[None]:
    """A worker keeps what it applied beyond the base of a takeover."""

    def undo_above(self: Applied, ts: int, by: int) -> None:
        self.cursor = ts

    with _patched(Applied, "undo_above", undo_above):
        yield


@contextlib.contextmanager
def _old_prepares_stay(flags: Flags) -> Iterator[None]:
    with _patched(Takeovers, "_drop_old_terms", lambda self, term: None):
        yield


@contextlib.contextmanager
def _chunks_not_checked(flags: Flags) -> Iterator[None]:
    """A PREPARE is voted on although chunks of it are missing."""

    def whole(self: Part) -> bool:
        return self.prepare is not None

    with _patched(Part, "whole", property(whole)):
        yield


PLANTS = (
    Plant("vote before fsync", "votes leave before the log is synced",
          ONE_REPLICA, 85, _votes_before_sync),
    Plant("promise not kept", "a worker follows the old sequencer after its promise",
          THREE_REPLICAS, 9, _promise_not_kept),
    Plant("promise not logged", "a crash makes a worker forget what it promised",
          THREE_REPLICAS, 33, _promise_not_logged),
    Plant("PREPARE without its term", "old PREPAREs are voted on in a new term",
          ONE_REPLICA, 3, _prepare_without_term),
    Plant("vote without its term", "votes that were given to another sequencer count",
          ONE_REPLICA, 14, _vote_without_term),
    Plant("abort told early", "a new term is taken for an abort before it is durable",
          THREE_REPLICAS, 1, _abort_told_early),
    Plant("acknowledged by one of three", "one replica's fsync is enough",
          THREE_REPLICAS, 12, _acknowledged_by_one),
    Plant("survey without majority", "a term begins with any worker of each shard",
          THREE_REPLICAS, 13, _survey_without_majority),
    Plant("conflicts with YES only", "a part that was voted NO on stands in nobody's way",
          ONE_REPLICA, 1908, _conflicts_with_yes_only),
    Plant("no conflicts", "undecided transactions do not see each other",
          ONE_REPLICA, 3, _no_conflicts),
    Plant("reads not guarded", "undecided reads do not stand in the way of writers",
          ONE_REPLICA, 140, _reads_not_guarded),
    Plant("chain ignored", "a lost decision record is not noticed",
          ONE_REPLICA, 12, _chain_ignored),
    Plant("nothing undone", "decisions beyond a takeover's base stay",
          THREE_REPLICAS, 48, _nothing_undone),
    Plant("old PREPAREs stay", "a takeover does not void what was undecided",
          ONE_REPLICA, 1, _old_prepares_stay),
    Plant("chunks not checked", "a part with missing chunks is voted YES on",
          ONE_REPLICA, 19, _chunks_not_checked),
    Plant("reads above stable_ts", "reads see what is not yet beyond undoing",
          THREE_REPLICAS, 1, _reads_at_cursor),
)  # fmt: skip
