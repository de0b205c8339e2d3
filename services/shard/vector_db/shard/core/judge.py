"""What a replica says to one shard's part of a transaction: YES, or why not. Pure.

Owns the rule of architecture section 4, step 2, and what it is for collections of which a second
generation is filled (docs/adr/0019). NO may be spurious; YES must hold of the rows as
they are at the cursor, which the caller has made at least the part's snapshot.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vector_db.common.core.domain import DomainState
from vector_db.common.core.messages.transactions import Prepare, ReadSet
from vector_db.common.model.collection import Collection
from vector_db.common.model.rows import RowBlock
from vector_db.shard.core.conflicts import Conflicts, Footprint
from vector_db.shard.core.parts import RowStore
from vector_db.shard.core.staging import Part, Shape, read_hashes, shape_of
from vector_db.shard.core.steps import Steps


class Verdict(NamedTuple):
    """An empty `reason` (an error code) is YES; `deleted` counts the rows that deletes find."""

    reason: str = ""
    detail: str = ""
    deleted: int = 0


_DROPPED = Verdict("not_found", "the collection was dropped")
_OVER = Verdict("conflict", "another generation of the collection is in force")


def judge(
    part: Part,
    prepare: Prepare,
    touches: Footprint,
    state: DomainState,
    others: Conflicts,
    store: RowStore,
    full: str,
    floor_ts: int,
) -> Steps[Verdict]:
    """The verdict on a part whose PREPARE is here and touches `touches`.

    `others` are the shard's other undecided transactions; `full` says why rows cannot be taken now.
    What was deleted up to `floor_ts` may be forgotten: no older snapshot can be compared with.
    """
    if part.late or not part.whole:
        return _not_whole(part, prepare)
    shapes = part.shapes()
    for shape in sorted(shapes):
        refusal = _refusal(shape, state.collections.get(shape.collection_id), prepare.snapshot_ts)
        if refusal is not None:
            return refusal
        if full and not shape.delete:
            return Verdict("storage_full", full)
    for read in prepare.reads:
        if (of := state.collections.get(read.collection_id)) is None:
            return _DROPPED
        if not _is_writable(of, prepare.snapshot_ts):
            return _OVER
    judged = any(shape.is_judged(prepare.mode) for shape in shapes)
    if (prepare.reads or judged) and prepare.snapshot_ts < floor_ts:
        return Verdict("conflict", "the snapshot lies before the retention window")
    if others.any_with(touches):
        return Verdict("conflict", "another undecided transaction touches the same rows")
    for read in prepare.reads:
        yield len(read.ids)
        if _changed(read, part.shard, prepare.snapshot_ts, store):
            return Verdict("conflict", "what was read changed since the snapshot")
    if not judged:
        return Verdict()
    return (yield from _check_versions(part, prepare, store))


def _refusal(shape: Shape, collection: Collection | None, snapshot_ts: int) -> Verdict | None:
    """Why the catalog forbids a block, whatever rows there are."""
    if collection is None:
        # Whether it is filled or was given up is another question than whether rows are written.
        return Verdict("conflict", "the generation is not known here") if shape.role else _DROPPED
    if collection.dimension != shape.dimension:
        return Verdict("invalid_argument", f"the dimension is {collection.dimension}")
    allowed = collection.replaces if shape.role else _is_writable(collection, snapshot_ts)
    return None if allowed else _OVER


def _is_writable(collection: Collection, snapshot_ts: int) -> bool:
    """Whether a transaction of this snapshot may write to or read from that generation: it is in
    force, and what the transaction compares with is its own."""
    return collection.in_force and collection.since_ts <= snapshot_ts


def _not_whole(part: Part, prepare: Prepare) -> Verdict:
    if part.arrived < prepare.stages:
        return Verdict("conflict", f"{part.arrived} of {prepare.stages} chunks arrived")
    if not part.whole:
        return Verdict("conflict", "the chunks that arrived are not those that were sent")
    return Verdict("conflict", "the chunks came after the commit, or expire before it")


def _changed(read: ReadSet, shard: int, snapshot_ts: int, store: RowStore) -> bool:
    if read.whole:
        return store.changed_ts(read.collection_id, shard) > snapshot_ts
    if not len(read.ids):
        return False
    keys = RowBlock(
        collection_id=read.collection_id,
        dimension=0,
        ids=read.ids,
        hashes=read_hashes(read).tobytes(),
        delete=True,
    )
    return bool(np.any(store.latest(shard, keys).changed_ts > snapshot_ts))


def _check_versions(part: Part, prepare: Prepare, store: RowStore) -> Steps[Verdict]:
    """First committer wins, and the preconditions of every row. Of mirrored rows the part of the
    generation in force says that, and counts the deleted ones."""
    deleted = 0
    for block in part.blocks():
        if not shape_of(block).is_judged(prepare.mode):
            continue
        latest = store.latest(part.shard, block)
        if np.any(latest.changed_ts > prepare.snapshot_ts):
            return Verdict("conflict", "a row changed since the snapshot")
        match block.precondition:
            case "absent":
                bad, reason, says = latest.exists, "already_exists", "exists already"
            case "copied":
                bad, reason, says = latest.exists, "conflict", "is there already"
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
        yield len(block)
    return Verdict(deleted=deleted)
