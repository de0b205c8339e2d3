"""What a worker lacks of the history that it follows, asked of another worker.

Rows of a commit that did not reach it, decisions that a takeover does not tell, or, for one that
holds nothing, a place to begin at.
"""

from __future__ import annotations

from vector_db.common.core.messages.base import Message
from vector_db.common.core.messages.decisions import DecisionRecord, Moves
from vector_db.common.model.collection import Collection


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
