"""What a run of the mesh did and found, the bounds that it must keep, and one line that says all.

Owns the verdict: a run passes only if every figure is within its bound, and says which is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.checkers.history import Report
from tests.mesh.contents import Content, differences
from tests.mesh.patient import WITHIN_S, Kind, Meter

SHARE_MIN = 0.999
"""Of reads, and of writes, that must be answered in time."""
_LOST = "lost write"
_TOLD_MAX = 40


@dataclass(slots=True)
class Result:
    """A run, as far as it got."""

    seed: int
    brokers: int
    took_s: float = 0.0
    checked_s: float = 0.0
    settled_s: float = 0.0
    meter: Meter = field(default_factory=Meter)
    held_back: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    terms: tuple[int, int] = (0, 0)
    """The first and the last."""
    report: Report = field(default_factory=Report)
    contents: Mapping[int, Mapping[str, Content]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    share_min: float = SHARE_MIN

    @property
    def lost(self) -> int:
        """Acknowledged writes that the last reads miss."""
        return sum(v.name == _LOST for v in self.report.violations)

    @property
    def anomalies(self) -> int:
        """Everything else that the checkers found."""
        return len(self.report.violations) - self.lost

    @property
    def replicas(self) -> int:
        """Of all shards, that were compared."""
        return sum(map(len, self.contents.values()))

    @property
    def violations(self) -> list[str]:
        """Every bound that was broken, and what shows it."""
        found = list(self.broken)
        kinds: tuple[Kind, ...] = ("read", "write")
        for kind in kinds:
            if (share := self.share(kind)) < self.share_min:
                told = f"{share:.4%} of {kind}s within {WITHIN_S[kind]:g} s"
                found.append(f"{told}, must be {self.share_min:.4%}")
        if held_back := self.held_back["all"]:
            found.append(f"{held_back} calls were not begun: all clients were waiting")
        if not self.acknowledged:
            found.append("no write was acknowledged")
        if not self.contents or any(len(of) < 2 for of in self.contents.values()):
            found.append("there are no replicas to compare")
        found += [f"replicas differ: {told}" for told in differences(self.contents)]
        return found + [str(violation) for violation in self.report.violations]

    def share(self, kind: Kind) -> float:
        """Of the calls of that kind, how many were answered in time; 0 of none."""
        calls = len(self.meter.took_s[kind])
        return 1 - self.meter.late[kind] / calls if calls else 0.0

    def summary(self) -> str:
        """Readable figures; the last line has them all."""
        violations = self.violations
        return "\n".join(
            [
                f"seed {self.seed}, {self.brokers} broker(s), {self.took_s:.0f} s of load",
                f"transactions: {_line(self.outcomes)}",
                f"faults: {_line(self.faults)}",
                f"errors told: {_line(self.answers)}",
                f"also: {_line(self.done)}, {self.meter.tries} tries",
                f"checked in {self.checked_s:.1f} s: {_line(self.report.checked)}",
                *(f"  late {slow}" for slow in self.meter.slow[:_TOLD_MAX]),
                f"violations: {len(violations)}",
                *(f"  {violation}" for violation in violations[:_TOLD_MAX]),
                self.last_line(),
            ]
        )

    def last_line(self) -> str:
        """All figures."""
        took = self.meter.took_s
        operations = len(took["read"]) + len(took["write"])
        equal = "yes" if self.contents and not differences(self.contents) else "NO"
        parts = [
            f"operations={operations}",
            f"rate={operations / self.took_s if self.took_s else 0:.0f}/s",
            *self._timing("read"),
            *self._timing("write"),
            f"held_back={self.held_back.total()}",
            f"acknowledged={self.acknowledged}",
            f"lost={self.lost}",
            f"anomalies={self.anomalies}",
            f"faults={sum(self.faults.values())} ({_line(self.faults)})",
            f"takeovers={self.terms[1] - self.terms[0]}",
            f"settled={self.settled_s:.1f}s",
            f"replicas={self.replicas} equal={equal}",
            "FAILED" if self.violations else "ok",
        ]
        return "mesh: " + " ".join(parts)

    def _timing(self, kind: Kind) -> list[str]:
        took = sorted(self.meter.took_s[kind])
        return [
            f"{kind}s_within_{WITHIN_S[kind]:g}s={self.share(kind):.4%}",
            f"{kind}_p50={_quantile(took, 0.5) * 1000:.1f}ms",
            f"{kind}_p99={_quantile(took, 0.99) * 1000:.1f}ms",
        ]


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def _line(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n:,} {what}" for what, n in sorted(counts.items())) or "none"
