"""A client's way to several gateways: tries again and elsewhere until the call's time is over.

Owns the meaning of "answered in time": a call is counted once, by the time from its beginning to
its last try's answer, and an answer that says "try again" is none. Nothing is repeated that could
be applied twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal

from tests.support.clients.edge import Answer, Edge, NeverSent

Kind = Literal["read", "write", "other"]

WITHIN_S: dict[Kind, float] = {"read": 2.0, "write": 15.0, "other": 15.0}
"""How long a call may take. Strong reads ask the sequencer, as writes do, and count with them."""
TRY_S: dict[Kind, float] = {"read": 0.7, "write": 4.0, "other": 4.0}
"""When a call that may be repeated is asked of another gateway."""
CONFLICTS_MAX = 5
SLOW_MAX = 200
_PAUSE_S = (0.01, 0.5)
_READS = ("/fetch", "/count", "/scroll", "/query")


def kind_of(path: str, body: Any, method: str) -> Kind:
    """What a call is, by its request."""
    if method == "GET":
        return "other"
    if path.endswith(_READS):
        strong = isinstance(body, dict) and "strong" in body.get("consistency", {})
        return "write" if strong else "read"
    return "write"


@dataclass(slots=True)
class Meter:
    """How long calls took, and which were not answered in time."""

    took_s: dict[Kind, list[float]] = field(
        default_factory=lambda: {"read": [], "write": [], "other": []}
    )
    late: dict[Kind, int] = field(default_factory=lambda: {"read": 0, "write": 0, "other": 0})
    slow: list[str] = field(default_factory=list)
    """The first `SLOW_MAX` calls that were not answered in time."""
    tries: int = 0

    def note(self, kind: Kind, took_s: float, answered: bool, told: str) -> None:
        """One call is over."""
        self.took_s[kind].append(took_s)
        if not answered or took_s > WITHIN_S[kind]:
            self.late[kind] += 1
            if len(self.slow) < SLOW_MAX:
                self.slow.append(f"at {time.monotonic():.1f}: {kind} {took_s:.2f} s: {told}")


class Route:
    """Which gateway a client library asks now, shared by all that use it."""

    def __init__(self, edges: Sequence[Edge], first: int) -> None:
        self.edges = edges
        self.current = first % len(edges)

    def leave(self, index: int) -> None:
        """Go on to the next gateway, unless somebody else has."""
        if index == self.current:
            self.current = (index + 1) % len(self.edges)


class PatientEdge(Edge):
    """Asks until there is an answer that stands, or until the call's time is over."""

    def __init__(self, route: Route, meter: Meter, random: Random) -> None:
        self._route = route
        self._meter = meter
        self._random = random
        self.slow = []
        self.no_answer = 0
        self.answered_by = route.current
        self.moved_at = 0.0
        """When an answer came from another gateway than the one before."""
        self.moves = 0

    async def ask(
        self,
        path: str,
        body: Any = None,
        method: str = "POST",
        headers: dict[str, str] | None = None,
        within_s: float | None = None,
        renew: Callable[[], Any] | None = None,
    ) -> Answer:
        """One call, with as many tries as its time allows.

        :param renew: the body to go on with after a try whose outcome is unknown, for a call that
            must not be repeated as it is.
        :raises NeverSent: nobody listened all the time.
        """
        kind = kind_of(path, body, method)
        started = time.monotonic()
        answer = Answer(0, {})
        told = "never sent"
        try:
            answer = await self._patiently(
                kind, path, body, method, headers or {}, within_s or WITHIN_S[kind], renew
            )
            told = f"{answer.status} {answer.body.get('error', '')}"
        finally:
            stands = not _again(answer) or answer.code == "conflict"
            took_s = time.monotonic() - started
            self._meter.note(kind, took_s, stands, f"{method} {path}: {told[:300]}")
        return answer

    async def _patiently(
        self,
        kind: Kind,
        path: str,
        body: Any,
        method: str,
        headers: dict[str, str],
        within_s: float,
        renew: Callable[[], Any] | None,
    ) -> Answer:
        until = time.monotonic() + within_s
        safe = kind != "write" or "Idempotency-Key" in headers or "Transaction" in headers
        repeatable = safe or renew is not None
        pause_s, top_s = _PAUSE_S
        last: Answer | None = None
        doubtful = False
        conflicts = 0
        while (left_s := until - time.monotonic()) > 0:
            index = self._route.current
            self._meter.tries += 1
            try:
                last = await self._route.edges[index].ask(
                    path,
                    body,
                    method,
                    headers,
                    within_s=min(left_s, TRY_S[kind]) if repeatable else left_s,
                )
            except NeverSent:
                self._route.leave(index)
            else:
                last.doubtful = doubtful and not last.ok
                conflicts += last.code == "conflict"
                if last.ok or not _again(last) or conflicts > CONFLICTS_MAX:
                    self._heard(index)
                    return last
                if last.code == "conflict" and "Transaction" in headers:
                    self._heard(index)
                    return last
                if last.code != "conflict":
                    self._route.leave(index)
                if last.outcome == "unknown":
                    if not repeatable:
                        return last
                    if renew is not None:
                        body = renew()
                    else:
                        doubtful = doubtful or kind == "write"
            left_s = until - time.monotonic()
            await asyncio.sleep(max(0.0, min(left_s, self._random.uniform(0.5, 1) * pause_s)))
            pause_s = min(2 * pause_s, top_s)
        if last is None:
            raise NeverSent(path)
        return last

    def _heard(self, index: int) -> None:
        if index != self.answered_by:
            self.answered_by = index
            self.moves += 1
            self.moved_at = time.monotonic()


def _again(answer: Answer) -> bool:
    """Whether an answer leaves the call open: nothing was applied and a new try may succeed, or
    nobody knows."""
    return not answer.status or answer.retryable or answer.code in ("outcome_unknown", "internal")
