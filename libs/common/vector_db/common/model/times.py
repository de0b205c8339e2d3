"""Points in time as clients write them: RFC 3339, and the largest commit timestamp.

Owns the invariant that a text means one instant or is refused: the date, the time and the offset
are all given, and nothing is guessed.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from vector_db.common.model.errors import InvalidArgument

TS_MAX = (1 << 53) - 1
"""Largest commit timestamp and version: exact in every JSON client."""

_RFC_3339 = re.compile(
    r"(\d{4}-\d{2}-\d{2})[Tt](\d{2}:\d{2}:\d{2})(?:\.(\d+))?(?:[Zz]|([+-])(\d{2}):(\d{2}))",
    re.ASCII,
)
_EPOCH = datetime(1970, 1, 1)
_SHOWN_CHARS_MAX = 40


def parse_rfc3339(text: str, where: str) -> int:
    """Milliseconds since 1970; digits beyond them are cut off.

    :raises InvalidArgument: not RFC 3339 with an offset, no such instant, or not after 1970.
    """
    match = _RFC_3339.fullmatch(text)
    if match is None:
        hint = (
            " (a + in a query string is written %2B)"
            if where.startswith("query") and " " in text
            else ""
        )
        raise InvalidArgument(
            f"{where}: {text[:_SHOWN_CHARS_MAX]!r} is no RFC 3339 time with an offset, like "
            f"2026-01-31T12:00:00.000Z{hint}"
        )
    date, time, fraction, sign, hours, minutes = match.groups()
    try:
        local = datetime.fromisoformat(f"{date}T{time}")
    except ValueError as error:
        raise InvalidArgument(f"{where}: no such time ({error})") from None
    offset_min = 0
    if sign is not None:
        if int(hours) > 23 or int(minutes) > 59:
            raise InvalidArgument(f"{where}: no such offset ({sign}{hours}:{minutes})")
        offset_min = (60 * int(hours) + int(minutes)) * (-1 if sign == "-" else 1)
    whole_ms = (local - _EPOCH) // timedelta(milliseconds=1)
    ms = whole_ms - 60_000 * offset_min + int((fraction or "0")[:3].ljust(3, "0"))
    if ms <= 0:
        raise InvalidArgument(f"{where}: must be after 1970")
    return ms


def to_rfc3339(ms: int) -> str:
    """``2026-01-31T12:00:00.000Z``."""
    moment = datetime.fromtimestamp(ms // 1000, UTC).replace(microsecond=ms % 1000 * 1000)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
