"""Collections, aliases, placement and members: what is asked of the coordinator, and of gateways by
it.
"""

from __future__ import annotations

import msgspec

from vector_db.common.core.messages.base import Message
from vector_db.common.core.messages.decisions import Moves
from vector_db.common.model.collection import RECALL_TARGET, Collection, IndexChange, IndexOptions


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
    aliases: dict[str, int] = msgspec.field(default_factory=dict)
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
    copying: dict[int, tuple[int, int]] = msgspec.field(default_factory=dict)
