"""Shard stores behind a bus that answer as workers do, and a sequencer's catalog, for backups."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import orjson

from tests.support.memory_bus import MemoryBus
from vector_db.common.adapters.posix_disk import PosixDisk
from vector_db.common.adapters.system_clock import SystemClock
from vector_db.common.core.messages import AnyMessage
from vector_db.common.core.messages.catalog import CatalogReply, Member
from vector_db.common.core.messages.copies import SnapshotRead, SnapshotRequest
from vector_db.common.core.messages.reads import StrongReply, StrongRequest
from vector_db.common.core.subjects import sequencer, worker
from vector_db.common.model.collection import Collection, Metric
from vector_db.common.model.errors import Unavailable
from vector_db.common.model.rows import Blob, RowBlock, hash_ids
from vector_db.shard.backup.create import Creation
from vector_db.shard.backup.manifest import Manifest
from vector_db.shard.core.timeline import STEP_MS, Timeline
from vector_db.shard.snapshots import Snapshots
from vector_db.shard.storage.store import Idle, Store, StoreOptions

DIMENSION = 4
ANIMALS = Collection(1, "animals", DIMENSION, Metric.COSINE, (0, 1))
PLANTS = Collection(2, "plants", DIMENSION, Metric.EUCLIDEAN, (1,))
HIDDEN = Collection(3, "_idempotency", DIMENSION, Metric.DOT, (0,))

Rows = dict[bytes, tuple[bytes, bytes]]
"""Id → (bytes of the vector, metadata)."""


class Replica:
    """What `Snapshots` asks of a participant, and a store with both shards."""

    def __init__(self, disk: PosixDisk, name: str, pool: ThreadPoolExecutor) -> None:
        self.worker = name
        self.stable_ts = 0
        self.timeline = Timeline(0.0)
        self.store = Store(disk, StoreOptions(seal_rows=8, index_rows_min=4))
        for collection in (ANIMALS, PLANTS, HIDDEN):
            self.store.add_collection(collection)
        self.snapshots = Snapshots(cast(Any, self), self.store, disk, SystemClock(), pool)
        self.meddle: Callable[[AnyMessage], AnyMessage | None] = lambda message: None
        """May answer, or raise, in the replica's place."""

    def votes_on(self, shard: int) -> bool:
        return True

    def memory_at(self, ts: int) -> tuple[bytes, bytes]:
        return self.timeline.pack(ts), b""

    async def handle(self, message: AnyMessage) -> AnyMessage:
        if (answer := self.meddle(message)) is not None:
            return answer
        match message:
            case SnapshotRequest():
                return await self.snapshots.take(message)
            case SnapshotRead():
                return await self.snapshots.read(message)
        raise Unavailable("no such request")


class SmallCluster:
    """Two replicas of two shards, with commits 10, 20, 30, … of one random history."""

    def __init__(self, folder: Path, pool: ThreadPoolExecutor) -> None:
        self.bus = MemoryBus()
        self.folder = folder
        self.replicas = [Replica(PosixDisk(folder / name), name, pool) for name in ("w1", "w2")]
        self.collections: tuple[Collection, ...] = (ANIMALS, PLANTS, HIDDEN)
        self.aliases = {"beasts": ANIMALS.id}
        self.catalog_ts = 3
        self.stale: list[CatalogReply] = []
        """Answered in place of the catalog, the last one first: by a sequencer that was deposed."""
        self.ts = 0
        self.past: dict[int, dict[str, Rows]] = {0: {c.name: {} for c in self.collections}}
        self._rng = np.random.default_rng(5)

    async def serve(self) -> None:
        for replica in self.replicas:
            await self.bus.serve(worker(replica.worker), replica.handle)
        await self.bus.serve(sequencer(), self._answer)

    async def _answer(self, message: AnyMessage) -> AnyMessage:
        if isinstance(message, StrongRequest):
            return StrongReply(1, self.ts)
        return self.stale.pop() if self.stale else self.catalog()

    def catalog(self) -> CatalogReply:
        """As it is now."""
        names = tuple(r.worker for r in self.replicas)
        return CatalogReply(
            term=1,
            catalog_ts=self.catalog_ts,
            stable_ts=self.ts,
            wall_ms=self.ts * STEP_MS,
            collections=self.collections,
            replicas={0: names, 1: names},
            workers=(Member("w1", 1, True, "", (0, 1), 0, "the-cluster"),),
            aliases=self.aliases,
        )

    def commit(self) -> None:
        """One more commit of every collection, at both replicas; its wall time is `ts` steps."""
        rng = self._rng
        self.ts += 10
        state = {name: dict(rows) for name, rows in self.past[self.ts - 10].items()}
        for collection in [c for c in self.collections if c.in_force]:
            rows = state[collection.name]
            ids = [b"id%d" % n for n in rng.choice(30, 5, replace=False)]
            gone = rng.random() < 0.3
            vectors = rng.standard_normal((5, DIMENSION), dtype=np.float32)
            texts = [orjson.dumps({"at": self.ts}) if n % 2 else b"" for n in range(5)]
            filled = [c for c in self.collections if c.replaces == collection.id]
            for generation in (collection, *filled):
                self._write(generation, ids, vectors, texts, gone)
            for row_id, vector, text in zip(ids, vectors, texts, strict=True):
                rows[row_id] = (vector.tobytes(), text)
                if gone:
                    del rows[row_id]
        self.past[self.ts] = state
        for replica in self.replicas:
            replica.stable_ts = self.ts
            replica.timeline.note(self.ts * STEP_MS, self.ts)
            if self.ts % 70 == 0:
                while (job := replica.store.seal_due(self.ts, Idle.SHORT)) is not None:
                    job.run()
                    replica.store.sealed(job)

    def spread(self, name: str) -> Collection:
        """A second generation of the collection, with all rows that there are."""
        (first,) = [c for c in self.collections if c.name == name]
        filled = msgspec.structs.replace(
            first, id=self.ts + 1, shards=(1,), first_id=first.origin, replaces=first.id
        )
        self._change(*self.collections, filled)
        ids = list(self.past[self.ts][name])
        rows = self.past[self.ts][name].values()
        vectors = np.array([np.frombuffer(v, dtype=np.float32) for v, _ in rows])
        self.ts += 10
        self.past[self.ts] = self.past[self.ts - 10]
        self._write(filled, ids, vectors, [text for _, text in rows], False)
        return filled

    def switch(self, filled: Collection) -> Collection:
        """The second generation takes the place of the other; that one stays, but for its name."""
        ts = self.ts + 1
        over = {c.id: msgspec.structs.replace(c, until_ts=ts) for c in self.collections
                if c.id == filled.replaces}  # fmt: skip
        now = msgspec.structs.replace(filled, replaces=0, since_ts=ts)
        entries = over | {filled.id: now}
        self._change(*(entries.get(c.id, c) for c in self.collections))
        self.aliases = {a: now.id if i in over else i for a, i in self.aliases.items()}
        return now

    def _change(self, *collections: Collection) -> None:
        self.collections = collections
        self.catalog_ts = self.ts + 1
        for replica in self.replicas:
            for collection in collections:
                replica.store.add_collection(collection)

    def _write(
        self, collection: Collection, ids: list[bytes], vectors: Any, texts: list[bytes], gone: bool
    ) -> None:
        for shard in collection.shards:
            mine = [n for n in range(len(ids)) if self._shard(collection, ids[n]) == shard]
            if mine:
                self._apply(collection, shard, ids, vectors, texts, mine, gone)

    def _shard(self, collection: Collection, row_id: bytes) -> int:
        return collection.shards[row_id[-1] % len(collection.shards)]

    def _apply(
        self, collection: Collection, shard: int, ids: list[bytes], vectors: Any,
        texts: list[bytes], mine: list[int], gone: bool,
    ) -> None:  # fmt: skip
        block = RowBlock(
            collection.id,
            DIMENSION,
            Blob.pack([ids[n] for n in mine]),
            hash_ids([ids[n] for n in mine]).tobytes(),
            b"" if gone else vectors[mine].tobytes(),
            None if gone else Blob.pack([texts[n] for n in mine]),
            delete=gone,
        )
        for replica in self.replicas:
            replica.store.apply(shard, block, self.ts)

    def creation(self, name: str = "one", patience_s: float = 2.0) -> Creation:
        disk = PosixDisk(self.folder / "backups" / name)
        return Creation(self.bus, disk, SystemClock(), patience_s=patience_s)

    async def backup(self, name: str = "one", patience_s: float = 2.0) -> Manifest:
        return await self.creation(name, patience_s).run(name, "test")

    def directory(self, name: str = "one") -> Path:
        return self.folder / "backups" / name
