"""Which segments of a slice to merge next, so that there are few and no row is copied often.

Owns two bounds. Segments are merged from the newest end only, and only once the newer ones together
are a fair share of the oldest, so the number of segments stays logarithmic in the rows and so does
how often a row is copied. And a merge that is only for speed of reads (the slice is idle) is paid
from a credit that grows with the rows sealed, so a trickle of writes never copies a large segment
over and over.

A merge that keeps all rows of its oldest segment may extend that segment's graph instead of
building one; that is why rows which could be dropped stay there until they are many.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

SHARE_BUSY = 1.0
"""While rows come: merge when the newer segments hold as many rows as the older one before them."""
SHARE_IDLE = 1 / 16
"""When none come any more: already at a sixteenth, credit permitting."""
GARBAGE_SHARE = 0.2
"""A segment with as many droppable rows is written anew without them."""
CREDIT_ROWS = 12
"""Rows that may be copied for the reads' sake for each row that was sealed."""


class Facts(NamedTuple):
    """What is known of one sealed segment; `droppable` rows no read can see any more."""

    rows: int
    size_bytes: int
    droppable: int
    busy: bool = False


class Merge(NamedTuple):
    """Merge the segments [start, stop); `whole`: all rows of the first are kept."""

    start: int
    stop: int
    whole: bool


def merge_due(
    segments: Sequence[Facts], idle: bool, credit_rows: int, rows_max: int, bytes_max: int
) -> Merge | None:
    """The next merge of a slice's segments (oldest first), None when nothing is worth it.

    :param credit_rows: rows that may be copied for the reads' sake now.
    :param rows_max: most rows of a merged segment, `bytes_max` its most bytes.
    """
    free = len(segments)
    while free and not segments[free - 1].busy:
        free -= 1
    tail = _tail(segments, free, SHARE_BUSY, rows_max, bytes_max)
    if tail is None and idle:
        tail = _tail(segments, free, SHARE_IDLE, rows_max, bytes_max)
        if tail is not None and _rows(segments[tail:]) > credit_rows:
            tail = None
    if tail is not None:
        return Merge(tail, len(segments), not _littered(segments[tail]))
    for at, segment in enumerate(segments):
        if _littered(segment) and not segment.busy:
            return Merge(at, at + 1, False)
    return None


def _tail(
    segments: Sequence[Facts], free: int, share: float, rows_max: int, bytes_max: int
) -> int | None:
    """Where the longest run to the newest end begins whose first is not too large for the rest."""
    found, rows, size = None, 0, 0
    for at in range(len(segments) - 1, free - 1, -1):
        segment = segments[at]
        newer = rows
        rows, size = rows + segment.rows, size + segment.size_bytes
        if rows > rows_max or size > bytes_max:
            break
        if newer >= segment.rows * share and at < len(segments) - 1:
            found = at
    return found


def _rows(segments: Sequence[Facts]) -> int:
    return sum(segment.rows for segment in segments)


def _littered(segment: Facts) -> bool:
    return segment.droppable > 0 and segment.droppable >= GARBAGE_SHARE * segment.rows
