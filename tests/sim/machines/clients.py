"""Clients of the simulated domain: what they send, and what they were told."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from vector_db.common.core.messages.transactions import Outcome, Prepare, ReadSet, Stage
from vector_db.common.model.ids import make_txn_id
from vector_db.common.model.rows import Blob, RowBlock, chunks_checksum, hash_ids

TIMEOUT_MS = 1500
OPEN_MS = 4000
KEYS = [b"k%d" % i for i in range(16)]
DIMENSION = 1


@dataclass(slots=True)
class Transaction:
    """A client's transaction. `writes`: key → value, None deletes; `reads`: key → what it saw at
    `snapshot_ts`, (version, value) or None; `whole`: it read all keys of the shards it touches."""

    txn_id: bytes
    term: int
    snapshot_ts: int
    mode: str
    writes: dict[bytes, float | None]
    precondition: str
    deadline_ms: int
    reads: dict[bytes, tuple[int, float] | None] = field(default_factory=dict)
    whole: bool = False
    told: Outcome | None = None
    shards: tuple[int, ...] = ()
    chunks: dict[int, list[Stage]] = field(default_factory=dict)


@dataclass(slots=True)
class Read:
    """A read of some keys at one snapshot."""

    snapshot_ts: int
    seen: dict[bytes, tuple[int, float] | None]


def home(key: bytes, shards: Sequence[int]) -> int:
    """The shard that a key lives on."""
    return shards[int(key[1:]) % len(shards)]


def block_of(
    collection_id: int, keys: Sequence[bytes], values: Sequence[float | None], precondition: str
) -> RowBlock:
    """Rows to write, or (where the values are None) keys to delete."""
    delete = values[0] is None
    vectors = b"" if delete else np.array(values, dtype="<f4").tobytes()
    return RowBlock(
        collection_id=collection_id,
        dimension=DIMENSION,
        ids=Blob.pack(keys),
        hashes=hash_ids(keys).tobytes(),
        vectors=vectors,
        delete=delete,
        precondition=precondition,
    )


class Shaper:
    """Draws transactions of random shape and makes their records."""

    def __init__(self, rng: random.Random, shards: tuple[int, ...], keys: Sequence[bytes]) -> None:
        self._rng = rng
        self._keys = keys
        self._shards = shards
        self._made = 0

    def draw(self, term: int, snapshot_ts: int, now_ms: int, open_: bool) -> Transaction:
        """A transaction; an open one is checked, and judged its preconditions before."""
        rng = self._rng
        self._made += 1
        keys = rng.sample(self._keys, rng.randint(1, 3))
        precondition = "none" if open_ else rng.choice(["none"] * 3 + ["absent", "present"])
        checked = open_ or precondition != "none" or rng.random() < 0.5
        deletes = checked and precondition == "none" and rng.random() < 0.3
        deadline_ms = now_ms + (OPEN_MS if open_ else TIMEOUT_MS)
        return Transaction(
            make_txn_id(term, deadline_ms, self._made.to_bytes(7, "big")),
            term,
            snapshot_ts,
            "snapshot" if checked else "blind",
            dict.fromkeys(keys, None if deletes else float(self._made)),
            precondition,
            deadline_ms,
            shards=tuple(sorted({home(key, self._shards) for key in keys})),
        )

    def stage(self, txn: Transaction, collection_id: int) -> list[Stage]:
        """Chunks of what it writes: one key each, half of the time two that follow each other on
        the same key, of which the later counts."""
        made = []
        for key, value in txn.writes.items():
            shard = home(key, self._shards)
            values = [-1.0, value] if self._rng.random() < 0.5 else [value]
            for one in values:
                block = block_of(collection_id, [key], [one], "none")
                mine = txn.chunks.setdefault(shard, [])
                mine.append(
                    Stage(txn.txn_id, txn.term, shard, len(mine), txn.deadline_ms, (block,))
                )
                made.append(mine[-1])
        return made

    def prepares(self, txn: Transaction, collection_id: int, now_ms: int) -> list[Prepare]:
        """Its PREPARE for every shard that it wrote or read."""
        read = {home(key, self._shards) for key in txn.reads}
        txn.shards = tuple(sorted({*txn.shards, *read}))
        return [self._prepare(txn, shard, collection_id, now_ms) for shard in txn.shards]

    def _prepare(self, txn: Transaction, shard: int, collection_id: int, now_ms: int) -> Prepare:
        blocks: tuple[RowBlock, ...] = ()
        mine = [key for key in txn.writes if home(key, self._shards) == shard]
        if mine and not txn.chunks:
            values = [txn.writes[key] for key in mine]
            blocks = (block_of(collection_id, mine, values, txn.precondition),)
        read = [key for key in txn.reads if home(key, self._shards) == shard]
        reads: tuple[ReadSet, ...] = ()
        if read:
            ids = Blob.pack([] if txn.whole else read)
            reads = (ReadSet(collection_id, txn.whole, ids),)
        chunks = txn.chunks.get(shard, [])
        return Prepare(
            txn_id=txn.txn_id,
            term=txn.term,
            shard=shard,
            participants=txn.shards,
            snapshot_ts=txn.snapshot_ts,
            mode=txn.mode,
            deadline_ms=min(txn.deadline_ms, now_ms + TIMEOUT_MS),
            catalog_ts=collection_id,
            gateway="g",
            blocks=blocks,
            stages=len(chunks),
            stages_crc=chunks_checksum([chunk.blocks for chunk in chunks]),
            reads=reads,
        )
