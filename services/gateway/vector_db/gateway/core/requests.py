"""What both edges ask of the database, as plain values: REST and gRPC decode into these.

Owns the invariant that whatever is here was validated as far as it can be without the catalog; the
catalog's part (dimension, zero vectors under cosine) is `validate` in `core/rows.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from vector_db.common.model.collection import RECALL_TARGET, IndexChange
from vector_db.common.model.rows import F32, I64

Mode = Literal["upsert", "insert", "update"]


Isolation = Literal["snapshot", "serializable"]


@dataclass(frozen=True, slots=True)
class Consistency:
    """Which snapshot a read may use: the newest stable one, at least a token, a confirmed one, or
    one of the past (`as_of` a commit_ts, `as_of_ms` a time in ms since 1970; one of them at
    most)."""

    at_least: int = 0
    strong: bool = False
    as_of: int = 0
    as_of_ms: int = 0


@dataclass(frozen=True, slots=True)
class Idempotency:
    """The client's key of a write, and a hash of the request that came with it."""

    key: bytes
    request_hash: bytes


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
    """Delete ids of one collection; absent ones are not counted.

    `if_version` int64[n]: the version that each row must have now.
    """

    collection: str
    ids: list[bytes]
    if_version: I64 | None = None


@dataclass(frozen=True, slots=True)
class WriteResult:
    """`count`: rows written plus rows that deletes found alive.

    `commit_ts` 0: staged in an open transaction. `replayed`: the answer to an earlier request with
    the same idempotency key; nothing was applied now.
    """

    count: int
    commit_ts: int
    replayed: bool = False


class Effort(NamedTuple):
    """How hard a query tries: `recall` 0 is the collection's target, `ef` (of graphs) and `nprobe`
    (of lists) 0 are as calibrated for the recall; `exact` uses no index."""

    recall: float = 0.0
    ef: int = 0
    nprobe: int = 0
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Query:
    """Top-k search. `vectors` float32[nq, dimension], or `id` of a stored row (itself left out).

    `filter` is the decoded JSON object, checked already, or None. `radius`: the largest distance,
    in place of `min_similarity`. `page` asks for a cursor, `after` is one; both for a single query.
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
    effort: Effort = Effort()
    radius: float | None = None
    page: bool = False
    after: str | None = None
    explain: bool = False

    @property
    def paged(self) -> bool:
        """Whether the answer says how to go on: when asked to, and when a radius has no natural
        end."""
        asked = self.page or self.after is not None or self.radius is not None
        return asked and (self.vectors is None or len(self.vectors) == 1)


@dataclass(frozen=True, slots=True)
class Hits:
    """One query's answer, best first. `vectors` float32[hits, dimension] when asked for."""

    ids: list[bytes]
    similarities: list[float]
    metadata: list[bytes] | None
    vectors: F32 | None


@dataclass(frozen=True, slots=True)
class QueryResult:
    """One `Hits` a query; `distances` are derived from similarities by the collection's metric.

    `paged`: `cursor` means something, None that nothing follows. `explain`: JSON-able, when asked.
    """

    hits: list[Hits]
    snapshot_ts: int
    metric: str
    paged: bool = False
    cursor: str | None = None
    explain: dict[str, Any] | None = None


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
class OpenTransaction:
    """A transaction that was begun. `token` goes with the next call; `expires_ms` since 1970."""

    txn_id: str
    token: str
    isolation: Isolation
    snapshot_ts: int
    expires_ms: int


@dataclass(frozen=True, slots=True)
class CollectionChange:
    """What is to be otherwise of a collection; None leaves it as it is.

    `shards`: over how many its rows are to be spread; as many as they are: no others any more.
    """

    index: IndexChange | None = None
    recall_target: float | None = None
    fields: tuple[str, ...] | None = None
    shards: int | None = None


@dataclass(frozen=True, slots=True)
class CollectionStats:
    """What a collection holds and takes, summed over its workers.

    `rows` alive, `rows_indexed` of them as the collection's options want them, `rows_dead` kept for
    reads of the past; `segments` sealed; `kinds`: rows alive by the way they are searched.
    `recall_measured` None: not measured yet. `building`: (rows in builds under way, rows done).
    """

    rows: int
    rows_indexed: int
    segments: int
    bytes_memory: int
    bytes_disk: int
    rows_dead: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    recall_target: float = RECALL_TARGET
    recall_measured: float | None = None
    recall_samples: int = 0
    building: tuple[int, int] = (0, 0)
    bytes_predicted: int = 0
    bytes_resident: int = 0
