"""A worker without its shell: participant, rows in a dict, a WAL of which a prefix is synced."""

from __future__ import annotations

from dataclasses import dataclass

from tests.support.dict_store import DictStore
from vector_db.common.core.messages.decisions import DecisionRecord
from vector_db.common.core.messages.takeover import PromiseRequest
from vector_db.common.core.messages.transactions import Durable, Prepare, Stage, Vote
from vector_db.shard.core.participant import Participant
from vector_db.shard.core.parts import Effects


@dataclass(slots=True)
class Logged:
    """One WAL record."""

    seq: int
    message: PromiseRequest | DecisionRecord | Prepare | Stage


class SimWorker:
    """Votes wait in `unsent` until the log is synced, as they do in the product."""

    def __init__(self, name: str, logs_promises: bool = True) -> None:
        self.name = name
        self._logs_promises = logs_promises
        self.wal: list[Logged] = []
        self.synced = 0
        self.away_until_ms = 0
        self.unsent: list[Vote] = []
        self.recover()

    # --- the log ------------------------------------------------------------------------------

    def log(self, seq: int, message: PromiseRequest | DecisionRecord | Prepare | Stage) -> int:
        """Append, not yet synced; the lsn."""
        self.wal.append(Logged(seq, message))
        return len(self.wal)

    def load(self, lsn: int) -> Stage:
        """`staging.RecordSource`."""
        message = self.wal[lsn - 1].message
        if not isinstance(message, Stage):
            raise TypeError(f"record {lsn} is no chunk")
        return message

    def recover(self) -> None:
        """What is left after a crash: the synced log, replayed."""
        del self.wal[self.synced :]
        self.unsent = []
        self.begun_term = 0
        self.store = DictStore()
        self.participant = Participant(self.name, self.store, self)
        for lsn, record in enumerate(self.wal, start=1):
            match record.message:
                case PromiseRequest(term, coordinator, _):
                    self.participant.takeovers.adopt_term(term, coordinator)
                case DecisionRecord() as decisions:
                    self.participant.apply(decisions, record.seq, lsn)
                case Prepare() | Stage() as part:
                    self.participant.take(part, record.seq, lsn, replaying=True)
        self.unsent += self.participant.revote().votes

    def sync(self) -> list[Vote]:
        """fsync; the votes that waited for it."""
        self.synced = len(self.wal)
        sent, self.unsent = self.unsent, []
        return sent

    # --- steps --------------------------------------------------------------------------------

    def promise(self, request: PromiseRequest) -> None:
        """Promise a candidate its term, durably."""
        if self.participant.takeovers.promise(request) and self._logs_promises:
            self.log(0, request)
            self.sync()

    def follow(self, term: int, coordinator: str) -> None:
        """A beat of a sequencer: its term has begun."""
        if term > self.participant.promised:
            self.log(0, PromiseRequest(term, coordinator, ""))
            self.participant.takeovers.adopt_term(term, coordinator)
        self.begun_term = term

    def take(self, message: Prepare | Stage, seq: int) -> None:
        """A shard-log record."""
        if self.participant.wants(message):
            self._vote(self.participant.take(message, seq, self.log(seq, message)))
        else:
            self.participant.skip(message.shard, seq)
        self.apply_ready()

    def take_fetched(self, message: Prepare | Stage) -> None:
        """A record of a committed transaction, from a peer."""
        self.participant.take(message, 0, self.log(0, message))

    def apply_ready(self) -> None:
        """Apply every decision record that lacks nothing."""
        while (ready := self.participant.next_ready()) is not None:
            record, seq, _ = ready
            self._vote(self.participant.apply(record, seq, self.log(seq, record)))

    def _vote(self, effects: Effects) -> None:
        self.unsent += effects.votes

    def durable(self) -> Durable:
        """How far the synced log reaches; call after `sync`."""
        p = self.participant
        return Durable(self.name, p.promised, p.cursor, dict(p.term.positions), p.term.decision_seq)
