"""What the participant works with: its rows, its effects, what it lacks, and its checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import msgspec
import numpy as np

from vector_db.common.core.domain import DomainState
from vector_db.common.core.messages.decisions import DecisionRecord
from vector_db.common.core.messages.transactions import Vote
from vector_db.common.model.collection import Collection
from vector_db.common.model.rows import I64, RowBlock


@dataclass(frozen=True, slots=True)
class Latest:
    """The newest version of each key of a block.

    `exists` bool[n]; `changed_ts` int64[n], when it was last written or deleted (0: never);
    `version` int64[n], that of the row that is alive, else 0: when it was written, in whichever
    generation of the collection.
    """

    exists: np.ndarray[tuple[int], np.dtype[np.bool_]]
    changed_ts: I64
    version: I64


class RowStore(Protocol):
    """What the participant needs of the storage."""

    def add_collection(self, c: Collection) -> None: ...

    def latest(self, shard: int, block: RowBlock) -> Latest: ...

    def changed_ts(self, collection_id: int, shard: int) -> int:
        """Newest commit that touched the collection at the shard; may be too new, never too old."""

    def apply(self, shard: int, block: RowBlock, commit_ts: int) -> int: ...

    def undo_above(self, ts: int) -> None: ...

    def shards(self) -> set[int]:
        """Those that have rows here."""


class ChainBroken(Exception):
    """A decision record does not follow the last one: only a takeover mends it."""


@dataclass(slots=True)
class Effects:
    """What the caller does, in this order: sync the log, then send."""

    votes: list[Vote] = field(default_factory=list)
    cursor_moved: bool = False


@dataclass(frozen=True, slots=True)
class Missing:
    """What the next decision record of `term` waits for.

    `tail`: decisions in (after, up to], from any worker that is past the takeover. `parts`: (txn
    id, shard) of rows, from another worker that holds the shard in `state`. `takeover`: it waits
    for no log, so a peer is to be asked at once.
    """

    term: int
    takeover: bool
    state: DomainState
    tail: tuple[int, int] | None = None
    parts: tuple[tuple[bytes, int], ...] = ()


class Checkpoint(msgspec.Struct, frozen=True):
    """What a worker's manifest says of the protocol: enough to begin again at `cursor`.

    `decided` and `timeline` are packed (see `Decided` and `Timeline`); `prompt` are the undecided
    parts that were voted on when their PREPARE came. `joined` and `lost`: see `Holdings`.
    """

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
    decided: bytes = b""
    timeline: bytes = b""
    prompt: tuple[tuple[bytes, int], ...] = ()
    joined: dict[int, int] = {}
    lost: tuple[int, ...] = ()

    @classmethod
    def initial(cls) -> Checkpoint:
        """That of a worker that knows nothing yet."""
        return cls("", 0, "", 0, 0, {}, DomainState(), {}, 0, 0, (), 0)
