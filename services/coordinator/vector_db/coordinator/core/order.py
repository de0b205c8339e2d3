"""The decisions of one term in their order: their numbers, their time, what is to be published.

Pure. Owns these invariants: every decision takes the next n of the term, every record names the
decision before it, the wall time that records carry never goes back, and `state` is what all that
is decided so far makes, published or not.
"""

from __future__ import annotations

from vector_db.common.core.domain import DomainState
from vector_db.common.core.messages.decisions import Decision, DecisionRecord, Takeover
from vector_db.common.model.ids import make_ts

DECISIONS_PER_RECORD_MAX = 1024


class Order:
    """Of one term, from its takeover on."""

    def __init__(self, term: int, takeover: Takeover, wall_ms: int) -> None:
        """`takeover` is the first decision of the term; it is in the first record."""
        self.term = term
        self.state = DomainState().after(takeover)
        self.wall_ms = wall_ms
        self._next_n = 1
        self._prev_ts = takeover.base
        self._queue: list[Decision] = [takeover]

    @property
    def queued(self) -> int:
        """How many decisions wait to be published."""
        return len(self._queue)

    @property
    def last_ts(self) -> int:
        """The newest decision, published or not."""
        return make_ts(self.term, self._next_n - 1)

    def advance_wall(self, now_ms: int) -> None:
        """It is `now_ms` by the clock: later decisions carry no earlier time."""
        self.wall_ms = max(self.wall_ms, now_ms)

    def take_ts(self) -> int:
        """The number of the next decision, which is then to be decided."""
        ts = make_ts(self.term, self._next_n)
        self._next_n += 1
        return ts

    def decide(self, decision: Decision) -> None:
        """It is decided: it goes into the next record."""
        self._queue.append(decision)
        self.state = self.state.after(decision)

    def take_record(self, now_ms: int) -> DecisionRecord:
        """The next record to append: everything decided and not yet taken, in order."""
        self.advance_wall(now_ms)
        taken, self._queue = (
            self._queue[:DECISIONS_PER_RECORD_MAX],
            self._queue[DECISIONS_PER_RECORD_MAX:],
        )
        record = DecisionRecord(self.term, self._prev_ts, self.wall_ms, tuple(taken))
        self._prev_ts = record.last_ts
        return record
