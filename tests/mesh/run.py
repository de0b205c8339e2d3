"""One run of the mesh: load and faults, then rest, and everything that must hold then.

Owns the order of the end: faults stop, all is healed, the load ends, the mesh settles within a
bound, and only then is everything read, once through a gateway and once from every replica.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from tests.checkers.everything import check
from tests.checkers.history import Transaction, save
from tests.mesh.contents import contents, term_of
from tests.mesh.faults import Fault, schedule
from tests.mesh.figures import SHARE_MIN, Result
from tests.mesh.load import Load
from tests.mesh.mesh import COUNTS, FaultyMesh
from tests.mesh.spreads import Spreads
from tests.support.clients.edge import Edge
from tests.support.clients.whole import insist, new_epoch, prepare, probe, read_everything
from vector_db.common.adapters.nats_bus import NatsBus

RATE = 200.0
FAULT_EVERY_S = 20.0
SETTLE_WITHIN_S = 60.0
READY_WITHIN_S = 30.0


class Run:
    """One run over one folder; everything random follows from the seed, but not the timing."""

    def __init__(
        self,
        folder: Path,
        seed: int,
        seconds: float,
        *,
        brokers: int = 1,
        rate: float = RATE,
        every_s: float = FAULT_EVERY_S,
        plan: Sequence[Fault] | None = None,
        share_min: float = SHARE_MIN,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """`plan`: the faults; None: drawn from the seed, for as long as the load lasts."""
        self._folder = folder
        self._seconds = seconds
        self._every_s = every_s
        self._plan: Iterator[Fault] = (
            schedule(seed, COUNTS, brokers) if plan is None else iter(plan)
        )
        self._seed = seed
        self._rate = rate
        self._say = say or (lambda line: None)
        self._mesh = FaultyMesh(folder, seed, brokers)
        self._load: Load | None = None
        self._result = Result(seed, brokers, share_min=share_min)

    @property
    def history(self) -> list[Transaction]:
        """What the clients saw; empty before the load."""
        return self._load.history if self._load is not None else []

    async def run(self) -> Result:
        """The whole run; the history is saved whatever happens."""
        result = self._result
        # A full collection over all that was seen would stop the clients for seconds.
        gc.disable()
        try:
            await self._mesh.start()
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
                edges = [Edge(http, gateway.url) for gateway in self._mesh.gateways]
                load = self._load = Load(edges, self._seed, self._rate)
                await self._under_fire(load, edges, http)
        finally:
            gc.enable()
            await self._mesh.stop()
            save(self._folder / "history.jsonl", self.history)
        self._judge(load)
        (self._folder / "summary.txt").write_text(result.summary() + "\n")
        return result

    async def _under_fire(
        self, load: Load, edges: Sequence[Edge], http: aiohttp.ClientSession
    ) -> None:
        await prepare(edges[0])
        await new_epoch(edges[0], load.shared, 0, READY_WITHIN_S)
        async with self._bus() as bus:
            first = await term_of(bus, READY_WITHIN_S)
        over = asyncio.Event()
        spreads = Spreads(edges, load.shared, self._seed)
        started = time.monotonic()
        async with asyncio.TaskGroup() as group:
            group.create_task(load.run(over))
            group.create_task(spreads.run(over))
            try:
                await self._faults(load, edges, http, started)
            finally:
                over.set()
        self._result.took_s = time.monotonic() - started
        await self._settle(load, spreads, edges, http)
        async with self._bus() as bus:
            self._result.terms = (first, await term_of(bus, READY_WITHIN_S))

    async def _faults(
        self, load: Load, edges: Sequence[Edge], http: aiohttp.ClientSession, started: float
    ) -> None:
        """A fault every so often, each healed before the next, until the time is over."""
        number = 0
        until = started + self._seconds
        while (due := started + (number + 0.5) * self._every_s) < until:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            fault = next(self._plan, None)
            if fault is None:
                break
            number += 1
            target = await self._mesh.inflict(fault, http)
            self._result.faults[fault.name] += 1
            ready_s = await self._mesh.wait_ready(http)
            self._say(f"{number}: {fault} ({target}), ready {ready_s:.1f} s after")
            try:
                await new_epoch(edges[number % len(edges)], load.shared, number, SETTLE_WITHIN_S)
            except RuntimeError as error:
                load.shared.broken.append(f"after {fault} ({target}): {error}"[:1000])
        await asyncio.sleep(max(0.0, until - time.monotonic()))

    async def _settle(
        self, load: Load, spreads: Spreads, edges: Sequence[Edge], http: aiohttp.ClientSession
    ) -> None:
        """All is healed: every gateway writes, every replica has it all, and all agree.

        :raises RuntimeError: the mesh does not get ready.
        :raises TimeoutError: a replica does not catch up, or a collection is still being spread.
        """
        started = time.monotonic()
        await self._mesh.brokers_settled()
        await self._mesh.wait_ready(http)
        await self._mesh.whole(http)
        await spreads.ended(SETTLE_WITHIN_S)
        for number, edge in enumerate(edges):
            await insist(edge, "/v1/transactions/commit", probe(number), SETTLE_WITHIN_S)
        snapshot_ts = await read_everything(edges[0], load.shared)
        left_s = SETTLE_WITHIN_S - (time.monotonic() - started)
        async with self._bus() as bus:
            self._result.contents = await contents(bus, snapshot_ts, left_s)
        self._result.settled_s = time.monotonic() - started
        if ended := self._mesh.ended():
            raise RuntimeError(f"{ended} ended by themselves:\n{self._mesh.log_end(ended[0])}")

    def _judge(self, load: Load) -> None:
        result, shared = self._result, load.shared
        result.meter, result.held_back = load.meter, load.held_back
        result.outcomes = Counter(t.outcome for t in load.history if t.writes)
        result.acknowledged = result.outcomes["committed"]
        result.answers, result.done, result.broken = shared.answers, shared.done, shared.broken
        started = time.monotonic()
        result.report = check(load.history)
        result.checked_s = time.monotonic() - started

    @asynccontextmanager
    async def _bus(self) -> AsyncIterator[NatsBus]:
        """A way of our own to the brokers, past the links."""
        bus = await NatsBus.connect(self._mesh.nats_url, "mesh-test")
        try:
            yield bus
        finally:
            await bus.close()
