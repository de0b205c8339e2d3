"""Runs services in one process: up in order, until a signal, down in the opposite order.

Owns two invariants. Nothing starts before what it needs serves: lock, broker, bus, then shard,
coordinator, gateway, each ready before the next. And the process never lingers half alive: what
one service cannot survive takes all of them down, bounded by the drain timeout.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import gc
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol, TextIO, runtime_checkable

import uvloop

from vector_db.common.model.errors import NewerFormat, StartupError, StorageCorrupt, VectorDBError
from vector_db.common.ports import (
    Bus,
    BusTimeout,
    BusUnavailable,
    Clock,
    Disk,
    DiskFull,
    LogMissing,
    NoResponders,
)
from vector_db.common.service.broker import Broker, OpenBus, connect, supervise
from vector_db.common.service.config import Config, ServerConfig
from vector_db.common.service.health import AdminServer
from vector_db.common.service.lock import DataDirLock
from vector_db.common.service.runtime import Runtime, Service
from vector_db.common.service.simd import choose_simd
from vector_db.common.service.telemetry import configure_logging, logger, new_registry

SERVICE_GROUP = "vector_db.services"
START_ORDER = ("shard", "coordinator", "gateway")
"""A coordinator needs the shards' promises, a gateway the coordinator's beat."""

DIAL_TIMEOUT_S = 2.0
"""How long one attempt to reach the broker may take, of `connect_timeout_s` in all."""
PROGRESS_S = 10.0
"""How often a long start says what it waits for."""
CLEANUP_TIMEOUT_S = 12.0
"""How long admin server, bus and broker may each take to close, after the services."""

Builder = Callable[[Runtime, Config], Service]


@runtime_checkable
class Edge(Protocol):
    """A service that clients reach; its ports are known once it has started (0 becomes real)."""

    http_port: int
    grpc_port: int


@dataclass(frozen=True, slots=True)
class Adapters:
    """The outside world of a process; tests bring their own."""

    builders: Mapping[str, Builder]
    """In start order."""
    clock: Clock
    disk: Callable[[Path], Disk]
    broker: Callable[[Path], Broker]
    connect: Callable[[str, str], Awaitable[OpenBus]]
    """(url, name of the client)."""
    loopback: Callable[[Bus], Bus]


def production_adapters(which: str, stream_replicas: int = 1) -> Adapters:
    """The installed services, a real nats-server, a real disk.

    :param stream_replicas: copies of each log at the broker.

    :raises StartupError: the distribution of a needed service is not installed.
    """
    from vector_db.common.adapters.loopback_bus import LoopbackBus
    from vector_db.common.adapters.nats_bus import NatsBus
    from vector_db.common.adapters.nats_server import NatsServer
    from vector_db.common.adapters.posix_disk import PosixDisk
    from vector_db.common.adapters.system_clock import SystemClock

    return Adapters(
        builders=load_builders(which),
        clock=SystemClock(),
        disk=PosixDisk,
        broker=NatsServer,
        connect=functools.partial(
            NatsBus.connect, timeout_s=DIAL_TIMEOUT_S, replicas=stream_replicas
        ),
        loopback=lambda inner: LoopbackBus(inner, exclusive=True),
    )


def load_builders(which: str) -> dict[str, Builder]:
    """`build` of each service that `which` names, in start order.

    :raises StartupError: a distribution is not installed, or does not import.
    """
    wanted = START_ORDER if which == "all" else (which,)
    found = {entry.name: entry for entry in entry_points(group=SERVICE_GROUP)}
    builders: dict[str, Builder] = {}
    for name in wanted:
        if name not in found:
            raise StartupError(f"the service '{name}' is not installed (vector-db-{name})")
        try:
            builders[name] = found[name].load()
        except ImportError as error:
            raise StartupError(f"the service '{name}' cannot be loaded: {error}") from error
    return builders


def run(which: str, config: Config, out: TextIO | None = None) -> int:
    """Run one service, or ``all``, until SIGTERM or SIGINT: the exit code.

    :param out: where the lines that say "ready" go; default stdout.
    :raises StartupError: the process cannot start; one line.
    :raises StorageCorrupt: a file is damaged.
    :raises NewerFormat: a file was written by a newer version.
    """
    configure_logging(config.observability.log_level, config.observability.log_format, sys.stderr)
    choose_simd(config.performance.simd_enabled, os.environ)  # before the services load FAISS
    adapters = production_adapters(which, config.server.stream_replicas)
    process = Process(which, config, adapters, out or sys.stdout)

    async def until_signal() -> int:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        return await process.run(stop)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(until_signal())


class Process:
    """The life of one process; `run` is called once."""

    def __init__(self, which: str, config: Config, adapters: Adapters, out: TextIO) -> None:
        self._which = which
        self._config = config
        self._adapters = adapters
        self._out = out
        self._log = logger("vector_db.runner")
        self._registry = new_registry()
        self._locks: list[DataDirLock] = []
        self._broker: Broker | None = None
        self._connection: OpenBus | None = None
        self._bus: Bus | None = None
        self._admin: AdminServer | None = None
        self._services: list[Service] = []
        self._begun: list[Service] = []
        self._runs: dict[str, asyncio.Task[None]] = {}

    async def run(self, stop: asyncio.Event) -> int:
        """Serve until `stop` is set (0) or a service fails (1).

        :raises StartupError: and the other errors of the function `run`.
        """
        work = asyncio.create_task(self._serve(), name="serve")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                self._log.info("stopping", drain_timeout_s=self._config.server.drain_timeout_s)
                return 0
            # A failed start raises here; afterwards it is a service that failed.
            name, failure = work.result()
            if isinstance(failure, FINAL):
                raise failure
            self._log.error("a service ended, stopping", service=name, exc_info=failure)
            return 1
        finally:
            await _cancel(work)
            await _cancel(stopping)
            await self._tear_down()

    async def _serve(self) -> tuple[str, BaseException | None]:
        """Start everything, then wait for the first service that ends: (its name, why)."""
        self._take_directory()
        self._check_ports()
        await self._open_bus()
        for name, build in self._adapters.builders.items():
            self._services.append(self._build(name, build))
        await self._start_admin()
        for service in self._services:
            await self._start(service)
        _tune_interpreter()
        self._announce()
        await asyncio.wait(self._runs.values(), return_when=asyncio.FIRST_COMPLETED)
        return next((name, _end(task)) for name, task in self._runs.items() if task.done())

    def _take_directory(self) -> None:
        """A gateway keeps nothing on disk; the others must be alone with their folder."""
        names = [f"{name}.lock" for name in self._adapters.builders if name != "gateway"]
        for name in ["lock", *names] if self._which == "all" else names:
            self._locks.append(DataDirLock.acquire(self._config.storage.data_dir / name))

    def _check_ports(self) -> None:
        """Fail before a long recovery, and where a listener with SO_REUSEPORT would not fail."""
        server = self._config.server
        if "gateway" in self._adapters.builders:
            _check_port(server, "http_port", server.http_port)
            _check_port(server, "grpc_port", server.grpc_port)
        if self._has_admin():
            _check_port(server, "admin_port", server.admin_port)

    def _has_admin(self) -> bool:
        return any(name != "gateway" for name in self._adapters.builders)

    async def _open_bus(self) -> None:
        url = self._config.server.nats_url
        if self._which == "all":
            if url is not None:
                raise StartupError(
                    "'run all' starts a broker of its own: unset VECTOR_DB_NATS_URL"
                    " (server.nats_url), or run the services one by one"
                )
            broker = self._broker = self._adapters.broker(self._config.storage.data_dir / "nats")
            with _explained("nats-server"):
                await broker.start()
            self._runs["nats-server"] = asyncio.create_task(
                supervise(broker, self._adapters.clock, self._log), name="run nats-server"
            )
            self._connection = await self._connect(broker.url)
            self._bus = self._adapters.loopback(self._connection)
        elif url is None:
            raise StartupError(f"'run {self._which}' needs VECTOR_DB_NATS_URL (server.nats_url)")
        else:
            self._bus = self._connection = await self._connect(url)

    async def _connect(self, url: str) -> OpenBus:
        name, timeout_s = f"vector-db-{self._which}", self._config.server.connect_timeout_s
        return await connect(self._adapters.connect, url, name, timeout_s, self._log)

    def _build(self, name: str, build: Builder) -> Service:
        if self._bus is None:
            raise StartupError("the bus is not open")
        with _explained(name):
            runtime = Runtime(
                bus=self._bus,
                clock=self._adapters.clock,
                disk=self._adapters.disk(self._config.storage.data_dir / name),
                metrics=self._registry,
                sole=self._which == "all",
            )
            return build(runtime, self._config)

    async def _start_admin(self) -> None:
        if not self._has_admin():
            return
        server = self._config.server
        self._admin = AdminServer(self._services, self._registry, server.host, server.admin_port)
        with _explained("admin"):
            await self._admin.start()

    async def _start(self, service: Service) -> None:
        """Wait until `service` is ready, or anything that runs already fails."""
        clock, name = self._adapters.clock, service.name
        timeout_s = self._config.server.start_timeout_s
        began_s = clock.monotonic_s()
        self._log.info("starting", service=name)
        self._begun.append(service)
        starting = asyncio.create_task(service.start(), name=f"start {name}")
        try:
            while not await self._any_done(starting, began_s + timeout_s):
                self._log.info("waiting", service=name, health=service.health())
            for other, task in self._runs.items():
                if task.done():
                    with _explained(other):
                        raise _end(task) or StartupError(f"{other} ended")
            if not starting.done():
                raise StartupError(
                    f"{name} is not ready after {timeout_s:g} s"
                    f" (VECTOR_DB_START_TIMEOUT_S): {service.health()}"
                )
            with _explained(name):
                starting.result()
        finally:
            await _cancel(starting)
        self._runs[name] = asyncio.create_task(service.run(), name=f"run {name}")
        self._log.info("ready", service=name, after_s=round(clock.monotonic_s() - began_s, 3))

    async def _any_done(self, starting: asyncio.Task[None], deadline_s: float) -> bool:
        """Wait a while for `starting` or a running service to end; true at the deadline too."""
        left_s = deadline_s - self._adapters.clock.monotonic_s()
        done, _ = await asyncio.wait(
            {starting, *self._runs.values()},
            timeout=max(0.0, min(left_s, PROGRESS_S)),
            return_when=asyncio.FIRST_COMPLETED,
        )
        return bool(done) or left_s <= PROGRESS_S

    def _announce(self) -> None:
        """Say on stdout where to knock; scripts wait for these lines."""
        who = "vector-db" if self._which == "all" else f"vector-db {self._which}"
        admin = f"admin {self._admin.url}" if self._admin is not None else ""
        edge = next((service for service in self._services if isinstance(service, Edge)), None)
        if edge is None:
            print(f"{who} ready: {admin}", file=self._out, flush=True)
            return
        if admin:
            print(f"{who} {admin}", file=self._out)
        host = self._config.server.host
        host = f"[{host}]" if ":" in host else host
        edges = f"http://{host}:{edge.http_port} grpc://{host}:{edge.grpc_port}"
        print(f"{who} ready: {edges}", file=self._out, flush=True)

    async def _tear_down(self) -> None:
        """Stop what was begun, last first; never raises, so that the next part is stopped too."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._config.server.drain_timeout_s
        for service in reversed(self._begun):
            await self._closed(service.name, service.stop(), deadline - loop.time())
            if (task := self._runs.pop(service.name, None)) is not None:
                await _cancel(task)
        if self._admin is not None:
            await self._closed("admin", self._admin.stop(), CLEANUP_TIMEOUT_S)
        if self._connection is not None:
            await self._closed("bus", self._connection.close(), CLEANUP_TIMEOUT_S)
        if self._broker is not None:
            if (supervisor := self._runs.pop("nats-server", None)) is not None:
                await _cancel(supervisor)
            await self._closed("nats-server", self._broker.stop(), CLEANUP_TIMEOUT_S)
        for lock in self._locks:
            lock.release()

    async def _closed(self, name: str, closing: Awaitable[None], timeout_s: float) -> None:
        try:
            await asyncio.wait_for(closing, max(timeout_s, 0.1))
        except TimeoutError:
            self._log.warning("did not stop in time, abandoned", part=name)
        except Exception:
            self._log.warning("failed while stopping", part=name, exc_info=True)


def _check_port(server: ServerConfig, field: str, port: int) -> None:
    """:raises StartupError: `port` cannot be bound on the configured host."""
    if port == 0:
        return
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((server.host.strip("[]"), port))
            probe.listen(1)
        except OSError as error:
            why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used: {error}"
            raise StartupError(
                f"port {port} on {server.host} {why} (VECTOR_DB_{field.upper()})"
            ) from None


FINAL = (StartupError, StorageCorrupt, NewerFormat)
"""Their messages are made for the operator."""
_EXPECTED = (
    OSError,
    VectorDBError,
    BusUnavailable,
    BusTimeout,
    NoResponders,
    LogMissing,
    DiskFull,
)
"""The world's faults, not ours: named, without a traceback."""


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn the expected failures of a start into one line; let a defect pass whole."""
    try:
        yield
    except Exception as error:
        leaf: BaseException = error
        while isinstance(leaf, BaseExceptionGroup) and len(leaf.exceptions) == 1:
            leaf = leaf.exceptions[0]
        if isinstance(leaf, _EXPECTED):
            raise StartupError(f"{name} cannot start: {str(leaf) or type(leaf).__name__}") from leaf
        if isinstance(leaf, FINAL) and leaf is not error:
            raise leaf from None
        raise


def _end(task: asyncio.Task[None]) -> BaseException | None:
    """Why a task that is done ended; None: it returned or was cancelled from within."""
    return None if task.cancelled() else task.exception()


async def _cancel(task: asyncio.Task[Any]) -> None:
    """End `task` and wait for it; what it raised was seen by whoever waited for it before."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _tune_interpreter() -> None:
    """Keep the garbage collector and the interpreter's lock out of the way of requests.

    What is loaded by now lives as long as the process, so it is not looked at again; and a request
    allocates hundreds of containers, nearly all freed by their reference counts, so a collection
    every 700 of them (the default) is one every few requests. A search that comes back from native
    code would wait up to 5 ms (the default) for the lock while the event loop is busy.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    sys.setswitchinterval(0.0002)
