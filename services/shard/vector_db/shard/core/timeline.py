"""Which snapshot a time was: the newest decision of every step of 100 ms, over the window.

Owns two invariants: a time maps to the same snapshot on every worker once the time has passed, at
most one step older than asked and never newer; and the window's floor only rises.
"""

from __future__ import annotations

import struct
from bisect import bisect_left

STEP_MS = 100
_ENTRY = struct.Struct("<qq")


class Timeline:
    """Steps in ascending order, each with its newest ts."""

    def __init__(self, retention_s: float, packed: bytes = b"") -> None:
        """`retention_s` 0: endless. `packed`: what `pack` gave."""
        self._retention_ms = int(retention_s * 1000)
        entries = list(_ENTRY.iter_unpack(packed))
        self.floor_ts: int = entries[0][1] if entries else 0
        """The newest snapshot before the window: older ones are too old to be read."""
        self._steps: list[int] = [step for step, _ in entries[1:]]
        self._ts: list[int] = [ts for _, ts in entries[1:]]

    def note(self, wall_ms: int, ts: int) -> None:
        """Decisions up to `ts` are made, the last of them at `wall_ms`."""
        step = wall_ms // STEP_MS
        if self._steps and self._steps[-1] >= step:
            self._ts[-1] = max(self._ts[-1], ts)
        else:
            self._steps.append(step)
            self._ts.append(ts)

    def as_of(self, wall_ms: int) -> int:
        """The newest ts whose decisions all lie in steps that ended at or before `wall_ms`."""
        at = bisect_left(self._steps, (wall_ms + 1) // STEP_MS)
        return self._ts[at - 1] if at else 0

    def advance(self, wall_ms: int) -> None:
        """It is `wall_ms` now: forget what lies before the window."""
        if not self._retention_ms:
            return
        at = bisect_left(self._steps, (wall_ms - self._retention_ms + 1) // STEP_MS)
        if at:
            self.floor_ts = max(self.floor_ts, self._ts[at - 1])
            del self._steps[: at - 1], self._ts[: at - 1]

    def adopt(self, packed: bytes, ts: int) -> None:
        """Know of snapshots up to `ts` also what another worker packed, whose rows are here now."""
        theirs = Timeline(0.0, packed)
        merged = dict(zip(self._steps, self._ts, strict=True))
        for step, newest in zip(*theirs._up_to(ts), strict=True):
            merged[step] = max(newest, merged.get(step, 0))
        self.floor_ts = max(self.floor_ts, theirs.floor_ts)
        self._steps = sorted(merged)
        self._ts = [merged[step] for step in self._steps]

    def undo_above(self, ts: int) -> None:
        """Decisions after `ts` are void."""
        self.floor_ts = min(self.floor_ts, ts)
        self._steps, self._ts = self._up_to(ts)

    def pack(self, ts: int) -> bytes:
        """The floor and the steps, without decisions after `ts`."""
        steps, newest = self._up_to(ts)
        entries = [(0, min(self.floor_ts, ts)), *zip(steps, newest, strict=True)]
        return b"".join(_ENTRY.pack(*entry) for entry in entries)

    def _up_to(self, ts: int) -> tuple[list[int], list[int]]:
        end = bisect_left(self._ts, ts + 1)
        steps, newest = self._steps[:end], self._ts[:end]
        if end < len(self._ts) and ts > (newest[-1] if newest else 0):
            # The step goes on after `ts`, so what it had up to there was overwritten.
            steps.append(self._steps[end])
            newest.append(ts)
        return steps, newest
