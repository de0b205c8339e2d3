"""A whole domain in one thread: the real protocol machines over simulated logs and disks.

Everything that happens is drawn from one seed. Messages to the sequencer are lost, repeated and
reordered; workers crash and lose what they had not synced; sequencers are replaced while the old
one goes on; the broker is wiped. The machines under test are the product's own, unchanged.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from vector_db.common.core.messages import (
    Beat,
    DecisionRecord,
    Durable,
    Outcome,
    Prepare,
    PromiseRequest,
    Vote,
)
from vector_db.common.model.collection import Collection, Metric
from vector_db.common.model.ids import TS_NEVER
from vector_db.common.model.rows import Blob, RowBlock, hash_ids
from vector_db.coordinator.core.sequencer import Effects, Sequencer
from vector_db.coordinator.core.takeover import Survey
from vector_db.shard.core.participant import Participant
from vector_db.shard.core.parts import ChainBroken, Latest

TIMEOUT_MS = 1500
DIMENSION = 1


@dataclass(slots=True)
class Version:
    begin_ts: int
    end_ts: int
    value: float


class DictStore:
    """Rows with all their versions, in a dict."""

    def __init__(self) -> None:
        self.rows: dict[bytes, list[Version]] = {}

    def add_collection(self, c: Collection) -> None:
        """Collections need no preparation here."""

    def latest(self, shard: int, block: RowBlock) -> Latest:
        newest = [v[-1] if (v := self.rows.get(i)) else None for i in block.ids.unpack()]
        alive = [v is not None and v.end_ts == TS_NEVER for v in newest]
        changed = [
            0 if v is None else (v.begin_ts if v.end_ts == TS_NEVER else v.end_ts) for v in newest
        ]
        version = [
            v.begin_ts if v is not None and a else 0 for v, a in zip(newest, alive, strict=True)
        ]
        return Latest(
            np.array(alive, dtype=np.bool_),
            np.array(changed, dtype=np.int64),
            np.array(version, dtype=np.int64),
        )

    def apply(self, shard: int, block: RowBlock, commit_ts: int) -> int:
        found = 0
        values = [] if block.delete else block.vector_array()[:, 0].tolist()
        for n, row_id in enumerate(block.ids.unpack()):
            versions = self.rows.setdefault(row_id, [])
            if versions and versions[-1].end_ts == TS_NEVER:
                versions[-1].end_ts = commit_ts
                found += 1
            if not block.delete:
                versions.append(Version(commit_ts, TS_NEVER, values[n]))
        return found

    def undo_above(self, ts: int) -> None:
        for row_id, versions in list(self.rows.items()):
            kept = [v for v in versions if v.begin_ts <= ts]
            for version in kept:
                if version.end_ts != TS_NEVER and version.end_ts > ts:
                    version.end_ts = TS_NEVER
            if kept:
                self.rows[row_id] = kept
            else:
                del self.rows[row_id]

    def alive(self) -> dict[bytes, tuple[int, float]]:
        """Key → (version, value) of the rows that are visible now."""
        return {
            i: (v[-1].begin_ts, v[-1].value)
            for i, v in self.rows.items()
            if v and v[-1].end_ts == TS_NEVER
        }


@dataclass(slots=True)
class Logged:
    """One WAL record."""

    kind: str
    seq: int
    message: object


class SimWorker:
    """A worker: participant, rows, a WAL of which a prefix is synced, and read positions."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.wal: list[Logged] = []
        self.synced = 0
        self.unsent: list[Vote] = []
        self.recover()

    def recover(self) -> None:
        """What is left after a crash: the synced WAL, replayed."""
        del self.wal[self.synced :]
        self.unsent = []
        self.begun_term = 0
        self.store = DictStore()
        self.participant = Participant(self.name, self.store)
        for lsn, record in enumerate(self.wal, start=1):
            match record.message:
                case PromiseRequest(term, coordinator, _):
                    self.participant.adopt_term(term, coordinator)
                case DecisionRecord() as decisions:
                    self.participant.apply(decisions, record.seq, lsn)
                case Prepare() as prepare:
                    self.participant.take(prepare, record.seq, lsn, replaying=True)
        self.unsent += self.participant.revote().votes

    def log(self, kind: str, seq: int, message: object) -> int:
        self.wal.append(Logged(kind, seq, message))
        return len(self.wal)


@dataclass(slots=True)
class Leader:
    """A sequencer and the records that it has published."""

    name: str
    sequencer: Sequencer
    stepped_down: bool = False


@dataclass(slots=True)
class Transaction:
    """A client's transaction, and what it was told."""

    txn_id: bytes
    term: int
    snapshot_ts: int
    mode: str
    writes: dict[bytes, float | None]
    precondition: str
    told: Outcome | None = None
    shards: tuple[int, ...] = ()


@dataclass(slots=True)
class Flags:
    """Faults that the world may inject."""

    crashes: bool = True
    takeovers: bool = True
    wipes: bool = True
    message_loss: float = 0.05


class World:
    """One run. `step` does one random thing; `settle` lets everything finish."""

    def __init__(
        self, seed: int, workers: int, shards: int, replication: int, flags: Flags
    ) -> None:
        self.random = random.Random(seed)
        self.flags = flags
        self.now_ms = 1000
        self.workers = {f"w{i}": SimWorker(f"w{i}") for i in range(workers)}
        self.shards = tuple(range(shards))
        names = sorted(self.workers)
        self.replicas = {
            s: tuple(names[(s + r) % workers] for r in range(replication)) for s in self.shards
        }
        self.shard_logs: dict[tuple[int, int], list[Prepare]] = {}
        self.decision_logs: dict[int, list[DecisionRecord]] = {}
        self.network: list[Vote | Durable] = []
        self.leaders: list[Leader] = []
        self.transactions: dict[bytes, Transaction] = {}
        self.stable_seen = 0
        self.collection: Collection | None = None
        self.violations: list[str] = []
        self._next_txn = 0
        self.takeover()

    # --- the sequencer's side ---------------------------------------------------------------------

    @property
    def leader(self) -> Leader:
        return self.leaders[-1]

    def takeover(self) -> None:
        """A new candidate surveys the workers; old leaders are not told."""
        term = 1 + max(
            [w.participant.promised for w in self.workers.values()]
            + [leader.sequencer.term for leader in self.leaders]
        )
        name = f"c{term}"
        survey = Survey(term, "")
        names = sorted(self.workers)
        self.random.shuffle(names)
        for worker_name in names:
            worker = self.workers[worker_name]
            request = PromiseRequest(term, name, "")
            if worker.participant.promise(request):
                worker.log("promise", 0, request)
                self.sync(worker)
            survey.promise(worker.participant.promise_message(request))
            if survey.complete() and self.random.random() < 0.7:
                break
        first = survey.bootstrap("sim") if survey.is_fresh() else survey.takeover()
        self.decision_logs[term] = []
        sequencer = Sequencer(term, first, max(self.now_ms, survey.wall_ms()))
        self.leaders.append(Leader(name, sequencer))
        if not first.replicas:
            sequencer.create_collection(
                "c", DIMENSION, Metric.EUCLIDEAN, self.shards, dict(self.replicas), 1
            )

    def carry_out(self, leader: Leader, effects: Effects) -> None:
        for _, outcome in effects.outcomes:
            self.tell(outcome)
        for reply in effects.replies:
            self.collection = reply.collection
        self.stable_seen = max(self.stable_seen, leader.sequencer.stable_ts)

    def tell(self, outcome: Outcome) -> None:
        """An outcome reaches the client (once is enough)."""
        transaction = self.transactions.get(outcome.txn_id)
        if transaction is None:
            return
        if transaction.told is None:
            transaction.told = outcome
        elif transaction.told.commit_ts != outcome.commit_ts:
            self.violations.append(f"two outcomes: {transaction.told} and {outcome}")

    def publish(self, leader: Leader) -> None:
        log = self.decision_logs.get(leader.sequencer.term)
        if log is not None and leader.sequencer.has_decisions():
            record = leader.sequencer.take_record(self.now_ms)
            log.append(record)
            if self.random.random() < 0.1:
                log.append(record)

    def beat(self, leader: Leader) -> None:
        """A beat reaches a random worker."""
        sequencer = leader.sequencer
        worker = self.workers[self.random.choice(sorted(self.workers))]
        beat = Beat(
            sequencer.term,
            leader.name,
            sequencer.cluster_id,
            sequencer.stable_ts,
            sequencer.state.catalog_ts,
            self.now_ms,
            sequencer.floor_ts(),
        )
        participant = worker.participant
        if participant.is_foreign(beat.cluster_id) or beat.term < participant.promised:
            return
        if beat.term > participant.promised:
            worker.log("promise", 0, PromiseRequest(beat.term, beat.coordinator, ""))
            participant.adopt_term(beat.term, beat.coordinator)
        participant.stable(beat.stable_ts, beat.floor_ts)
        worker.begun_term = beat.term
        if self.random.random() < 0.5:
            self.network.append(self.durable(worker))
            self.network.extend(participant.votes_again())
            self.sync(worker)

    # --- the workers' side
    # --------------------------------------------------------------------------

    def durable(self, worker: SimWorker) -> Durable:
        self.sync(worker)
        p = worker.participant
        return Durable(worker.name, p.promised, p.cursor, dict(p.positions), p.decision_seq)

    def sync(self, worker: SimWorker) -> None:
        """fsync, then what waited for it is sent."""
        worker.synced = len(worker.wal)
        self.network.extend(worker.unsent)
        worker.unsent = []

    def consume(self, worker: SimWorker) -> None:
        """The worker takes one record from one of its logs."""
        participant = worker.participant
        term = participant.promised
        if worker.begun_term != term:
            return
        sources: list[int | None] = [None, *participant.state.shards_of(worker.name)]
        shard = self.random.choice(sources)
        if shard is None:
            log = self.decision_logs.get(term, [])
            if participant.decision_seq < len(log):
                seq = participant.decision_seq + 1
                # Held records are read again from the log: the position moves as they are applied.
                for later in range(seq, min(len(log), seq + 3) + 1):
                    self.offer(worker, log[later - 1], later)
            return
        records = self.shard_logs.get((term, shard), [])
        position = participant.positions.get(shard, 0)
        if position < len(records):
            prepare = records[position]
            if participant.wants(prepare):
                lsn = worker.log("log", position + 1, prepare)
                worker.unsent += participant.take(prepare, position + 1, lsn).votes
            else:
                participant.skip(shard, position + 1)
            self.apply_ready(worker)

    def offer(self, worker: SimWorker, record: DecisionRecord, seq: int) -> None:
        try:
            worker.participant.offer(record, seq, b"")
        except ChainBroken as broken:
            self.violations.append(f"{worker.name}: {broken}")
            return
        self.apply_ready(worker)

    def apply_ready(self, worker: SimWorker) -> None:
        participant = worker.participant
        while (ready := participant.next_ready()) is not None:
            record, seq, _ = ready
            lsn = worker.log("decisions", seq, record)
            worker.unsent += participant.apply(record, seq, lsn).votes

    # --- the clients' side
    # --------------------------------------------------------------------------

    def begin(self) -> None:
        """A client publishes a transaction of random shape."""
        leader = self.leader
        sequencer = leader.sequencer
        if self.collection is None or sequencer.stable_ts == 0:
            return
        rng = self.random
        keys = rng.sample([b"k%d" % i for i in range(16)], rng.randint(1, 3))
        precondition = rng.choice(["none", "none", "none", "absent", "present"])
        checked = precondition != "none" or rng.random() < 0.5
        self._next_txn += 1
        txn_id = self._next_txn.to_bytes(16, "little")
        deletes = checked and precondition == "none" and rng.random() < 0.3
        value = float(self._next_txn)
        writes: dict[bytes, float | None] = dict.fromkeys(keys, None if deletes else value)
        by_shard: dict[int, list[bytes]] = {}
        for key in keys:
            by_shard.setdefault(self.shards[key[1] % len(self.shards)], []).append(key)
        participants = tuple(sorted(by_shard))
        transaction = Transaction(
            txn_id,
            sequencer.term,
            sequencer.stable_ts,
            "snapshot" if checked else "blind",
            writes,
            precondition,
            shards=participants,
        )
        self.transactions[txn_id] = transaction
        for shard, mine in by_shard.items():
            if rng.random() < 0.03:
                continue  # the gateway died in between
            log = self.shard_logs.setdefault((sequencer.term, shard), [])
            prepare = self.prepare(transaction, shard, mine, deletes)
            log.append(prepare)
            if rng.random() < 0.05:
                log.append(prepare)

    def prepare(
        self, transaction: Transaction, shard: int, keys: list[bytes], delete: bool
    ) -> Prepare:
        if self.collection is None:
            raise ValueError("no collection yet")
        values = [transaction.writes[k] or 0.0 for k in keys]
        block = RowBlock(
            collection_id=self.collection.id,
            dimension=DIMENSION,
            ids=Blob.pack(keys),
            hashes=hash_ids(keys).tobytes(),
            vectors=b"" if delete else np.array(values, dtype="<f4").tobytes(),
            delete=delete,
            precondition=transaction.precondition,
        )
        return Prepare(
            txn_id=transaction.txn_id,
            term=transaction.term,
            shard=shard,
            participants=transaction.shards,
            snapshot_ts=transaction.snapshot_ts,
            mode=transaction.mode,
            deadline_ms=self.now_ms + TIMEOUT_MS,
            catalog_ts=self.collection.id,
            gateway="g",
            blocks=(block,),
        )

    # --- running
    # ------------------------------------------------------------------------------------

    def deliver(self) -> None:
        """A random message reaches every leader, or is lost, or comes twice."""
        if not self.network:
            return
        index = self.random.randrange(len(self.network))
        message = self.network.pop(index)
        if self.random.random() < self.flags.message_loss:
            return
        if self.random.random() < 0.05:
            self.network.append(message)
        for leader in self.leaders[-2:]:
            if isinstance(message, Vote):
                effects = leader.sequencer.vote(message, self.now_ms)
            else:
                effects = leader.sequencer.durable(message)
            self.carry_out(leader, effects)

    def step(self) -> None:
        """One random thing happens."""
        rng = self.random
        self.now_ms += rng.randint(0, 3)
        for leader in self.leaders[-2:]:
            self.carry_out(leader, leader.sequencer.tick(self.now_ms))
        worker = self.workers[rng.choice(sorted(self.workers))]
        dice = rng.random()
        if dice < 0.06:
            self.begin()
        elif dice < 0.48:
            for _ in range(rng.randint(1, 4)):
                self.consume(worker)
        elif dice < 0.60:
            self.sync(worker)
        elif dice < 0.80:
            for _ in range(rng.randint(1, 4)):
                self.deliver()
        elif dice < 0.88:
            self.publish(rng.choice(self.leaders[-2:]))
        elif dice < 0.992:
            self.beat(rng.choice(self.leaders[-2:]))
        elif dice < 0.996 and self.flags.crashes:
            worker.recover()
        elif dice < 0.999 and self.flags.takeovers:
            self.takeover()
        elif self.flags.wipes:
            self.shard_logs.clear()
            self.decision_logs.clear()
            self.takeover()

    def settle(self) -> None:
        """No more faults: perhaps a last takeover, then everything is delivered."""
        if self.flags.takeovers:
            self.takeover()
        self.flags = Flags(False, False, False, 0.0)
        for _ in range(60):
            self.now_ms += TIMEOUT_MS // 10
            self.carry_out(self.leader, self.leader.sequencer.tick(self.now_ms))
            while self.leader.sequencer.has_decisions():
                self.publish(self.leader)
            for worker in self.workers.values():
                for _ in range(4):
                    self.beat(self.leader)
                for _ in range(40):
                    self.consume(worker)
                self.network.append(self.durable(worker))
            while self.network:
                self.deliver()

    def commits(self) -> Iterator[tuple[int, Transaction]]:
        """(commit_ts, transaction) as the longest-lived worker's decisions say, in order."""
        seen: dict[bytes, int] = {}
        for worker in self.workers.values():
            for txn_id in self.transactions:
                status = worker.participant.status(txn_id)
                if status.state == "committed":
                    seen[txn_id] = status.commit_ts
        for txn_id, ts in sorted(seen.items(), key=lambda item: item[1]):
            yield ts, self.transactions[txn_id]


@dataclass(slots=True)
class Report:
    """What a run amounted to."""

    committed: int = 0
    aborted: int = 0
    unknown: int = 0
    violations: list[str] = field(default_factory=list)
