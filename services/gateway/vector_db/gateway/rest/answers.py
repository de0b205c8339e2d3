"""The shapes of answers, for OpenAPI and tests; `encode.py` writes them without these models."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Timestamp = Annotated[int, Field(ge=0, le=(1 << 53) - 1)]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class WriteAnswer(_Answer):
    """Rows written, and deletes that found a row.

    `commit_ts` is the rows' version and what reads give as `at_least`; absent in a transaction.
    """

    count: int
    commit_ts: Timestamp | None = None


class CommitAnswer(_Answer):
    """Rows staged in the transaction, and the version that they have now."""

    count: int
    commit_ts: Timestamp


class BeginAnswer(_Answer):
    """An open transaction; `token` goes into the header `Transaction` of the next call."""

    transaction: str
    token: str
    isolation: Literal["snapshot", "serializable"]
    snapshot_ts: Timestamp
    expires_at: Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class AbortAnswer(_Answer):
    """Nothing of the transaction was applied."""

    state: Literal["aborted"]


class Hit(_Answer):
    """One similar row; what was not included is absent."""

    id: str
    similarity: float
    metadata: dict[str, Any] | None = None
    dimensions: list[float] | None = None
    distance: float | None = None


class RejectedPlan(_Answer):
    """A way to search a segment that was not taken, and what it would have cost."""

    method: str
    cost_us: float


class SegmentPlan(_Answer):
    """How one segment was searched; times in microseconds, `cost_us` the estimate of the search.

    `name` is `memory` for rows that are in no file of their own yet. `method`: `all` (no more rows
    match than are wanted), `index`, `scan` or `gather` (of the matching rows alone). `width`: how
    many hits it was asked for; `candidates`: how many rows were scored.
    """

    name: str
    rows: int
    matching: int
    selectivity: float
    index: str | None
    method: str
    ef: int
    nprobe: int
    width: int
    candidates: int
    cost_us: float
    rejected: list[RejectedPlan]
    filter_us: float
    search_us: float


class WorkerPlan(_Answer):
    """What one shard worker did; times in microseconds.

    `wait_us`: for the snapshot and what a transaction has staged; `run_us`: from then to the
    answer, of which `score_us` for scoring and ranking. `pool`: it did not run in the event loop,
    since `estimate_us` was high. `recall`: what indexes were to reach, null when exact.
    """

    worker: str
    shards: list[int]
    round_trip_us: float
    wait_us: float
    estimate_us: float
    pool: bool
    run_us: float
    score_us: float
    recall: float | None
    exact: bool
    segments: list[SegmentPlan]


class Explanation(_Answer):
    """How a query was carried out; times in microseconds.

    `coalesced`: whether it shared a request with others; explained queries travel alone.
    `payload_us`: for metadata and vectors of hits that several workers found.
    """

    snapshot_wait_us: float
    scatter_gather_us: float
    payload_us: float
    coalesced: bool
    workers: list[WorkerPlan]


class QueryAnswer(_Answer):
    """Hits of one query, best first; ties by id.

    `cursor` is there when `page`, `after` or `radius` were given: null when no hit follows.
    `explain` is there when it was asked for.
    """

    vectors: list[Hit]
    snapshot_ts: Timestamp
    cursor: str | None = None
    explain: Explanation | None = None


class QueryHits(_Answer):
    """Hits of one query of a batch."""

    vectors: list[Hit]


class BatchQueryAnswer(_Answer):
    """One element a query, all at the same snapshot."""

    results: list[QueryHits]
    snapshot_ts: Timestamp
    explain: Explanation | None = None


class StoredRow(_Answer):
    """A row as stored; `version` is the commit_ts that wrote it, 0 if this transaction did."""

    id: str
    dimensions: list[float] | None = None
    metadata: dict[str, Any] | None = None
    version: Timestamp


class RowAnswer(StoredRow):
    """One row, and the snapshot it was read at."""

    snapshot_ts: Timestamp


class FetchAnswer(_Answer):
    """Rows in the order asked for; absent ones are left out."""

    vectors: list[StoredRow]
    snapshot_ts: Timestamp


class ScrollAnswer(_Answer):
    """One page; `cursor` is null at the end."""

    vectors: list[StoredRow]
    cursor: str | None
    snapshot_ts: Timestamp


class CountAnswer(_Answer):
    """How many rows matched."""

    count: int
    snapshot_ts: Timestamp


class IndexAnswer(_Answer):
    """How sealed segments are indexed, once the background has caught up."""

    kind: Literal["auto", "hnsw", "ivf_pq", "exact"]
    encoding: Literal["auto", "float32", "float16", "sq8"]
    m: int
    ef_construction: int
    lists: int


class SpreadingAnswer(_Answer):
    """A collection on its way to another number of shards."""

    shards: int


class CollectionAnswer(_Answer):
    """A collection; `commit_ts` of its creation tells it from an earlier one of the same name."""

    name: str
    dimension: int
    metric: Literal["cosine", "dot", "euclidean"]
    shards: int
    commit_ts: Timestamp
    index: IndexAnswer
    recall_target: float
    fields: list[str]
    aliases: list[str]
    spreading: SpreadingAnswer | None


class CollectionsAnswer(_Answer):
    """All collections, by name."""

    collections: list[CollectionAnswer]


class DropAnswer(_Answer):
    """The commit_ts of the drop."""

    commit_ts: Timestamp


class AliasesAnswer(_Answer):
    """Alias to the name of its collection."""

    aliases: dict[str, str]


class AliasesChangedAnswer(_Answer):
    """The commit_ts of the change; a read that gives it as `at_least` knows of the change."""

    commit_ts: Timestamp


class RecallAnswer(_Answer):
    """What is wanted, and what the last calibration measured (null: not yet), on `samples`."""

    target: float
    measured: float | None
    samples: int


class BuildingAnswer(_Answer):
    """Rows in index builds under way, and how many of them are done."""

    rows: int
    done: int


class StatsAnswer(_Answer):
    """Rows alive, how many of them are indexed as wanted, sealed segments, and what they take.

    `rows_dead` are kept for reads of the past; `kinds` has the rows alive by the way they are
    searched; `bytes_predicted` is what the rows should take in memory, `bytes_resident` what they
    do.
    """

    rows: int
    rows_indexed: int
    rows_dead: int
    segments: int
    kinds: dict[str, int]
    recall: RecallAnswer
    building: BuildingAnswer
    bytes_memory: int
    bytes_disk: int
    bytes_predicted: int
    bytes_resident: int


class TransactionAnswer(_Answer):
    """What became of a transaction."""

    state: Literal["committed", "aborted", "pending", "unknown"]
    commit_ts: Timestamp | None = None
    reason: str | None = None


class CopyAnswer(_Answer):
    """A shard that a worker copies: bytes that are there, and all of them."""

    bytes_done: int
    bytes_all: int


class WorkerAnswer(BaseModel):
    """One shard worker; `simd` are the vector instructions that its FAISS uses, `native` those of
    its compiled loops (`none`: it does without), `generic` for none of choice; empty until its
    first heartbeat. `copying`: by shard. `draining`: it shall hold nothing."""

    model_config = ConfigDict(extra="allow")

    id: str
    zone: str
    ready: bool
    cursor: int
    shards: list[int]
    draining: bool
    copying: dict[str, CopyAnswer]
    simd: str
    native: str


class ClusterAnswer(BaseModel):
    """Workers, placement, term and stable_ts.

    `shards`: the workers that hold a replica of each; `joining`: the one that copies it;
    `leaving`: those that hold it no more and have not dropped it yet. `draining` names the workers
    that shall hold nothing, those too that are not heard; `replication_factor`: the replicas that
    each shard should have.
    """

    model_config = ConfigDict(extra="allow")

    workers: list[WorkerAnswer]
    shards: dict[str, list[str]]
    joining: dict[str, str]
    leaving: dict[str, list[str]]
    draining: list[str]
    replication_factor: int
    stable_ts: Timestamp


class HealthAnswer(BaseModel):
    """Whether this process is ready, and a few facts."""

    model_config = ConfigDict(extra="allow")

    ready: bool


class ErrorBody(_Answer):
    """Why a request was refused."""

    code: str
    message: str
    retryable: bool
    request_id: str
    details: dict[str, Any] | None = None


class ErrorAnswer(_Answer):
    """The body of every answer of 400 and above."""

    error: ErrorBody
