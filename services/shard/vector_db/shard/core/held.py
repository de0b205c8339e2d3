"""Decision records that have arrived and wait for what they need: rows, or decisions before them.

Owns the invariant that records leave in the order of their chain, and none before all that it
applies is at this worker.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from vector_db.common.core.codec import encode
from vector_db.common.core.domain import DomainState
from vector_db.common.core.messages.decisions import Commit, Decision, DecisionRecord, Takeover
from vector_db.common.model.rows import Buffer
from vector_db.shard.core.history import common_ts, completed, follows, told_after
from vector_db.shard.core.history import without_takeovers as plain
from vector_db.shard.core.parts import ChainBroken, Missing

_PARTS_ASKED = 16
"""Parts named at once; the next ones follow when these are here."""


class Standing(Protocol):
    """What a worker has when a record is looked at."""

    worker: str
    cursor: int
    bases: dict[int, int]

    def state_at(self, ts: int) -> DomainState: ...

    def has_whole(self, txn_id: bytes, shard: int) -> bool: ...

    def followed_in(self, state: DomainState) -> frozenset[int]:
        """Shards whose rows have to be here before a decision about them is applied."""


class Held:
    """The records after the cursor, oldest first."""

    def __init__(self, at: Standing) -> None:
        self._at = at
        self._records: deque[tuple[DecisionRecord, int, Buffer]] = deque()
        self._fetched: list[DecisionRecord] = []
        self._fetched_to = 0

    def __len__(self) -> int:
        return len(self._records)

    def clear(self) -> None:
        """Forget all, and what was fetched for the first one."""
        self._records.clear()
        self._drop_fetched()

    def _drop_fetched(self) -> None:
        self._fetched, self._fetched_to = [], 0

    def offer(self, record: DecisionRecord, seq: int, raw: Buffer) -> bool:
        """Take a record; false when it is known already.

        :raises ChainBroken: a record is missing before this one.
        """
        last = self._records[-1][0].last_ts if self._records else self._at.cursor
        if record.last_ts <= last:
            return False
        if record.prev_ts != last and not isinstance(record.decisions[0], Takeover):
            raise ChainBroken(f"record after {record.prev_ts}, the last one known ends at {last}")
        self._records.append((record, seq, raw))
        return True

    def next_ready(self) -> tuple[DecisionRecord, int, Buffer] | None:
        """The next record that lacks nothing, taken out; a takeover's is completed first."""
        if not self._records:
            return None
        record, seq, raw = self._records[0]
        takeover = self._takeover(record)
        if takeover is not None and self._tail(takeover) is not None:
            return None
        if next(self._lacks(record, takeover), None) is not None:
            return None
        self._records.popleft()
        if takeover is not None and self._fetched:
            record = completed(record, self._kept(takeover), self._fetched)
            raw = encode(record)
        self._drop_fetched()
        return record, seq, raw

    def missing(self) -> Missing | None:
        """What the next record waits for; None: nothing."""
        if not self._records:
            return None
        record = self._records[0][0]
        takeover = self._takeover(record)
        if takeover is None:
            state, tail = self._at.state_at(self._at.cursor), None
        else:
            state, tail = DomainState().after(takeover), self._tail(takeover)
        lacks = () if tail is not None else self._lacks(record, takeover)
        parts = tuple(itertools.islice(lacks, _PARTS_ASKED))
        if tail is None and not parts:
            return None
        return Missing(record.term, takeover is not None, state, tail, parts)

    def supply_tail(self, records: Sequence[DecisionRecord]) -> bool:
        """Take what a peer says follows; true when that was news.

        What is not a chain from where this worker stands is not taken.
        """
        takeover = self._takeover(self._records[0][0]) if self._records else None
        tail = None if takeover is None else self._tail(takeover)
        if takeover is None or tail is None:
            return False
        last, up_to = tail
        for record in records:
            if record.last_ts <= last:
                continue
            if record.last_ts > up_to or not follows(record.prev_ts, last, takeover.bases):
                break
            last = record.last_ts
            if (kept := plain(record)) is not None:
                self._fetched.append(kept)
        news = last > tail[0]
        self._fetched_to = last
        return news

    # --- inside ---------------------------------------------------------------------------------

    def _takeover(self, record: DecisionRecord) -> Takeover | None:
        first = record.decisions[0]
        return first if isinstance(first, Takeover) else None

    def _kept(self, takeover: Takeover) -> int:
        return common_ts(self._at.cursor, self._at.bases, takeover)

    def _is_placed(self, takeover: Takeover) -> bool:
        return DomainState().after(takeover).is_placed(self._at.worker)

    def _tail(self, takeover: Takeover) -> tuple[int, int] | None:
        """The decisions that neither this worker nor the takeover knows, (after, up to]."""
        last = max(self._kept(takeover), self._fetched_to)
        after = takeover.decisions_after
        if last >= after or follows(after, last, takeover.bases) or not self._is_placed(takeover):
            return None
        return last, after

    def _lacks(
        self, record: DecisionRecord, takeover: Takeover | None
    ) -> Iterator[tuple[bytes, int]]:
        """Parts that the record applies and that are not here."""
        if takeover is None:
            yield from self._lacks_of(self._at.state_at(self._at.cursor), record.decisions)
            return
        kept = self._kept(takeover)
        if kept >= takeover.decisions_after or self._is_placed(takeover):
            told = [*self._fetched, *told_after(takeover, kept)]
            decisions = itertools.chain.from_iterable(old.decisions for old in told)
            yield from self._lacks_of(self._at.state_at(kept), decisions)
        yield from self._lacks_of(DomainState().after(takeover), record.decisions[1:])

    def _lacks_of(
        self, state: DomainState, decisions: Iterable[Decision]
    ) -> Iterator[tuple[bytes, int]]:
        mine = self._at.followed_in(state)
        for decision in decisions:
            if isinstance(decision, Commit):
                for shard in sorted(mine.intersection(decision.participants)):
                    if not self._at.has_whole(decision.txn_id, shard):
                        yield decision.txn_id, shard
            else:
                after = state.after(decision)
                if after is not state:
                    state, mine = after, self._at.followed_in(after)
