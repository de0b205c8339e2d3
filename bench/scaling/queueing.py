"""Waiting at servers, the slowest of many, and what hedging saves: closed forms and one bisection.

Assumptions: arrivals are Poisson; service takes its mean but for stragglers, which take `pause_s`
more; waits are those of M/M/c (for a constant service they are at most half of that). Whatever is
asked in parallel is independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

HEDGE_S_MIN = 0.005
LONGER = 1.25
"""A second replica is asked after 1.25 times the 95th percentile, 5 ms at least
(`gateway/replicas.py`)."""
HEDGES_SHARE = 0.1

Cdf = Callable[[float], float]


class Saturated(Exception):
    """More work comes than the servers do: no wait is finite."""


def must_wait(load: float, servers: int) -> float:
    """Erlang C: the probability that an arrival finds all servers busy; `load` in servers.

    :raises Saturated: `load` is not below `servers`.
    """
    if load >= servers:
        raise Saturated(f"{load:.3g} servers' work for {servers}")
    blocked = 1.0
    for n in range(1, servers + 1):
        blocked = load * blocked / (n + load * blocked)
    return blocked / (1 - (load / servers) * (1 - blocked))


@dataclass(frozen=True, slots=True)
class Station:
    """A queue before `servers` equal servers: `rate` arrivals a second of `service_s` each."""

    rate: float
    service_s: float
    servers: int = 1
    pause_s: float = 0.0
    pause_share: float = 0.0
    """Of the answers, how many take `pause_s` longer: a build beside, an fsync, a page fault."""

    @property
    def utilisation(self) -> float:
        """Busy part of the servers."""
        return self.rate * self.service_s / self.servers

    def cdf(self) -> Cdf:
        """P(answered within t).

        :raises Saturated: see `must_wait`.
        """
        waits = must_wait(self.rate * self.service_s, self.servers)
        drain = self.servers / self.service_s - self.rate if self.service_s else math.inf

        def without_pause(t: float) -> float:
            left = t - self.service_s
            return 0.0 if left < 0 else 1 - waits * math.exp(-drain * left)

        def answered(t: float) -> float:
            late = without_pause(t - self.pause_s) if self.pause_share else 0.0
            return (1 - self.pause_share) * without_pause(t) + self.pause_share * late

        return answered


def quantile(cdf: Cdf, q: float) -> float:
    """The least t with cdf(t) >= q, to a part in a million."""
    if not 0 < q < 1:
        raise ValueError(f"quantile {q}")
    high = 1e-6
    while cdf(high) < q:
        high *= 2
    low = 0.0
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if cdf(middle) < q else (low, middle)
    return high


def slowest_of(cdf: Cdf, n: float) -> Cdf:
    """All of `n` independent answers are there."""
    return lambda t: cdf(t) ** n


def hedged(cdf: Cdf) -> Cdf:
    """One of two replicas has answered, the second asked once the first is late.

    At most a tenth of the requests are hedged, which the delay ensures by itself: 1 in 20.
    """
    delay_s = max(HEDGE_S_MIN, LONGER * quantile(cdf, 0.95))
    return lambda t: 1 - (1 - cdf(t)) * (1 - cdf(t - delay_s) if t > delay_s else 1.0)
