"""Reads: which snapshot, and what it shows. Gateways ask shard workers, and for strong reads the
sequencer, which asks the workers.
"""

from __future__ import annotations

import msgspec

from vector_db.common.core.messages.base import Message
from vector_db.common.model.rows import Blob, Buffer


class StrongRequest(Message, frozen=True):
    """Asks the sequencer for a `stable_ts` confirmed by a majority of some shard in its term."""


class StrongReply(Message, frozen=True):
    term: int
    stable_ts: int


class ConfirmRequest(Message, frozen=True):
    term: int


class ConfirmReply(Message, frozen=True):
    worker: str
    confirmed: bool


class Overlay(msgspec.Struct, frozen=True):
    """What a transaction has staged itself, which its reads see above their snapshot.

    `chunks`: shard → how many chunks the read must see (shards without any are left out).
    """

    txn_id: bytes
    term: int
    chunks: dict[int, int]


class StagedRequest(Message, frozen=True):
    """Asks a worker whether it has the chunks, waiting for them a while; answered with the same."""

    overlay: Overlay


class AsOfRequest(Message, frozen=True):
    """Asks a worker for the newest snapshot whose decisions all lie at or before `wall_ms`."""

    wall_ms: int


class AsOfReply(Message, frozen=True):
    """`ts` 0: nothing was committed yet then."""

    ts: int


class SearchRequest(Message, frozen=True):
    """Top `k` of each query over `shards` of one collection at one snapshot.

    `queries` float32[nq, dimension]. `filter` is the JSON text of a filter or empty.
    `min_similarity` drops hits below it. The two `include` flags ask for the payloads in the reply.
    `recall` 0: the collection's target; `ef` and `nprobe` 0: as calibrated for the recall; `exact`:
    no index. `after` (similarity, id) leaves out the hits up to that place in the order, of which
    there are about `skip`. `explain` asks for the plans.
    """

    collection_id: int
    shards: tuple[int, ...]
    snapshot_ts: int
    queries: Buffer
    k: int
    filter: bytes = b""
    min_similarity: float | None = None
    include_metadata: bool = False
    include_vectors: bool = False
    overlay: Overlay | None = None
    recall: float = 0.0
    ef: int = 0
    nprobe: int = 0
    exact: bool = False
    after: tuple[float, bytes] | None = None
    skip: int = 0
    explain: bool = False


class SearchReply(Message, frozen=True):
    """Hits of all queries one after another, each query's best first, ties by id.

    `counts` uint32[nq]; `ids` one per hit; `similarities` float64[hits]; `explain` JSON when asked.
    """

    counts: Buffer
    ids: Blob
    similarities: Buffer
    metadata: Blob | None = None
    vectors: Buffer = b""
    explain: bytes = b""


class FetchRequest(Message, frozen=True):
    """Rows by id; absent ones are simply missing from the reply. `filling`: for whoever fills the
    generation, which nobody else may read."""

    collection_id: int
    shards: tuple[int, ...]
    snapshot_ts: int
    ids: Blob
    include_vectors: bool = True
    overlay: Overlay | None = None
    filling: bool = False


class RowsReply(Message, frozen=True):
    """Rows as columns. `versions` int64[n] are their commit_ts, 0 for a staged row of the reading
    transaction; empty metadata = none."""

    ids: Blob
    versions: Buffer
    metadata: Blob
    vectors: Buffer = b""


class CountRequest(Message, frozen=True):
    """`filling` as in `FetchRequest`."""

    collection_id: int
    shards: tuple[int, ...]
    snapshot_ts: int
    filter: bytes = b""
    overlay: Overlay | None = None
    filling: bool = False


class CountReply(Message, frozen=True):
    count: int


class ScrollRequest(Message, frozen=True):
    """The first `limit` visible rows with id > `after`, in id order (bytewise), over `shards`."""

    collection_id: int
    shards: tuple[int, ...]
    snapshot_ts: int
    limit: int
    after: bytes = b""
    filter: bytes = b""
    include_vectors: bool = True
    overlay: Overlay | None = None


class StatsRequest(Message, frozen=True):
    collection_id: int
    shards: tuple[int, ...]


class StatsReply(Message, frozen=True):
    """`rows` alive now; `rows_indexed` of them where the collection's options want them: in an
    index, or in an exactly scanned segment that is not worth one; `segments` sealed.

    `rows_dead`: versions kept for reads of the past. `kinds`: rows alive by the way they are
    searched. `recall`: measured at the last calibration, mean over the indexed rows (0: none).
    `building`: rows in builds under way, and how many of them are done. `bytes_predicted`: what the
    rows should take in memory; `bytes_resident`: what they do.
    """

    rows: int
    rows_indexed: int
    segments: int
    bytes_memory: int
    bytes_disk: int
    rows_dead: int = 0
    kinds: dict[str, int] = msgspec.field(default_factory=dict)
    recall: float = 0.0
    recall_samples: int = 0
    building: tuple[int, int] = (0, 0)
    bytes_predicted: int = 0
    bytes_resident: int = 0
