"""The two clocks of a production process: one that never jumps back, and the wall."""

from __future__ import annotations

import time


class SystemClock:
    """`ports.Clock` over the operating system's clocks."""

    def monotonic_s(self) -> float:
        """Seconds since an arbitrary start; for durations only."""
        return time.monotonic()

    def wall_ms(self) -> int:
        """Milliseconds since 1970; may jump when the operator sets the clock."""
        return time.time_ns() // 1_000_000
