"""A cluster that is played in memory, for tests of the gateway: two shards (more when a collection
is spread), a sequencer, any number of gateways, in virtual time.

It follows the protocol as the messages describe it: chunks by number (the first copy counts), votes
in `snapshot` mode (first committer wins, preconditions, chunk checksums), decisions that are
remembered, reads at a snapshot under an overlay. What the shard workers do beyond that is tested
with the real ones.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from random import Random

import msgspec
import numpy as np
import orjson

from tests.support.memory_bus import MemoryBus
from tests.support.virtual_time import LoopClock, run
from vector_db.common.adapters.loopback_bus import LoopbackBus
from vector_db.common.core.domain import DomainState
from vector_db.common.core.messages import AnyMessage
from vector_db.common.core.messages.catalog import (
    CatalogReply,
    CatalogRequest,
    CreateCollectionRequest,
    SpreadRequest,
)
from vector_db.common.core.messages.decisions import SwitchCollection
from vector_db.common.core.messages.reads import (
    AsOfReply,
    AsOfRequest,
    CountReply,
    CountRequest,
    FetchRequest,
    Overlay,
    RowsReply,
    ScrollRequest,
    SearchReply,
    SearchRequest,
    StagedRequest,
)
from vector_db.common.core.messages.transactions import (
    AbortRequest,
    Beat,
    Outcome,
    Prepare,
    Stage,
    TxnStatus,
    TxnStatusRequest,
)
from vector_db.common.core.placement import shards_of_ids
from vector_db.common.core.subjects import LogName, beats, outcomes, sequencer, worker
from vector_db.common.model.collection import Collection, Metric
from vector_db.common.model.errors import Conflict, Moved, NotFound, Unavailable
from vector_db.common.model.filters import matches, parse_filter
from vector_db.common.model.ids import make_ts
from vector_db.common.model.limits import Limits
from vector_db.common.model.rows import Blob, RowBlock, chunks_checksum, hash_ids
from vector_db.common.service.config import TransactionsConfig
from vector_db.gateway.cluster import ClusterView
from vector_db.gateway.copying import Copier
from vector_db.gateway.core.requests import RowsIn, Upsert
from vector_db.gateway.database import Database
from vector_db.gateway.reads import Reader
from vector_db.gateway.transactions import Transactions

WALL_MS = 1_000_000
SHARDS = (0, 1)
SHARDS_ALL = (0, 1, 2, 3, 4)
Key = tuple[int, bytes]
Chunks = dict[int, tuple[RowBlock, ...]]


@dataclass(frozen=True)
class Version:
    ts: int
    metadata: bytes
    vector: bytes
    alive: bool
    version: int


class PlayedBroker(MemoryBus):
    """Every record that is appended is consumed at once."""

    def __init__(self, on_record: Callable[[AnyMessage], None]) -> None:
        super().__init__()
        self._on_record = on_record

    async def append(self, log: LogName, message: AnyMessage) -> None:
        await super().append(log, message)
        self._on_record(message)


class Gateway:
    """One gateway of the played cluster."""

    def __init__(self, cluster: Cluster, name: str, config: TransactionsConfig) -> None:
        self.transactions = Transactions(cluster.bus, name, Random(name))
        self.view = ClusterView(cluster.bus, LoopClock(), self.transactions.on_outcome)
        reader = Reader(cluster.bus, self.view)
        self.copier = Copier(cluster.bus, self.view, self.transactions, reader)
        self.database = Database(
            cluster.bus, self.view, self.transactions, reader, Limits(), 3, config, Random(name)
        )

    async def start(self) -> None:
        await self.transactions.start(self.view)
        await self.view.start(5.0)

    async def stop(self) -> None:
        await self.transactions.stop()
        await self.view.stop()


class Cluster:
    """See the module. The attributes are what tests turn and look at."""

    def __init__(self, config: TransactionsConfig | None = None, cluster_id: str = "one") -> None:
        self.broker = PlayedBroker(self._consume)
        self.bus = LoopbackBus(self.broker)
        self.config = config or TransactionsConfig()
        self.cluster_id = cluster_id
        self.term = 1
        self.last_ts = make_ts(1, 0)
        self.collections: dict[int, Collection] = {}
        self.shards: dict[int, tuple[int, ...]] = {}
        """Of every entry that there ever was."""
        self.aliases: dict[str, int] = {}
        self.catalog_ts = 0
        self.history: defaultdict[Key, list[Version]] = defaultdict(list)
        self.stages: defaultdict[tuple[bytes, int], Chunks] = defaultdict(dict)
        self.prepares: defaultdict[bytes, dict[int, Prepare]] = defaultdict(dict)
        self.decided: dict[bytes, TxnStatus] = {}
        self.forgotten_by_sequencer = False
        self.times: list[tuple[int, int]] = []
        """(wall_ms, ts) of each commit."""
        self.asked: list[AnyMessage] = []
        self.lost_confirmations = 0
        """So many answers to `StagedRequest` are lost on the way."""
        self.lost_stages = 0
        """So many STAGE records are lost on the way."""
        self.lost_prepares = 0
        """So many PREPARE records are lost on the way."""
        self.mute = False
        """No outcome is told, and no beat says that anything is stable."""
        self.stable_held = False
        """Nothing more is said to be stable."""
        self.catalog_s = 0.0
        """How long an answer of the sequencer takes."""
        self.votes_held = False
        """Nothing that is prepared is decided."""
        self.workers_silent = False
        """No shard worker answers."""
        self.on_stage: Callable[[], None] = lambda: None
        """Called for each STAGE record."""
        self.gateways = [Gateway(self, name, self.config) for name in ("g0", "g1")]
        self._beats: asyncio.Task[None] | None = None
        self._stable_ts = self.last_ts

    @property
    def database(self) -> Database:
        return self.gateways[0].database

    async def start(self) -> None:
        await self.bus.serve(sequencer(), self._answer)
        for shard in SHARDS_ALL:
            await self.bus.serve(worker(f"w{shard}"), self._serve)
        for gateway in self.gateways:
            await gateway.transactions.start(gateway.view)
        self._beats = asyncio.create_task(self._beat_on())
        for gateway in self.gateways:
            await gateway.view.start(5.0)

    async def stop(self) -> None:
        if self._beats is not None:
            self._beats.cancel()
        for gateway in self.gateways:
            await gateway.stop()

    # --- the sequencer ----------------------------------------------------------------------------

    def wall_ms(self) -> int:
        return WALL_MS + int(asyncio.get_running_loop().time() * 1000)

    def _beat(self, *told: Outcome) -> Beat:
        if not (self.mute or self.stable_held):
            self._stable_ts = self.last_ts
        return Beat(
            self.term, "c", self.cluster_id, self._stable_ts, self.catalog_ts, self.wall_ms(), 0,
            told,
        )  # fmt: skip

    async def _beat_on(self) -> None:
        while True:
            await self.bus.publish(beats(), self._beat())
            await asyncio.sleep(0.05)

    async def take_over(self) -> None:
        """A new term: whatever is undecided is void."""
        self.term += 1
        self.last_ts = make_ts(self.term, 0)
        for txn_id in {t for t, _ in self.stages} | set(self.prepares):
            self.decided.setdefault(txn_id, TxnStatus("aborted"))
        self.forgotten_by_sequencer = True
        await self.bus.publish(beats(), self._beat())

    def create(self, name: str, dimension: int = 2) -> Collection:
        self.last_ts += 1
        return self._enter(Collection(self.last_ts, name, dimension, Metric.EUCLIDEAN, SHARDS))

    def _enter(self, found: Collection) -> Collection:
        self.collections[found.id] = found
        self.shards[found.id] = found.shards
        self.catalog_ts = found.id
        return found

    def spread(self, name: str, shards: tuple[int, ...]) -> Collection:
        """A second generation, on these shards, which is still to be filled."""
        current = self.by_name(name)
        self.last_ts += 1
        return self._enter(
            msgspec.structs.replace(
                current, id=self.last_ts, shards=shards, first_id=current.origin,
                replaces=current.id, since_ts=0,
            )
        )  # fmt: skip

    def switch(self, successor: Collection) -> int:
        """Put a generation that was filled into force: the ts of the decision."""
        ts = self._changed()
        state = DomainState(collections=self.collections, aliases=self.aliases)
        state = state.after(SwitchCollection(ts, successor.id, self.wall_ms()))
        self.collections, self.aliases = dict(state.collections), dict(state.aliases)
        return ts

    def by_name(self, name: str) -> Collection:
        return next(c for c in self.collections.values() if c.name == name and c.in_force)

    def alias(self, alias: str, collection: Collection) -> int:
        """Let an alias stand for a collection: the ts of the decision."""
        self.aliases[alias] = collection.id
        return self._changed()

    def drop(self, collection: Collection) -> int:
        """Drop a collection, with its aliases: the ts of the decision."""
        del self.collections[collection.id]
        self.aliases = {a: i for a, i in self.aliases.items() if i != collection.id}
        return self._changed()

    def _changed(self) -> int:
        self.last_ts += 1
        self.catalog_ts = self.last_ts
        return self.last_ts

    async def _answer(self, message: AnyMessage) -> AnyMessage:
        self.asked.append(message)
        if self.catalog_s:
            await asyncio.sleep(self.catalog_s)
        match message:
            case CreateCollectionRequest():
                if all(c.name != message.name for c in self.collections.values()):
                    self.create(message.name, message.dimension)
            case SpreadRequest():
                self.spread(message.name, tuple(range(message.shards)))
            case TxnStatusRequest():
                return self._known(message.txn_id)
            case AbortRequest():
                if message.term != self.term:
                    return TxnStatus("unknown")
                aborted = TxnStatus("aborted", 0, "aborted", "by its client")
                return self.decided.setdefault(message.txn_id, aborted)
            case _:
                assert isinstance(message, CatalogRequest)
        replicas: dict[int, tuple[str, ...]] = {shard: (f"w{shard}",) for shard in SHARDS_ALL}
        return CatalogReply(
            self.term, self.catalog_ts, self.last_ts, self.wall_ms(),
            tuple(self.collections.values()), replicas, (), dict(self.aliases),
        )  # fmt: skip

    def _known(self, txn_id: bytes) -> TxnStatus:
        if self.forgotten_by_sequencer:
            return TxnStatus("unknown")
        if txn_id in self.decided:
            return self.decided[txn_id]
        return TxnStatus("pending" if txn_id in self.prepares else "unknown")

    # --- the logs ---------------------------------------------------------------------------------

    def _consume(self, message: AnyMessage) -> None:
        assert isinstance(message, Prepare | Stage)
        if message.term != self.term or message.txn_id in self.decided:
            return
        if isinstance(message, Stage):
            self.on_stage()
            if self.lost_stages:
                self.lost_stages -= 1
                return
            self.stages[message.txn_id, message.shard].setdefault(message.index, message.blocks)
            return
        if self.lost_prepares:
            self.lost_prepares -= 1
            return
        self.prepares[message.txn_id].setdefault(message.shard, message)
        if not self.votes_held:
            self.decide(message.txn_id)

    def decide(self, txn_id: bytes) -> None:
        """Decide what is prepared at all its shards."""
        parts = self.prepares[txn_id]
        one = next(iter(parts.values()))
        if set(parts) != set(one.participants) or txn_id in self.decided:
            return
        reason, deleted = "", 0
        for part in parts.values():
            said, found = self._vote(part)
            reason, deleted = reason or said, deleted + found
        if reason:
            self.decided[txn_id] = TxnStatus("aborted", 0, reason, "because")
            outcome = Outcome(txn_id, 0, 0, reason, "because")
        else:
            self.last_ts += 1
            for part in parts.values():
                for block in self._blocks(part):
                    self._apply(block, self.last_ts)
            self.times.append((self.wall_ms(), self.last_ts))
            self.decided[txn_id] = TxnStatus("committed", self.last_ts, deleted=deleted)
            outcome = Outcome(txn_id, self.last_ts, deleted)
        if not self.mute:
            loop = asyncio.get_running_loop()
            told = self.bus.publish(outcomes(one.gateway), self._beat(outcome))
            self._telling = loop.create_task(told)

    def _blocks(self, part: Prepare) -> Iterator[RowBlock]:
        chunks = self.stages.get((part.txn_id, part.shard), {})
        for index in range(part.stages):
            yield from chunks[index]
        yield from part.blocks

    def _vote(self, part: Prepare) -> tuple[str, int]:
        chunks = self.stages.get((part.txn_id, part.shard), {})
        wanted = range(part.stages)
        if any(index not in chunks for index in wanted):
            return "conflict", 0
        if part.stages and chunks_checksum(chunks[i] for i in wanted) != part.stages_crc:
            return "conflict", 0
        said = self._of_generations(part)
        if said:
            return said, 0
        for read in part.reads:
            for (collection_id, row_id), versions in self.history.items():
                concerns = read.whole or row_id in read.ids.unpack()
                home = self.home(row_id, collection_id) == part.shard
                changed = versions[-1].ts > part.snapshot_ts
                if collection_id == read.collection_id and home and concerns and changed:
                    return "conflict", 0
        deleted = 0
        for block in self._blocks(part):
            if block.collection_id not in self.collections:
                return "not_found", 0
            for i, row_id in enumerate(block.ids.unpack()):
                last = self.latest(block.collection_id, row_id)
                if block.precondition == "mirrored":
                    continue
                if part.mode == "snapshot" and last is not None and last.ts > part.snapshot_ts:
                    return "conflict", 0
                exists = last is not None and last.alive
                version = last.version if last is not None and last.alive else 0
                if block.precondition in ("absent", "copied") and exists:
                    return "already_exists", 0
                if block.precondition == "present" and not exists:
                    return "not_found", 0
                if block.precondition == "version" and version != block.version_array()[i]:
                    return "precondition_failed", 0
                deleted += block.delete and exists
        return "", deleted

    def _of_generations(self, part: Prepare) -> str:
        """Why a part is refused by the rules of generations; "" if it is not."""
        writes = {b.collection_id: b.precondition for b in self._blocks(part)}
        roles = writes | {r.collection_id: "read" for r in part.reads}
        for collection_id, role in roles.items():
            entry = self.collections.get(collection_id)
            if entry is None:
                continue
            filling = role in ("mirrored", "copied")
            later = [c.id for c in self.collections.values() if c.replaces == entry.id]
            if entry.in_force == filling or entry.since_ts > part.snapshot_ts:
                return "conflict"
            if any(part.catalog_ts < other for other in later):
                return "conflict"
        return ""

    def _apply(self, block: RowBlock, ts: int) -> None:
        for row_id, version in _versions(block, ts):
            self.history[block.collection_id, row_id].append(version)

    def latest(self, collection_id: int, row_id: bytes) -> Version | None:
        versions = self.history.get((collection_id, row_id))
        return versions[-1] if versions else None

    def home(self, row_id: bytes, collection_id: int = 0) -> int:
        shards = self.shards.get(collection_id, SHARDS)
        return int(shards_of_ids(hash_ids([row_id]), shards)[0])

    # --- the workers ------------------------------------------------------------------------------

    async def _serve(self, message: AnyMessage) -> AnyMessage:
        self.asked.append(message)
        if self.workers_silent:
            raise Unavailable("silent")
        match message:
            case TxnStatusRequest():
                if message.txn_id in self.decided:
                    return self.decided[message.txn_id]
                holds = any(txn_id == message.txn_id for txn_id, _ in self.stages)
                return TxnStatus("pending" if holds else "unknown")
            case StagedRequest():
                self._check(message.overlay)
                if self.lost_confirmations:
                    self.lost_confirmations -= 1
                    await asyncio.sleep(3600)
                return message
            case AsOfRequest():
                before = [ts for wall_ms, ts in self.times if wall_ms <= message.wall_ms]
                return AsOfReply(max(before, default=0))
            case FetchRequest():
                rows = self._rows(message)
                found = [(i, rows[i]) for i in message.ids.unpack() if i in rows]
                return _reply(found, message.include_vectors)
            case CountRequest():
                return CountReply(len(self._matching(message)))
            case ScrollRequest():
                after = [r for r in self._matching(message) if r[0] > message.after]
                return _reply(after[: message.limit], message.include_vectors)
            case SearchRequest():
                return self._search(message)
            case _:
                raise AssertionError(f"no answer to {message}")

    def _check(self, overlay: Overlay) -> None:
        if overlay.txn_id in self.decided:
            raise Conflict("the chunks of the transaction are gone")
        for shard, count in overlay.chunks.items():
            chunks = self.stages.get((overlay.txn_id, shard), {})
            if any(index not in chunks for index in range(count)):
                raise Conflict("the chunks of the transaction are gone, or not here yet")

    def _rows(
        self, request: FetchRequest | CountRequest | ScrollRequest | SearchRequest
    ) -> dict[bytes, Version]:
        """The rows of the asked shards at the snapshot, under the overlay."""
        entry = self.collections.get(request.collection_id)
        if entry is None:
            raise NotFound(f"collection {request.collection_id} does not exist on this worker")
        filling = isinstance(request, FetchRequest | CountRequest) and request.filling
        if not (entry.serves(request.snapshot_ts) or (filling and entry.replaces)):
            raise Moved(f"collection {entry.id} does not serve {request.snapshot_ts}")
        rows: dict[bytes, Version] = {}
        for (collection_id, row_id), versions in self.history.items():
            if collection_id != request.collection_id:
                continue
            if self.home(row_id, collection_id) not in request.shards:
                continue
            seen = [v for v in versions if v.ts <= request.snapshot_ts]
            if seen and seen[-1].alive:
                rows[row_id] = seen[-1]
        overlay = request.overlay
        if overlay is not None:
            self._check(overlay)
            for shard, count in overlay.chunks.items():
                assert shard in request.shards
                for index in range(count):
                    for block in self.stages[overlay.txn_id, shard][index]:
                        if block.collection_id == request.collection_id:
                            for row_id, version in _versions(block, 0):
                                rows.pop(row_id, None)
                                if version.alive:
                                    rows[row_id] = version
        return rows

    def _matching(
        self, request: CountRequest | ScrollRequest | SearchRequest
    ) -> list[tuple[bytes, Version]]:
        rows = sorted(self._rows(request).items())
        if not len(request.filter):
            return rows
        tree = parse_filter(orjson.loads(bytes(request.filter)), Limits())
        return [r for r in rows if matches(tree, orjson.loads(r[1].metadata or b"null"))]

    def _search(self, request: SearchRequest) -> SearchReply:
        rows = self._matching(request)
        queries = np.frombuffer(request.queries, dtype="<f4").reshape(-1, 2)
        ids, scores, counts = [], [], []
        for query in queries:
            distances = [
                (float(np.linalg.norm(np.frombuffer(v.vector, "<f4") - query)), row_id)
                for row_id, v in rows
            ]
            hits = sorted((-1 / (1 + distance), row_id) for distance, row_id in distances)
            if request.after is not None:
                hits = [hit for hit in hits if hit > (-request.after[0], request.after[1])]
            if request.min_similarity is not None:
                hits = [hit for hit in hits if -hit[0] >= request.min_similarity]
            best = hits[: request.k]
            counts.append(len(best))
            ids += [row_id for _, row_id in best]
            scores += [-negated for negated, _ in best]
        return SearchReply(
            np.array(counts, "<u4").tobytes(),
            Blob.pack(ids),
            np.array(scores, "<f8").tobytes(),
            explain=b'{"segments":[]}' if request.explain else b"",
        )


def _versions(block: RowBlock, ts: int) -> Iterator[tuple[bytes, Version]]:
    metadata = [b""] * len(block) if block.metadata is None else block.metadata.unpack()
    for i, row_id in enumerate(block.ids.unpack()):
        vector = b"" if block.delete else block.vector_array()[i].tobytes()
        version = int(block.version_array()[i]) if block.precondition == "copied" else ts
        yield row_id, Version(ts, metadata[i], vector, not block.delete, version)


def _reply(rows: list[tuple[bytes, Version]], with_vectors: bool) -> RowsReply:
    return RowsReply(
        Blob.pack([row_id for row_id, _ in rows]),
        np.array([v.version for _, v in rows], "<i8").tobytes(),
        Blob.pack([v.metadata for _, v in rows]),
        b"".join(v.vector for _, v in rows) if with_vectors else b"",
    )


def with_cluster(
    test: Callable[[Cluster], Awaitable[None]], config: TransactionsConfig | None = None
) -> None:
    """Run `test` against a cluster that has a collection ``c`` of dimension 2."""

    async def main() -> None:
        cluster = Cluster(config)
        cluster.create("c")
        await cluster.start()
        try:
            await test(cluster)
        finally:
            await cluster.stop()

    run(main())


def rows(*ids: str, value: float = 1.0, metadata: str | None = None) -> RowsIn:
    """Rows whose vectors are all `value`."""
    texts = None if metadata is None else [metadata.encode()] * len(ids)
    vectors = np.full((len(ids), 2), value, dtype=np.float32)
    return RowsIn([i.encode() for i in ids], vectors, texts)


def upsert(*ids: str, value: float = 1.0, metadata: str | None = None) -> Upsert:
    return Upsert("c", rows(*ids, value=value, metadata=metadata))


def insert(*ids: str, value: float = 1.0) -> Upsert:
    return Upsert("c", rows(*ids, value=value), "insert")
