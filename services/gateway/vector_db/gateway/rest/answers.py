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


class QueryAnswer(_Answer):
    """Hits of one query, best first; ties by id."""

    vectors: list[Hit]
    snapshot_ts: Timestamp


class QueryHits(_Answer):
    """Hits of one query of a batch."""

    vectors: list[Hit]


class BatchQueryAnswer(_Answer):
    """One element a query, all at the same snapshot."""

    results: list[QueryHits]
    snapshot_ts: Timestamp


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


class CollectionAnswer(_Answer):
    """A collection; `commit_ts` of its creation tells it from an earlier one of the same name."""

    name: str
    dimension: int
    metric: Literal["cosine", "dot", "euclidean"]
    shards: int
    commit_ts: Timestamp


class CollectionsAnswer(_Answer):
    """All collections, by name."""

    collections: list[CollectionAnswer]


class DropAnswer(_Answer):
    """The commit_ts of the drop."""

    commit_ts: Timestamp


class StatsAnswer(_Answer):
    """Rows alive, how many of them are in an index, sealed segments, and what they take."""

    rows: int
    rows_indexed: int
    segments: int
    bytes_memory: int
    bytes_disk: int


class TransactionAnswer(_Answer):
    """What became of a transaction."""

    state: Literal["committed", "aborted", "pending", "unknown"]
    commit_ts: Timestamp | None = None
    reason: str | None = None


class WorkerAnswer(BaseModel):
    """One shard worker; `simd` are the vector instructions that its index searches use, `generic`
    for none, empty until its first heartbeat."""

    model_config = ConfigDict(extra="allow")

    id: str
    zone: str
    ready: bool
    cursor: int
    shards: list[int]
    simd: str


class ClusterAnswer(BaseModel):
    """Workers, placement, term and stable_ts."""

    model_config = ConfigDict(extra="allow")

    workers: list[WorkerAnswer]
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
