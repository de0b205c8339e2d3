"""The plain values that calls take and give: NumPy in, dataclasses out, nothing of the transport.

Vectors are float32 and bit-exact; timestamps are the server's commit timestamps, integers below
2**53 whose order is the order of the commits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypedDict

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]
"""float32[dimension]."""

Vectors = npt.NDArray[np.float32]
"""float32[n, dimension]."""

VectorLike = npt.ArrayLike
"""Anything NumPy turns into float32: arrays of any float or integer type, lists of numbers."""

Metadata = dict[str, Any]
Filter = Mapping[str, Any]
"""For example ``{"year": {"$gte": 2020}, "lang": {"$in": ["en", "de"]}}``."""

Metric = Literal["cosine", "dot", "euclidean"]
Mode = Literal["upsert", "insert", "update"]
Include = Literal["metadata", "dimensions", "distance"]

IncludeInRows = Literal["metadata", "dimensions"]

Consistency = int | Literal["own_writes", "stable", "strong"]
"""Which snapshot a read may use.

``"own_writes"`` (the default): at least everything that this client has written or read, through
whatever gateway. ``"stable"``: the gateway's newest stable snapshot, no waiting. ``"strong"``:
everything acknowledged to anyone, confirmed by a round trip. An integer: at least that commit
timestamp, for example one that another process handed over.
"""

AsOf = int | datetime | str
"""A snapshot of the past: a commit timestamp, a datetime with a time zone, or RFC 3339 text."""

Isolation = Literal["snapshot", "serializable"]
"""What a transaction is kept from: lost updates, or write skew as well."""

IfVersion = int | Sequence[int]
"""The `Row.version` that each row must still have; one integer stands for all of them."""

IdempotencyKey = str
"""Visible ASCII without spaces, or ``"auto"``: a new random key for this one call."""


class SearchOptions(TypedDict, total=False):
    """What a query may ask for beside its vector."""

    k: int
    """How many hits, 10 by default; with a `radius` 1000."""
    collection: str
    filter: Filter | None
    """Only rows whose metadata match."""
    include: Sequence[Include]
    """What a `Match` carries besides id and similarity; ``("metadata",)`` by default."""
    min_similarity: float | None
    """Leave out what is less similar."""
    radius: float | None
    """Leave out what is farther away, by the metric's distance."""
    recall: float | None
    """The share of the true best k wanted, 0.5 to 0.999, or 1 (exact); None: the collection's."""
    ef: int | None
    """The beam of graph indexes, in place of what the recall needs."""
    nprobe: int | None
    """The lists searched of list indexes, likewise."""
    exact: bool
    """Use no index; goes without the three above."""


class QueryOptions(SearchOptions, total=False):
    """`SearchOptions`, and which snapshot to search."""

    consistency: Consistency
    as_of: AsOf | None
    """Instead of a consistency, a snapshot of the past."""


Progress = bool | Callable[[int, int | None], None]
"""True draws a bar; a function is called with (rows done, rows in all or None)."""


@dataclass(frozen=True, slots=True)
class WriteResult:
    """`count` rows written, or found alive by a delete; visible to reads at `commit_ts` and after.

    For an insert of several batches `commit_ts` is the newest of theirs. In a transaction it is 0:
    the rows become visible when that commits. `replayed`: this is the answer, or one of several
    batches is, to an earlier request with the same idempotency key, and nothing was applied now.
    """

    count: int
    commit_ts: int
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class CountResult:
    """How many rows were alive (and matched) at `snapshot_ts`."""

    count: int
    snapshot_ts: int


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """One hit of a query; higher `similarity` is better. What was not asked for is None."""

    id: str
    similarity: float
    metadata: Metadata | None = None
    vector: Vector | None = None
    distance: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class QueryPage:
    """Hits of one query, best first; `cursor` leads to the next ones, None when there are none."""

    matches: list[Match]
    snapshot_ts: int
    cursor: str | None


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One stored row; `version` is the commit timestamp that wrote it, 0 for a row that the
    transaction which reads it has staged. Vectors are bit-exact."""

    id: str
    vector: Vector | None
    metadata: Metadata | None
    version: int


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a scroll; every page of one scroll is of the snapshot `snapshot_ts`."""

    rows: list[Row]
    snapshot_ts: int


IndexKind = Literal["auto", "hnsw", "ivf_pq", "exact"]
Encoding = Literal["auto", "float32", "float16", "sq8"]


class IndexSettings(TypedDict, total=False):
    """What to set of `IndexOptions`; what is left out stays as it is, or is as by default."""

    kind: IndexKind
    encoding: Encoding
    m: int
    ef_construction: int
    lists: int


@dataclass(frozen=True, slots=True)
class IndexOptions:
    """How the sealed segments of a collection are indexed.

    `kind` ``"auto"``: chosen per segment from rows, dimension, memory and recall target.
    `encoding`: how an HNSW graph keeps its copies of the vectors. `m` (links a node) and
    `ef_construction` (beam while building) are HNSW's; `lists` are those of IVF, 0: from the rows.
    """

    kind: IndexKind = "auto"
    encoding: Encoding = "auto"
    m: int = 16
    ef_construction: int = 128
    lists: int = 0


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection as the server's catalog has it, spread over `shards` shards.

    `recall_target`: the share of the true best k that answers hold on average. `fields`: metadata
    paths with an inverted index. `aliases` stand for it just now. `spreading_shards`: over how many
    it is being spread, None if it is not.
    """

    name: str
    dimension: int
    metric: str
    shards: int
    index: IndexOptions = IndexOptions()
    recall_target: float = 0.95
    fields: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    spreading_shards: int | None = None


@dataclass(frozen=True, slots=True)
class CollectionStats:
    """What a collection holds and takes; `rows_indexed` of its `rows` are indexed as wanted by now.

    `rows_dead` are kept for reads of the past; `kinds` has the rows by the way they are searched.
    `recall_measured` None: not measured yet, else on `recall_samples` queries. Of `rows_building`
    in index builds under way, `rows_built` are done. `bytes_predicted` is what the rows should take
    in memory, `bytes_resident` what they do.
    """

    rows: int
    rows_indexed: int
    segments: int
    bytes_memory: int
    bytes_disk: int
    rows_dead: int = 0
    kinds: Mapping[str, int] = field(default_factory=dict)
    recall_target: float = 0.95
    recall_measured: float | None = None
    recall_samples: int = 0
    rows_building: int = 0
    rows_built: int = 0
    bytes_predicted: int = 0
    bytes_resident: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class RowBatch:
    """Rows for `insert_stream`: n ids, vectors [n, dimension], n metadata objects or None, and the
    n versions that the rows must still have, or None."""

    ids: Sequence[str]
    vectors: VectorLike
    metadata: Sequence[Mapping[str, Any] | None] | None = None
    if_version: IfVersion | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Upsert:
    """Part of an atomic `commit`: write rows of one collection, whether they exist or not."""

    collection: str
    ids: Sequence[str]
    vectors: VectorLike
    metadata: Sequence[Mapping[str, Any] | None] | None = None
    if_version: IfVersion | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Delete:
    """Part of an atomic `commit`: delete ids of one collection; absent ones are not counted."""

    collection: str
    ids: Sequence[str]
    if_version: IfVersion | None = None


@dataclass(frozen=True, slots=True)
class ShardCopy:
    """A shard that a worker copies: bytes that are there, and all of them."""

    bytes_done: int
    bytes_all: int


@dataclass(frozen=True, slots=True)
class Worker:
    """A shard worker that was heard within the last seconds.

    `ready`: it has recovered. `draining`: it shall hold nothing. `cursor`: how far it has followed
    the decisions, to be compared with `Cluster.stable_ts`. `shards`: those of which it is a replica
    by what it knows itself. `copying`: by shard. `simd` and `native`: the vector instructions of
    its FAISS and of its compiled loops.
    """

    id: str
    zone: str
    ready: bool
    draining: bool
    cursor: int
    shards: tuple[int, ...] = ()
    copying: Mapping[int, ShardCopy] = field(default_factory=dict)
    simd: str = ""
    native: str = ""


@dataclass(frozen=True, slots=True)
class Cluster:
    """The cluster as operators see it.

    `shards`: the workers that are replicas of each, `replication_factor` of them where all is as
    wanted. `joining`: the worker that copies the shard to become one; `leaving`: those that are
    replicas no longer and still hold it. `draining`: workers that shall hold nothing, heard or not.
    `answer`: all of it as the server says it.
    """

    term: int
    stable_ts: int
    replication_factor: int
    workers: tuple[Worker, ...]
    shards: Mapping[int, tuple[str, ...]]
    joining: Mapping[int, str]
    leaving: Mapping[int, tuple[str, ...]]
    draining: tuple[str, ...]
    answer: Mapping[str, Any] = field(repr=False, default_factory=dict)

    @property
    def worker_ids(self) -> tuple[str, ...]:
        """All workers that are heard or named, sorted."""
        placed = (*self.shards.values(), *self.leaving.values(), self.joining.values())
        named = {worker for workers in placed for worker in workers}
        return tuple(sorted(named.union(self.draining, (w.id for w in self.workers))))

    def worker(self, id: str) -> Worker | None:
        """The worker, if it is heard."""
        return next((worker for worker in self.workers if worker.id == id), None)

    def held_by(self, id: str) -> tuple[int, ...]:
        """The shards that a worker is a replica of, copies, or has not dropped yet."""
        heard = self.worker(id)
        held = {s for s, workers in self.shards.items() if id in workers}
        held |= {s for s, workers in self.leaving.items() if id in workers}
        held |= {s for s, worker in self.joining.items() if id == worker}
        return tuple(sorted(held.union(heard.shards if heard else ())))
