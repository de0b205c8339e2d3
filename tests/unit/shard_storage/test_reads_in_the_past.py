"""Search, fetch, count and scroll at past snapshots, with and without what a transaction staged.

A random history of commits, undoes, seals, indexes, checkpoints and crashes goes on while
transactions stay open at old snapshots and stage chunk after chunk. Every answer is compared with a
dictionary that is made anew from the list of commits and the list of chunks.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
import pytest

from tests.support.indexes import exact_index
from tests.unit.shard_search.segments import similarity, unpack
from tests.unit.shard_search.test_search_executor import prefer_index
from tests.unit.shard_storage.test_store_model import (
    DIMENSION,
    IDS,
    SHARDS,
    Row,
    StoreMachine,
    Write,
    random_write,
    rows_of_reply,
    shard_of,
    state_of,
)
from vector_db.common.core.messages.reads import FetchRequest, Overlay, ScrollRequest, SearchRequest
from vector_db.common.model.collection import Collection, Metric
from vector_db.common.model.filters import Filter, matches, parse_filter
from vector_db.common.model.limits import Limits
from vector_db.common.model.rows import Blob, RowBlock
from vector_db.shard.search import candidates as candidates_module
from vector_db.shard.search import executor
from vector_db.shard.storage import overlay as overlay_module
from vector_db.shard.storage.overlays import OverlayRead, Overlays
from vector_db.shard.storage.reads import Layers
from vector_db.shard.storage.store import Idle
from vector_db.shard.views import SegmentView

Rows = dict[bytes, Row]

FILTERS: list[dict[str, Any]] = [{"n": 1}, {"n": {"$ne": 1}}, {"n": {"$exists": True}}]


@dataclass
class Transaction:
    """An open transaction: its snapshot, and per chunk and shard what it staged."""

    txn_id: bytes
    snapshot_ts: int
    chunks: dict[int, list[list[Write]]] = field(default_factory=lambda: {s: [] for s in SHARDS})

    def state(self, commits: list[tuple[int, list[Write]]], counts: dict[int, int]) -> Rows:
        """What it sees with so many chunks of each shard."""
        rows = state_of(commits, self.snapshot_ts)
        for shard, count in counts.items():
            for writes in self.chunks[shard][:count]:
                for write in writes:
                    apply(rows, write, shard)
        return rows


def everything_written(number: int) -> Write:
    vectors = np.full((len(IDS), DIMENSION), number + 9, dtype=np.float32)
    return Write(False, IDS, vectors, None)


EVERYTHING_DELETED = Write(True, IDS, np.empty((0, DIMENSION), np.float32), None)


def apply(rows: Rows, write: Write, shard: int) -> None:
    for at, row_id in enumerate(write.ids):
        if shard_of(row_id) != shard:
            continue
        if write.delete:
            rows.pop(row_id, None)
        else:
            text = b"" if write.metadata is None else write.metadata[at]
            rows[row_id] = (0, write.vectors[at].tobytes(), text)


class World(StoreMachine):
    """The store's machine with transactions open above it; it is the source of their chunks.

    Stable snapshots alone are those of transactions: what is above them may be undone.
    """

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.collection = Collection(11, "c", DIMENSION, rng.choice(list(Metric)), SHARDS)
        self.rng = rng
        self.open: dict[bytes, Transaction] = {}
        self.overlays = Overlays(self, self.store)
        self.heard = 0
        self.read_count = self.hidden_count = 0

    # --- what `Overlays` asks -------------------------------------------------------------------

    def staged(
        self, txn_id: bytes, shard: int, start: int, stop: int
    ) -> list[tuple[RowBlock, ...]] | None:
        transaction = self.open.get(txn_id)
        if transaction is None or len(transaction.chunks[shard]) < stop:
            return None
        chunks = []
        for writes in transaction.chunks[shard][start:stop]:
            blocks = []
            for number, write in enumerate(writes):
                # Blocks of another collection lie in between; they say something else of the ids.
                opposite = EVERYTHING_DELETED if number % 2 else everything_written(number)
                for cid, what in (self.collection.id, write), (self.collection.id + 1, opposite):
                    blocks += [b for s, b in what.blocks(cid) if s == shard]
            chunks.append(tuple(blocks))
        return chunks

    def has_chunks(self, overlay: Overlay) -> bool:
        return all(
            self.staged(overlay.txn_id, shard, 0, count) is not None
            for shard, count in overlay.chunks.items()
        )

    # --- steps ----------------------------------------------------------------------------------

    def start_seal(self) -> None:
        # A worker hears of what is stable later than the gateway that begins a transaction.
        self.heard = self.rng.randint(self.heard, self.stable)
        job = self.store.seal_due(self.heard, Idle.SHORT)
        if job is not None:
            self.sealing.append(job)

    def crash(self) -> None:
        super().crash()
        self.overlays = Overlays(self, self.store)

    def begin(self) -> None:
        txn_id = self.rng.randbytes(16)
        old = self.rng.random() < 0.5
        snapshot = round(self.stable * self.rng.random()) if old else self.stable
        self.open[txn_id] = Transaction(txn_id, snapshot)
        if len(self.open) > 3:
            gone = self.rng.choice(list(self.open)[:-1])
            del self.open[gone]
            self.overlays.sweep()

    def stage(self) -> None:
        if not self.open:
            return
        transaction = self.rng.choice(list(self.open.values()))
        writes = [random_write(self.rng) for _ in range(self.rng.randint(1, 3))]
        for shard in SHARDS:
            if self.rng.random() < 0.8:
                transaction.chunks[shard].append(writes)

    def index(self) -> None:
        while (job := self.store.upkeep.final_due()) is not None:
            vectors, metric = np.asarray(job.segment.vectors), self.collection.metric
            self.store.upkeep.indexed(job, exact_index(vectors, metric))

    def read_past(self) -> None:
        ts = self.rng.randint(0, self.now)
        check(self, ts, {}, state_of(self.commits, ts))

    def read_in_transaction(self) -> None:
        if not self.open:
            return
        transaction = self.rng.choice(list(self.open.values()))
        counts = {s: len(chunks) for s, chunks in transaction.chunks.items()}
        if self.rng.random() < 0.3:  # an older token
            counts = {s: self.rng.randint(0, n) for s, n in counts.items()}
        overlay = Overlay(transaction.txn_id, 1, {s: n for s, n in counts.items() if n})
        ts = transaction.snapshot_ts
        read = self.overlays.open(overlay, self.collection.id, SHARDS, ts)
        expected = transaction.state(self.commits, counts)
        if self.rng.random() < 0.3:
            # What needs no vectors comes first, so they are copied to a part of the chunks.
            light = read.layers(payload=False)
            count = self.store.count_all(self.collection.id, SHARDS, ts, light)
            assert count == len(expected)
        layers = interrupted(self, read) if self.rng.random() < 0.4 else read.layers(payload=True)
        self.hidden_count += sum(y.hidden.count(y.chunks) for y in layers.values())
        check(self, ts, layers, expected)


def interrupted(world: World, read: OverlayRead) -> Layers:
    """Layers built in steps, between which segments are frozen and swapped."""
    for _ in read.steps(payload=True):
        if world.rng.random() < 0.5:
            world.start_seal()
        elif world.sealing:
            world.finish_seal()
    return read.layers(payload=True)


def filter_of(rng: random.Random) -> Filter | None:
    return None if rng.random() < 0.5 else parse_filter(rng.choice(FILTERS), Limits())


def document(row: Row) -> dict[str, Any] | None:
    return orjson.loads(row[2]) if row[2] else None


def check(world: World, ts: int, layers: Layers, rows: Rows) -> None:
    """All four reads against the dictionary."""
    world.read_count += 1
    store, cid, rng = world.store, world.collection.id, world.rng
    asked = rng.sample(IDS, len(IDS))
    reply = store.fetch(FetchRequest(cid, SHARDS, ts, Blob.pack(asked)), layers)
    assert rows_of_reply(reply) == [(i, rows[i]) for i in asked if i in rows]
    bare = store.fetch(FetchRequest(cid, SHARDS, ts, Blob.pack(asked), False), layers)
    assert bare.ids == reply.ids and not len(bare.vectors)
    assert store.count_all(cid, SHARDS, ts, layers) == len(rows)

    parsed = filter_of(rng)
    fit = {i: r for i, r in rows.items() if parsed is None or matches(parsed, document(r))}
    views = store.views(cid, SHARDS, ts, layers)
    assert versions_of(views) == {i: row[0] for i, row in rows.items()}
    assert executor.count(views, parsed) == len(fit)
    assert pages(world, ts, layers, parsed) == sorted(fit.items())

    query = np.array([[rng.uniform(-1, 1) for _ in range(DIMENSION)]], dtype=np.float32)
    k = rng.choice([1, 3, len(IDS)])
    metric = world.collection.metric
    request = SearchRequest(cid, SHARDS, ts, query.tobytes(), k, include_vectors=True)
    found = executor.search(views, metric, DIMENSION, request, parsed)
    (hits,) = unpack(found)
    scores = {
        i: similarity(metric, query[0], np.frombuffer(r[1], dtype=np.float32))
        for i, r in fit.items()
    }
    best = sorted(scores, key=lambda i: (-scores[i], i))[:k]
    assert [i for i, _ in hits] == best
    assert [s for _, s in hits] == pytest.approx([scores[i] for i in best], rel=1e-9, abs=1e-12)
    assert bytes(found.vectors) == b"".join(fit[i][1] for i in best)


def versions_of(views: list[SegmentView]) -> dict[bytes, int]:
    found: dict[bytes, int] = {}
    for view in views:
        visible = range(view.rows) if view.live is None else np.flatnonzero(view.live).tolist()
        for row in visible:
            assert view.ids.get(row) not in found, "two versions visible at once"
            found[view.ids.get(row)] = int(view.versions[row])
    return found


def pages(world: World, ts: int, layers: Layers, parsed: Filter | None) -> list[tuple[bytes, Row]]:
    rows: list[tuple[bytes, Row]] = []
    limit, after = world.rng.randint(1, 6), b""
    mask = None if parsed is None else lambda view: view.columns.mask(parsed, view.rows)
    while True:
        request = ScrollRequest(world.collection.id, SHARDS, ts, limit, after)
        page = rows_of_reply(world.store.scroll(request, mask, layers))
        if not page:
            return rows
        rows += page
        after = rows[-1][0]


@pytest.fixture(params=range(16))
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    machine = World(random.Random(request.param))
    machine.create()
    yield machine
    machine.teardown()


def test_every_read_of_every_snapshot_is_what_the_history_says(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = world.rng
    monkeypatch.setattr(overlay_module, "LOCATE_IDS_MAX", 2)
    # Blocks beyond so many bytes are read again whenever they are needed.
    monkeypatch.setattr(overlay_module, "OVERLAY_BYTES_MAX", rng.choice([0, 100, 1 << 20]))
    if rng.random() < 0.5:
        monkeypatch.setattr(candidates_module, "plan", prefer_index)

    def commit() -> None:
        writes = [random_write(rng) for _ in range(rng.randint(1, 3))]
        world.commit(writes, rng.randint(1, 3), rng.random() < 0.5)

    steps: dict[Callable[[], None], int] = {
        commit: 10,
        lambda: world.announce_stable(rng.random()): 3,
        lambda: world.undo(rng.random()): 1,
        world.start_seal: 5,
        lambda: world.finish_seal() if world.sealing else None: 4,
        world.index: 2,
        world.start_checkpoint: 2,
        lambda: world.finish_checkpoint(rng.random() < 0.7) if world.checkpointing else None: 2,
        world.crash: 1,
        world.begin: 3,
        world.stage: 8,
        world.read_past: 6,
        world.read_in_transaction: 12,
    }
    for step in rng.choices(list(steps), weights=list(steps.values()), k=300):
        step()
    assert world.read_count > 50 and world.hidden_count > 20
