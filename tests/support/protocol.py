"""Messages of the commit protocol with everything filled in that a test does not speak of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vector_db.common.core.messages.decisions import DecisionRecord, Takeover
from vector_db.common.core.messages.takeover import Promise
from vector_db.common.core.messages.transactions import Durable, Prepare, ReadSet, Stage, Vote
from vector_db.common.model.collection import Collection, Metric
from vector_db.common.model.ids import make_ts
from vector_db.common.model.rows import Blob, RowBlock, chunks_checksum, hash_ids

COLLECTION = make_ts(1, 2)
"""Id of the collection that `tests` speak of: the second decision after the takeover."""
FAR_MS = 100_000
"""A deadline that no test reaches by accident."""
Replicas = dict[int, tuple[str, ...]]


def txn(name: str) -> bytes:
    """The id of the transaction that a test calls `name`."""
    return name.encode().ljust(16, b".")


def first_takeover(term: int = 1) -> Takeover:
    """The first decision of a new cluster."""
    return Takeover(make_ts(term, 0), 0, {}, "cluster", (), {}, 0, 0, ())


def takeover(
    term: int,
    base: int,
    replicas: Replicas,
    *,
    bases: dict[int, int] | None = None,
    collections: tuple[Collection, ...] = (),
    after: int | None = None,
    decisions: tuple[DecisionRecord, ...] = (),
) -> Takeover:
    """The first decision of a later term."""
    return Takeover(
        ts=make_ts(term, 0),
        base=base,
        bases=(bases or {}) | {term: base},
        cluster_id="cluster",
        collections=collections,
        replicas=replicas,
        catalog_ts=max((c.id for c in collections), default=0),
        decisions_after=base if after is None else after,
        decisions=decisions,
    )


def collection(
    shards: Sequence[int] = (0,), id: int = COLLECTION, name: str = "c", dimension: int = 1
) -> Collection:
    return Collection(id, name, dimension, Metric.EUCLIDEAN, tuple(shards))


def block(
    *keys: str,
    value: float = 1.0,
    collection_id: int = COLLECTION,
    dimension: int = 1,
    delete: bool = False,
    precondition: str = "none",
    versions: Sequence[int] = (),
) -> RowBlock:
    ids = [key.encode() for key in keys]
    vectors = np.full((len(ids), dimension), value, dtype="<f4")
    return RowBlock(
        collection_id=collection_id,
        dimension=dimension,
        ids=Blob.pack(ids),
        hashes=hash_ids(ids).tobytes(),
        vectors=b"" if delete else vectors.tobytes(),
        delete=delete,
        precondition=precondition,
        versions=np.array(versions, dtype="<i8").tobytes(),
    )


def prepare(
    name: str,
    *blocks: RowBlock,
    shard: int = 0,
    participants: Sequence[int] | None = None,
    term: int = 1,
    snapshot_ts: int = 0,
    mode: str = "snapshot",
    deadline_ms: int = FAR_MS,
    stages: Sequence[Stage] = (),
    reads: Sequence[ReadSet] = (),
) -> Prepare:
    return Prepare(
        txn_id=txn(name),
        term=term,
        shard=shard,
        participants=tuple(participants) if participants else (shard,),
        snapshot_ts=snapshot_ts,
        mode=mode,
        deadline_ms=deadline_ms,
        catalog_ts=COLLECTION,
        gateway="g",
        blocks=blocks,
        stages=len(stages),
        stages_crc=chunks_checksum([s.blocks for s in stages]),
        reads=tuple(reads),
    )


def read_keys(*keys: str, collection_id: int = COLLECTION) -> ReadSet:
    """Point reads."""
    return ReadSet(collection_id, False, Blob.pack([key.encode() for key in keys]))


def read_all(collection_id: int = COLLECTION) -> ReadSet:
    """A query, count or scroll."""
    return ReadSet(collection_id, True, Blob.pack([]))


def stage(
    name: str,
    index: int,
    *blocks: RowBlock,
    shard: int = 0,
    term: int = 1,
    deadline_ms: int = FAR_MS,
) -> Stage:
    return Stage(txn(name), term, shard, index, deadline_ms, blocks)


def vote(
    name: str,
    worker: str = "w1",
    *,
    shard: int = 0,
    participants: Sequence[int] | None = None,
    no: str = "",
    detail: str = "",
    term: int = 1,
    deadline_ms: int = FAR_MS,
    deleted: int = 0,
    collections: Sequence[int] = (COLLECTION,),
    catalog_ts: int = COLLECTION,
    at_ts: int | None = None,
) -> Vote:
    """`at_ts` None: in the knowledge of all that the term has decided."""
    return Vote(
        txn_id=txn(name),
        term=term,
        shard=shard,
        worker=worker,
        yes=not no,
        participants=tuple(participants) if participants else (shard,),
        catalog_ts=catalog_ts,
        collections=tuple(collections),
        gateway="g",
        deadline_ms=deadline_ms,
        deleted=deleted,
        reason=no,
        detail=detail,
        at_ts=make_ts(term, 1 << 30) if at_ts is None else at_ts,
    )


def durable(
    worker: str,
    cursor: int,
    *,
    term: int = 1,
    flushed: dict[int, int] | None = None,
    decision_seq: int = 0,
) -> Durable:
    return Durable(worker, term, cursor, flushed or {}, decision_seq)


def promise(
    worker: str,
    term: int,
    *,
    cursor: int = 0,
    granted: bool = True,
    promised: int | None = None,
    cluster_id: str = "cluster",
    replicas: Replicas | None = None,
    bases: dict[int, int] | None = None,
    collections: tuple[Collection, ...] = (),
    tail: Sequence[DecisionRecord] = (),
    tail_from: int = 0,
    wall_ms: int = 0,
) -> Promise:
    return Promise(
        worker=worker,
        granted=granted,
        promised=term if promised is None else promised,
        cluster_id=cluster_id,
        cursor=cursor,
        bases=bases or {},
        collections=collections,
        catalog_ts=max((c.id for c in collections), default=0),
        replicas=replicas or {},
        wall_ms=wall_ms,
        tail=tuple(tail),
        tail_from=tail_from,
    )
