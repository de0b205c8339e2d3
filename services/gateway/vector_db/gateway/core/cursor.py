"""The opaque scroll cursor: which snapshot, which collection, after which id, under which
filter."""

from __future__ import annotations

import base64
import binascii

import msgspec
import xxhash

from vector_db.common.model.errors import InvalidArgument
from vector_db.common.model.ids import TS_NEVER


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """`filter_hash` lets a cursor be refused when it comes back with another filter; `txn_id` (of
    the open transaction that it was given in) when it leaves its transaction. `alias`: by which
    the collection was called, "" if by its name."""

    version: int
    collection_id: int
    snapshot_ts: int
    after: bytes
    filter_hash: int
    txn_id: bytes = b""
    alias: str = ""


def filter_hash(filter: bytes) -> int:
    """The hash of a filter's JSON text."""
    return xxhash.xxh3_64_intdigest(filter)


def encode_cursor(cursor: Cursor) -> str:
    """URL-safe text."""
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(cursor)).decode().rstrip("=")


def parse_cursor(text: str) -> Cursor:
    """The cursor in `text`, wherever it is from.

    :raises InvalidArgument: not a cursor.
    """
    try:
        raw = base64.urlsafe_b64decode(text.encode() + b"=" * (-len(text) % 4))
        cursor = msgspec.msgpack.decode(raw, type=Cursor)
    except (binascii.Error, ValueError, msgspec.DecodeError):
        raise InvalidArgument("cursor: not a cursor of this database") from None
    if cursor.version != 1:
        raise InvalidArgument("cursor: of a newer version of the database")
    if not 0 <= cursor.snapshot_ts <= TS_NEVER:
        raise InvalidArgument("cursor: of a snapshot that does not exist")
    return cursor


def decode_cursor(text: str, collection_id: int, filter: bytes, txn_id: bytes = b"") -> Cursor:
    """The cursor in `text`.

    :raises InvalidArgument: not a cursor of this collection, filter and transaction.
    """
    cursor = parse_cursor(text)
    if cursor.collection_id != collection_id:
        raise InvalidArgument("cursor: of another collection")
    if cursor.filter_hash != filter_hash(filter):
        raise InvalidArgument("cursor: of a scroll with another filter")
    if cursor.txn_id != txn_id:
        whose = "in a transaction" if cursor.txn_id else "outside of this transaction"
        raise InvalidArgument(f"cursor: of a scroll {whose}, it goes on only there")
    return cursor
