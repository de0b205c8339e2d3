"""The product's whole services as nodes of one simulated cluster: started, crashed, started anew.

Coordinators, shard workers and gateways are built by their own `build` over a simulated bus, disk
and clock; only the gateway's two edges (sockets) are left out, and its `Database` is called as they
would. Owns the invariant that a dead life does nothing any more: its bus is closed and its disk
handle refuses before the first of its tasks is cancelled.
"""

from __future__ import annotations

import asyncio
import contextvars
import errno
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, TypeVar
from unittest.mock import patch

from prometheus_client import CollectorRegistry

import vector_db.gateway.app as gateway_app
import vector_db.gateway.core.partition as partition
import vector_db.shard.app as shard_app
from tests.sim.services.bus import Broker, SimBus
from tests.sim.services.disk import PowerCut, SimDisk
from tests.sim.services.loop import OWNER, SimExecutor, Trace
from vector_db.common.model.errors import StartupError, StorageCorrupt, VectorDBError
from vector_db.common.ports import BusTimeout, BusUnavailable, DiskFull
from vector_db.common.service.config import (
    Config,
    PerformanceConfig,
    ServerConfig,
    ShardingConfig,
    StorageConfig,
    TransactionsConfig,
)
from vector_db.common.service.runtime import Runtime, Service
from vector_db.coordinator.app import build as build_coordinator
from vector_db.gateway.api import DatabaseApi
from vector_db.shard import group_commit
from vector_db.shard.storage.options import StoreOptions
from vector_db.shard.storage.wal import Wal, WalFailed

T = TypeVar("T")
WALL_MS = 1_750_000_000_000
REAP_ROUNDS_MAX = 100


class NotServing(Exception):
    """The gateway is not there; nothing was sent."""


class ConnectionLost(Exception):
    """The gateway died, or the client gave up, in the middle of a request."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Small enough that chunks, seals, checkpoints and truncations happen with little data."""

    shard_count: int = 4
    replicas: int = 1
    grace_s: float = 60.0
    chunk_bytes: int = 2048
    seal_rows: int = 40
    wal_file_bytes: int = 16_384
    checkpoint_wal_bytes: int = 24_576
    pool_delay_s: float = 0.05
    inline_sync_bytes: int = 65_536
    waiting_bytes: int = 4096


class SimClock:
    """`ports.Clock` of one node."""

    def __init__(self, offset_s: float) -> None:
        self._offset_s = offset_s
        self.skew_ms = 0

    def monotonic_s(self) -> float:
        return asyncio.get_running_loop().time() + self._offset_s

    def wall_ms(self) -> int:
        return WALL_MS + int(asyncio.get_running_loop().time() * 1000) + self.skew_ms


@dataclass(eq=False, slots=True)
class Life:
    """One process of a node, from its start to its end. See `loop.Owner`."""

    bus: SimBus | None = None
    service: Service | None = None
    main: asyncio.Task[None] | None = None
    tasks: dict[asyncio.Task[Any], None] = field(default_factory=dict)
    context: contextvars.Context = field(default_factory=contextvars.Context)
    dead: bool = False
    ready: bool = False
    stopping: bool = False


class Node:
    """One service of the cluster over all its lives."""

    def __init__(self, cluster: Cluster, kind: str, index: int) -> None:
        self.kind = kind
        self.name = f"{kind[0]}{index}"
        self._cluster = cluster
        self._random = Random(f"{cluster.seed} {self.name}")
        self.clock = SimClock(self._random.random() * 1000)
        self.disk = SimDisk(
            cluster.root / self.name, Random(f"{cluster.seed} {self.name} disk"), self._note
        )
        self.disk.on_cut = self._on_cut
        self.life: Life | None = None
        self.wanted = False
        """Whether its supervisor starts it anew when it ends."""
        self.damaged = False
        """Whether a bit of its files was flipped: it may refuse to start."""
        self.refused = ""
        self.cut_off = False

    def _note(self, line: str) -> None:
        self._cluster.trace.note(f"{self.name} {line}")

    @property
    def alive(self) -> bool:
        return self.life is not None and not self.life.dead

    @property
    def ready(self) -> bool:
        return self.life is not None and not self.life.dead and self.life.ready

    def start(self) -> None:
        """Start a process, unless one runs."""
        self.wanted = True
        if self.alive or self.refused:
            return
        cluster = self._cluster
        life = self.life = Life()
        life.context.run(OWNER.set, life)
        life.bus = SimBus(cluster.broker, self.name, life)
        life.bus.damaged = self.damaged
        if self.cut_off:
            life.bus.lose(0.0)
        runtime = Runtime(
            bus=life.bus,
            clock=self.clock,
            disk=self.disk.open(),
            metrics=CollectorRegistry(),
            sole=False,
            random=Random(self._random.getrandbits(64)),
            pool=lambda threads, name, initializer: SimExecutor(
                life, self._random, cluster.sizes.pool_delay_s
            ),
        )
        self._note("starts")
        life.main = asyncio.get_running_loop().create_task(
            self._main(life, runtime), name=self.name, context=life.context
        )

    async def _main(self, life: Life, runtime: Runtime) -> None:
        try:
            life.service = BUILDERS[self.kind](runtime, self._cluster.config)
            await life.service.start()
            life.ready = True
            self._note("ready")
            await life.service.run()
            error: BaseException = RuntimeError("run() returned")
        except asyncio.CancelledError:
            if not life.dead and not life.stopping:
                self._cluster.violation(f"{self.name}: cancelled by itself")
            return
        except BaseException as raised:
            error = raised
        if not life.dead and not life.stopping:
            self._ended(life, error)

    def _ended(self, life: Life, error: BaseException) -> None:
        """The service could not go on: an allowed death, or a violation."""
        self._note(f"died: {_first(error)!r}")
        reason = _first(error)
        failed_sync = isinstance(reason, OSError) and reason.errno == errno.EIO
        if isinstance(reason, StorageCorrupt) and self.damaged:
            self.refused = str(reason)
        elif not (
            failed_sync
            or isinstance(reason, DiskFull | WalFailed | StartupError)
            or (not life.ready and isinstance(reason, BusUnavailable | BusTimeout))
        ):
            self._cluster.violation(f"{self.name} died: {error!r}")
        self._cluster.count(f"died: {type(reason).__name__}")
        self._bury(life, power=failed_sync)

    def crash(self, power: bool) -> None:
        """SIGKILL, or a power cut."""
        if self.life is not None and not self.life.dead:
            self._note(f"crash power={power}")
            self._bury(self.life, power)

    def lose_disk(self) -> None:
        """The process dies, and all that it had is gone: who starts here next is another worker."""
        self.crash(power=False)
        self._note("loses its disk")
        self.disk.erase()

    def _on_cut(self) -> None:
        if self.life is not None and not self.life.dead:
            self._cluster.count("power cut in a disk operation")
            self._bury(self.life, power=None)

    def _bury(self, life: Life, power: bool | None) -> None:
        life.dead = True
        if life.bus is not None:
            life.bus.die()
        if power is not None:
            self.disk.crash(power)
        asyncio.get_running_loop().call_soon(self._reap, life, 0, context=contextvars.Context())
        if self.wanted:
            pause_s = 0.05 + self._random.random() * 1.5
            asyncio.get_running_loop().call_later(
                pause_s, self._restart, context=contextvars.Context()
            )

    def _restart(self) -> None:
        if self.wanted:
            self.start()

    def _reap(self, life: Life, rounds: int) -> None:
        for task in list(life.tasks):
            task.cancel()
        if not life.tasks:
            return
        if rounds > REAP_ROUNDS_MAX:
            names = sorted(task.get_name() for task in life.tasks)
            self._cluster.violation(f"{self.name}: tasks outlive their cancellation: {names}")
            return
        asyncio.get_running_loop().call_soon(
            self._reap, life, rounds + 1, context=contextvars.Context()
        )

    async def stop(self) -> None:
        """An orderly stop, as SIGTERM does it."""
        self.wanted = False
        life = self.life
        if life is None or life.dead:
            return
        self._note("stops")
        life.stopping = True
        if life.ready and life.service is not None:
            stop = asyncio.get_running_loop().create_task(
                life.service.stop(), name="stop", context=life.context.copy()
            )
            await asyncio.wait({stop}, timeout=30.0)
            if stop.done() and not stop.cancelled() and not life.dead:
                error = stop.exception()
                if error is not None and not isinstance(_first(error), OSError | WalFailed):
                    self._cluster.violation(f"{self.name}: stop() failed: {error!r}")
        if not life.dead:
            self._bury(life, power=False)

    async def call(self, request: Callable[[DatabaseApi], Awaitable[T]], timeout_s: float) -> T:
        """A client's request to this gateway.

        :raises NotServing: nothing was sent.
        :raises ConnectionLost: no answer came, and none will.
        """
        life = self.life
        if life is None or life.dead or not life.ready:
            raise NotServing
        database: DatabaseApi = life.service._rest.database  # type: ignore[union-attr]

        async def run() -> T:
            return await request(database)

        task = asyncio.get_running_loop().create_task(
            run(), name="request", context=life.context.copy()
        )
        await asyncio.wait({task}, timeout=timeout_s)
        if not task.done():
            task.cancel()
            raise ConnectionLost("the client gave up")
        if task.cancelled() or isinstance(task.exception(), PowerCut):
            raise ConnectionLost("the gateway died")
        error = task.exception()
        if error is not None and not isinstance(error, VectorDBError):
            self._cluster.violation(f"{self.name}: a request failed: {error!r}")
            raise ConnectionLost("an internal error") from error
        return task.result()


class Cluster:
    """Nodes, one broker, and what went wrong."""

    def __init__(
        self,
        seed: int,
        root: Path,
        trace: Trace,
        sizes: Sizes,
        coordinators: int,
        shards: int,
        gateways: int,
    ) -> None:
        self.seed = seed
        self.root = root
        self.trace = trace
        self.sizes = sizes
        self.violations: list[str] = []
        self.counts: dict[str, int] = {}
        self.broker = Broker(Random(f"{seed} broker"), trace.note, self.violation)
        self.config = Config(
            server=ServerConfig(start_timeout_s=60.0),
            sharding=ShardingConfig(
                shard_count=sizes.shard_count,
                replication_factor=sizes.replicas,
                failover_grace_s=sizes.grace_s,
            ),
            # Abandoned transactions end within the time that a run waits for everything to.
            transactions=TransactionsConfig(txn_timeout_s=8.0),
            storage=StorageConfig(checkpoint_wal_bytes=sizes.checkpoint_wal_bytes),
            performance=PerformanceConfig(worker_threads=1, batch_size=5),
        )
        self.coordinators = [Node(self, "coordinator", i) for i in range(coordinators)]
        self.shards = [Node(self, "shard", i) for i in range(shards)]
        self.gateways = [Node(self, "gateway", i) for i in range(gateways)]

    @property
    def nodes(self) -> list[Node]:
        return [*self.coordinators, *self.shards, *self.gateways]

    def violation(self, text: str) -> None:
        """Something that must never happen has happened."""
        if text not in self.violations:
            self.violations.append(text)

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    async def close(self) -> None:
        """End everything."""
        for node in self.nodes:
            node.wanted = False
            node.crash(power=False)
        await asyncio.sleep(0.01)


def _first(error: BaseException) -> BaseException:
    """The first cause inside groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class _Edge:
    """Stands where a socket server would: takes the database and listens nowhere."""

    def __init__(self, database: Any, *_: Any) -> None:
        self.database: DatabaseApi = database

    async def start(self, host: str, port: int) -> int:
        return port

    async def stop(self, drain_s: float) -> None:
        pass

    async def set_serving(self, serving: bool) -> None:
        pass


def _build_gateway(runtime: Runtime, config: Config) -> Service:
    return gateway_app.build(runtime, config)


def _build_shard(runtime: Runtime, config: Config) -> Service:
    return shard_app.build(runtime, config)


BUILDERS: dict[str, Callable[[Runtime, Config], Service]] = {
    "coordinator": build_coordinator,
    "shard": _build_shard,
    "gateway": _build_gateway,
}


@contextmanager
def small(sizes: Sizes) -> Iterator[None]:
    """The constants of the product as a run needs them, and no sockets."""
    options = StoreOptions(seal_rows=sizes.seal_rows)
    wal_defaults = Wal.open.__func__.__kwdefaults__  # type: ignore[attr-defined]
    with ExitStack() as stack:
        stack.enter_context(patch.object(StoreOptions, "within", lambda _: options))
        stack.enter_context(patch.dict(wal_defaults, segment_bytes=sizes.wal_file_bytes))
        stack.enter_context(patch.object(gateway_app, "RestServer", _Edge))
        stack.enter_context(patch.object(gateway_app, "GrpcServer", _Edge))
        stack.enter_context(
            patch.object(gateway_app, "build_app", lambda database, *a, **k: database)
        )
        stack.enter_context(
            patch.object(group_commit, "INLINE_SYNC_BYTES_MAX", sizes.inline_sync_bytes)
        )
        stack.enter_context(patch.object(group_commit, "WAITING_BYTES_MAX", sizes.waiting_bytes))
        stack.enter_context(patch.object(partition, "CHUNK_BYTES_MAX", sizes.chunk_bytes))
        stack.enter_context(
            patch.object(partition.split_by_size, "__defaults__", (sizes.chunk_bytes,))
        )
        yield
