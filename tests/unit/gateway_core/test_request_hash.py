"""Idempotency keys: what is one, and which requests are the same."""

from __future__ import annotations

import pytest

from vector_db.common.model.errors import InvalidArgument
from vector_db.gateway.core.request_hash import idempotency


def test_the_hash_is_of_the_parts_and_of_where_they_end() -> None:
    seen = {
        idempotency("k", "key", *parts).request_hash
        for parts in ((b"ab", b"c"), (b"a", b"bc"), (b"abc",), (b"abc", b""), (b"", b"abc"), ())
    }
    assert len(seen) == 6
    assert idempotency("k", "key", b"ab", b"c") == idempotency("k", "key", b"ab", b"c")
    # It is kept with the row of the key: it must not change between versions of the program.
    assert idempotency("k", "key", b"ab").request_hash.hex() == "25a212f2233721086f8c63c1ad107f4b"


@pytest.mark.parametrize("key", ["", "x" * 256, "a b", "a\n", "\x7f", "ü", "\ud800"])
def test_a_key_is_1_to_255_visible_ascii_characters(key: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^key: .* 255 "):
        idempotency(key, "key")
    assert idempotency("!~" + "x" * 253, "key").key == b"!~" + b"x" * 253
