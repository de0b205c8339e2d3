"""How many transactions of one gateway may be undecided at once. Pure.

Undecided transactions stand in each other's way, and one that lost against another is tried again.
So when a mesh that stood still for a while goes on, all that waited would conflict with all, and
nothing would be decided for the load that this is. Owns the bound that keeps it from that: it falls
by a fifth when answers are slow, and rises by one with each quick one (additive increase,
multiplicative decrease: Chiu & Jain, "Analysis of the increase and decrease algorithms", 1989).
"""

from __future__ import annotations

LIMIT_MIN = 16
LIMIT_MAX = 512
QUICK_S = 0.25
SLOW_S = 0.5
FALL = 0.8
FALL_PAUSE_S = 0.25
"""All that is under way is slow together: it counts once."""
PACE_SHARE = 0.1
"""Of the newest in what is taken for the pace."""
SMALL_BYTES_MAX = 64 * 1024
"""Larger transactions take their time however few there are; their bytes are bounded elsewhere."""


class Admission:
    """Of one gateway."""

    def __init__(self) -> None:
        self.limit = float(LIMIT_MAX)
        self.in_flight = 0
        self.pace_s = 0.0
        """How long small transactions take to be decided, lately."""
        self._fell_s = float("-inf")

    def has_room(self) -> bool:
        """Whether one more may begin."""
        return self.in_flight < int(self.limit)

    def begin(self) -> None:
        """One more is sent."""
        self.in_flight += 1

    def end(self, took_s: float, size_bytes: int, now_s: float) -> None:
        """One is decided, or given up, `took_s` after it was sent."""
        self.in_flight -= 1
        if size_bytes > SMALL_BYTES_MAX:
            return
        self.pace_s += PACE_SHARE * (took_s - self.pace_s)
        if took_s <= QUICK_S:
            self.limit = min(LIMIT_MAX, self.limit + 1)
        elif took_s > SLOW_S and now_s - self._fell_s >= FALL_PAUSE_S:
            self._fell_s = now_s
            self.limit = max(LIMIT_MIN, self.limit * FALL)
