"""Every message of the mesh as a frozen struct, grouped by conversation.

One tagged union, so that a codec decodes any of them and a loopback passes them as they are. Which
subject carries which is said in `subjects.py`. Timestamps are packed commit timestamps
(`model.ids`), `*_ms` are wall-clock milliseconds since 1970, and float32 / int64 columns are
little-endian bytes.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from vector_db.common.model.collection import (
    RECALL_TARGET,
    Collection,
    IndexChange,
    IndexOptions,
)
from vector_db.common.model.rows import Blob, Buffer, RowBlock


class Message(msgspec.Struct, frozen=True, tag=True):
    """Base of all messages; the tag is the class name."""


# --- shard log: gateway → replicas -------------------------------------------------------------


class ReadSet(msgspec.Struct, frozen=True):
    """What a serializable transaction read of one collection at one shard.

    `whole`: anything there may have mattered (query, count, scroll); else exactly the keys `ids`,
    found or not.
    """

    collection_id: int
    whole: bool
    ids: Blob


class Prepare(Message, frozen=True):
    """Asks one shard to vote on its part of a transaction (architecture, section 4, step 1).

    `mode`: ``blind`` (upserts that coexist with each other) or ``snapshot`` (first committer wins).
    `reads`: what must not have changed since `snapshot_ts`, nor change until the decision; a shard
    that was only read gets a PREPARE without blocks.
    `deadline_ms` is on the sequencer's clock as the gateway last heard it: a replica drops the
    record unvoted once a decision with a later wall time was consumed. `stages` chunks precede this
    record; `stages_crc` is `chunks_checksum` of them.
    """

    txn_id: bytes
    term: int
    shard: int
    participants: tuple[int, ...]
    snapshot_ts: int
    mode: str
    deadline_ms: int
    catalog_ts: int
    gateway: str
    blocks: tuple[RowBlock, ...]
    stages: int = 0
    stages_crc: int = 0
    reads: tuple[ReadSet, ...] = ()


class Stage(Message, frozen=True):
    """Chunk `index` (from 0) of what a transaction writes at one shard, ahead of its PREPARE.

    A chunk that comes again changes nothing: the first one counts. `deadline_ms` is when the
    transaction expires.
    """

    txn_id: bytes
    term: int
    shard: int
    index: int
    deadline_ms: int
    blocks: tuple[RowBlock, ...]


# --- votes and cursors: replica → sequencer ----------------------------------------------------


class Vote(Message, frozen=True):
    """One replica's word on one shard of one transaction, sent after the fsync of its PREPARE.

    `reason` is an error code of `model.errors` when `yes` is false; `deleted` counts the rows that
    the deletes of this shard find alive. `at_ts` is the cursor that it was judged at: whatever was
    committed up to there was minded.
    """

    txn_id: bytes
    term: int
    shard: int
    worker: str
    yes: bool
    participants: tuple[int, ...]
    catalog_ts: int
    collections: tuple[int, ...]
    gateway: str
    deadline_ms: int
    deleted: int = 0
    reason: str = ""
    detail: str = ""
    at_ts: int = 0


class Votes(Message, frozen=True):
    """Several votes of one replica, in the order in which they were given."""

    votes: tuple[Vote, ...]


class Durable(Message, frozen=True):
    """All decisions up to `cursor` are applied and fsynced at `worker`.

    `flushed` gives per shard the newest shard-log sequence that the worker's last durable
    checkpoint covers, and `decision_seq` the same of the decision log: what the streams may be
    trimmed to. A worker that copies a shard may have to ask its peers for what was decided after
    `needs_ts` (0: after the cursor).
    """

    worker: str
    term: int
    cursor: int
    flushed: dict[int, int]
    decision_seq: int
    needs_ts: int = 0


# --- decision log: sequencer → everyone --------------------------------------------------------


class Commit(msgspec.Struct, frozen=True, tag=True):
    """The transaction is committed at `ts`; its deletes found `deleted` rows."""

    ts: int
    txn_id: bytes
    participants: tuple[int, ...]
    deleted: int = 0


class Abort(msgspec.Struct, frozen=True, tag=True):
    """The transaction is aborted; `ts` is its place in the chain."""

    ts: int
    txn_id: bytes
    participants: tuple[int, ...]
    reason: str
    detail: str


class CreateCollection(msgspec.Struct, frozen=True, tag=True):
    """`collection.id == ts`."""

    ts: int
    collection: Collection


class AlterCollection(msgspec.Struct, frozen=True, tag=True):
    """Replaces a catalog entry by one with the same id, name, dimension, metric and shards."""

    ts: int
    collection: Collection


class SwitchCollection(msgspec.Struct, frozen=True, tag=True):
    """The generation `collection_id` takes the place of the one that it `replaces`, at `wall_ms`;
    aliases go with it."""

    ts: int
    collection_id: int
    wall_ms: int


class DropCollection(msgspec.Struct, frozen=True, tag=True):
    """One generation of a collection ends, and with the one in force its aliases."""

    ts: int
    collection_id: int


class SetAliases(msgspec.Struct, frozen=True, tag=True):
    """Replaces all aliases at once: alias → collection id."""

    ts: int
    aliases: dict[str, int]


class Moves(msgspec.Struct, frozen=True):
    """What is on its way between workers.

    `joining`: shard → the worker that copies it from a replica, and does not vote. `leaving`: shard
    → workers that are no replicas any more, and keep what they have until no replica can lack it.
    `draining`: workers that shall hold nothing.
    """

    joining: dict[int, str] = {}
    leaving: dict[int, tuple[str, ...]] = {}
    draining: tuple[str, ...] = ()


class SetPlacement(msgspec.Struct, frozen=True, tag=True):
    """Replaces the whole placement: shard → its replicas' worker ids.

    The replicas of a shard differ from those before by one worker at most.
    """

    ts: int
    replicas: dict[int, tuple[str, ...]]
    moves: Moves = Moves()


class Takeover(msgspec.Struct, frozen=True, tag=True):
    """First decision (term, 0) of a term.

    `base` is the highest surveyed cursor; `bases` maps each earlier term to where the history
    before it ended, this term's own included. `decisions` are the records from `decisions_after`
    (exclusive) to the base: back to the least surveyed cursor where they fit into a record, else a
    worker that is further behind asks another one (`TailRequest`). `collections` and `replicas` are
    the whole state at the base, for whoever joins here. Whatever lies beyond the base is undone,
    and every undecided PREPARE of an older term is dropped. `founders` as in `DomainState`.
    """

    ts: int
    base: int
    bases: dict[int, int]
    cluster_id: str
    collections: tuple[Collection, ...]
    replicas: dict[int, tuple[str, ...]]
    catalog_ts: int
    decisions_after: int
    decisions: tuple[DecisionRecord, ...]
    founders: tuple[str, ...] = ()
    aliases: dict[str, int] = {}
    moves: Moves = Moves()


Decision: TypeAlias = (
    Commit
    | Abort
    | CreateCollection
    | AlterCollection
    | SwitchCollection
    | DropCollection
    | SetAliases
    | SetPlacement
    | Takeover
)


class DecisionRecord(Message, frozen=True):
    """One append to the decision log: all that was decidable at once, in commit order.

    `prev_ts` is the last ts of the record before; `wall_ms` never decreases along the log.
    """

    term: int
    prev_ts: int
    wall_ms: int
    decisions: tuple[Decision, ...]

    @property
    def last_ts(self) -> int:
        return self.decisions[-1].ts


# --- outcomes and beats: sequencer → gateways --------------------------------------------------


class Outcome(msgspec.Struct, frozen=True):
    """`commit_ts` 0 means aborted for `reason` (an error code)."""

    txn_id: bytes
    commit_ts: int
    deleted: int = 0
    reason: str = ""
    detail: str = ""


class Beat(Message, frozen=True):
    """The sequencer is alive: what is stable now, and the newest catalog's ts.

    Carries the outcomes released since the last beat to the gateway it is addressed to. Every
    placed worker is durable up to `floor_ts`: decisions up to there need not be remembered.
    Every decision up to `last_ts` was made at or before `wall_ms`, every later one after it.
    """

    term: int
    coordinator: str
    cluster_id: str
    stable_ts: int
    catalog_ts: int
    wall_ms: int
    floor_ts: int = 0
    outcomes: tuple[Outcome, ...] = ()
    last_ts: int = 0


# --- takeover: candidate ↔ workers -------------------------------------------------------------


class NeedTakeover(Message, frozen=True):
    """A worker or gateway cannot follow `term` any further (a log is damaged, lost or has a
    gap)."""

    sender: str
    term: int
    reason: str


class PromiseRequest(Message, frozen=True):
    """`cluster_id` "" when the candidate does not know it yet."""

    term: int
    coordinator: str
    cluster_id: str


class Promise(Message, frozen=True):
    """A worker's fsynced promise, and what it knows. `granted` false: it promised `promised`
    already."""

    worker: str
    granted: bool
    promised: int
    cluster_id: str
    cursor: int
    bases: dict[int, int]
    collections: tuple[Collection, ...]
    catalog_ts: int
    replicas: dict[int, tuple[str, ...]]
    wall_ms: int
    tail: tuple[DecisionRecord, ...]
    tail_from: int = 0
    founders: tuple[str, ...] = ()
    aliases: dict[str, int] = {}
    moves: Moves = Moves()


# --- what a worker lacks: worker ↔ worker, request / reply ---------------------------------------


class PartRequest(Message, frozen=True):
    """Asks another replica of `shard` for the records of a transaction's part: its chunks, then its
    PREPARE. `skip` of them are here already; `worker` asks, and its cursor is `cursor`."""

    txn_id: bytes
    shard: int
    skip: int = 0
    worker: str = ""
    cursor: int = 0


class PartReply(Message, frozen=True):
    """Framed shard-log records as they were logged, from `skip` on; `more` when others follow.

    Empty without `more`: this replica does not have the part whole. `removed`: the placement has
    long taken the shard from the worker that asks, and it need not have the rows.
    """

    records: tuple[bytes, ...]
    more: bool
    removed: bool = False


class TailRequest(Message, frozen=True):
    """Asks another worker for the decision records in (`after_ts`, `up_to_ts`], as history goes in
    `term`."""

    term: int
    after_ts: int
    up_to_ts: int


class TailReply(Message, frozen=True):
    """The next of them, in order; empty: this worker does not have them, or not in that term."""

    records: tuple[DecisionRecord, ...]


class EnterRequest(Message, frozen=True):
    """Asks a replica for where it stands, for a worker that holds nothing and whose place in the
    decision log was trimmed away."""

    worker: str
    term: int


class EnterReply(Message, frozen=True):
    """Catalog and placement as of `ts` or a little later, the records from there on, and the
    decision log's sequence of the last of them. Nothing can undo what is up to `ts`."""

    term: int
    ts: int
    cluster_id: str
    bases: dict[int, int]
    collections: tuple[Collection, ...]
    replicas: dict[int, tuple[str, ...]]
    catalog_ts: int
    aliases: dict[str, int]
    moves: Moves
    wall_ms: int
    records: tuple[DecisionRecord, ...]
    decision_seq: int


# --- copying a shard: joining worker → replica, request / reply ----------------------------------


class FollowRequest(Message, frozen=True):
    """Asks a replica for the records of everything undecided at `shard` that it logged after
    `after_lsn`, so that the shard's log can be followed from the replica's position."""

    shard: int
    term: int
    after_lsn: int = 0


class FollowReply(Message, frozen=True):
    """(sequence, framed record) as the replica logged them. `more`: ask again after `last_lsn`;
    else `position` is where the replica stands in the shard's log."""

    records: tuple[tuple[int, bytes], ...]
    more: bool
    last_lsn: int
    position: int


class SnapshotRequest(Message, frozen=True):
    """Asks a replica to set aside all it has of `shard` as of a stable snapshot, at least
    `min_ts`."""

    shard: int
    min_ts: int


class SnapshotFile(msgspec.Struct, frozen=True):
    """A file of a snapshot, told by its place in `SnapshotReply.files`."""

    name: str
    size_bytes: int


class SnapshotSegment(msgspec.Struct, frozen=True):
    """A sealed segment: its name at the replica, its files as numbers, and the one of its deaths
    (-1: none), `deaths` many."""

    name: str
    files: dict[str, int]
    deaths_file: int
    deaths: int


class SnapshotSlice(msgspec.Struct, frozen=True):
    """One collection's rows: segments oldest first, then the image of rows in memory (-1: none)."""

    collection_id: int
    segments: tuple[SnapshotSegment, ...]
    image: int


class SnapshotReply(Message, frozen=True):
    """What was set aside, as of `ts`. It is kept for as long as it is read now and then.

    `timeline` and `decided` are what the replica remembers (see `Timeline` and `Decided`).
    """

    snapshot: str
    worker: str
    ts: int
    files: tuple[SnapshotFile, ...]
    slices: tuple[SnapshotSlice, ...]
    timeline: bytes
    decided: bytes


class SnapshotRead(Message, frozen=True):
    """Asks for bytes [offset, offset + size_bytes) of a file; `done` instead gives the snapshot
    back."""

    snapshot: str
    file: int
    offset: int
    size_bytes: int
    done: bool = False


class SnapshotBytes(Message, frozen=True):
    """The bytes, and their CRC32C as they were read."""

    data: bytes
    crc32c: int


# --- catalog, members, status: request / reply ------------------------------------------------


class CreateCollectionRequest(Message, frozen=True):
    """`shards` 0 = one per active worker."""

    name: str
    dimension: int
    metric: str
    shards: int
    if_absent: bool = False
    index: IndexOptions = IndexOptions()
    recall_target: float = RECALL_TARGET
    fields: tuple[str, ...] = ()


class AlterCollectionRequest(Message, frozen=True):
    """None leaves a property as it is. Merged by the sequencer, so no change undoes another."""

    name: str
    index: IndexChange | None = None
    recall_target: float | None = None
    fields: tuple[str, ...] | None = None


class SpreadRequest(Message, frozen=True):
    """Spread a collection over so many shards; over as many as now: give up what is on its way."""

    name: str
    shards: int


class CopyRequest(Message, frozen=True):
    """Coordinator to any gateway: copy a page of one generation's rows to another, those with ids
    above `after`, as one transaction of at most `rows_max` rows."""

    source: int
    target: int
    after: bytes
    rows_max: int


class CopyReply(Message, frozen=True):
    """Every row of the source with an id up to `last` is in the target; `done`: none lies above.
    `read` rows were looked at, `copied` of them were not there yet."""

    last: bytes
    done: bool
    read: int
    copied: int


class SetAliasesRequest(Message, frozen=True):
    """Alias → name of a collection, None removes it; all of them in one decision."""

    changes: dict[str, str | None]


class DropCollectionRequest(Message, frozen=True):
    name: str


class DrainRequest(Message, frozen=True):
    """Asks that a worker shall hold nothing; `drain` false takes that back."""

    worker: str
    drain: bool


class CatalogRequest(Message, frozen=True):
    pass


class CatalogReply(Message, frozen=True):
    """The catalog as decided and durable up to `catalog_ts`.

    `replication_factor`: the replicas that each shard should have.
    """

    term: int
    catalog_ts: int
    stable_ts: int
    wall_ms: int
    collections: tuple[Collection, ...]
    replicas: dict[int, tuple[str, ...]]
    workers: tuple[Member, ...]
    aliases: dict[str, int] = {}
    moves: Moves = Moves()
    replication_factor: int = 0


class Member(Message, frozen=True):
    """A worker's heartbeat: who it is, of which cluster, and how far. `ready` once it recovered.

    `simd`: the instruction set that its FAISS build uses; `native`: the one of its compiled loops.
    `joined`: shards that it has copied whole and durably, as far as the placement at its cursor
    wants that. `copying`: shard → bytes here, and bytes in all.
    """

    worker: str
    term: int
    ready: bool
    zone: str
    shards: tuple[int, ...]
    cursor: int
    cluster_id: str = ""
    simd: str = ""
    native: str = ""
    joined: tuple[int, ...] = ()
    copying: dict[int, tuple[int, int]] = {}


class TxnStatusRequest(Message, frozen=True):
    """`deadline_ms` 0 when it is not known: past it an unknown transaction can no longer commit."""

    txn_id: bytes
    term: int
    deadline_ms: int = 0


class TxnStatus(Message, frozen=True):
    """`state`: committed | aborted | pending | unknown."""

    state: str
    commit_ts: int = 0
    reason: str = ""
    detail: str = ""
    deleted: int = 0


class AbortRequest(Message, frozen=True):
    """Asks the sequencer to abort a transaction unless it is decided; answered with `TxnStatus`.

    `participants` are the shards that hold chunks of it, `deadline_ms` when it expires.
    """

    txn_id: bytes
    term: int
    participants: tuple[int, ...]
    deadline_ms: int


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


# --- reads: gateway → shard worker, request / reply ---------------------------------------------


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
    kinds: dict[str, int] = {}
    recall: float = 0.0
    recall_samples: int = 0
    building: tuple[int, int] = (0, 0)
    bytes_predicted: int = 0
    bytes_resident: int = 0


class ErrorReply(Message, frozen=True):
    """The far side's `VectorDBError`."""

    code: str
    message: str
    details: dict[str, Any]


AnyMessage: TypeAlias = (
    Prepare | Stage | Vote | Votes | Durable | DecisionRecord | Beat
    | NeedTakeover | PromiseRequest | Promise | PartRequest | PartReply | TailRequest | TailReply
    | EnterRequest | EnterReply | FollowRequest | FollowReply
    | SnapshotRequest | SnapshotReply | SnapshotRead | SnapshotBytes
    | CreateCollectionRequest | AlterCollectionRequest | SpreadRequest | CopyRequest | CopyReply
    | SetAliasesRequest | DropCollectionRequest
    | DrainRequest | CatalogRequest | CatalogReply | Member
    | TxnStatusRequest | TxnStatus | AbortRequest
    | StrongRequest | StrongReply | ConfirmRequest | ConfirmReply
    | StagedRequest | AsOfRequest | AsOfReply | SearchRequest | SearchReply
    | FetchRequest | RowsReply | CountRequest | CountReply
    | ScrollRequest | StatsRequest | StatsReply | ErrorReply
)  # fmt: skip
