"""What both edges ask of the database, as plain values: REST and gRPC decode into these.

Owns the invariant that whatever is here was validated as far as it can be without the catalog; the
catalog's part (dimension, zero vectors under cosine) is `validate` in `core/rows.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from vector_db.common.model.rows import F32, I64

Mode = Literal["upsert", "insert", "update"]


@dataclass(frozen=True, slots=True)
class Consistency:
    """Which snapshot a read may use: the newest stable one, at least a token, or a confirmed
    one."""

    at_least: int = 0
    strong: bool = False


@dataclass(frozen=True, slots=True)
class RowsIn:
    """Rows to write. `vectors` float32[n, dimension]; `metadata` JSON bytes a row, b"" = none."""

    ids: list[bytes]
    vectors: F32
    metadata: list[bytes] | None


@dataclass(frozen=True, slots=True)
class Upsert:
    """Write rows of one collection; `mode` says what must hold of every id before."""

    collection: str
    rows: RowsIn
    mode: Mode = "upsert"
    if_version: I64 | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete ids of one collection; absent ones are not counted."""

    collection: str
    ids: list[bytes]


@dataclass(frozen=True, slots=True)
class WriteResult:
    """`count`: rows written plus rows that deletes found alive."""

    count: int
    commit_ts: int


@dataclass(frozen=True, slots=True)
class Query:
    """Top-k search. `vectors` float32[nq, dimension], or `id` of a stored row (itself left out).

    `filter` is the decoded JSON object, checked already, or None.
    """

    collection: str
    vectors: F32 | None
    id: bytes | None = None
    k: int = 10
    filter: dict[str, Any] | None = None
    min_similarity: float | None = None
    include_metadata: bool = True
    include_vectors: bool = False
    consistency: Consistency = field(default_factory=Consistency)


@dataclass(frozen=True, slots=True)
class Hits:
    """One query's answer, best first. `vectors` float32[hits, dimension] when asked for."""

    ids: list[bytes]
    similarities: list[float]
    metadata: list[bytes] | None
    vectors: F32 | None


@dataclass(frozen=True, slots=True)
class QueryResult:
    """One `Hits` a query; `distances` are derived from similarities by the collection's metric."""

    hits: list[Hits]
    snapshot_ts: int
    metric: str


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows that were read. `versions` are their commit_ts; `vectors` float32[n, dimension]
    bit-exact."""

    ids: list[bytes]
    versions: list[int]
    metadata: list[bytes]
    vectors: F32 | None
    snapshot_ts: int


@dataclass(frozen=True, slots=True)
class Page:
    """A scroll page; `cursor` is opaque, pinned to its snapshot, None at the end."""

    rows: Rows
    cursor: str | None


@dataclass(frozen=True, slots=True)
class CollectionStats:
    """Rows alive, how many of them are in an index, sealed segments, and what they take."""

    rows: int
    rows_indexed: int
    segments: int
    bytes_memory: int
    bytes_disk: int
