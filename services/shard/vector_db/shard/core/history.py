"""How a worker's own history of decisions meets the one that a takeover states. Pure functions.

Owns the rule of what follows what, takeovers between them included (`common.core.history` says
where two histories part).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from vector_db.common.core import history
from vector_db.common.core.messages.decisions import DecisionRecord, Takeover
from vector_db.common.model.ids import ts_n, ts_term


def common_ts(cursor: int, bases: Mapping[int, int], takeover: Takeover) -> int:
    """How much of the own history, which ends at `cursor`, the takeover's one has too."""
    return history.common_ts(cursor, bases, takeover.bases)


def follows(ts: int, last_ts: int, bases: Mapping[int, int]) -> bool:
    """Whether `ts` is `last_ts`, but for takeovers between them, which records leave out."""
    while ts > last_ts and ts_n(ts) == 0:
        ts = bases.get(ts_term(ts), 0)
    return ts == last_ts


def end_of(after_ts: int, records: Iterable[DecisionRecord], bases: Mapping[int, int]) -> int:
    """The last ts of `records` if they are a chain that follows `after_ts`, else -1."""
    last = after_ts
    for record in records:
        if not follows(record.prev_ts, last, bases):
            return -1
        last = record.last_ts
    return last


def without_takeovers(record: DecisionRecord) -> DecisionRecord | None:
    """The record less a takeover, whose effects every later one states; None: it was all."""
    if not isinstance(record.decisions[0], Takeover):
        return record
    kept = tuple(d for d in record.decisions if not isinstance(d, Takeover))
    return DecisionRecord(record.term, record.prev_ts, record.wall_ms, kept) if kept else None


def told_after(takeover: Takeover, ts: int) -> list[DecisionRecord]:
    """What the takeover tells beyond `ts`."""
    return [record for record in takeover.decisions if record.last_ts > ts]


def completed(
    record: DecisionRecord, after_ts: int, fetched: Iterable[DecisionRecord]
) -> DecisionRecord:
    """A takeover's record that tells everything after `after_ts`, with what a peer gave."""
    first = record.decisions[0]
    if not isinstance(first, Takeover):
        raise ValueError("not a takeover")
    whole = msgspec.structs.replace(
        first, decisions_after=after_ts, decisions=(*fetched, *first.decisions)
    )
    decisions = (whole, *record.decisions[1:])
    return DecisionRecord(record.term, record.prev_ts, record.wall_ms, decisions)
