"""A participant with rows in a dict, driven as the shell does, with a log that can be replayed."""

from __future__ import annotations

from tests.support.dict_store import DictStore
from tests.support.protocol import (
    COLLECTION,
    Replicas,
    block,
    collection,
    first_takeover,
    prepare,
    takeover,
    txn,
)
from vector_db.common.core.messages.decisions import (
    Abort,
    Commit,
    CreateCollection,
    Decision,
    DecisionRecord,
    SetPlacement,
    Takeover,
)
from vector_db.common.core.messages.takeover import PromiseRequest
from vector_db.common.core.messages.transactions import Prepare, Stage, TxnStatus, Vote
from vector_db.common.model.ids import make_ts
from vector_db.shard.core.participant import Participant

T = make_ts
REPLICAS: Replicas = {0: ("w1",), 1: ("w1", "w2"), 2: ("w2",)}
SNAPSHOT = T(1, 2)


class ListedRecords:
    """`RecordSource` over a list; counts what is read back."""

    def __init__(self, wal: list[tuple[int, int, object]]) -> None:
        self.wal = wal
        self.loads: list[int] = []

    def load(self, lsn: int) -> Stage:
        self.loads.append(lsn)
        _, _, message = self.wal[lsn - 1]
        if not isinstance(message, Stage):
            raise TypeError(f"record {lsn} is no chunk")
        return message


class Worker:
    """A participant with rows in a dict, which logs everything that it takes."""

    def __init__(
        self,
        begun: bool = True,
        name: str = "w1",
        replicas: Replicas = REPLICAS,
        retention_s: float = 0.0,
    ) -> None:
        self.name = name
        self.retention_s = retention_s
        self.store = DictStore()
        self.wal: list[tuple[int, int, object]] = []
        self.records = ListedRecords(self.wal)
        self.participant = Participant(name, self.store, self.records, retention_s)
        self.seq = 0
        if begun:
            self.promise(1)
            self.decide(
                first_takeover(),
                SetPlacement(T(1, 1), replicas),
                CreateCollection(COLLECTION, collection((0, 1, 2))),
                prev=0,
            )

    @property
    def lsn(self) -> int:
        return len(self.wal)

    def log(self, message: object, seq: int) -> int:
        self.wal.append((self.lsn + 1, seq, message))
        return self.lsn

    def promise(self, term: int) -> None:
        self.log(PromiseRequest(term, f"c{term}", ""), 0)
        self.participant.takeovers.adopt_term(term, f"c{term}")

    def take(self, *messages: Prepare | Stage) -> list[Vote]:
        """Take records of a shard log, as the shell does."""
        votes: list[Vote] = []
        for message in messages:
            self.seq += 1
            if self.participant.wants(message):
                lsn = self.log(message, self.seq)
                votes += self.participant.take(message, self.seq, lsn).votes
            else:
                self.participant.skip(message.shard, self.seq)
        return votes

    def vote(self, *messages: Prepare | Stage) -> Vote:
        (vote,) = self.take(*messages)
        return vote

    def offer(self, *decisions: Decision, prev: int, wall_ms: int = 1_000, term: int = 1) -> None:
        self.seq += 1
        self.participant.offer(DecisionRecord(term, prev, wall_ms, decisions), self.seq, b"")

    def apply_ready(self) -> list[Vote]:
        votes: list[Vote] = []
        while (ready := self.participant.next_ready()) is not None:
            record, seq, _ = ready
            votes += self.participant.apply(record, seq, self.log(record, seq)).votes
        return votes

    def decide(
        self, *decisions: Decision, prev: int | None = None, wall_ms: int = 1_000, term: int = 1
    ) -> list[Vote]:
        """A record of `decisions` after the cursor arrives and is applied."""
        prev = self.participant.cursor if prev is None else prev
        self.offer(*decisions, prev=prev, wall_ms=wall_ms, term=term)
        return self.apply_ready()

    def take_over(self, first: Takeover, *more: Decision) -> list[Vote]:
        """Promise the term, and read its first record."""
        term = first.ts >> 36
        self.promise(term)
        return self.decide(first, *more, prev=first.base, term=term)

    def supply(self, peer: Worker) -> None:
        """Take from a peer what is missing, until nothing is or the peer has nothing."""
        while (missing := self.participant.missing()) is not None:
            if missing.tail is not None:
                tail = peer.participant.tail_after(missing.term, *missing.tail)
                if not self.participant.supply_tail(tail):
                    return
            for txn_id, shard in missing.parts:
                skip = self.participant.skippable(txn_id, shard)
                lsns = peer.participant.part_lsns(txn_id, shard)[skip:]
                if not lsns:
                    return
                for lsn in lsns:
                    message = peer.wal[lsn - 1][2]
                    if not isinstance(message, Prepare | Stage):
                        raise TypeError(f"record {lsn} is of no part")
                    if self.participant.lacks(message):
                        self.participant.take(message, 0, self.log(message, 0))
            self.apply_ready()

    def status(self, name: str) -> TxnStatus:
        """What the worker tells of a transaction once all that it applied is stable."""
        self.participant.stable(self.participant.cursor, 0)
        return self.participant.status(txn(name))

    @property
    def alive(self) -> dict[bytes, float]:
        return {key: value for key, (_, value) in self.store.alive().items()}

    def put(self, n: int, *keys: str, value: float = 1.0, shard: int = 0) -> None:
        """Commit a blind write at (1, n)."""
        self.take(prepare(f"put{n}", block(*keys, value=value), mode="blind", shard=shard))
        self.decide(commit(n, f"put{n}", shard))

    def replayed(self, cut: bool) -> Worker:
        """The worker as it comes back: from its checkpoint if `cut`, else from the whole WAL."""
        back = Worker(False, self.name, retention_s=self.retention_s)
        back.wal.extend(self.wal)
        from_lsn = 0
        if cut:
            saved = self.participant.checkpoint(self.lsn + 1)
            if saved is None:
                raise ValueError("no checkpoint can be taken")
            from_lsn = saved.replay_lsn
            back.participant = Participant(
                self.name, back.store, back.records, self.retention_s, saved
            )
            back.store.rows = {
                key: kept
                for key, versions in self.store.rows.items()
                if (kept := [v for v in versions if v.begin_ts <= saved.cursor])
            }
        for lsn, seq, message in self.wal:
            if lsn < from_lsn:
                continue
            match message:
                case PromiseRequest(term, coordinator, _):
                    back.participant.takeovers.adopt_term(term, coordinator)
                case DecisionRecord():
                    back.participant.apply(message, seq, lsn)
                case Prepare() | Stage():
                    back.participant.take(message, seq, lsn, replaying=True)
        return back


def commit(n: int, name: str, *participants: int, term: int = 1) -> Commit:
    return Commit(T(term, n), txn(name), participants or (0,))


def abort(n: int, name: str, *participants: int, term: int = 1) -> Abort:
    return Abort(T(term, n), txn(name), participants or (0,), "conflict", "")


def later(
    base: int,
    bases: dict[int, int] | None = None,
    after: int | None = None,
    decisions: tuple[DecisionRecord, ...] = (),
    term: int = 2,
    replicas: Replicas = REPLICAS,
) -> Takeover:
    """A takeover after term 1."""
    return takeover(
        term,
        base,
        replicas,
        bases=bases,
        collections=(collection((0, 1, 2)),),
        after=after,
        decisions=decisions,
    )
