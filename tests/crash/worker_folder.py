"""The data directory of one shard worker with a known history, for the tests that damage it.

Written by the product's own participant, store and log, in the order in which a worker uses them:
some sixty transactions over two collections and two shards, with sealed and indexed segments,
deaths, checkpoints (the last one in the middle of the last file of the log), and transactions that
are still undecided. Beside it stands a model, made from the same transactions in plain Python, that
knows every row as of every commit and what the participant knew after every record of the log.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from tests.support.indexes import build_all_due
from tests.support.protocol import first_takeover, txn
from vector_db.common.adapters.posix_disk import PosixDisk
from vector_db.common.core.codec import encode
from vector_db.common.core.messages.decisions import (
    Commit,
    CreateCollection,
    Decision,
    DecisionRecord,
    SetPlacement,
)
from vector_db.common.core.messages.reads import (
    FetchRequest,
    RowsReply,
    ScrollRequest,
    SearchRequest,
)
from vector_db.common.core.messages.transactions import Prepare, Stage
from vector_db.common.model.collection import Collection, Metric
from vector_db.common.model.filters import parse_filter
from vector_db.common.model.ids import make_ts
from vector_db.common.model.limits import Limits
from vector_db.common.model.rows import Blob, RowBlock, chunks_checksum, hash_ids
from vector_db.shard.core.participant import Participant
from vector_db.shard.search import executor
from vector_db.shard.storage.manifest import Manifest, save_manifest
from vector_db.shard.storage.records import RecordType, promised, sequenced
from vector_db.shard.storage.recovery import recover
from vector_db.shard.storage.store import Idle, Store, StoreOptions
from vector_db.shard.storage.wal import Wal

OPTIONS = StoreOptions(seal_rows=40, index_rows_min=16)
SHARDS = (0, 1)
COSINE = Collection(make_ts(1, 2), "cosine", 8, Metric.COSINE, SHARDS, fields=("n",))
EUCLID = Collection(make_ts(1, 3), "euclid", 3, Metric.EUCLIDEAN, (1,))
COLLECTIONS = (COSINE, EUCLID)
WAL_FILE_BYTES = 3000
K = 5
_FILTER = parse_filter({"n": {"$lt": 50}}, Limits())
_FAR_MS = 1_000_000
_POOL = [b"row-%02d" % n for n in range(48)]

Row = tuple[bytes, bytes, int]
"""(vector, metadata, commit_ts)."""
Rows = dict[bytes, Row]


class Model:
    """Every row as of every commit: (collection, id) → its versions, oldest first."""

    def __init__(self) -> None:
        self._versions: dict[int, dict[bytes, list[tuple[int, Row | None]]]] = {
            c.id: {} for c in COLLECTIONS
        }
        self._seen: dict[tuple[int, int], Rows] = {}

    def apply(self, block: RowBlock, ts: int) -> None:
        versions = self._versions[block.collection_id]
        vectors = None if block.delete else block.vector_array()
        texts = None if block.metadata is None else block.metadata.unpack()
        for at, row_id in enumerate(block.ids.unpack()):
            row = None
            if vectors is not None:
                row = (vectors[at].tobytes(), b"" if texts is None else texts[at], ts)
            versions.setdefault(row_id, []).append((ts, row))

    def rows(self, collection_id: int, ts: int) -> Rows:
        """What a snapshot at `ts` shows, in the order of ids."""
        if (known := self._seen.get((collection_id, ts))) is not None:
            return known
        found = {}
        for row_id, versions in sorted(self._versions[collection_id].items()):
            newest = [row for born, row in versions if born <= ts][-1:]
            if newest and newest[0] is not None:
                found[row_id] = newest[0]
        self._seen[collection_id, ts] = found
        return found


def knowledge(participant: Participant) -> dict[str, Any]:
    """What a participant knows besides rows, in plain values."""
    return {
        "promised": (participant.promised, participant.term.promised_to),
        "cursor": participant.cursor,
        "cluster": participant.cluster_id,
        "positions": dict(participant.term.positions),
        "decision_seq": participant.term.decision_seq,
        "undecided": participant.counts()["undecided"],
        "state": participant.state,
    }


@dataclass(slots=True)
class History:
    """What the folder must give back. `known` per lsn, `groups`: first lsn of each synced group."""

    model: Model = field(default_factory=Model)
    known: dict[int, dict[str, Any]] = field(default_factory=dict)
    groups: list[int] = field(default_factory=list)
    commits: list[int] = field(default_factory=list)
    worker: str = ""
    checkpoint_ts: int = 0
    checkpoint_lsn: int = 0
    """The log's next lsn when the last checkpoint was captured."""


class Writer:
    """Does what a worker does with what it reads from the logs."""

    def __init__(self, root: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.numbers = np.random.default_rng(seed)
        self.disk = PosixDisk(root)
        found = recover(self.disk, OPTIONS, self.random)
        found.wal.close()
        self.wal, _ = Wal.open(
            self.disk, segment_bytes=WAL_FILE_BYTES, entropy=self.random.randbytes
        )
        self.store, self.participant = found.store, found.participant
        self.history = History(worker=found.worker)
        self._n = 0
        self._decision_seq = 0
        self._shard_seq = dict.fromkeys(SHARDS, 0)
        self._last_ts = 0

    # --- what arrives ---------------------------------------------------------------------------

    def promise(self, term: int) -> None:
        lsn = self.wal.append(RecordType.PROMISE, promised(term, "coordinator"))
        self.participant.takeovers.adopt_term(term, "coordinator")
        self._note(lsn)

    def decide(self, *decisions: Decision) -> None:
        self._decision_seq += 1
        record = DecisionRecord(1, self._last_ts, 1000 + self._decision_seq, decisions)
        self._last_ts = record.last_ts
        raw = encode(record)
        self.participant.offer(record, self._decision_seq, raw)
        while (ready := self.participant.next_ready()) is not None:
            lsn = self.wal.append(RecordType.DECISIONS, sequenced(ready[1], ready[2]))
            self.participant.apply(ready[0], ready[1], lsn)
            self._note(lsn)

    def log(self, message: Prepare | Stage) -> None:
        self._shard_seq[message.shard] += 1
        seq = self._shard_seq[message.shard]
        assert self.participant.wants(message)
        lsn = self.wal.append(RecordType.LOG, sequenced(seq, encode(message)))
        self.participant.take(message, seq, lsn)
        self._note(lsn)

    def flush(self) -> None:
        first = self.wal.durable_lsn + 1
        if self.wal.flush() >= first:
            self.history.groups.append(first)

    def _note(self, lsn: int) -> None:
        self.history.known[lsn] = knowledge(self.participant)

    # --- transactions ---------------------------------------------------------------------------

    def transaction(self, parts: dict[int, list[RowBlock]], staged: bool = False) -> Commit:
        """Log the parts of one transaction; the commit that would decide it."""
        self._n += 1
        name = f"t{self._n}"
        for shard, blocks in parts.items():
            stages = [Stage(txn(name), 1, shard, 0, _FAR_MS, tuple(blocks))] if staged else []
            for stage in stages:
                self.log(stage)
            self.log(
                Prepare(
                    txn_id=txn(name), term=1, shard=shard, participants=tuple(parts),
                    snapshot_ts=self.participant.cursor, mode="blind", deadline_ms=_FAR_MS,
                    catalog_ts=EUCLID.id, gateway="g", blocks=() if staged else tuple(blocks),
                    stages=len(stages), stages_crc=chunks_checksum([s.blocks for s in stages]),
                )
            )  # fmt: skip
        return Commit(make_ts(1, 10 + self._n), txn(name), tuple(parts))

    def commit(self, parts: dict[int, list[RowBlock]], staged: bool = False) -> None:
        decision = self.transaction(parts, staged)
        for blocks in parts.values():
            for block in blocks:
                self.history.model.apply(block, decision.ts)
        self.decide(decision)
        self.history.commits.append(decision.ts)

    def some_rows(self, collection: Collection, shard: int, count: int) -> RowBlock:
        """Rows, or keys to delete, of ids that live on the shard."""
        here = [i for i in _POOL if len(collection.shards) == 1 or i[-1] % 2 == shard]
        ids = self.random.sample(here, count)
        packed, hashes = Blob.pack(ids), hash_ids(ids).tobytes()
        if self.random.random() < 0.25:
            return RowBlock(collection.id, collection.dimension, packed, hashes, delete=True)
        vectors = self.numbers.standard_normal((count, collection.dimension)).astype("<f4")
        texts = [orjson.dumps({"n": self.random.randrange(100)}) for _ in ids]
        return RowBlock(
            collection_id=collection.id,
            dimension=collection.dimension,
            ids=packed,
            hashes=hashes,
            vectors=vectors.tobytes(),
            metadata=Blob.pack(texts) if self.random.random() < 0.8 else None,
        )

    def some_parts(self, rows: int) -> dict[int, list[RowBlock]]:
        parts: dict[int, list[RowBlock]] = {}
        for shard in self.random.choice([(0,), (1,), SHARDS]):
            parts[shard] = [self.some_rows(COSINE, shard, rows)]
            if shard in EUCLID.shards and self.random.random() < 0.6:
                parts[shard].append(self.some_rows(EUCLID, shard, rows))
        return parts

    # --- housekeeping ---------------------------------------------------------------------------

    def seal(self) -> None:
        ts = self.participant.cursor
        self.participant.stable(ts, 0)
        while (job := self.store.seal_due(ts, Idle.SHORT)) is not None:
            job.run()
            self.store.sealed(job)
        build_all_due(self.disk, self.store)

    def checkpoint(self) -> None:
        self.participant.stable(self.participant.cursor, self.history.commits[-5])
        protocol = self.participant.checkpoint(self.wal.next_lsn)
        assert protocol is not None
        job = self.store.checkpoint(protocol.cursor)
        next_lsn = self.wal.next_lsn
        job.run()
        save_manifest(self.disk, Manifest(protocol, job.manifest, next_lsn))
        self.store.checkpointed(job)
        self.wal.truncate_before(protocol.replay_lsn)
        self.history.checkpoint_ts, self.history.checkpoint_lsn = protocol.cursor, next_lsn


def write_folder(root: Path, seed: int = 1) -> History:
    """Write the folder; what it holds."""
    w = Writer(root, seed)
    w.promise(1)
    w.decide(first_takeover())
    w.decide(
        SetPlacement(make_ts(1, 1), dict.fromkeys(SHARDS, (w.history.worker,))),
        CreateCollection(COSINE.id, COSINE),
        CreateCollection(EUCLID.id, EUCLID),
    )
    w.flush()
    for n in range(52):
        w.commit(w.some_parts(rows=3 if n < 44 else 2), staged=n % 9 == 8)
        if n % 3:
            w.flush()
        if n in (24, 40):
            w.flush()
            w.seal()
        if n == 28:
            w.transaction(w.some_parts(rows=1))  # never decided: the log is needed from here on
            w.flush()
        if n == 30:
            w.flush()
            w.checkpoint()
    w.flush()
    files = w.disk.names("wal/")
    while w.disk.names("wal/") == files:
        w.commit(w.some_parts(rows=1))
        w.flush()
    # The last checkpoint lies in the middle of the last file.
    w.checkpoint()
    w.transaction(w.some_parts(rows=1))
    w.flush()
    w.commit(w.some_parts(rows=1))
    w.flush()
    w.wal.close()
    return w.history


# --- reading everything -------------------------------------------------------------------------


class Wrong(AssertionError):
    """An answer that is not the model's."""


class Reader:
    """Compares every answer of a store with the model."""

    def __init__(self, model: Model) -> None:
        self._model = model
        numbers = np.random.default_rng(99)
        self._queries = {
            c.id: numbers.standard_normal((2, c.dimension)).astype(np.float32) for c in COLLECTIONS
        }
        self._best: dict[tuple[int, int], tuple[list[list[bytes]], list[list[float]]]] = {}

    def check(self, store: Store, ts: int) -> None:
        """Fetch, scroll, count, filter and search everything as of `ts`.

        :raises Wrong: an answer differs.
        """
        for collection in COLLECTIONS:
            rows = self._model.rows(collection.id, ts)
            scroll = ScrollRequest(collection.id, SHARDS, ts, 1000)
            self._same(store.scroll(scroll, None), rows, list(rows), "scroll")
            fetch = FetchRequest(collection.id, SHARDS, ts, Blob.pack(_POOL))
            self._same(store.fetch(fetch), rows, [i for i in _POOL if i in rows], "fetch")
            if store.count_all(collection.id, SHARDS, ts) != len(rows):
                raise Wrong(f"count at {ts}")
            matching = sum(
                row[1] != b"" and orjson.loads(row[1])["n"] < 50 for row in rows.values()
            )
            if executor.count(store.views(collection.id, SHARDS, ts), _FILTER) != matching:
                raise Wrong(f"filtered count at {ts}")
            self._search(store, collection, ts)

    def _same(self, reply: RowsReply, rows: Rows, ids: list[bytes], what: str) -> None:
        if reply.ids.unpack() != ids:
            raise Wrong(f"{what}: other ids")
        texts = reply.metadata.unpack()
        if texts != [rows[i][1] for i in ids]:
            raise Wrong(f"{what}: other metadata")
        if bytes(reply.vectors) != b"".join(rows[i][0] for i in ids):
            raise Wrong(f"{what}: other vectors")
        if np.frombuffer(reply.versions, dtype="<i8").tolist() != [rows[i][2] for i in ids]:
            raise Wrong(f"{what}: other versions")

    def _search(self, store: Store, collection: Collection, ts: int) -> None:
        queries = self._queries[collection.id]
        views = store.views(collection.id, SHARDS, ts)
        request = SearchRequest(collection.id, SHARDS, ts, queries.tobytes(), K)
        reply = executor.search(views, collection.metric, collection.dimension, request, None)
        want_ids, want_scores = self._expected(collection, ts)
        cuts = np.cumsum(np.frombuffer(reply.counts, dtype="<u4"))[:-1]
        ids = reply.ids.unpack()
        got_ids = [list(part) for part in _split(ids, cuts.tolist())]
        if got_ids != want_ids:
            raise Wrong(f"search in {collection.name} at {ts}")
        scores = np.frombuffer(reply.similarities, dtype="<f8")
        if not np.allclose(scores, [s for part in want_scores for s in part], rtol=1e-5):
            raise Wrong(f"similarities in {collection.name} at {ts}")

    def _expected(
        self, collection: Collection, ts: int
    ) -> tuple[list[list[bytes]], list[list[float]]]:
        """The best rows of each query by plain arithmetic."""
        if (known := self._best.get((collection.id, ts))) is not None:
            return known
        rows = self._model.rows(collection.id, ts)
        ids = list(rows)
        flat = b"".join(row[0] for row in rows.values())
        vectors = np.frombuffer(flat, dtype="<f4").reshape(-1, collection.dimension).astype(float)
        best_ids, best_scores = [], []
        for query in self._queries[collection.id].astype(float):
            if collection.metric is Metric.COSINE:
                norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
                scores = vectors @ query / norms
            else:
                scores = 1 / (1 + np.linalg.norm(vectors - query, axis=1))
            order = np.argsort(-scores, kind="stable")[:K]
            best_ids.append([ids[at] for at in order])
            best_scores.append([float(scores[at]) for at in order])
        self._best[collection.id, ts] = best_ids, best_scores
        return best_ids, best_scores


def _split(items: Sequence[bytes], cuts: Sequence[int]) -> list[Sequence[bytes]]:
    bounds = [0, *cuts, len(items)]
    return [items[a:b] for a, b in itertools.pairwise(bounds)]
