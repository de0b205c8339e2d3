"""What the participant works with: its rows, parts of transactions, effects, and its checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
import numpy as np

from vector_db.common.core.domain import DomainState
from vector_db.common.core.messages import DecisionRecord, Prepare, Stage, Vote
from vector_db.common.model.collection import Collection
from vector_db.common.model.rows import I64, RowBlock
from vector_db.shard.core.conflicts import Key


@dataclass(frozen=True, slots=True)
class Latest:
    """The newest version of each key of a block.

    `exists` bool[n]; `changed_ts` int64[n], when it was last written or deleted (0: never);
    `version` int64[n], commit_ts of the version that is alive, else 0.
    """

    exists: np.ndarray[tuple[int], np.dtype[np.bool_]]
    changed_ts: I64
    version: I64


class RowStore(Protocol):
    """What the participant needs of the storage."""

    def add_collection(self, c: Collection) -> None: ...

    def latest(self, shard: int, block: RowBlock) -> Latest: ...

    def apply(self, shard: int, block: RowBlock, commit_ts: int) -> int: ...

    def undo_above(self, ts: int) -> None: ...


class ChainBroken(Exception):
    """A decision record does not follow the last one: only a takeover mends it."""


@dataclass(slots=True)
class Part:
    """One shard's part of an undecided transaction; `lsn` is its oldest record in the WAL."""

    txn_id: bytes
    shard: int
    lsn: int
    deadline_ms: int
    stages: dict[int, Stage] = field(default_factory=dict)
    prepare: Prepare | None = None
    vote: Vote | None = None

    def blocks(self) -> Iterator[RowBlock]:
        """Every block of the part, stages first, in order."""
        for index in sorted(self.stages):
            yield from self.stages[index].blocks
        if self.prepare is not None:
            yield from self.prepare.blocks

    def keys(self) -> Iterator[Key]:
        """Every key that the part writes."""
        for block in self.blocks():
            for row_id in block.ids.unpack():
                yield (block.collection_id, row_id)

    def collections(self) -> tuple[int, ...]:
        return tuple(sorted({b.collection_id for b in self.blocks()}))


@dataclass(slots=True)
class Effects:
    """What the caller does, in this order: sync the log, then send."""

    votes: list[Vote] = field(default_factory=list)
    cursor_moved: bool = False


class Checkpoint(msgspec.Struct, frozen=True):
    """What a worker's manifest says of the protocol: enough to begin again at `cursor`."""

    cluster_id: str
    promised: int
    promised_to: str
    cursor: int
    wall_ms: int
    bases: dict[int, int]
    state: DomainState
    positions: dict[int, int]
    decision_seq: int
    replay_lsn: int
    tail: tuple[DecisionRecord, ...]
    tail_from: int
