"""Row ids, collection names and commit timestamps: their rules and their packing.

Owns the invariant that a commit timestamp is one integer below 2**53 (exact in every JSON client):
17 bits of term above 36 bits of n, so comparing integers compares (term, n).
"""

from __future__ import annotations

import re
import unicodedata

from vector_db.common.model.errors import InvalidArgument
from vector_db.common.model.limits import COLLECTION_NAME_CHARS_MAX, ID_BYTES_MAX

N_BITS = 36
TERM_BITS = 17
TERM_MAX = (1 << TERM_BITS) - 1
N_MAX = (1 << N_BITS) - 1
TS_NEVER = (1 << 63) - 1
"""`end_ts` of a row that is alive; above every commit timestamp, and an int64 for NumPy's sake."""

HIDDEN_PREFIX = "_"
"""Begins the names of the product's own collections; clients' names cannot start with it."""
IDEMPOTENCY_COLLECTION = "_idempotency"
"""Hidden: one row for each idempotency key."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")


def make_ts(term: int, n: int) -> int:
    """Pack (term, n); the order of the integers is the order of the pairs."""
    if not (0 <= term <= TERM_MAX and 0 <= n <= N_MAX):
        raise OverflowError(f"timestamp out of range: term {term}, n {n}")
    return (term << N_BITS) | n


def ts_term(ts: int) -> int:
    """The term of a packed timestamp."""
    return ts >> N_BITS


def ts_n(ts: int) -> int:
    """The n of a packed timestamp."""
    return ts & N_MAX


def make_txn_id(term: int, deadline_ms: int, entropy: bytes) -> bytes:
    """16 bytes that name a transaction, and say in which term and until when it can commit: 3 bytes
    of term, 6 of deadline (ms since 1970), and 7 random ones."""
    if len(entropy) != 7:
        raise ValueError(f"{len(entropy)} random bytes, want 7")
    return term.to_bytes(3, "big") + deadline_ms.to_bytes(6, "big") + entropy


def txn_term(txn_id: bytes) -> int:
    """The term of a transaction's id."""
    return int.from_bytes(txn_id[:3], "big")


def txn_deadline_ms(txn_id: bytes) -> int:
    """When a transaction can commit no more, ms since 1970, by its id."""
    return int.from_bytes(txn_id[3:9], "big")


def validate_id(row_id: str, where: str = "id") -> bytes:
    """The UTF-8 bytes of a valid row id.

    :raises InvalidArgument: empty, over 512 bytes, a control character or a lone surrogate.
    """
    if not row_id:
        raise InvalidArgument(f"{where}: an id must not be empty")
    try:
        encoded = row_id.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(f"{where}: an id must be valid Unicode") from None
    if len(encoded) > ID_BYTES_MAX:
        raise InvalidArgument(
            f"{where}: id of {len(encoded)} bytes, the limit is {ID_BYTES_MAX} bytes"
        )
    if not row_id.isprintable() and any(unicodedata.category(c) == "Cc" for c in row_id):
        raise InvalidArgument(f"{where}: an id must not contain control characters")
    return encoded


def validate_collection_name(name: str, where: str = "name") -> str:
    """`name` itself when it is a valid collection name.

    :raises InvalidArgument: not 1 to 128 of letters, digits, ``.``, ``_``, ``-``, the first
    alphanumeric.
    """
    if len(name) > COLLECTION_NAME_CHARS_MAX or not _NAME.match(name):
        raise InvalidArgument(
            f"{where}: a collection name has 1 to {COLLECTION_NAME_CHARS_MAX} letters, digits, "
            "'.', '_' or '-', and starts with a letter or digit"
        )
    return name
