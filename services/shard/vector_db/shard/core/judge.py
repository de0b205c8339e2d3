"""What a replica says to one shard's part of a transaction: YES, or why not. Pure.

Owns the rule of architecture section 4, step 2. NO may be spurious; YES must hold of the rows as
they are at the cursor, which the caller has made at least the part's snapshot.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vector_db.common.core.domain import DomainState
from vector_db.common.core.messages import Prepare
from vector_db.common.model.rows import ids_checksum
from vector_db.shard.core.conflicts import Conflicts
from vector_db.shard.core.parts import Part, RowStore


class Verdict(NamedTuple):
    """An empty `reason` (an error code) is YES; `deleted` counts the rows that deletes find."""

    reason: str = ""
    detail: str = ""
    deleted: int = 0


def judge(
    part: Part,
    prepare: Prepare,
    state: DomainState,
    others: Conflicts,
    store: RowStore,
    full: str,
) -> Verdict:
    """The verdict on a part whose PREPARE is here.

    `others` are the shard's other undecided transactions; `full` says why rows cannot be taken now.
    """
    if len(part.stages) != prepare.stages:
        return Verdict("conflict", f"{len(part.stages)} of {prepare.stages} chunks arrived")
    chunks = (part.stages[index].blocks for index in sorted(part.stages))
    if prepare.stages and ids_checksum(chunks) != prepare.stages_crc:
        return Verdict("conflict", "the chunks that arrived are not those that were sent")
    for block in part.blocks():
        collection = state.collections.get(block.collection_id)
        if collection is None:
            return Verdict("not_found", "the collection was dropped")
        if collection.dimension != block.dimension:
            return Verdict("invalid_argument", f"the dimension is {collection.dimension}")
        if full and not block.delete:
            return Verdict("storage_full", full)
    blind = prepare.mode == "blind"
    if others.any_with(part.keys, blind):
        return Verdict("conflict", "another undecided transaction writes the same rows")
    return Verdict() if blind else _check_versions(part, prepare.snapshot_ts, store)


def _check_versions(part: Part, snapshot_ts: int, store: RowStore) -> Verdict:
    """First committer wins, and the preconditions of every row."""
    deleted = 0
    for block in part.blocks():
        latest = store.latest(part.shard, block)
        if np.any(latest.changed_ts > snapshot_ts):
            return Verdict("conflict", "a row changed since the snapshot")
        match block.precondition:
            case "absent":
                bad, reason, says = latest.exists, "already_exists", "exists already"
            case "present":
                bad, reason, says = ~latest.exists, "not_found", "does not exist"
            case "version":
                bad = latest.version != block.version_array()
                reason, says = "precondition_failed", "has another version"
            case _:
                bad, reason, says = np.zeros(len(block), dtype=np.bool_), "", ""
        if bad.any():
            first = block.ids.unpack()[int(bad.argmax())].decode()
            return Verdict(reason, f"id {first!r} {says} ({int(bad.sum())} of {len(block)} rows)")
        if block.delete:
            deleted += int(latest.exists.sum())
    return Verdict(deleted=deleted)
