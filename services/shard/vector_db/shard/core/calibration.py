"""How much effort an index needs for a recall: a measured curve, and what is read off it.

Owns the recall contract's arithmetic: an effort is chosen so that the lower end of what was
measured (1.64 standard errors below the mean) reaches the recall that is asked, and never falls as
`k` grows.
Effort is the beam of a graph (`ef`) or the number of lists that are looked into (`nprobe`).
"""

from __future__ import annotations

import math
from itertools import pairwise

import msgspec

_ERRORS = 1.64
"""Standard errors below the mean: one side of a normal distribution at 95 %."""


class Point(msgspec.Struct, frozen=True, array_like=True):
    """Mean recall of the best `k` at `effort` over the samples, and its standard error."""

    k: int
    effort: int
    recall: float
    error: float

    @property
    def sure(self) -> float:
        """The recall that can be counted on, in nineteen of twenty indexes."""
        return self.recall - _ERRORS * self.error


class Calibration(msgspec.Struct, frozen=True):
    """Points by k, then effort, both ascending; `samples` queries each. Empty: not measured."""

    points: tuple[Point, ...] = ()
    samples: int = 0

    def effort(self, k: float, recall: float) -> int:
        """The least effort that holds `recall` for the best `k`; 0: nothing was measured.

        Between two measured `k` it is interpolated, beyond the last it grows with `k`.
        """
        curves = self._curves()
        if not curves:
            return 0
        needs: list[tuple[int, float]] = []
        for measured_k, curve in curves.items():
            least = needs[-1][1] if needs else 0.0
            needs.append((measured_k, max(least, _needed(curve, recall))))
        if k <= needs[0][0]:
            return math.ceil(needs[0][1])
        for (low_k, low), (high_k, high) in pairwise(needs):
            if k <= high_k:
                return math.ceil(low + (high - low) * (k - low_k) / (high_k - low_k))
        last_k, last = needs[-1]
        return math.ceil(last * k / last_k)

    def recall(self, k: int, effort: int) -> float:
        """The mean recall at `effort`, of the measured `k` nearest to this one."""
        curves = self._curves()
        if not curves:
            return 0.0
        curve = curves[min(curves, key=lambda measured: abs(measured - k))]
        if effort <= curve[0].effort:
            return curve[0].recall
        for low, high in pairwise(curve):
            if effort <= high.effort:
                share = (effort - low.effort) / (high.effort - low.effort)
                return low.recall + share * (high.recall - low.recall)
        return curve[-1].recall

    def _curves(self) -> dict[int, list[Point]]:
        curves: dict[int, list[Point]] = {}
        for point in self.points:
            curves.setdefault(point.k, []).append(point)
        return curves


def _needed(curve: list[Point], recall: float) -> float:
    """The effort at which the curve reaches `recall`, its last one where it does not."""
    if curve[0].sure >= recall:
        return curve[0].effort
    for low, high in pairwise(curve):
        if high.sure >= recall:
            share = (recall - low.sure) / (high.sure - low.sure)
            return low.effort + share * (high.effort - low.effort)
    return curve[-1].effort
