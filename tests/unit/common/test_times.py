"""RFC 3339: one instant or a refusal."""

from __future__ import annotations

import pytest

from vector_db.common.model.errors import InvalidArgument
from vector_db.common.model.times import parse_rfc3339, to_rfc3339

DAY_MS = 86_400_000


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1970-01-02T00:00:00Z", DAY_MS),
        ("1970-01-02t00:00:00z", DAY_MS),
        ("1970-01-02T00:00:00.5Z", DAY_MS + 500),
        ("1970-01-02T00:00:00.05Z", DAY_MS + 50),
        ("1970-01-02T00:00:00.1239999999999999999999Z", DAY_MS + 123),
        ("1970-01-02T02:30:00+02:30", DAY_MS),
        ("1970-01-01T22:00:00.001-02:00", DAY_MS + 1),
        ("1970-01-02T00:00:00-00:00", DAY_MS),
        ("1969-12-31T23:00:00.001-01:00", 1),
        ("2024-02-29T23:59:59.999Z", 1_709_251_199_999),
        ("9999-12-31T23:59:59.999-23:59", 253_402_387_139_999),
    ],
)
def test_a_moment_is_read_to_the_millisecond(text: str, ms: int) -> None:
    assert parse_rfc3339(text, "as_of") == ms


@pytest.mark.parametrize(
    "text",
    [
        "", "2026-01-31", "2026-01-31T12:00:00", "2026-01-31T12:00:00+02", "2026-01-31T12:00Z",
        "20260131T120000Z", "2026-01-31T12:00:00Z ", "2026-01-31T12:00:00Z\n",
        "2026-13-01T00:00:00Z", "2023-02-29T00:00:00Z", "2026-01-31T12:60:00Z",
        "2016-12-31T23:59:60Z",
        "2026-01-31T12:00:00+01:60", "2026-01-31T12:00:00,5Z", "٢٠٢٦-01-31T12:00:00Z",
        "1970-01-01T00:00:00+00:00", "1970-01-01T00:59:59.999+01:00", "0000-01-01T00:00:00Z",
    ],
)  # fmt: skip
def test_anything_else_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^as_of: "):
        parse_rfc3339(text, "as_of")


def test_what_is_written_reads_back() -> None:
    for ms in (1, 999, 1_000, 1_700_000_000_123):
        assert parse_rfc3339(to_rfc3339(ms), "as_of") == ms
    assert to_rfc3339(1_700_000_000_020) == "2023-11-14T22:13:20.020Z"
