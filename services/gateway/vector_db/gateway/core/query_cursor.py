"""The opaque cursor of a query's pages: after which hit of which query, at which snapshot. Pure.

Owns the invariant that a page goes on exactly where the one before ended: a cursor that comes back
with another collection, vector, filter or transaction is refused, and in a transaction it keeps the
rows that were staged when the first page was read. `k`, `include`, the bound on similarity and the
effort may change: the order of the hits does not depend on them.
"""

from __future__ import annotations

import base64
import binascii
import math

import msgspec
import xxhash

from vector_db.common.model.errors import InvalidArgument
from vector_db.common.model.ids import TS_NEVER
from vector_db.common.model.limits import QUERY_DEPTH_MAX
from vector_db.common.model.rows import F32
from vector_db.gateway.core.cursor import filter_hash

CURSOR_VERSION = 1


class QueryCursor(msgspec.Struct, frozen=True, array_like=True, tag="q"):
    """The last hit of a page, (`similarity`, `row_id`), and how many hits were answered so far,
    `skip`. `chunks`: what the transaction had staged, by shard."""

    version: int
    collection_id: int
    snapshot_ts: int
    similarity: float
    row_id: bytes
    skip: int
    query_hash: int
    filter_hash: int
    txn_id: bytes = b""
    chunks: dict[int, int] = {}

    def encode(self) -> str:
        """URL-safe text."""
        return base64.urlsafe_b64encode(msgspec.msgpack.encode(self)).decode().rstrip("=")

    @property
    def place(self) -> tuple[float, bytes]:
        """After what in the order of hits the page begins."""
        return self.similarity, self.row_id


def query_hash(vector: F32, row_id: bytes | None) -> int:
    """The hash of a query: float32[1, d] and, when it searches by a row, the row's id."""
    state = xxhash.xxh3_64()
    state.update(vector.tobytes())
    state.update(b"" if row_id is None else row_id)
    return state.intdigest()


def decode_query_cursor(
    text: str, collection_id: int, filter: bytes, txn_id: bytes, k: int
) -> QueryCursor:
    """The cursor in `text`; whether it is of the same vector `check_query` tells.

    :raises InvalidArgument: not a cursor of this collection, filter and transaction, or a page of
        `k` hits would reach too deep.
    """
    try:
        raw = base64.urlsafe_b64decode(text.encode() + b"=" * (-len(text) % 4))
        cursor = msgspec.msgpack.decode(raw, type=QueryCursor)
    except (binascii.Error, ValueError, msgspec.DecodeError):
        raise InvalidArgument("after: not a cursor of a query of this database") from None
    if cursor.version != CURSOR_VERSION:
        raise InvalidArgument("after: of a newer version of the database")
    if not 0 <= cursor.snapshot_ts <= TS_NEVER:
        raise InvalidArgument("after: of a snapshot that does not exist")
    if not math.isfinite(cursor.similarity) or cursor.skip < 0:
        raise InvalidArgument("after: of a hit that does not exist")
    if cursor.collection_id != collection_id:
        raise InvalidArgument("after: of another collection")
    if cursor.filter_hash != filter_hash(filter):
        raise InvalidArgument("after: of a query with another filter")
    if cursor.txn_id != txn_id:
        whose = "in a transaction" if cursor.txn_id else "outside of this transaction"
        raise InvalidArgument(f"after: of a query {whose}, it goes on only there")
    if cursor.skip + k > QUERY_DEPTH_MAX:
        raise InvalidArgument(
            f"after: the page would end at hit {cursor.skip + k}, the limit query_depth_max is "
            f"{QUERY_DEPTH_MAX}; ask with a filter or a radius instead"
        )
    return cursor


def check_query(cursor: QueryCursor, digest: int) -> None:
    """:raises InvalidArgument: the cursor is of another query than the one with this hash."""
    if cursor.query_hash != digest:
        raise InvalidArgument("after: of a query with another vector or id")
