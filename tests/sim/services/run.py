"""One seed: a cluster, clients, faults, healing, and the judgement over what the clients saw.

Owns the invariant that everything random comes from the seed, so that the same seed has the same
trace; and the rule of what a run must show in the end: once all faults are healed, writes and reads
succeed again within `LIVE_S`, nothing stays undecided, and what was acknowledged is there, also
after the machines of all workers lose their power once more.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import structlog

from tests.checkers.everything import check
from tests.sim.services.cluster import Cluster, Sizes, small
from tests.sim.services.disk import PowerCut
from tests.sim.services.faults import Faults
from tests.sim.services.forms import Form
from tests.sim.services.loop import OWNER, SimLoop, SimTask, Spins, Trace
from tests.sim.services.moving import Mover
from tests.sim.services.spreading import Spreads
from tests.sim.services.switching import Switcher
from tests.sim.services.workload import LISTS, Client, History, Shape

LIVE_S = 30.0
"""Virtual seconds after the last fault in which everything works again."""
MOVED_S = 60.0
SPREAD_S = 60.0
SPREAD_SHARE = 0.4
"""Of the runs with several shards: in these collections are spread anew."""
START_S = 20.0
REPLICAS = 3
"""Of every shard in the runs that have replicas; at most in those in which shards move."""
MEMORY = Path("/dev/shm")
_COUNTED = {"copied a shard", "gives up a shard", "begins where its peers stand", "is spread"}
"""Lines of the product's log that say how much of it was met."""


@dataclass(slots=True)
class Result:
    """What one seed came to."""

    seed: int
    digest: str = ""
    events: int = 0
    virtual_s: float = 0.0
    outcomes: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    checked: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)


def run_seed(
    seed: int, write: Callable[[str], None] | None = None, form: Form = Form.SINGLE
) -> Result:
    """Run one seed to its end. `write` gets every line of the trace."""
    result = Result(seed)
    loop = SimLoop()
    trace = Trace(loop.time, write)
    folder = Path(tempfile.mkdtemp(prefix="sim-", dir=MEMORY if MEMORY.is_dir() else None))
    try:
        with _quiet(trace, write is not None, result), small(sizes := _sizes(seed, form)):
            world = _World(seed, folder, trace, sizes, result, form)
            loop.set_exception_handler(world.on_exception)
            try:
                loop.run_until_complete(world.run())
            except Spins as error:
                result.violations.append(f"stuck: {error}")
            finally:
                _finish(loop)
    finally:
        loop.close()
        shutil.rmtree(folder, ignore_errors=True)
    result.digest, result.events = trace.digest(), trace.events
    result.virtual_s = loop.time()
    return result


def _sizes(seed: int, form: Form) -> Sizes:
    random = Random(f"{seed} sizes")
    replicas = {Form.SINGLE: 1, Form.REPLICATED: REPLICAS}
    return Sizes(
        replicas=replicas.get(form) or Random(f"{seed} replicas").randint(1, REPLICAS),
        grace_s=4.0 if form is Form.MOVING else 60.0,
        shard_count=random.choice([1, 2, 4]),
        chunk_bytes=random.choice([1024, 4096]),
        seal_rows=random.choice([15, 40, 200]),
        wal_file_bytes=random.choice([4096, 32_768]),
        checkpoint_wal_bytes=random.choice([8_192, 65_536, 1 << 20]),
        pool_delay_s=random.choice([0.0, 0.02, 0.2]),
        inline_sync_bytes=random.choice([65_536, 512, 64]),
    )


def _spare(seed: int, form: Form) -> int:
    """Workers beyond those that the replicas need: up to seven in all where shards move."""
    return Random(f"{seed} spare").randint(1, 4) if form is Form.MOVING else 0


def _finish(loop: SimLoop) -> None:
    """End what a stuck run left."""
    tasks = [t for t in asyncio.all_tasks(loop) if not t.done()]
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))


class _World:
    """The course of one run."""

    def __init__(
        self, seed: int, folder: Path, trace: Trace, sizes: Sizes, result: Result, form: Form
    ) -> None:
        random = Random(f"{seed} world")
        self._random = random
        self._result = result
        self._trace = trace
        self._cluster = Cluster(
            seed,
            folder,
            trace,
            sizes,
            coordinators=random.choice([1, 2]),
            shards=max(random.choice([2, 3]), sizes.replicas) + _spare(seed, form),
            gateways=random.choice([1, 2]),
        )
        self._cluster.violations = result.violations
        self._cluster.counts = result.counts
        self._history = History()
        shape = Shape(
            clients=random.choice([2, 3, 5]),
            keys=random.choice([6, 12, 30]),
            pause_s=random.choice([0.05, 0.1, 0.3]),
            text_bytes=random.choice([4, 200]),
            catalog=random.random() < 0.5,
        )
        self._shape = shape
        self._faults = Faults(self._cluster, Random(f"{seed} faults"))
        self._clients = [
            Client(self._cluster, self._history, shape, f"c{n}", Random(f"{seed} client {n}"))
            for n in range(shape.clients)
        ]
        own = Random(f"{seed} switcher")
        self._switcher = Switcher(self._cluster, own) if own.random() < 0.3 else None
        moves = Random(f"{seed} moves")
        self._mover = Mover(self._cluster, moves) if form is Form.MOVING else None
        spreads = Random(f"{seed} second generation")
        self._spreads: Spreads | None = None
        if sizes.shard_count > 1 and spreads.random() < SPREAD_SHARE:
            self._spreads = Spreads(self._cluster, spreads, (*shape.collections, LISTS))
        self._judge = Client(self._cluster, self._history, shape, "judge", Random(f"{seed} judge"))
        self._duration_s = random.choice([2.0, 4.0, 7.0])

    def on_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What asyncio would log: an exception that nobody took."""
        error = context.get("exception")
        source = context.get("task") or context.get("future")
        if isinstance(source, SimTask) and source.owner is not None and source.owner.dead:
            return
        if isinstance(error, PowerCut):
            return
        self._cluster.violation(f"nobody took: {context['message']}: {error!r}")

    async def run(self) -> None:
        cluster = self._cluster
        for node in cluster.nodes:
            if self._mover is None or not self._mover.late(node):
                node.start()
        early = self._random.random() < 0.3 and self._mover is None
        if early:
            await self._faults.run(self._random.random() * 3)
            self._faults.heal()
        if await self._begin():
            clients = [asyncio.ensure_future(client.run()) for client in self._clients]
            if self._switcher is not None:
                clients.append(asyncio.ensure_future(self._switcher.run()))
            if self._mover is not None:
                clients.append(asyncio.ensure_future(self._mover.run()))
            if self._spreads is not None:
                clients.append(asyncio.ensure_future(self._spreads.run()))
            await self._faults.run(self._duration_s)
            self._faults.heal()
            await self._settle(clients)
        await cluster.close()
        report = check(self._history.transactions)
        self._result.violations += [str(v) for v in report.violations]
        self._result.checked = report.checked
        self._result.outcomes = self._history.outcomes()
        for what, number in cluster.broker.counts.items():
            self._result.counts[what] = number

    async def _begin(self) -> bool:
        """Make the collections; the cluster is healthy, so it works in time."""
        metrics = ["cosine", "dot", "euclidean"]
        for name in (*self._shape.collections, LISTS):
            metric = self._random.choice(metrics)
            shards = self._random.randint(1, min(3, self._cluster.sizes.shard_count))
            create = functools.partial(self._judge.create, name, metric, shards)
            if not await self._within(START_S, create):
                self._cluster.violation(f"not live: no collection within {START_S:g} s")
                return False
        return True

    async def _within(self, seconds: float, attempt: Callable[[], Awaitable[bool]]) -> bool:
        """Whether an attempt succeeds in time."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while not await attempt():
            if loop.time() > until:
                return False
            await asyncio.sleep(0.1)
        return True

    async def _settle(self, clients: list[asyncio.Task[None]]) -> None:
        """After the faults: it works again, all is decided, and everything is there."""
        for client in self._clients:
            client.stopping = True
        if self._switcher is not None:
            self._switcher.stopping = True
        if self._mover is not None:
            self._mover.stopping = True
        if self._spreads is not None:
            self._spreads.stopping = True
        await asyncio.wait(clients, timeout=120.0)
        for task in clients:
            if not task.done():
                self._cluster.violation("not live: a client's request never ends")
                task.cancel()
            elif (error := task.exception()) is not None:
                raise error
        if not await self._within(LIVE_S, self._judge.writes_everywhere):
            self._cluster.violation(f"not live: no write within {LIVE_S:g} s of the last fault")
            return
        if not await self._within(LIVE_S, self._is_decided):
            self._cluster.violation(f"undecided {LIVE_S:g} s after the last fault")
        if not await self._within(LIVE_S, self._reads_all):
            self._cluster.violation(f"not live: no read within {LIVE_S:g} s of the last fault")
            return
        if self._spreads is not None and not await self._spread(self._spreads):
            return
        if self._mover is not None and not await self._at_rest(self._mover):
            return
        for node in self._cluster.shards:
            node.crash(power=True)
        await asyncio.sleep(0.2)
        if not await self._within(LIVE_S, self._reads_all):
            self._cluster.violation(f"not live: no read {LIVE_S:g} s after a power cut")
        elif self._random.random() < 0.3:
            await self._damage_a_file()

    async def _spread(self, spreads: Spreads) -> bool:
        """Whether every spreading ends, with the right rows on the new shards."""
        if not await self._within(SPREAD_S, spreads.rest):
            self._cluster.violation(f"still being spread {SPREAD_S:g} s after the last fault")
            return False
        if not await self._within(LIVE_S, self._reads_all):
            self._cluster.violation("not live: no read after a collection was spread")
            return False
        return True

    async def _at_rest(self, mover: Mover) -> bool:
        """Whether moves end, with the same rows in all replicas, which are the right ones."""
        if not await self._within(MOVED_S, mover.rest):
            self._cluster.violation(f"replicas still move {MOVED_S:g} s after the last fault")
            return False
        self._result.violations += mover.differences()
        if not await self._within(LIVE_S, self._reads_all):
            self._cluster.violation("not live: no read after the moves")
            return False
        return True

    async def _reads_all(self) -> bool:
        """Whether everything can be read, and is what it should be."""
        switched = self._switcher is None or await self._switcher.check()
        return await self._judge.read_all() and switched

    async def _damage_a_file(self) -> None:
        """A bit flips at rest: the worker refuses by name, or nobody is told anything wrong.

        The newest WAL file is spared: damage in its last group is what a torn write looks like.
        """
        node = self._random.choice(self._cluster.shards)
        node.wanted = False
        node.crash(power=False)
        disk = node.disk.open()
        names = disk.names()
        newest = max((name for name in names if name.startswith("wal/")), default="")
        names = [name for name in names if name != newest and len(disk.read(name))]
        if not names:
            return
        name = self._random.choice(names)
        offset = self._random.randrange(len(disk.read(name)))
        self._trace.note(f"{node.name} bit flipped in {name} at {offset}")
        node.disk.flip_bit(name, offset)
        node.damaged = True
        node.start()

        async def settled() -> bool:
            return bool(node.refused) or await self._judge.read_all()

        if not await self._within(LIVE_S, settled):
            self._cluster.violation(f"neither refused nor read: a bit of {name} at {offset}")
        self._cluster.count("bit flips refused" if node.refused else "bit flips harmless")
        if node.refused and name.rpartition("/")[2] not in node.refused:
            self._cluster.violation(f"a bit of {name} flipped, refused with: {node.refused}")

    async def _is_decided(self) -> bool:
        services = [n.life.service for n in self._cluster.shards if n.life is not None and n.ready]
        return len(services) == len(self._cluster.shards) and not any(
            service.health()["undecided"] for service in services if service is not None
        )


@contextmanager
def _quiet(trace: Trace, loud: bool, result: Result) -> Iterator[None]:
    """The product's log goes to the trace when somebody looks, else nowhere.

    An exception that the product only logs is a defect of it, and a violation.
    """

    def take(_: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if loud:
            trace.show(f"  log {method} {event}")
        if (told := event.get("event")) in _COUNTED:
            result.counts[f"log: {told}"] = result.counts.get(f"log: {told}", 0) + 1
        if method == "exception":
            owner = OWNER.get()
            error = sys.exc_info()[1]
            if owner is None or not owner.dead:
                result.violations.append(f"logged: {event.get('event')}: {error!r}")
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[take], cache_logger_on_first_use=False)
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        structlog.configure(**before)
        if collecting:
            gc.enable()
        gc.collect()
