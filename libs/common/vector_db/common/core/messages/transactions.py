"""The commit of a transaction: gateways log its parts at shards, replicas vote, and the sequencer
tells what became of it.

PREPARE and its chunks go through the shard logs, votes and cursors to the sequencer, outcomes and
beats to the gateways. What a gateway may ask about one that it hears nothing of is here too.
"""

from __future__ import annotations

import msgspec

from vector_db.common.core.messages.base import Message
from vector_db.common.model.rows import Blob, RowBlock


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
