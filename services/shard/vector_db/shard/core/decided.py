"""The transactions that a worker remembers as decided, so that a late record of one is known.

Owns the invariant that a transaction is remembered until `DECIDED_MEMORY_MS` past its deadline; the
newest `SAVED_MAX` survive a restart.
"""

from __future__ import annotations

import itertools
import struct

DECIDED_MEMORY_MS = 600_000
SAVED_MAX = 50_000
_ENTRY = struct.Struct("<16sqqI")


JOIN_MARGIN_MS = 60_000
"""No deadline lies further ahead of its decision."""


class Decided:
    """Transaction id → (deadline ms, what became of it, rows deleted), oldest decision first.

    What became of it: its commit_ts; 0 for an abort; minus the ts of the takeover that made it
    void, which counts once that takeover is stable.
    """

    def __init__(self, packed: bytes = b"", complete_from_ms: int = 0) -> None:
        """`packed`: what `pack` gave, of a worker that was at `complete_from_ms` then."""
        self._known: dict[bytes, tuple[int, int, int]] = {
            txn_id: (ms, fate, deleted) for txn_id, ms, fate, deleted in _ENTRY.iter_unpack(packed)
        }
        whole = 0 < len(self._known) < SAVED_MAX
        self._complete_from_ms = 0 if whole or not complete_from_ms else complete_from_ms
        if self._complete_from_ms:
            self._complete_from_ms += JOIN_MARGIN_MS

    def joined(self, wall_ms: int) -> None:
        """Decisions up to that time were skipped."""
        self._complete_from_ms = max(self._complete_from_ms, wall_ms + JOIN_MARGIN_MS)

    def covers(self, deadline_ms: int, wall_ms: int) -> bool:
        """Whether a transaction with this deadline would be known if it had been decided."""
        return self._complete_from_ms <= deadline_ms and deadline_ms + DECIDED_MEMORY_MS > wall_ms

    def __contains__(self, txn_id: bytes) -> bool:
        return txn_id in self._known

    def __len__(self) -> int:
        return len(self._known)

    def fate(self, txn_id: bytes) -> int | None:
        """What became of it (see the class); None: not remembered."""
        known = self._known.get(txn_id)
        return None if known is None else known[1]

    def deleted(self, txn_id: bytes) -> int:
        """How many rows the deletes of a committed transaction found."""
        return self._known[txn_id][2]

    def note(self, txn_id: bytes, deadline_ms: int, fate: int, deleted: int = 0) -> None:
        """A commit outweighs what was noted before: a later term may have found it again."""
        if fate > 0 or txn_id not in self._known:
            self._known[txn_id] = (deadline_ms, fate, deleted)

    def adopt(self, packed: bytes) -> None:
        """Know also what another worker packed, as older than what is known here."""
        ours, self._known = self._known, {}
        for txn_id, deadline_ms, fate, deleted in _ENTRY.iter_unpack(packed):
            self._known[txn_id] = (deadline_ms, fate, deleted)
        for txn_id, known in ours.items():
            self.note(txn_id, *known)

    def undo_above(self, ts: int, by: int) -> None:
        """What was committed after `ts` is void by the takeover at `by`."""
        for txn_id, (deadline_ms, fate, _) in self._known.items():
            if fate > ts:
                self._known[txn_id] = (deadline_ms, -by, 0)

    def expire(self, wall_ms: int) -> None:
        """Forget what is long past its deadline."""
        while self._known:
            oldest = next(iter(self._known))
            if self._known[oldest][0] + DECIDED_MEMORY_MS > wall_ms:
                break
            del self._known[oldest]

    def pack(self, ts: int) -> bytes:
        """The newest ones, without commits after `ts`: those are decided again by the log."""
        newest = (
            (txn_id, ms, fate, deleted)
            for txn_id, (ms, fate, deleted) in reversed(self._known.items())
            if abs(fate) <= ts
        )
        saved = [_ENTRY.pack(*entry) for entry in itertools.islice(newest, SAVED_MAX)]
        return b"".join(reversed(saved))
