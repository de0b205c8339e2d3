"""Rows, lists and batches as REST has them, and as a history has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.checkers.history import Filter, ReadList, ReadRow, Row, Scroll, Write
from tests.support.clients.edge import Answer


def row_json(write: Write) -> dict[str, Any]:
    """A row as a request has it."""
    if write.row is None:
        raise ValueError("a deleted row has no body")
    row = write.row
    plain = {
        "id": write.key.partition("/")[2],
        "dimensions": row.vector,
        "metadata": row.metadata,
    }
    return plain | ({"if_version": write.expect} if isinstance(write.expect, int) else {})


def operations_of(writes: Sequence[Write]) -> list[dict[str, Any]]:
    """The operations of a batch: per collection what is written and what goes."""
    grouped: dict[tuple[str, str], list[Any]] = {}
    for write in writes:
        collection, _, row_id = write.key.partition("/")
        if write.row is None:
            grouped.setdefault((collection, "delete"), []).append(row_id)
        else:
            grouped.setdefault((collection, "upsert"), []).append(row_json(write))
    return [{"collection": c, kind: rows} for (c, kind), rows in grouped.items()]


def snapshot_of(answer: Answer, asked: dict[str, Any]) -> dict[str, Any]:
    """What a read told of its snapshot, and what it had asked for."""
    return {"snapshot_ts": answer.body["snapshot_ts"], **asked.get("consistency", {})}


def row_of(found: dict[str, Any]) -> Row:
    """A row as an answer has it."""
    metadata = found["metadata"]
    return Row(metadata["tag"], tuple(found["dimensions"]), metadata)


def rows_of(answer: Answer, collection: str, ids: Sequence[str]) -> list[ReadRow]:
    """What a fetch saw of each id."""
    there = {found["id"]: found for found in answer.body["vectors"]}
    seen = []
    for row_id in ids:
        found = there.get(row_id)
        key = f"{collection}/{row_id}"
        seen.append(ReadRow(key, row_of(found), found["version"]) if found else ReadRow(key, None))
    return seen


def scroll_of(answer: Answer, collection: str, filter: Filter | None) -> Scroll:
    """What one page saw."""
    rows = tuple((r["id"], row_of(r), r["version"]) for r in answer.body["vectors"])
    return Scroll(collection, filter, rows)


def lists_of(answer: Answer, keys: Sequence[str]) -> list[ReadList]:
    """What a fetch saw of each list."""
    there = {found["id"]: found for found in answer.body["vectors"]}
    return [
        ReadList(key, tuple(there[key]["metadata"]["l"]) if key in there else ()) for key in keys
    ]
