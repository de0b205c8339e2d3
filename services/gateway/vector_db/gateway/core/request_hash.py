"""The idempotency key of a request, with a hash of what came with it.

Owns the invariant that two requests have the same hash only when all parts of them are equal (but
for chance: 128 bits): each part is hashed with its length, so that none can pass for another.
"""

from __future__ import annotations

import re

import xxhash

from vector_db.common.model.errors import InvalidArgument
from vector_db.gateway.core.requests import Idempotency

KEY_CHARS_MAX = 255
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


def idempotency(key: str, where: str, *parts: bytes) -> Idempotency:
    """`key` and the hash of `parts`.

    :raises InvalidArgument: the key is not 1 to 255 visible ASCII characters.
    """
    if not _KEY.fullmatch(key):
        raise InvalidArgument(
            f"{where}: must be 1 to {KEY_CHARS_MAX} visible ASCII characters, without spaces"
        )
    state = xxhash.xxh3_128()
    for part in parts:
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return Idempotency(key.encode(), state.digest())
