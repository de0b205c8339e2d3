"""Which rows of a sealed segment are dead, and since when: kept beside the immutable files.

Owns the invariant that deaths are ordered by timestamp, as commits are: the rows visible at a
snapshot are the live ones plus a tail of deaths that came after it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vector_db.common.model.ids import TS_NEVER
from vector_db.common.model.rows import I64, U32
from vector_db.shard.index.calls import packed_bits
from vector_db.shard.storage.payloads import grown


class Deaths:
    """Deaths of one segment of `rows` rows. Nothing is allocated before the first one."""

    def __init__(self, rows: int) -> None:
        self._total = rows
        self.count = 0
        self.undone = 0
        """How often deaths were taken back."""
        self._live: NDArray[np.bool_] | None = None
        self._rows: U32 = np.empty(0, dtype=np.uint32)
        self._ts: I64 = np.empty(0, dtype=np.int64)
        self._slots: U32 | None = None
        self._mask: tuple[int, int, NDArray[np.bool_]] | None = None
        self._packed: tuple[NDArray[np.bool_], NDArray[np.uint8]] | None = None

    def add(self, rows: NDArray[np.integer], ts: NDArray[np.int64] | int) -> None:
        """Append deaths; `ts` never decreases. The rows are alive now."""
        n = len(rows)
        if not n:
            return
        if self._live is None:
            self._live = np.ones(self._total, dtype=np.bool_)
        if self.count + n > len(self._rows):
            self._rows = grown(self._rows, self.count, self.count + n)  # type: ignore[assignment]
            self._ts = grown(self._ts, self.count, self.count + n)  # type: ignore[assignment]
        span = slice(self.count, self.count + n)
        self._rows[span] = rows
        self._ts[span] = ts
        self._live[rows] = False
        if self._slots is not None:
            self._slots[rows] = np.arange(self.count, self.count + n)
        self.count += n

    def kill(self, rows: NDArray[np.int64], ts: int) -> int:
        """Let those of `rows` that are alive die at `ts`; how many they were."""
        alive = rows if self._live is None else rows[self._live[rows]]
        self.add(alive, ts)
        return len(alive)

    @property
    def last_ts(self) -> int:
        """When the last row died, 0 without any."""
        return int(self._ts[self.count - 1]) if self.count else 0

    def until(self, ts: int) -> int:
        """How many deaths have a timestamp ≤ `ts`."""
        return int(np.searchsorted(self._ts[: self.count], ts, side="right"))

    def live(self, snapshot_ts: int) -> NDArray[np.bool_] | None:
        """bool[rows] of the rows not dead at the snapshot, None when none is; never changed later.

        Born or not is not its question.
        """
        cut = self.until(snapshot_ts)
        if cut == 0 or self._live is None:
            return None
        if self._mask is None or self._mask[:2] != (self.count, cut):
            mask = self._live.copy()
            mask[self._rows[cut : self.count]] = True
            mask.flags.writeable = False
            self._mask = (self.count, cut, mask)
        return self._mask[2]

    def packed(self, snapshot_ts: int) -> NDArray[np.uint8] | None:
        """`live` as bits, the first in the lowest."""
        live = self.live(snapshot_ts)
        if live is None:
            return None
        if self._packed is None or self._packed[0] is not live:
            self._packed = (live, packed_bits(live))
        return self._packed[1]

    def end_ts(self, rows: NDArray[np.int64]) -> I64:
        """int64 per row: when it died, TS_NEVER while alive."""
        end = np.full(len(rows), TS_NEVER, dtype=np.int64)
        if self._live is None:
            return end
        dead = np.flatnonzero(~self._live[rows])
        if len(dead):
            if self._slots is None:
                self._slots = np.zeros(self._total, dtype=np.uint32)
                self._slots[self._rows[: self.count]] = np.arange(self.count)
            end[dead] = self._ts[self._slots[rows[dead]]]
        return end

    def undo_above(self, ts: int) -> int:
        """Revive rows that died after `ts`; how many."""
        keep = self.until(ts)
        undone = self.count - keep
        if undone and self._live is not None:
            self._live[self._rows[keep : self.count]] = True
            self._rows, self._ts = self._rows[:keep].copy(), self._ts[:keep].copy()
            self.count, self._mask = keep, None
            self.undone += 1
        return undone

    def arrays(self, count: int) -> tuple[U32, I64]:
        """(rows, timestamps) of the first `count` deaths; views that never change."""
        return self._rows[:count], self._ts[:count]

    @property
    def memory_bytes(self) -> int:
        arrays = (self._live, self._rows, self._ts, self._slots)
        return sum(a.nbytes for a in arrays if a is not None)
