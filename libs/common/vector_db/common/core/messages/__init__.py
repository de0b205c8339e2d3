"""Every message of the mesh as a frozen struct, a module for each conversation.

One tagged union, so that a codec decodes any of them and a loopback passes them as they are. Which
subject carries which is said in `subjects.py`. Timestamps are packed commit timestamps
(`model.ids`), `*_ms` are wall-clock milliseconds since 1970, and float32 / int64 columns are
little-endian bytes.
"""

from __future__ import annotations

from typing import TypeAlias

from vector_db.common.core.messages.base import ErrorReply
from vector_db.common.core.messages.catalog import (
    AlterCollectionRequest,
    CatalogReply,
    CatalogRequest,
    CopyReply,
    CopyRequest,
    CreateCollectionRequest,
    DrainRequest,
    DropCollectionRequest,
    Member,
    SetAliasesRequest,
    SpreadRequest,
)
from vector_db.common.core.messages.catching_up import (
    EnterReply,
    EnterRequest,
    PartReply,
    PartRequest,
    TailReply,
    TailRequest,
)
from vector_db.common.core.messages.copies import (
    FollowReply,
    FollowRequest,
    SnapshotBytes,
    SnapshotRead,
    SnapshotReply,
    SnapshotRequest,
)
from vector_db.common.core.messages.decisions import DecisionRecord
from vector_db.common.core.messages.reads import (
    AsOfReply,
    AsOfRequest,
    ConfirmReply,
    ConfirmRequest,
    CountReply,
    CountRequest,
    FetchRequest,
    RowsReply,
    ScrollRequest,
    SearchReply,
    SearchRequest,
    StagedRequest,
    StatsReply,
    StatsRequest,
    StrongReply,
    StrongRequest,
)
from vector_db.common.core.messages.takeover import NeedTakeover, Promise, PromiseRequest
from vector_db.common.core.messages.transactions import (
    AbortRequest,
    Beat,
    Durable,
    Prepare,
    Stage,
    TxnStatus,
    TxnStatusRequest,
    Vote,
    Votes,
)

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
