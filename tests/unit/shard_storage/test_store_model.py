"""The store against a list of commits that is read again from its start for every answer."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from vector_db.common.adapters.posix_disk import PosixDisk
from vector_db.common.core.messages.reads import FetchRequest, RowsReply, ScrollRequest
from vector_db.common.model.collection import Collection, IndexKind, IndexOptions, Metric
from vector_db.common.model.rows import Blob, RowBlock, hash_id, hash_ids
from vector_db.shard.building.task import drop_rows, run_task
from vector_db.shard.storage.sealed import SealedSegment
from vector_db.shard.storage.store import CheckpointJob, Idle, SealJob, Store, StoreOptions
from vector_db.shard.storage.upkeep import MergeJob
from vector_db.shard.views import SegmentView

DIMENSION = 2
SHARDS = (3, 5)
IDS = [f"{word}{n}".encode() for word in ("ant", "bee-", "ç") for n in range(5)]
OPTIONS = StoreOptions(seal_rows=7, index_rows_min=3, idle_rows_min=1, merge_inline_bytes=1 << 20)
COLLECTION = Collection(11, "c", DIMENSION, Metric.COSINE, SHARDS, IndexOptions(IndexKind.EXACT))
"""Without indexes: what merges make of them is tested elsewhere."""

Row = tuple[int, bytes, bytes]
"""(version, vector bytes, metadata)."""


def shard_of(row_id: bytes) -> int:
    return SHARDS[hash_id(row_id) % 2]


@dataclass(frozen=True)
class Write:
    """One block, as the model sees it: rows by id, or the ids to delete; `versions` of copied rows,
    None where they are those of the commit."""

    delete: bool
    ids: list[bytes]
    vectors: np.ndarray[Any, np.dtype[np.float32]]
    metadata: list[bytes] | None
    versions: list[int] | None = None

    def blocks(self, collection_id: int) -> list[tuple[int, RowBlock]]:
        """The block of each shard."""
        whole = RowBlock(
            collection_id,
            DIMENSION,
            Blob.pack(self.ids),
            hash_ids(self.ids).tobytes(),
            b"" if self.delete else self.vectors.tobytes(),
            None if self.metadata is None else Blob.pack(self.metadata),
            self.delete,
            "none" if self.versions is None else "copied",
            b"" if self.versions is None else np.array(self.versions, dtype="<i8").tobytes(),
        )
        placed = np.array([shard_of(i) for i in self.ids])
        parts = [(shard, np.flatnonzero(placed == shard)) for shard in SHARDS]
        return [(shard, whole.take(rows)) for shard, rows in parts if len(rows)]


floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
metadata_json = st.sampled_from([b"", b'{"n":1}', b'{"lang":"en","tags":["x"]}'])


@st.composite
def writes(draw: st.DrawFn) -> Write:
    ids = draw(st.lists(st.sampled_from(IDS), min_size=1, max_size=9, unique=True))
    n = len(ids)
    if draw(st.integers(0, 3)) == 0:
        return Write(True, ids, np.empty((0, DIMENSION), np.float32), None)
    values = draw(st.lists(floats, min_size=n * DIMENSION, max_size=n * DIMENSION))
    vectors = np.array(values, dtype=np.float32).reshape(n, DIMENSION)
    metadata = draw(st.none() | st.lists(metadata_json, min_size=n, max_size=n))
    versions = draw(st.none() | st.lists(st.integers(1, 9), min_size=n, max_size=n))
    return Write(False, ids, vectors, metadata, versions)


def state_of(commits: list[tuple[int, list[Write]]], ts: int) -> dict[bytes, Row]:
    """Every row visible at `ts`."""
    rows: dict[bytes, Row] = {}
    for commit_ts, transaction in commits:
        if commit_ts > ts:
            break
        for write in transaction:
            for at, row_id in enumerate(write.ids):
                if write.delete:
                    rows.pop(row_id, None)
                else:
                    text = b"" if write.metadata is None else write.metadata[at]
                    version = commit_ts if write.versions is None else write.versions[at]
                    rows[row_id] = (version, write.vectors[at].tobytes(), text)
    return rows


def rows_of_views(views: list[SegmentView]) -> dict[bytes, Row]:
    found: dict[bytes, Row] = {}
    for view in views:
        assert view.vectors.shape == (view.rows, DIMENSION) and view.vectors.dtype == np.float32
        assert view.inverse_norms is not None and view.inverse_norms.shape == (view.rows,)
        visible = range(view.rows) if view.live is None else np.flatnonzero(view.live).tolist()
        assert len(visible), "a view without a visible row"
        for row in visible:
            row_id = view.ids.get(row)
            assert row_id not in found, "two versions visible at once"
            version = int(view.versions[row])
            found[row_id] = (version, view.vectors[row].tobytes(), view.metadata.get(row))
    return found


def rows_of_reply(reply: RowsReply) -> list[tuple[bytes, Row]]:
    ids, texts = reply.ids.unpack(), reply.metadata.unpack()
    versions = np.frombuffer(reply.versions, dtype="<i8").tolist()
    size = 4 * DIMENSION
    vectors = [bytes(reply.vectors[at * size : (at + 1) * size]) for at in range(len(ids))]
    return [
        (i, (v, vector, t)) for i, v, vector, t in zip(ids, versions, vectors, texts, strict=True)
    ]


class StoreMachine(RuleBasedStateMachine):
    """Commits, undoes, seals, checkpoints and crashes, in any order that a worker may use."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="store-model-"))
        self.disk = PosixDisk(self.root)
        self.collection = COLLECTION
        self.store = Store(self.disk, OPTIONS)
        self.commits: list[tuple[int, list[Write]]] = []
        self.now = self.stable = self.saved_ts = 0
        self.manifest: dict[str, Any] | None = None
        self.sealing: list[SealJob] = []
        self.merging: list[MergeJob] = []
        self.floor = 0
        """No read is of an older snapshot."""
        self.merge_count = self.drop_count = 0
        self.checkpointing: CheckpointJob | None = None
        self.held: list[tuple[list[SegmentView], dict[bytes, Row]]] = []

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    @initialize()
    def create(self) -> None:
        self.store.add_collection(self.collection)

    # --- what a worker does ---------------------------------------------------------------------

    @rule(
        transaction=st.lists(writes(), min_size=1, max_size=3),
        step=st.integers(1, 3),
        stable=st.booleans(),
    )
    def commit(self, transaction: list[Write], step: int, stable: bool) -> None:
        self.now += step
        self.commits.append((self.now, transaction))
        self.apply(self.now, transaction)
        if stable:
            self.stable = self.now

    def apply(self, ts: int, transaction: list[Write]) -> None:
        for write in transaction:
            for shard, block in write.blocks(self.collection.id):
                before = self.store.latest(shard, block)
                assert self.store.apply(shard, block, ts) == before.exists.sum()

    @rule(share=st.floats(0, 1))
    def announce_stable(self, share: float) -> None:
        self.stable += round((self.now - self.stable) * share)

    @rule(share=st.floats(0, 1))
    def undo(self, share: float) -> None:
        base = self.stable + round((self.now - self.stable) * share)
        self.store.undo_above(base)
        self.commits = [(ts, t) for ts, t in self.commits if ts <= base]

    @rule()
    def start_seal(self) -> None:
        job = self.store.seal_due(self.stable, Idle.LONG)
        if job is not None:
            self.sealing.append(job)

    @precondition(lambda self: self.sealing)
    @rule()
    def finish_seal(self) -> None:
        job = self.sealing.pop(0)
        job.run()
        self.store.sealed(job)

    @rule(share=st.floats(0, 1), idle=st.booleans())
    def start_merge(self, share: float, idle: bool) -> None:
        self.floor += round((self.stable - self.floor) * share)
        job = self.store.upkeep.merge_due(self.floor, idle)
        if job is not None:
            drop_rows(self.disk, job.task.name, job.dropped)
            self.merging.append(job)

    @precondition(lambda self: self.merging)
    @rule(at=st.integers(0, 3), fails=st.booleans())
    def finish_merge(self, at: int, fails: bool) -> None:
        job = self.merging.pop(at % len(self.merging))
        run_task(self.disk, job.task, 1, lambda _: None)
        if not fails:
            merged = SealedSegment(self.disk.root, job.task.name) if job.rows else None
            self.store.upkeep.merged(job, merged)
            self.merge_count += 1
            self.drop_count += sum(map(len, job.dropped))
        self.store.upkeep.ended(job)

    @precondition(lambda self: self.merging)
    @rule()
    def abandon_merge(self) -> None:
        self.store.upkeep.ended(self.merging.pop(0))

    @rule()
    def start_checkpoint(self) -> None:
        self.checkpointing = self.store.checkpoint(self.stable)

    @precondition(lambda self: self.checkpointing is not None)
    @rule(durable=st.booleans())
    def finish_checkpoint(self, durable: bool) -> None:
        job, self.checkpointing = self.checkpointing, None
        assert job is not None
        job.run()
        if durable:
            self.manifest, self.saved_ts = job.manifest, job.ts
            self.store.checkpointed(job)

    @rule()
    def crash(self) -> None:
        self.sealing, self.merging, self.checkpointing = [], [], None
        self.store = Store.open(self.disk, OPTIONS, self.manifest, [self.collection])
        for ts, transaction in self.commits:
            if ts > self.saved_ts:
                self.apply(ts, transaction)

    # --- what must hold -------------------------------------------------------------------------

    def snapshot(self, share: float) -> int:
        """One that may be read."""
        return self.floor + round((self.now - self.floor) * share)

    @rule(share=st.floats(0, 1))
    def hold_views(self, share: float) -> None:
        ts = self.snapshot(share)
        views = self.store.views(self.collection.id, SHARDS, ts)
        self.held.append((views, state_of(self.commits, ts)))

    @rule(share=st.floats(0, 1), asked=st.permutations(IDS), limit=st.integers(1, 5))
    def read(self, share: float, asked: list[bytes], limit: int) -> None:
        ts, cid = self.snapshot(share), self.collection.id
        rows = state_of(self.commits, ts)
        reply = self.store.fetch(FetchRequest(cid, SHARDS, ts, Blob.pack(asked)))
        assert rows_of_reply(reply) == [(i, rows[i]) for i in asked if i in rows]
        pages: list[tuple[bytes, Row]] = []
        after = b""
        while True:
            page = self.store.scroll(ScrollRequest(cid, SHARDS, ts, limit, after), None)
            if not len(page.ids):
                break
            pages += rows_of_reply(page)
            after = pages[-1][0]
        assert pages == sorted(rows.items())

    @invariant()
    def snapshots_agree(self) -> None:
        if self.collection.id not in self.store._collections:
            return
        for ts in {self.now, self.stable, self.floor, self.snapshot(0.5)}:
            rows = state_of(self.commits, ts)
            views = self.store.views(self.collection.id, SHARDS, ts)
            assert rows_of_views(views) == rows
            assert self.store.count_all(self.collection.id, SHARDS, ts) == len(rows)

    @invariant()
    def held_views_never_change(self) -> None:
        for views, rows in self.held[-4:]:
            assert rows_of_views(views) == rows

    @rule()
    def latest_agrees(self) -> None:
        rows, changed = state_of(self.commits, self.now), dict.fromkeys(IDS, 0)
        alive: set[bytes] = set()
        for ts, transaction in self.commits:
            for write in transaction:
                for row_id in write.ids:
                    if not write.delete or row_id in alive:
                        changed[row_id] = ts
                (alive.difference_update if write.delete else alive.update)(write.ids)
        keys = Write(True, IDS, np.empty((0, DIMENSION), np.float32), None)
        for shard, block in keys.blocks(self.collection.id):
            latest = self.store.latest(shard, block)
            ids = block.ids.unpack()
            assert latest.exists.tolist() == [i in rows for i in ids]
            assert latest.version.tolist() == [rows[i][0] if i in rows else 0 for i in ids]
            for row_id, ts in zip(ids, latest.changed_ts.tolist(), strict=True):
                # Where its last version was dropped, an older one or none is found.
                dropped = row_id not in rows and ts < changed[row_id] <= self.floor
                assert ts == changed[row_id] or dropped


StoreMachine.TestCase.settings = settings(
    max_examples=30,
    stateful_step_count=30,
    suppress_health_check=list(HealthCheck),
)
TestStoreAgreesWithTheListOfCommits = StoreMachine.TestCase


def random_write(rng: random.Random) -> Write:
    ids = rng.sample(IDS, rng.randint(1, 9))
    if rng.random() < 0.25:
        return Write(True, ids, np.empty((0, DIMENSION), np.float32), None)
    values = [rng.uniform(-1, 1) for _ in range(len(ids) * DIMENSION)]
    texts = [rng.choice([b"", b'{"n":1}', b'{"n":[1,"x"]}']) for _ in ids]
    vectors = np.array(values, np.float32).reshape(-1, DIMENSION)
    versions = [rng.randint(1, 9) for _ in ids] if rng.random() < 0.3 else None
    return Write(False, ids, vectors, rng.choice([None, texts]), versions)


@pytest.mark.parametrize("seed", range(12))
def test_long_random_histories_agree_with_the_list_of_commits(seed: int) -> None:
    rng = random.Random(seed)
    machine = StoreMachine()
    steps: dict[Callable[[], None], int] = {
        lambda: machine.commit(
            [random_write(rng) for _ in range(rng.randint(1, 3))],
            rng.randint(1, 3),
            rng.random() < 0.3,
        ): 10,
        lambda: machine.announce_stable(rng.random()): 3,
        lambda: machine.undo(rng.random()): 2,
        machine.start_seal: 5,
        lambda: machine.finish_seal() if machine.sealing else None: 4,
        lambda: machine.start_merge(rng.random(), rng.random() < 0.5): 5,
        lambda: (
            machine.finish_merge(rng.randrange(4), rng.random() < 0.1) if machine.merging else None
        ): 5,
        lambda: machine.abandon_merge() if machine.merging and rng.random() < 0.2 else None: 1,
        machine.start_checkpoint: 2,
        lambda: machine.finish_checkpoint(rng.random() < 0.7) if machine.checkpointing else None: 2,
        machine.crash: 1,
        lambda: machine.hold_views(rng.random()): 2,
        lambda: machine.read(rng.random(), rng.sample(IDS, len(IDS)), rng.randint(1, 5)): 2,
        machine.latest_agrees: 1,
    }
    try:
        machine.create()
        for step in rng.choices(list(steps), weights=list(steps.values()), k=250):
            step()
            machine.snapshots_agree()
            machine.held_views_never_change()
        assert machine.merge_count > 1 and machine.drop_count > 3
    finally:
        machine.teardown()
