"""The handle of an open transaction: all that is known of it, in one signed URL-safe text. Pure.

Owns the invariants that a token which was not made with this cluster's key is refused, and that
none is longer than `TOKEN_CHARS_MAX`, so that it always fits into an HTTP header.

Text: base64url of ``version u8 | msgpack body | HMAC-SHA256 of both, cut to 16 bytes``. It is
signed, not encrypted.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Mapping

import msgspec

from vector_db.common.model.errors import InvalidArgument, TooLarge
from vector_db.gateway.core.requests import Isolation

TOKEN_VERSION = 1
TOKEN_CHARS_MAX = 7_000
SHARDS_PER_TRANSACTION_MAX = 256
"""Shards that one open transaction may write to: each takes up to 17 bytes of its token."""
COLLECTIONS_READ_MAX = 32
"""Collections that one serializable transaction may read: each takes up to 16 bytes."""
READ_KEYS_MAX = 64
READ_KEY_BYTES_MAX = 4096
"""Keys read beyond this make their whole collection count as read."""

_MAC_BYTES = 16
_BODY_BYTES_MAX = TOKEN_CHARS_MAX * 3 // 4 - 1 - _MAC_BYTES
_LABEL = b"vector-db transaction token\0"


class StagedAt(msgspec.Struct, frozen=True, array_like=True):
    """What one shard was sent: `chunks` STAGE records, `crc` the running checksum of them."""

    chunks: int
    crc: int


class Token(msgspec.Struct, frozen=True, array_like=True):
    """An open transaction.

    `deadline_ms`: when it expires, on the sequencer's clock. `staged`: by shard. `rows`: what its
    statements counted. `reads`: collection id → the keys read of it, None for the whole of it;
    kept for a serializable transaction only. `catalog_ts`: the oldest catalog by which staged rows
    were given to shards, 0 where none are staged.
    """

    txn_id: bytes
    term: int
    snapshot_ts: int
    serializable: bool
    deadline_ms: int
    rows: int = 0
    staged: dict[int, StagedAt] = {}
    reads: dict[int, tuple[bytes, ...] | None] = {}
    catalog_ts: int = 0

    @property
    def isolation(self) -> Isolation:
        return "serializable" if self.serializable else "snapshot"

    def with_staged(self, staged: Mapping[int, StagedAt], rows: int, catalog_ts: int) -> Token:
        """The token after a statement: `staged` replaces what its shards had, by the catalog of
        `catalog_ts`; another gateway may have an older one than that of the rows before.

        :raises TooLarge: more shards than a token has room for.
        """
        merged = {**self.staged, **staged}
        if len(merged) > SHARDS_PER_TRANSACTION_MAX:
            raise TooLarge(
                f"the transaction writes to {len(merged)} shards, the limit "
                f"shards_per_transaction_max is {SHARDS_PER_TRANSACTION_MAX}"
            )
        return msgspec.structs.replace(
            self, staged=merged, rows=self.rows + rows, catalog_ts=self.oldest(catalog_ts)
        )

    def oldest(self, catalog_ts: int) -> int:
        """The older one of this catalog and that of the rows staged so far."""
        return min(self.catalog_ts, catalog_ts) if self.staged else catalog_ts

    def with_read(self, collection_id: int, keys: Iterable[bytes] | None) -> Token:
        """The token after a read of these keys, or (None) of the whole collection.

        :raises TooLarge: more collections than a token has room for.
        """
        if not self.serializable:
            return self
        known = self.reads.get(collection_id, ())
        both = None if keys is None or known is None else tuple(dict.fromkeys((*known, *keys)))
        if collection_id in self.reads and both == known:
            return self
        reads = {**self.reads, collection_id: both}
        if len(reads) > COLLECTIONS_READ_MAX:
            raise TooLarge(
                f"the transaction reads {len(reads)} collections, the limit "
                f"collections_read_max is {COLLECTIONS_READ_MAX}"
            )
        return msgspec.structs.replace(self, reads=_within_limits(reads))


def _within_limits(
    reads: dict[int, tuple[bytes, ...] | None],
) -> dict[int, tuple[bytes, ...] | None]:
    """The reads with whole collections in place of the longest lists of keys, until they fit."""
    while True:
        keys = {c: k for c, k in reads.items() if k is not None}
        count = sum(map(len, keys.values()))
        size_bytes = sum(len(key) for k in keys.values() for key in k)
        if count <= READ_KEYS_MAX and size_bytes <= READ_KEY_BYTES_MAX:
            return reads
        reads = _escalated(reads)


def _escalated(
    reads: Mapping[int, tuple[bytes, ...] | None],
) -> dict[int, tuple[bytes, ...] | None]:
    sizes = {c: sum(map(len, k)) + len(k) for c, k in reads.items() if k is not None}
    largest = max(sizes, key=lambda c: sizes[c])
    return {**reads, largest: None}


def signing_key(secret: str | None, cluster_id: str) -> bytes:
    """The key of one cluster's tokens: of the configured secret, or (None) of its id alone."""
    return hmac.digest((secret or "").encode(), _LABEL + cluster_id.encode(), hashlib.sha256)


def encode_token(token: Token, key: bytes) -> str:
    """URL-safe text; keys read give way to whole collections where it would be too long.

    :raises TooLarge: too long nevertheless.
    """
    body = msgspec.msgpack.encode(token)
    while len(body) > _BODY_BYTES_MAX and any(k is not None for k in token.reads.values()):
        token = msgspec.structs.replace(token, reads=_escalated(token.reads))
        body = msgspec.msgpack.encode(token)
    if len(body) > _BODY_BYTES_MAX:
        raise TooLarge(f"the transaction's token passes {TOKEN_CHARS_MAX} characters")
    signed = bytes((TOKEN_VERSION,)) + body
    return base64.urlsafe_b64encode(signed + _mac(signed, key)).decode().rstrip("=")


def decode_token(text: str, key: bytes) -> Token:
    """The transaction in `text`.

    :raises InvalidArgument: not a token of this cluster, altered, or of a newer version.
    """
    if len(text) > TOKEN_CHARS_MAX:
        raise InvalidArgument(f"transaction: a token has at most {TOKEN_CHARS_MAX} characters")
    try:
        raw = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), b"-_", True)
    except (UnicodeEncodeError, binascii.Error, ValueError):
        raise InvalidArgument("transaction: not a token of this database") from None
    signed, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
    if len(signed) < 2:
        raise InvalidArgument("transaction: not a token of this database")
    if signed[0] > TOKEN_VERSION:
        raise InvalidArgument("transaction: a token of a newer version of the database")
    if not hmac.compare_digest(mac, _mac(signed, key)):
        raise InvalidArgument("transaction: not a token of this cluster, or an altered one")
    try:
        return msgspec.msgpack.decode(signed[1:], type=Token)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise InvalidArgument("transaction: not a token of this database") from None


def _mac(signed: bytes, key: bytes) -> bytes:
    return hmac.digest(key, signed, hashlib.sha256)[:_MAC_BYTES]
