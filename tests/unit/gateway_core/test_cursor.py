"""The scroll cursor: what comes back is what was given out, or is refused."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vector_db.common.model.errors import InvalidArgument
from vector_db.common.model.ids import make_ts
from vector_db.gateway.core.cursor import Cursor, decode_cursor, encode_cursor, filter_hash

FILTER = b'{"year":2020}'


def cursor(after: bytes = b"id", version: int = 1) -> Cursor:
    return Cursor(version, 5, make_ts(3, 99), after, filter_hash(FILTER))


@given(st.binary(max_size=512), st.integers(0, 2**53 - 1))
def test_what_was_encoded_is_decoded(after: bytes, snapshot_ts: int) -> None:
    given_out = Cursor(1, 5, snapshot_ts, after, filter_hash(FILTER))
    assert decode_cursor(encode_cursor(given_out), 5, FILTER) == given_out


@given(st.binary(max_size=512))
def test_it_is_safe_in_a_url(after: bytes) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]+", encode_cursor(cursor(after)))


def test_of_another_collection_it_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="another collection"):
        decode_cursor(encode_cursor(cursor()), 6, FILTER)


@pytest.mark.parametrize("other", [b"", b"{}", b'{"year":2021}'])
def test_with_another_filter_it_is_refused(other: bytes) -> None:
    with pytest.raises(InvalidArgument, match="another filter"):
        decode_cursor(encode_cursor(cursor()), 5, other)


def test_of_a_newer_version_it_is_refused_by_name() -> None:
    with pytest.raises(InvalidArgument, match="newer version"):
        decode_cursor(encode_cursor(cursor(version=2)), 5, FILTER)


@pytest.mark.parametrize(
    "text",
    ["", "x", "null", "AAAA", "not a cursor", "é", "\ud800", "=" * 9, "A" * 10_000],
    ids=repr,
)
def test_garbage_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="cursor: "):
        decode_cursor(text, 5, FILTER)


@given(st.text())
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        decode_cursor(text, 5, FILTER)


@pytest.mark.parametrize("cut", range(1, 12))
def test_cut_short_it_is_refused(cut: int) -> None:
    with pytest.raises(InvalidArgument):
        decode_cursor(encode_cursor(cursor())[:-cut], 5, FILTER)
