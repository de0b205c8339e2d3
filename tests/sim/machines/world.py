"""A whole domain in one thread: the real protocol machines over simulated logs and disks.

Everything that happens is drawn from one seed. Messages to the sequencer are lost, repeated and
reordered; workers crash and lose what they had not synced, or are away for a while; sequencers are
replaced while the old one goes on; the broker is wiped, rolled back, or loses a record without a
word. Each seed draws its own weather: which faults, how often, over how many keys (swarm testing).
The machines under test are the product's own, unchanged.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from tests.sim.machines.clients import DIMENSION, KEYS, TIMEOUT_MS, Read, Shaper, Transaction, home
from tests.sim.machines.worker import SimWorker
from vector_db.common.core.messages.decisions import DecisionRecord
from vector_db.common.core.messages.takeover import PromiseRequest
from vector_db.common.core.messages.transactions import Durable, Outcome, Prepare, Stage, Vote
from vector_db.common.model.collection import Collection, Metric
from vector_db.coordinator.core.effects import Effects
from vector_db.coordinator.core.sequencer import Sequencer
from vector_db.coordinator.core.takeover import HistoryLost, Survey
from vector_db.shard.core.parts import ChainBroken


@dataclass(frozen=True, slots=True)
class Shape:
    """How many of what."""

    workers: int
    shards: int
    replication: int


@dataclass(slots=True)
class Flags:
    """Faults that the world may inject, and mistakes that a test plants into its shells."""

    one_log_for_all_terms: bool = False
    votes_before_sync: bool = False
    reads_at_cursor: bool = False
    promises_not_logged: bool = False


FAULTS = ("crash", "takeover", "away", "wipe", "rollback", "rot")
_WEIGHTS = {"crash": 8, "takeover": 6, "away": 4}


@dataclass(slots=True)
class Weather:
    """What a seed is like."""

    fault_share: float
    kinds: list[str]
    message_loss: float
    no_votes_lost: float
    begin_share: float
    keys: list[bytes]

    @classmethod
    def drawn(cls, rng: random.Random) -> Weather:
        """A random one; every fifth or so is fair."""
        some = [kind for kind in FAULTS if rng.random() < 0.7]
        return cls(
            rng.choice([0.0, 0.005, 0.01, 0.02, 0.05]),
            [kind for kind in some for _ in range(_WEIGHTS.get(kind, 2))],
            rng.choice([0.0, 0.05, 0.05, 0.3]),
            rng.choice([0.0, 0.0, 0.9]),
            rng.choice([0.04, 0.08, 0.15]),
            KEYS[: rng.choice([3, 6, len(KEYS)])],
        )


@dataclass(slots=True)
class Leader:
    """A sequencer of some term, perhaps not the newest."""

    name: str
    sequencer: Sequencer
    asked: bool = False
    """Whether the collection was asked for in its term."""


class World:
    """One run. `step` does one random thing; `settle` lets everything finish."""

    def __init__(self, seed: int, shape: Shape, flags: Flags | None = None) -> None:
        self.random = random.Random(seed)
        self.weather = Weather.drawn(self.random)
        self.flags = Flags() if flags is None else flags
        self.now_ms = 1000
        logs = not self.flags.promises_not_logged
        self.workers = {f"w{i}": SimWorker(f"w{i}", logs) for i in range(shape.workers)}
        self.shards = tuple(range(shape.shards))
        names = sorted(self.workers)
        self.replicas = {
            s: tuple(names[(s + r) % shape.workers] for r in range(shape.replication))
            for s in self.shards
        }
        self.shard_logs: dict[tuple[int, int], list[Prepare | Stage]] = {}
        self.decision_logs: dict[int, list[DecisionRecord]] = {}
        self.network: list[Vote | Durable] = []
        self.leaders: list[Leader] = []
        self.transactions: dict[bytes, Transaction] = {}
        self.open: list[Transaction] = []
        self.reads: list[Read] = []
        self.stable_seen = 0
        self.collection: Collection | None = None
        self.violations: list[str] = []
        self.faults: dict[str, int] = {}
        self._shaper = Shaper(self.random, self.shards, self.weather.keys)
        self._highest_term = 0
        self._takeover_wanted = False
        while not self.leaders:
            self.takeover()

    # --- the sequencer's side ---------------------------------------------------------------------

    @property
    def leader(self) -> Leader:
        return self.leaders[-1]

    def _is_away(self, worker: SimWorker) -> bool:
        return worker.away_until_ms > self.now_ms

    def takeover(self) -> None:
        """A new candidate surveys the workers that are there; old leaders are not told."""
        self._takeover_wanted = False
        term = self._highest_term = self._highest_term + 1
        name = f"c{term}"
        survey = Survey(term, "")
        names = [n for n in sorted(self.workers) if not self._is_away(self.workers[n])]
        self.random.shuffle(names)
        for worker_name in names:
            worker = self.workers[worker_name]
            request = PromiseRequest(term, name, "")
            worker.promise(request)
            survey.promise(worker.participant.takeovers.promise_message(request))
            if survey.complete() and self.random.random() < 0.7:
                break
        if survey.is_fresh() and len(names) == len(self.workers):
            first = survey.bootstrap("sim")
        elif survey.complete():
            try:
                first = survey.takeover(self.stable_seen)
            except HistoryLost as lost:
                self.violations.append(f"takeover {term}: {lost}")
                return
        else:
            self._takeover_wanted = True
            return
        self.decision_logs[term] = []
        sequencer = Sequencer(term, first, max(self.now_ms, survey.wall_ms()))
        self.leaders.append(Leader(name, sequencer))
        if first.collections:
            self.collection = first.collections[0]

    def carry_out(self, leader: Leader, effects: Effects) -> None:
        for _, outcome in effects.outcomes:
            self.tell(outcome)
        for reply in effects.replies:
            self.collection = reply.collection
        if leader.sequencer.stable_ts:
            self.stable_seen = max(self.stable_seen, leader.sequencer.stable_ts)
        self.create_if_due(leader)

    def create_if_due(self, leader: Leader) -> None:
        """The first term that is known to a majority makes the collection."""
        sequencer = leader.sequencer
        if sequencer.state.replicas or leader.asked or not sequencer.placement_settled:
            return
        leader.asked = True
        made = sequencer.changes.create_collection(
            "c", DIMENSION, Metric.EUCLIDEAN, self.shards, dict(self.replicas), 1
        )
        self.carry_out(leader, made)

    def tell(self, outcome: Outcome) -> None:
        """An outcome reaches the client; another one later is a lie."""
        transaction = self.transactions.get(outcome.txn_id)
        if transaction is None:
            return
        if transaction.told is None:
            transaction.told = outcome
        elif transaction.told.commit_ts != outcome.commit_ts:
            self.violations.append(f"two outcomes: {transaction.told} and {outcome}")

    def publish(self, leader: Leader) -> None:
        log = self.decision_logs.get(leader.sequencer.term)
        if log is None:
            self._takeover_wanted = True
        elif leader.sequencer.has_decisions():
            record = leader.sequencer.take_record(self.now_ms)
            log.append(record)
            if self.random.random() < 0.1:
                log.append(record)

    def beat(self, leader: Leader) -> None:
        """A beat reaches a random worker."""
        sequencer = leader.sequencer
        worker = self.workers[self.random.choice(sorted(self.workers))]
        participant = worker.participant
        if self._is_away(worker) or sequencer.term < participant.promised:
            return
        if participant.takeovers.is_foreign(sequencer.cluster_id):
            return
        worker.follow(sequencer.term, leader.name)
        participant.stable(sequencer.stable_ts, sequencer.floor_ts())
        participant.hear(sequencer.wall_now(self.now_ms), sequencer.last_ts)
        if self.random.random() < 0.5:
            again = participant.votes_again()
            self.sync(worker)
            self.network.append(worker.durable())
            self.network.extend(again)

    # --- the workers' side ------------------------------------------------------------------------

    def sync(self, worker: SimWorker) -> None:
        """fsync, then what waited for it is sent."""
        self.network.extend(worker.sync())

    def _log_of(self, term: int, shard: int) -> list[Prepare | Stage]:
        key = (0 if self.flags.one_log_for_all_terms else term, shard)
        return self.shard_logs.setdefault(key, [])

    def consume(self, worker: SimWorker) -> None:
        """The worker takes one record from one of its logs."""
        participant = worker.participant
        term = participant.promised
        if worker.begun_term != term or self._is_away(worker):
            return
        sources: list[int | None] = [None, *participant.state.shards_of(worker.name)]
        self._consume_from(worker, self.random.choice(sources))

    def _drain(self, worker: SimWorker) -> None:
        """The worker takes everything that its logs have for it now."""
        participant = worker.participant
        if worker.begun_term != participant.promised:
            return
        before = None
        while before != (now := (participant.term.decision_seq, dict(participant.term.positions))):
            before = now
            for shard in [None, *participant.state.shards_of(worker.name)]:
                self._consume_from(worker, shard)

    def _consume_from(self, worker: SimWorker, shard: int | None) -> None:
        participant = worker.participant
        term = participant.promised
        if shard is None:
            self._consume_decisions(worker, self.decision_logs.get(term, []))
        else:
            log, position = self._log_of(term, shard), participant.term.positions.get(shard, 0)
            if position < len(log):
                worker.take(log[position], position + 1)
            elif position > len(log):
                self._takeover_wanted = True
        if self.flags.votes_before_sync:
            self.network.extend(worker.unsent)
            worker.unsent = []

    def _consume_decisions(self, worker: SimWorker, log: list[DecisionRecord]) -> None:
        seq = worker.participant.term.decision_seq
        if seq > len(log):
            self._takeover_wanted = True
        # Held records are read again from the log: the position moves as they are applied.
        for later in range(seq + 1, min(len(log), seq + 4) + 1):
            try:
                worker.participant.offer(log[later - 1], later, b"")
            except ChainBroken:
                self._takeover_wanted = True
                return
            worker.apply_ready()

    def fetch(self, worker: SimWorker) -> None:
        """The worker asks a random other one for what it lacks."""
        missing = worker.participant.missing()
        if missing is None or self._is_away(worker):
            return
        if missing.tail is not None:
            peer = self.workers[self.random.choice(sorted(self.workers))]
            if peer is not worker and not self._is_away(peer):
                tail = peer.participant.tail_after(missing.term, *missing.tail)
                worker.participant.supply_tail(tail)
        for txn_id, shard in missing.parts:
            peer = self.workers[self.random.choice(missing.state.holders(shard))]
            if peer is worker or self._is_away(peer):
                continue
            lsns = peer.participant.part_lsns(txn_id, shard)
            for lsn in lsns[worker.participant.skippable(txn_id, shard) if lsns else 0 :]:
                message = peer.wal[lsn - 1].message
                if isinstance(message, Prepare | Stage):
                    worker.take_fetched(message)
        worker.apply_ready()

    # --- the clients' side ------------------------------------------------------------------------

    def _drawn(self, open_: bool) -> Transaction | None:
        """A new transaction, as a client sees the cluster: perhaps through an old sequencer."""
        stale = len(self.leaders) > 1 and self.random.random() < 0.05
        sequencer = self.leaders[-2 if stale else -1].sequencer
        if self.collection is None or sequencer.stable_ts < self.collection.id:
            return None
        made = self._shaper.draw(sequencer.term, sequencer.stable_ts, self.now_ms, open_)
        self.transactions[made.txn_id] = made
        if made.mode == "snapshot" and self.random.random() < 0.4:
            made.whole = self.random.random() < 0.3
            wanted = self.random.sample(self.weather.keys, 2)
            if made.whole:
                shards = {home(key, self.shards) for key in wanted}
                wanted = [key for key in self.weather.keys if home(key, self.shards) in shards]
            made.reads = self._seen(made.snapshot_ts, wanted) or {}
        return made

    def begin(self) -> None:
        """A one-shot transaction, in chunks or not, or chunks of one that stays open."""
        open_ = self.random.random() < 0.3
        made = self._drawn(open_)
        if made is None or self.collection is None:
            return
        if open_ or (made.precondition == "none" and self.random.random() < 0.2):
            for stage in self._shaper.stage(made, self.collection.id):
                self._append(made.term, stage)
        if open_:
            self.open.append(made)
        else:
            self._publish(made)

    def end_open(self) -> None:
        """A client commits or gives up a transaction that it had left open, or forgets it."""
        if not self.open:
            return
        made = self.open.pop(self.random.randrange(len(self.open)))
        dice = self.random.random()
        if dice < 0.6 and made.deadline_ms > self.now_ms:
            self._publish(made)
        elif dice < 0.8 and self.leader.sequencer.term == made.term:
            status, effects = self.leader.sequencer.abort(
                made.txn_id, made.shards, made.deadline_ms, self.now_ms
            )
            self.carry_out(self.leader, effects)
            if status.state == "aborted":
                self.tell(Outcome(made.txn_id, 0, 0, status.reason, status.detail))

    def _publish(self, made: Transaction) -> None:
        if self.collection is not None:
            for prepare in self._shaper.prepares(made, self.collection.id, self.now_ms):
                self._append(made.term, prepare)

    def _append(self, term: int, message: Prepare | Stage) -> None:
        if self.random.random() < 0.02:
            return  # lost on the way, or the gateway died in between
        log = self._log_of(term, message.shard)
        log.append(message)
        if self.random.random() < 0.05:
            log.append(message)

    def _seen(
        self, snapshot_ts: int, keys: list[bytes]
    ) -> dict[bytes, tuple[int, float] | None] | None:
        """What replicas that have reached the snapshot show; None: one has not."""
        seen: dict[bytes, tuple[int, float] | None] = {}
        for key in keys:
            name = self.random.choice(self.replicas[home(key, self.shards)])
            worker = self.workers[name]
            at = worker.participant.cursor if self.flags.reads_at_cursor else snapshot_ts
            if worker.participant.cursor < snapshot_ts:
                return None
            seen[key] = worker.store.at(at).get(key)
        return seen

    def read(self) -> None:
        """A client reads a few keys at the newest stable snapshot that it knows of."""
        snapshot_ts = self.random.choice(self.leaders[-2:]).sequencer.stable_ts
        if not snapshot_ts:
            return
        seen = self._seen(snapshot_ts, self.random.sample(self.weather.keys, 3))
        if seen is not None:
            self.reads.append(Read(snapshot_ts, seen))

    def find_out(self, made: Transaction) -> None:
        """A gateway that was told nothing asks the sequencer, then (after its term) a worker."""
        sequencer = self.random.choice(self.leaders[-2:]).sequencer
        status = sequencer.status(made.txn_id, made.term, made.deadline_ms, self.now_ms)
        if status.state == "unknown" and sequencer.term != made.term:
            name = self.random.choice(sorted(self.workers))
            if not self._is_away(self.workers[name]):
                status = self.workers[name].participant.status(made.txn_id)
        if status.state == "committed":
            self.tell(Outcome(made.txn_id, status.commit_ts))
        elif status.state == "aborted":
            self.tell(Outcome(made.txn_id, 0, 0, status.reason, status.detail))

    def _ask_one(self) -> None:
        untold = [t for t in self.transactions.values() if t.told is None]
        if untold:
            self.find_out(self.random.choice(untold))

    # --- running ----------------------------------------------------------------------------------

    def deliver(self) -> None:
        """A random message reaches the leaders, or is lost, or comes twice."""
        if not self.network:
            return
        message = self.network.pop(self.random.randrange(len(self.network)))
        is_no = isinstance(message, Vote) and not message.yes
        lost = self.weather.no_votes_lost if is_no else 0.0
        if self.random.random() < max(lost, self.weather.message_loss):
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
        if rng.random() < self.weather.begin_share:
            self.begin()
            return
        if self.weather.kinds and rng.random() < self.weather.fault_share:
            self._fault(worker)
            return
        dice = rng.random()
        if dice < 0.03:
            self.end_open()
        elif dice < 0.46:
            for _ in range(rng.randint(1, 4)):
                self.consume(worker)
        elif dice < 0.56:
            self.sync(worker)
        elif dice < 0.76:
            for _ in range(rng.randint(1, 4)):
                self.deliver()
        elif dice < 0.84:
            self.publish(rng.choice(self.leaders[-2:]))
        elif dice < 0.94:
            self.beat(rng.choice(self.leaders[-2:]))
        elif dice < 0.96:
            self.read()
        elif dice < 0.97:
            self._ask_one()
        else:
            self.fetch(worker)
        if self._takeover_wanted and rng.random() < 0.02:
            self.takeover()

    def _fault(self, worker: SimWorker) -> None:
        rng = self.random
        kind = rng.choice(self.weather.kinds)
        self.faults[kind] = self.faults.get(kind, 0) + 1
        match kind:
            case "crash":
                worker.recover()
            case "takeover":
                self.takeover()
            case "away":
                worker.away_until_ms = self.now_ms + rng.randint(50, 2 * TIMEOUT_MS)
            case "wipe":
                self.shard_logs.clear()
                self.decision_logs.clear()
                self._takeover_wanted = True
            case "rollback":
                logs: list[list[DecisionRecord] | list[Prepare | Stage]]
                logs = [*self.decision_logs.values(), *self.shard_logs.values()]
                for log in logs:
                    del log[rng.randint(0, len(log)) :]
            case "rot":
                logs = [*self.decision_logs.values(), *self.shard_logs.values()]
                log = rng.choice([one for one in logs if one] or [[]])
                if log:
                    # Its sequence is used again by what follows, as a damaged store does it.
                    del log[rng.randrange(len(log))]

    def settle(self) -> None:
        """No more faults: everything is delivered, and every client finds out."""
        self.weather.message_loss = self.weather.no_votes_lost = 0.0
        for worker in self.workers.values():
            worker.away_until_ms = 0
        self.takeover()
        self._run_on(40)

    def probe(self) -> list[Transaction]:
        """Once settled: blind writes of all keys, which nothing may stand in the way of."""
        if self.collection is None:
            return []
        sequencer = self.leader.sequencer
        made: list[Transaction] = []
        for key in KEYS:
            one = self._shaper.draw(sequencer.term, sequencer.stable_ts, self.now_ms, False)
            one.mode, one.precondition, one.writes = "blind", "none", {key: float(len(made))}
            one.shards = (home(key, self.shards),)
            self.transactions[one.txn_id] = one
            (prepare,) = self._shaper.prepares(one, self.collection.id, self.now_ms)
            self._log_of(sequencer.term, prepare.shard).append(prepare)
            made.append(one)
        self._run_on(20)
        return made

    def _run_on(self, rounds: int) -> None:
        for _ in range(rounds):
            self.now_ms += TIMEOUT_MS // 10
            if self._takeover_wanted:
                self.takeover()
            self.carry_out(self.leader, self.leader.sequencer.tick(self.now_ms))
            while self.leader.sequencer.has_decisions() and not self._takeover_wanted:
                self.publish(self.leader)
            for worker in self.workers.values():
                for _ in range(4):
                    self.beat(self.leader)
                self._drain(worker)
                self.fetch(worker)
                self.sync(worker)
                self.network.append(worker.durable())
            while self.network:
                self.deliver()
            for transaction in self.transactions.values():
                if transaction.told is None:
                    self.find_out(transaction)

    def commits(self) -> Iterator[tuple[int, Transaction]]:
        """(commit_ts, transaction) as the workers remember, in order."""
        seen: dict[bytes, int] = {}
        for worker in self.workers.values():
            for txn_id in self.transactions:
                status = worker.participant.status(txn_id)
                if status.state == "committed":
                    seen[txn_id] = status.commit_ts
        for txn_id, ts in sorted(seen.items(), key=lambda item: item[1]):
            yield ts, self.transactions[txn_id]
