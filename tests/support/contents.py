"""What collections hold, as clients see it, in a form to compare bit by bit."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import orjson

from vector_db_client import VectorDatabaseClient

Contents = dict[str, tuple[bytes, bytes | None]]
"""Id → (bytes of the vector, metadata as JSON)."""


def contents(
    client: VectorDatabaseClient, collection: str, as_of: int | datetime | None = None
) -> Contents:
    """Every row of a collection right after a commit, at a time, or now."""
    at: dict[str, Any] = {"consistency": "strong"} if as_of is None else {"as_of": as_of}
    found: Contents = {}
    for row in client.scroll(collection=collection, **at):
        assert row.vector is not None
        metadata = None if row.metadata is None else orjson.dumps(row.metadata)
        assert row.id not in found
        found[row.id] = (row.vector.tobytes(), metadata)
    return found
