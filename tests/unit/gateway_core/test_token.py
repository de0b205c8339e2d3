"""The token of an open transaction: what was given out comes back, anything else is refused."""

from __future__ import annotations

import base64
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vector_db.common.model.errors import InvalidArgument, TooLarge
from vector_db.common.model.ids import TERM_MAX, make_ts
from vector_db.gateway.core.token import (
    COLLECTIONS_READ_MAX,
    READ_KEY_BYTES_MAX,
    READ_KEYS_MAX,
    SHARDS_PER_TRANSACTION_MAX,
    TOKEN_CHARS_MAX,
    TOKEN_VERSION,
    StagedAt,
    Token,
    decode_token,
    encode_token,
    signing_key,
)

KEY = signing_key(None, "cluster")
HIGH = make_ts(TERM_MAX, 2**36 - 1)


def token(serializable: bool = True) -> Token:
    return Token(b"\xff" * 16, TERM_MAX, HIGH, serializable, 2**45)


@given(
    st.dictionaries(
        st.integers(0, 4095), st.tuples(st.integers(1, 2**31), st.integers(0, 2**32 - 1))
    ),
    st.dictionaries(
        st.integers(1, 2**53 - 1),
        st.none() | st.lists(st.binary(min_size=1, max_size=64), max_size=4),
    ),
    st.integers(0, 2**40),
)
def test_what_was_encoded_is_decoded(
    staged: dict[int, tuple[int, int]], reads: dict[int, list[bytes] | None], rows: int
) -> None:
    given_out = token().with_staged({s: StagedAt(*at) for s, at in staged.items()}, rows, 7)
    for collection, keys in list(reads.items())[:8]:
        given_out = given_out.with_read(collection, keys)
    text = encode_token(given_out, KEY)
    assert decode_token(text, KEY) == given_out
    assert re.fullmatch(r"[A-Za-z0-9_-]+", text)


@given(st.data())
def test_any_altered_character_is_refused(data: st.DataObject) -> None:
    text = encode_token(token().with_staged({3: StagedAt(1, 2)}, 1, 7), KEY)
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from("ABCXYZabcxyz0189-_"))
    altered = text[:place] + other + text[place + 1 :]
    try:
        raw = base64.urlsafe_b64decode(altered + "=" * (-len(altered) % 4))
    except ValueError:
        raw = b""
    if raw == base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)):
        return  # the bits of the last character that carry nothing
    with pytest.raises(InvalidArgument):
        decode_token(altered, KEY)


@given(st.text(max_size=200) | st.from_regex(r"[A-Za-z0-9_-]{0,200}", fullmatch=True))
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        decode_token(text, KEY)


@pytest.mark.parametrize(
    "other",
    [signing_key(None, "another"), signing_key("secret", "cluster"), signing_key("", "clusters")],
)
def test_signed_with_another_key_it_is_refused(other: bytes) -> None:
    with pytest.raises(InvalidArgument, match="not a token of this cluster"):
        decode_token(encode_token(token(), other), KEY)


def test_one_secret_makes_different_keys_for_different_clusters() -> None:
    assert signing_key("secret", "a") != signing_key("secret", "b")


def test_of_a_newer_version_it_is_refused_by_name() -> None:
    raw = bytes((TOKEN_VERSION + 1,)) + b"whatever a newer one holds" + bytes(16)
    with pytest.raises(InvalidArgument, match="newer version"):
        decode_token(base64.urlsafe_b64encode(raw).decode().rstrip("="), KEY)


def test_one_that_is_too_long_is_refused_unread() -> None:
    with pytest.raises(InvalidArgument, match=str(TOKEN_CHARS_MAX)):
        decode_token("A" * (TOKEN_CHARS_MAX + 1), KEY)


def test_the_largest_one_fits_into_a_header() -> None:
    full = token().with_staged(
        {s: StagedAt(2**32 - 1, 2**32 - 1) for s in range(4096 - SHARDS_PER_TRANSACTION_MAX, 4096)},
        2**53,
        HIGH,
    )
    for i in range(COLLECTIONS_READ_MAX - 1):
        full = full.with_read(HIGH - i, None)
    full = full.with_read(1, [b"%063d" % i for i in range(READ_KEYS_MAX)])
    assert full.reads[1] is not None
    text = encode_token(full, KEY)
    assert len(text) <= TOKEN_CHARS_MAX
    back = decode_token(text, KEY)
    assert back.staged == full.staged
    assert back.reads.keys() == full.reads.keys()
    assert back.reads[1] is None, "keys give way to the whole collection"


def test_more_shards_than_a_token_holds_are_refused_by_name() -> None:
    shards = {s: StagedAt(1, 1) for s in range(SHARDS_PER_TRANSACTION_MAX + 1)}
    with pytest.raises(TooLarge, match="shards_per_transaction_max"):
        token().with_staged(shards, 1, 7)


def test_more_collections_than_a_token_holds_are_refused_by_name() -> None:
    full = token()
    for i in range(COLLECTIONS_READ_MAX):
        full = full.with_read(i, None)
    assert full.with_read(3, [b"k"]) == full
    with pytest.raises(TooLarge, match="collections_read_max"):
        full.with_read(COLLECTIONS_READ_MAX, [b"k"])


@pytest.mark.parametrize(
    ("keys", "kept"),
    [
        ([b"%d" % i for i in range(READ_KEYS_MAX)], True),
        ([b"%d" % i for i in range(READ_KEYS_MAX + 1)], False),
        ([b"x" * (READ_KEY_BYTES_MAX // 8 - 1) + b"%d" % i for i in range(8)], True),
        ([b"x" * (READ_KEY_BYTES_MAX // 8) + b"%d" % i for i in range(8)], False),
    ],
)
def test_keys_beyond_the_limits_become_the_whole_collection(keys: list[bytes], kept: bool) -> None:
    read = token()
    for key in keys:
        read = read.with_read(7, [key])
    read = read.with_read(8, [])
    assert read.reads[7] == (tuple(keys) if kept else None)
    assert read.reads[8] == ()


def test_a_whole_collection_read_takes_in_its_keys() -> None:
    read = token().with_read(7, [b"a", b"b"]).with_read(7, [b"b", b"c"])
    assert read.reads == {7: (b"a", b"b", b"c")}
    assert read.with_read(7, None).with_read(7, [b"d"]).reads == {7: None}


def test_what_a_snapshot_transaction_reads_is_not_kept() -> None:
    assert token(serializable=False).with_read(7, None).reads == {}
