"""The decision log: what the sequencer decided, in commit order, for everyone.

A decision's `ts` is its place in the history; see `history` for how terms follow each other.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from vector_db.common.core.messages.base import Message
from vector_db.common.model.collection import Collection


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
