"""What is remembered of a write under its idempotency key: one row of a hidden collection. Pure.

Owns the form of that row: id ``key:`` + the key; a vector that means nothing; metadata with the
hash of the request, the count it was answered with and when it may be forgotten. The commit_ts of
the answer is the row's version, unless the metadata names another one.
"""

from __future__ import annotations

import re

import msgspec
import numpy as np

from vector_db.common.model.errors import IdempotencyMismatch, InvalidArgument
from vector_db.gateway.core.requests import Idempotency, RowsIn, Upsert, WriteResult

KEY_BYTES_MAX = 255
EXPIRES = "expires_ms"
"""The metadata field by which expired rows are found."""

_KEY = re.compile(rb"[\x21-\x7e]{1,%d}" % KEY_BYTES_MAX)


class Remembered(msgspec.Struct, frozen=True):
    """`request` is the request's hash in hex; `commit_ts` 0: the version of the row."""

    request: str
    count: int
    expires_ms: int
    commit_ts: int = 0


def row_id_of(key: bytes) -> bytes:
    """The row that remembers `key`.

    :raises InvalidArgument: not 1 to 255 visible ASCII characters.
    """
    if not _KEY.fullmatch(key):
        raise InvalidArgument(
            f"idempotency key: 1 to {KEY_BYTES_MAX} visible ASCII characters without spaces"
        )
    return b"key:" + key


def remembering(
    collection: str, row_id: bytes, what: Remembered, replaces_version: int | None
) -> Upsert:
    """The write of the row: there must be none, or the expired one of `replaces_version`."""
    rows = RowsIn([row_id], np.zeros((1, 1), dtype=np.float32), [msgspec.json.encode(what)])
    if replaces_version is None:
        return Upsert(collection, rows, "insert")
    return Upsert(collection, rows, if_version=np.array([replaces_version], dtype=np.int64))


def replay(metadata: bytes, version: int, asked: Idempotency, now_ms: int) -> WriteResult | None:
    """The answer that was given before; None once it is expired.

    :raises IdempotencyMismatch: the key came with another request.
    """
    known = msgspec.json.decode(metadata, type=Remembered)
    if known.expires_ms <= now_ms:
        return None
    if known.request != asked.request_hash.hex():
        raise IdempotencyMismatch(
            f"the idempotency key {asked.key.decode()!r} was used with another request"
        )
    return WriteResult(known.count, known.commit_ts or version, replayed=True)
