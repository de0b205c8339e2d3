"""A domain that a text script drives step by step: sequencers, workers, and nothing in between.

Nothing happens by itself. A script says which worker takes which record, which votes arrive and how
far a worker reads; every command shows what the machines answered. Timestamps are written
``term.n``. The commands are the methods of `Domain` named ``do_…``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.support.dict_store import DictStore
from tests.support.protocol import block, first_takeover, prepare
from vector_db.common.core.messages.decisions import (
    Abort,
    AlterCollection,
    Commit,
    CreateCollection,
    Decision,
    DecisionRecord,
    DropCollection,
    SetAliases,
    SetPlacement,
    SwitchCollection,
    Takeover,
)
from vector_db.common.core.messages.takeover import PromiseRequest
from vector_db.common.core.messages.transactions import Durable, Prepare, Vote
from vector_db.common.model.collection import Metric
from vector_db.common.model.ids import make_ts, ts_n, ts_term
from vector_db.coordinator.core.effects import Effects
from vector_db.coordinator.core.sequencer import Sequencer
from vector_db.coordinator.core.takeover import Survey
from vector_db.shard.core.participant import Participant
from vector_db.shard.core.parts import ChainBroken

Output = Iterator[str]


def show(ts: int) -> str:
    return f"{ts_term(ts)}.{ts_n(ts)}"


def parse_ts(text: str) -> int:
    term, n = text.split(".")
    return make_ts(int(term), int(n))


def name_of(txn_id: bytes) -> str:
    return txn_id.rstrip(b".").decode()


def show_placement(replicas: dict[int, tuple[str, ...]]) -> str:
    return " ".join(f"{s}:{'+'.join(ws)}" for s, ws in sorted(replicas.items())) or "none"


def show_decision(decision: Decision) -> str:
    match decision:
        case Commit(ts, txn_id, participants):
            return f"{show(ts)} commit {name_of(txn_id)} on {','.join(map(str, participants))}"
        case Abort(ts, txn_id, _, reason, detail):
            return f"{show(ts)} abort {name_of(txn_id)}: {reason}" + (detail and f", {detail}")
        case CreateCollection(ts, collection):
            return f"{show(ts)} create {collection.name} on {','.join(map(str, collection.shards))}"
        case AlterCollection(ts, collection):
            return f"{show(ts)} alter {collection.name}"
        case SwitchCollection(ts, collection_id):
            return f"{show(ts)} switch to {show(collection_id)}"
        case SetAliases(ts, aliases):
            told = ",".join(f"{a}={show(i)}" for a, i in sorted(aliases.items()))
            return f"{show(ts)} alias {told or 'nothing'}"
        case SwitchCollection(ts, collection_id):
            return f"{show(ts)} switch to {show(collection_id)}"
        case DropCollection(ts, collection_id):
            return f"{show(ts)} drop {show(collection_id)}"
        case SetPlacement(ts, replicas):
            return f"{show(ts)} place {show_placement(replicas)}"
        case Takeover():
            tells = [show(d.ts) for r in decision.decisions for d in r.decisions]
            return (
                f"{show(decision.ts)} takeover base={show(decision.base)} "
                f"after={show(decision.decisions_after)} tells={','.join(tells) or 'nothing'}"
            )


def show_vote(vote: Vote) -> str:
    said = "yes" if vote.yes else f"no: {vote.reason}, {vote.detail}"
    return f"{vote.worker} votes on {name_of(vote.txn_id)} at shard {vote.shard}: {said}"


@dataclass(slots=True)
class ScriptWorker:
    """A participant, its rows, what it has not sent yet and how far it read."""

    name: str
    store: DictStore = field(default_factory=DictStore)
    outbox: list[Vote] = field(default_factory=list)
    read: dict[int, int] = field(default_factory=dict)
    lsn: int = 0
    participant: Participant = field(init=False)

    def __post_init__(self) -> None:
        self.participant = Participant(self.name, self.store)

    def next_lsn(self) -> int:
        self.lsn += 1
        return self.lsn


class Domain:
    """What a script drives."""

    def __init__(self) -> None:
        self.now_ms = 1_000
        self.sequencers: dict[int, Sequencer] = {}
        self.logs: dict[int, list[DecisionRecord]] = {}
        self.workers: dict[str, ScriptWorker] = {}
        self._shard_seq = 0

    def run(self, line: str) -> list[str]:
        """One command: ``name words… key=value…``."""
        name, *words = line.split()
        command: Callable[..., Output] = getattr(self, f"do_{name}")
        options = dict(word.split("=", 1) for word in words if "=" in word)
        return list(command(*(word for word in words if "=" not in word), **options))

    def _worker(self, name: str) -> ScriptWorker:
        return self.workers.setdefault(name, ScriptWorker(name))

    def _sequencer(self, term: str | None = None) -> Sequencer:
        return self.sequencers[int(term) if term else max(self.sequencers)]

    def _effects(self, sequencer: Sequencer, effects: Effects) -> Output:
        for _, outcome in effects.outcomes:
            if outcome.commit_ts:
                yield f"told: {name_of(outcome.txn_id)} committed at {show(outcome.commit_ts)}"
            else:
                yield f"told: {name_of(outcome.txn_id)} aborted, {outcome.reason}"
        for reply in effects.replies:
            yield f"answered: {show(reply.ts)}"
        if effects.stable_advanced:
            yield f"stable: {show(sequencer.stable_ts)}"

    # --- sequencer --------------------------------------------------------------------------------

    def do_found(self, term: str, *workers: str) -> Output:
        """A new cluster: fresh workers promise the term, and its sequencer begins."""
        for name in workers:
            self._worker(name).participant.takeovers.adopt_term(int(term), f"c{term}")
        self._begin(int(term), first_takeover(int(term)))
        yield f"term {term} begins"

    def _begin(self, term: int, first: Takeover) -> None:
        self.sequencers[term] = Sequencer(term, first, self.now_ms)
        self.logs[term] = []

    def do_survey(self, term: str, *workers: str) -> Output:
        """A candidate asks workers for a term, and begins it if they are enough."""
        survey = Survey(int(term), "")
        for name in workers:
            participant = self._worker(name).participant
            request = PromiseRequest(int(term), f"c{term}", "")
            participant.takeovers.promise(request)
            answer = participant.takeovers.promise_message(request)
            survey.promise(answer)
            said = "promises" if answer.granted else f"refuses, promised {answer.promised}"
            yield f"{name} {said}, is at {show(answer.cursor)}"
        if survey.complete():
            self._begin(int(term), survey.takeover())
            yield f"term {term} begins"
        else:
            yield f"no majority of shards {','.join(map(str, survey.missing()))}"

    def do_create(self, name: str, shards: str) -> Output:
        """``shards=0:w1+w2,1:w3``: a collection over these shards and the placement they need."""
        pairs = (one.split(":") for one in shards.split(","))
        replicas = {int(shard): tuple(names.split("+")) for shard, names in pairs}
        sequencer = self._sequencer()
        effects = sequencer.changes.create_collection(
            name, 1, Metric.DOT, tuple(replicas), sequencer.state.replicas | replicas, 1
        )
        yield from self._effects(sequencer, effects)

    def do_drop(self, name: str) -> Output:
        sequencer = self._sequencer()
        collection = sequencer.state.by_name(name)
        if collection is None:
            raise ValueError(f"no collection {name}")
        yield from self._effects(sequencer, sequencer.changes.drop_collection((collection,), 1))

    def do_now(self, ms: str) -> Output:
        """The time moves on, and every sequencer looks at the clock."""
        self.now_ms = int(ms)
        for sequencer in self.sequencers.values():
            yield from self._effects(sequencer, sequencer.tick(self.now_ms))

    def do_publish(self, term: str | None = None) -> Output:
        """The sequencer appends everything it has decided to the log of its term."""
        sequencer = self._sequencer(term)
        if not sequencer.has_decisions():
            yield "nothing is decided"
        while sequencer.has_decisions():
            record = sequencer.take_record(self.now_ms)
            self.logs[sequencer.term].append(record)
            yield f"record after {show(record.prev_ts)}, {record.wall_ms} ms"
            yield from (f"  {show_decision(d)}" for d in record.decisions)

    # --- workers ----------------------------------------------------------------------------------

    def do_prepare(self, txn: str, *flags: str, at: str, keys: str, **options: str) -> Output:
        """Workers ``at=w1,w2`` take a PREPARE; their votes wait until ``send``."""
        sequencer = self._sequencer(options.get("term"))
        shard = int(options.get("shard", "0"))
        found = sequencer.state.by_name(options.get("collection", "c"))
        if found is None:
            raise ValueError("no such collection")
        rows = block(
            *keys.split(","),
            value=float(options.get("value", "1")),
            collection_id=found.id,
            delete="delete" in flags,
            precondition=options.get("if", "none"),
        )
        message = prepare(
            txn,
            rows,
            shard=shard,
            participants=[int(s) for s in options.get("of", str(shard)).split(",")],
            term=sequencer.term,
            snapshot_ts=parse_ts(options["snapshot"]) if "snapshot" in options else 0,
            mode="snapshot" if "snapshot" in options else "blind",
            deadline_ms=int(options.get("deadline", "10000")),
        )
        for name in at.split(","):
            yield from self._take(self._worker(name), message)

    def _take(self, worker: ScriptWorker, message: Prepare) -> Output:
        self._shard_seq += 1
        if not worker.participant.wants(message):
            worker.participant.skip(message.shard, self._shard_seq)
            yield f"{worker.name} passes it over"
            return
        effects = worker.participant.take(message, self._shard_seq, worker.next_lsn())
        if not effects.votes:
            yield f"{worker.name} waits"
        yield from self._voted(worker, effects.votes)

    def _voted(self, worker: ScriptWorker, votes: list[Vote]) -> Output:
        worker.outbox += votes
        yield from map(show_vote, votes)

    def do_send(self, *workers: str, term: str | None = None) -> Output:
        """The votes of workers arrive at a sequencer."""
        sequencer = self._sequencer(term)
        for name in workers:
            votes, self._worker(name).outbox = self._worker(name).outbox, []
            for vote in votes:
                yield from self._effects(sequencer, sequencer.vote(vote, self.now_ms))

    def do_follow(self, *workers: str) -> Output:
        """Workers read the rest of their term's decision log and apply what they can."""
        for name in workers:
            worker = self._worker(name)
            term = worker.participant.promised
            for record in self.logs.get(term, [])[worker.read.get(term, 0) :]:
                worker.read[term] = worker.read.get(term, 0) + 1
                try:
                    worker.participant.offer(record, worker.read[term], b"")
                except ChainBroken as broken:
                    yield f"{name}: {broken}"
            yield from self._apply_ready(worker)

    def _apply_ready(self, worker: ScriptWorker) -> Output:
        while (ready := worker.participant.next_ready()) is not None:
            record, seq, _ = ready
            effects = worker.participant.apply(record, seq, worker.next_lsn())
            yield from self._voted(worker, effects.votes)
        held = worker.participant.counts()["held"]
        waits = f", {held} records wait for rows" if held else ""
        yield f"{worker.name} is at {show(worker.participant.cursor)}{waits}"

    def do_durable(self, *workers: str, term: str | None = None) -> Output:
        """The cursors of workers arrive at a sequencer."""
        sequencer = self._sequencer(term)
        for name in workers:
            participant = self._worker(name).participant
            told = Durable(name, participant.promised, participant.cursor, {}, 0)
            yield from self._effects(sequencer, sequencer.durable(told))

    # --- looking ----------------------------------------------------------------------------------

    def do_rows(self, *workers: str) -> Output:
        """Key, value and version of what is alive."""
        for name in workers:
            alive = sorted(self._worker(name).store.alive().items())
            rows = " ".join(f"{key.decode()}={value:g}@{show(ts)}" for key, (ts, value) in alive)
            yield f"{name}: {rows or 'nothing'}"

    def do_status(self, txn: str) -> Output:
        """What everyone remembers of a transaction."""
        txn_id = txn.encode().ljust(16, b".")
        for term, sequencer in self.sequencers.items():
            status = sequencer.status(txn_id, term, self.now_ms + 1, self.now_ms)
            yield f"term {term}: {status.state}"
        for name, worker in sorted(self.workers.items()):
            yield f"{name}: {worker.participant.status(txn_id).state}"
