"""The parts of transactions that wait for their decision at one worker.

Owns the invariant that a part's rows are kept until its transaction is decided, whatever was voted;
only chunks without a PREPARE are given up earlier, once no commit can name them any more.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from vector_db.common.core.messages.transactions import Prepare, Stage
from vector_db.shard.core.conflicts import Conflicts
from vector_db.shard.core.staging import Part, RecordSource


class Undecided:
    """Parts by (transaction id, shard), and what they touch by shard."""

    def __init__(self, records: RecordSource | None) -> None:
        """`records`: where chunks are read back from; None: memory keeps them all."""
        self._records = records
        self._parts: dict[tuple[bytes, int], Part] = {}
        self._conflicts: dict[int, Conflicts] = {}
        self._deadlines: list[tuple[int, bytes, int]] = []

    def __len__(self) -> int:
        return len(self._parts)

    def __iter__(self) -> Iterator[Part]:
        return iter(self._parts.values())

    def get(self, txn_id: bytes, shard: int) -> Part | None:
        return self._parts.get((txn_id, shard))

    def has_any(self, txn_id: bytes) -> bool:
        """Whether any part of the transaction is here."""
        return any(key[0] == txn_id for key in self._parts)

    def open(self, message: Prepare | Stage, lsn: int) -> Part:
        """The part that a record belongs to; a new one begins at `lsn`."""
        key = (message.txn_id, message.shard)
        part = self._parts.get(key)
        if part is None:
            part = Part(*key, lsn, message.deadline_ms, message.term, self._records)
            self._parts[key] = part
            if isinstance(message, Stage):
                heapq.heappush(self._deadlines, (message.deadline_ms, *key))
        return part

    def others(self, shard: int) -> Conflicts:
        """What the undecided transactions of a shard touch."""
        return self._conflicts.setdefault(shard, Conflicts())

    def remove(self, txn_id: bytes, shard: int) -> Part | None:
        """Take a part out, with what it touches."""
        part = self._parts.pop((txn_id, shard), None)
        if part is not None and shard in self._conflicts:
            self._conflicts[shard].remove(txn_id)
        return part

    def forget_votes(self) -> None:
        """Everything is voted on anew, in the order of the log."""
        self._conflicts.clear()

    def expire(self, wall_ms: int) -> None:
        """Free chunks whose PREPARE has not come before their deadline."""
        while self._deadlines and self._deadlines[0][0] < wall_ms:
            _, txn_id, shard = heapq.heappop(self._deadlines)
            part = self._parts.get((txn_id, shard))
            if part is not None and part.prepare is None and part.deadline_ms < wall_ms:
                self.remove(txn_id, shard)
