"""Where the records of committed parts lie in the WAL, for replicas that lack them.

Owns the invariant that a part which another replica may have to ask for stays readable until every
placed worker is durable past its commit.
"""

from __future__ import annotations

from array import array
from collections import deque
from typing import NamedTuple

from vector_db.shard.core.staging import Part


class _Entry(NamedTuple):
    ts: int
    lsn: int
    """The oldest record that has to stay."""
    lsns: array[int]


class KeptParts:
    """By (transaction id, shard), in commit order."""

    def __init__(self) -> None:
        self._entries: dict[tuple[bytes, int], _Entry] = {}
        self._order: deque[tuple[int, tuple[bytes, int]]] = deque()

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, part: Part, ts: int) -> None:
        """A whole part was committed at `ts`."""
        key = (part.txn_id, part.shard)
        lsns = array("Q", part.lsns())
        self._entries[key] = _Entry(ts, min(lsns), lsns)
        self._order.append((ts, key))

    def lsns(self, txn_id: bytes, shard: int) -> array[int] | None:
        """Its records, chunks first; None: it is not kept."""
        entry = self._entries.get((txn_id, shard))
        return None if entry is None else entry.lsns

    def of(self, shard: int, after_ts: int) -> list[tuple[int, array[int]]]:
        """(commit_ts, records) of the parts of `shard` committed after `after_ts`, in order."""
        entries = []
        for ts, key in self._order:
            if ts > after_ts and key[1] == shard and key in self._entries:
                entry = self._entries[key]
                if entry.ts == ts:
                    entries.append((ts, entry.lsns))
        return entries

    def release(self, floor_ts: int) -> None:
        """Nobody can lack what was committed up to `floor_ts`."""
        while self._order and self._order[0][0] <= floor_ts:
            ts, key = self._order.popleft()
            if key in self._entries and self._entries[key].ts == ts:
                del self._entries[key]

    def undo_above(self, ts: int) -> None:
        """Commits after `ts` are void."""
        while self._order and self._order[-1][0] > ts:
            _, key = self._order.pop()
            self._entries.pop(key, None)

    def least_lsn(self, default: int) -> int:
        """The oldest record that is kept."""
        return min((entry.lsn for entry in self._entries.values()), default=default)
