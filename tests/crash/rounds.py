"""Rounds of faults under load, and what is checked: while it runs, and over the whole history.

Owns the promises that no history shows: every service is ready again in time after each fault
without anybody's help, both gateways write and read again, no process ends by itself, every request
is answered, no answer is an internal error.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import aiohttp

from tests.checkers.everything import check
from tests.checkers.history import Report, save
from tests.checkers.timestamps import check_order
from tests.crash.mesh import READY_WITHIN_S, Fault, Mesh, schedule
from tests.support.clients.client import Client, Shared
from tests.support.clients.edge import ANSWER_WITHIN_S, Edge
from tests.support.clients.whole import insist, new_epoch, prepare, probe, read_everything

CLIENTS = 8
ROUNDS_PER_EPOCH = 4
APPLIED_WITHIN_S = 6 * READY_WITHIN_S


@dataclass(slots=True)
class Result:
    """What a run did and found."""

    seed: int
    rounds: int = 0
    took_s: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    report: Report = field(default_factory=Report)
    broken: list[str] = field(default_factory=list)
    ready_s: list[float] = field(default_factory=list)
    slow: list[str] = field(default_factory=list)

    @property
    def violations(self) -> list[str]:
        """Everything that is wrong."""
        return [*self.broken, *map(str, self.report.violations)]

    def summary(self) -> str:
        """Readable figures."""

        def line(counts: Counter[str] | dict[str, int]) -> str:
            return ", ".join(f"{n:,} {what}" for what, n in sorted(counts.items())) or "none"

        worst = max(self.ready_s, default=0.0)
        return "\n".join(
            [
                f"seed {self.seed}: {self.rounds} rounds in {self.took_s:.0f} s",
                f"transactions: {line(self.outcomes)}",
                f"faults: {line(self.faults)}",
                f"ready again after {worst:.1f} s at worst",
                f"slow answers: {len(self.slow)}",
                *(f"  {slow}" for slow in self.slow[:20]),
                f"errors told: {line(self.answers)}",
                f"also: {line(self.done)}",
                f"checked: {line(self.report.checked)}",
                f"violations: {len(self.violations)}",
                *(f"  {violation}" for violation in self.violations[:40]),
            ]
        )


def _crowd() -> float:
    """How many runnable processes share one core of this machine, at least 1: a process of ours
    that starts takes so much longer."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


class Run:
    """One run over one folder; everything random follows from the seed, but not the timing."""

    def __init__(
        self,
        folder: Path,
        rounds: int,
        seed: int,
        say: Callable[[str], None] | None = None,
        plan: list[list[Fault]] | None = None,
    ) -> None:
        """`plan`: the faults of each round; None: drawn from the seed."""
        self._folder = folder
        self._rounds = rounds
        self._seed = seed
        self._plan = plan
        self._say = say or (lambda line: None)
        self._mesh = Mesh(folder)
        self._shared = Shared()
        self._result = Result(seed)
        self._probes = 0

    async def run(self) -> Result:
        """The whole run; the history is saved whatever happens."""
        started = time.monotonic()
        try:
            await self._mesh.start()
            connector = aiohttp.TCPConnector(limit=0, force_close=False)
            async with aiohttp.ClientSession(connector=connector) as http:
                await self._fire(http)
        finally:
            await self._mesh.stop()
            save(self._folder / "history.jsonl", self._shared.history)
        result, shared = self._result, self._shared
        result.took_s = time.monotonic() - started
        result.outcomes = Counter(t.outcome for t in shared.history)
        result.answers, result.done, result.broken = shared.answers, shared.done, shared.broken
        result.report = check(shared.history)
        (self._folder / "summary.txt").write_text(result.summary() + "\n")
        return result

    async def _fire(self, http: aiohttp.ClientSession) -> None:
        edges = [Edge(http, gateway.url) for gateway in self._mesh.gateways]
        await prepare(edges[0])
        drawn = schedule(Random(f"faults-{self._seed}"), self._rounds, self._mesh.targets)
        plan = drawn if self._plan is None else self._plan
        clients = [Client(n, edges, str(self._seed), self._shared) for n in range(CLIENTS)]
        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(client.work())
            try:
                for number, faults in enumerate(plan):
                    if number % ROUNDS_PER_EPOCH == 0:
                        epoch = number // ROUNDS_PER_EPOCH
                        await new_epoch(edges[0], self._shared, epoch, APPLIED_WITHIN_S)
                    await self._round(http, edges, number, faults)
            finally:
                self._shared.stopping = True
        await read_everything(edges[0], self._shared)
        self._result.slow = [slow for edge in edges for slow in edge.slow]
        if unanswered := sum(edge.no_answer for edge in edges):
            self._shared.broken.append(
                f"{unanswered} requests without answer in {ANSWER_WITHIN_S} s"
            )

    async def _round(
        self, http: aiohttp.ClientSession, edges: Sequence[Edge], number: int, faults: list[Fault]
    ) -> None:
        self._say(f"round {number + 1}: {' and '.join(map(str, faults))}")
        seen = len(self._shared.history)
        async with asyncio.TaskGroup() as group:
            for fault in faults:
                group.create_task(self._mesh.inflict(fault))
                self._result.faults[f"{fault.kind} {fault.target.rstrip('01')}"] += 1
        started = time.monotonic()
        await self._mesh.wait_ready(http)
        for edge in edges:
            self._probes += 1
            body = probe(self._probes)
            await insist(edge, "/v1/transactions/commit", body, APPLIED_WITHIN_S)
        ready_s = time.monotonic() - started
        self._result.ready_s.append(ready_s)
        if ready_s > READY_WITHIN_S * _crowd():
            told = " and ".join(map(str, faults))
            self._shared.broken.append(f"round {number + 1}: {told}: ready after {ready_s:.1f} s")
        if ended := self._mesh.ended():
            raise RuntimeError(f"{ended} ended by themselves:\n{self._mesh.log_end(ended[0])}")
        self._result.rounds += 1
        early = check_order(self._shared.history[seen:]).violations
        for violation in early:
            self._say(f"round {number + 1}: {violation}")
