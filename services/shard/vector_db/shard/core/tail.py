"""The newest decisions that a worker has applied, for takeovers and for workers further behind.

Owns the invariant that they are its whole history after `after_ts`, less takeovers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from vector_db.common.core.messages.decisions import DecisionRecord
from vector_db.shard.core.history import without_takeovers


class Tail:
    """Records in order."""

    def __init__(self, records: Iterable[DecisionRecord] = (), after_ts: int = 0) -> None:
        self._records = deque(records)
        self.after_ts = after_ts
        """Nothing is remembered up to here."""

    def note(self, record: DecisionRecord) -> None:
        """The next record was applied."""
        if (told := without_takeovers(record)) is not None:
            self._records.append(told)

    def begin_at(self, ts: int) -> None:
        """History up to `ts` is not known here."""
        self._records.clear()
        self.after_ts = ts

    def undo_above(self, ts: int) -> None:
        """Records after `ts` are void."""
        while self._records and self._records[-1].last_ts > ts:
            self._records.pop()

    def release(self, floor_ts: int) -> None:
        """Nobody asks for what lies up to `floor_ts`."""
        while self._records and self._records[0].last_ts <= floor_ts:
            self.after_ts = self._records.popleft().last_ts

    def up_to(self, ts: int) -> tuple[DecisionRecord, ...]:
        """All that are remembered, up to `ts`."""
        return tuple(r for r in self._records if r.last_ts <= ts)

    def between(self, after_ts: int, up_to_ts: int) -> list[DecisionRecord]:
        """Those in (after, up to]; []: it does not go back so far."""
        if after_ts < self.after_ts:
            return []
        return [r for r in self._records if after_ts < r.last_ts <= up_to_ts]
