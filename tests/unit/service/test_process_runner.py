"""The life of a process: order, readiness, failures and the way down."""

from __future__ import annotations

import asyncio
import io
import re
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest

from tests.support.ports import free_ports
from vector_db.common.adapters.posix_disk import PosixDisk
from vector_db.common.adapters.system_clock import SystemClock
from vector_db.common.model.errors import StartupError, StorageCorrupt, Unavailable
from vector_db.common.ports import BusUnavailable
from vector_db.common.service.broker import OpenBus
from vector_db.common.service.config import Config, ServerConfig, StorageConfig
from vector_db.common.service.lock import DataDirLock
from vector_db.common.service.runner import Adapters, Builder, Process, load_builders
from vector_db.common.service.runtime import Runtime

Step = Callable[[], Awaitable[None]]


async def nothing() -> None:
    """A step that succeeds at once."""


async def forever() -> None:
    """A step that only cancellation ends."""
    await asyncio.Event().wait()


class Output(io.StringIO):
    """What the process prints; `announced` once it says "ready"."""

    def __init__(self) -> None:
        super().__init__()
        self.announced = asyncio.Event()

    def write(self, text: str) -> int:
        if "ready:" in text:
            self.announced.set()
        return super().write(text)


class World:
    """Records what happens in order, and plays broker, bus and services."""

    def __init__(self, tmp_path: Path, which: str = "all", **server: Any) -> None:
        self.events: list[str] = []
        self.runtimes: dict[str, Runtime] = {}
        self.starts: dict[str, Step] = {}
        self.runs: dict[str, Step] = {}
        self.stops: dict[str, Step] = {}
        self.ready: set[str] = set()
        self.broker_ends = asyncio.Event()
        self.broker_restarted = asyncio.Event()
        self.broker_failures: list[str] = []
        """What its starts fail with, after the first."""
        self.dials = 0
        self.dial_failures = 0
        self.dial_refusal = ""
        if which != "all":
            server.setdefault("nats_url", "nats://127.0.0.1:4222")
        self.config = Config(
            server=ServerConfig(**{"http_port": 0, "grpc_port": 0, **server}),
            storage=StorageConfig(data_dir=tmp_path / "data"),
        )
        self.out = Output()
        names = ("shard", "coordinator", "gateway") if which == "all" else (which,)
        adapters = Adapters(
            builders={name: self._builder(name) for name in names},
            clock=SystemClock(),
            disk=PosixDisk,
            broker=lambda folder: WorldBroker(self, folder),
            connect=self._connect,
            loopback=lambda inner: inner,
        )
        self.process = Process(which, self.config, adapters, self.out)
        self.stop = asyncio.Event()

    def _builder(self, name: str) -> Builder:
        def build(runtime: Runtime, config: Config) -> WorldService:
            self.runtimes[name] = runtime
            return WorldEdge(self, name) if name == "gateway" else WorldService(self, name)

        return build

    async def _connect(self, url: str, name: str) -> OpenBus:
        self.dials += 1
        if self.dials <= self.dial_failures:
            refusal = self.dial_refusal or f"{url} refused"
            raise BusUnavailable(f"no NATS server at {url}: {refusal}")
        self.events.append(f"connect {name}")
        return cast(OpenBus, WorldBus(self))

    async def run(self) -> int:
        async with asyncio.timeout(10):
            return await self.process.run(self.stop)

    async def until_ready(self) -> asyncio.Task[int]:
        """Start the process and wait for its line."""
        task = asyncio.create_task(self.run())
        announced = asyncio.create_task(self.out.announced.wait())
        await asyncio.wait({task, announced}, return_when=asyncio.FIRST_COMPLETED)
        announced.cancel()
        return task


class WorldBus:
    def __init__(self, world: World) -> None:
        self._world = world

    async def close(self) -> None:
        self._world.events.append("close bus")


class WorldBroker:
    url = "nats://127.0.0.1:4333"

    def __init__(self, world: World, folder: Path) -> None:
        self._world = world
        self.folder = folder

    async def start(self) -> None:
        if self._world.broker_failures and self._world.out.announced.is_set():
            raise StartupError(self._world.broker_failures.pop())
        event = f"start broker in {self.folder.name}"
        if event in self._world.events:
            self._world.broker_restarted.set()
        self._world.events.append(event)

    async def wait(self) -> int:
        await self._world.broker_ends.wait()
        self._world.broker_ends.clear()
        return 7

    async def stop(self) -> None:
        self._world.events.append("stop broker")


class WorldService:
    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self.name = name

    async def start(self) -> None:
        self._world.events.append(f"start {self.name}")
        await self._world.starts.get(self.name, nothing)()
        self._world.ready.add(self.name)

    async def run(self) -> None:
        self._world.events.append(f"run {self.name}")
        await self._world.runs.get(self.name, forever)()

    async def stop(self) -> None:
        self._world.events.append(f"stop {self.name}")
        await self._world.stops.get(self.name, nothing)()

    def health(self) -> dict[str, Any]:
        return {"ready": self.name in self._world.ready}


class WorldEdge(WorldService):
    http_port = 0
    grpc_port = 0

    async def start(self) -> None:
        await super().start()
        self.http_port, self.grpc_port = 81, 91


async def test_all_starts_in_order_and_stops_in_the_opposite_order(tmp_path: Path) -> None:
    world = World(tmp_path)
    running = await world.until_ready()
    world.stop.set()
    assert await running == 0
    assert [event for event in world.events if not event.startswith("run")] == [
        "start broker in nats",
        "connect vector-db-all",
        "start shard",
        "start coordinator",
        "start gateway",
        "stop gateway",
        "stop coordinator",
        "stop shard",
        "close bus",
        "stop broker",
    ]


async def test_a_service_runs_while_the_next_one_waits_for_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    promised = asyncio.Event()

    async def promise() -> None:
        promised.set()
        await forever()

    async def take_over() -> None:
        await promised.wait()

    world.runs["shard"] = promise
    world.starts["coordinator"] = take_over
    running = await world.until_ready()
    world.stop.set()
    assert await running == 0


async def test_the_ready_line_comes_last_and_names_the_addresses(tmp_path: Path) -> None:
    world = World(tmp_path)
    running = await world.until_ready()
    admin, ready = world.out.getvalue().splitlines()
    assert ready == "vector-db ready: http://127.0.0.1:81 grpc://127.0.0.1:91"
    url = admin.removeprefix("vector-db admin ")
    async with aiohttp.ClientSession() as session, session.get(f"{url}/health") as answer:
        assert answer.status == 200
        assert set((await answer.json())["services"]) == {"shard", "coordinator", "gateway"}
    world.stop.set()
    await running


async def test_the_admin_routes_answer_while_a_service_is_still_recovering(
    tmp_path: Path, unused_port: int
) -> None:
    world = World(tmp_path, "shard", admin_port=unused_port)
    recovering, recovered = asyncio.Event(), asyncio.Event()

    async def recover() -> None:
        recovering.set()
        await recovered.wait()

    world.starts["shard"] = recover
    running = asyncio.create_task(world.run())
    await recovering.wait()
    url = f"http://127.0.0.1:{unused_port}"
    async with aiohttp.ClientSession(url) as session:
        async with session.get("/readyz") as answer:
            assert answer.status == 503
        async with session.get("/livez") as answer:
            assert answer.status == 200
    assert "ready:" not in world.out.getvalue()
    recovered.set()
    await world.out.announced.wait()
    assert re.fullmatch(r"vector-db shard ready: admin http://\S+\n", world.out.getvalue())
    world.stop.set()
    assert await running == 0


@pytest.fixture
def unused_port() -> int:
    (port,) = free_ports(1)
    return port


async def test_each_service_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    world = World(tmp_path)
    running = await world.until_ready()
    roots = {name: runtime.disk.root.name for name, runtime in world.runtimes.items()}
    assert roots == {name: name for name in ("shard", "coordinator", "gateway")}
    assert all(runtime.sole for runtime in world.runtimes.values())
    assert len({id(runtime.metrics) for runtime in world.runtimes.values()}) == 1
    world.stop.set()
    await running


async def test_one_service_alone_is_not_the_whole_cluster(tmp_path: Path) -> None:
    world = World(tmp_path, "gateway")
    running = await world.until_ready()
    assert not world.runtimes["gateway"].sole
    assert not list((tmp_path / "data").glob("*lock"))
    world.stop.set()
    await running


async def test_a_failed_start_is_one_line_and_stops_what_had_started(tmp_path: Path) -> None:
    world = World(tmp_path)

    async def fail() -> None:
        raise Unavailable("no shard promised the term")

    world.starts["coordinator"] = fail
    with pytest.raises(StartupError, match="coordinator cannot start: no shard promised the term"):
        await world.run()
    assert world.events[-4:] == ["stop coordinator", "stop shard", "close bus", "stop broker"]
    DataDirLock.acquire(tmp_path / "data" / "lock").release()


async def test_damage_passes_through_with_file_and_offset(tmp_path: Path) -> None:
    world = World(tmp_path)

    async def fail() -> None:
        raise ExceptionGroup("recovery", [StorageCorrupt("wal/0001.log at 4096: checksum")])

    world.starts["shard"] = fail
    with pytest.raises(StorageCorrupt, match=r"^wal/0001\.log at 4096: checksum$"):
        await world.run()


async def test_a_defect_keeps_its_own_exception(tmp_path: Path) -> None:
    world = World(tmp_path)

    async def fail() -> None:
        raise ZeroDivisionError

    world.starts["gateway"] = fail
    with pytest.raises(ZeroDivisionError):
        await world.run()
    assert world.events[-1] == "stop broker"


async def test_a_start_that_takes_too_long_is_named(tmp_path: Path) -> None:
    world = World(tmp_path, start_timeout_s=0.5)
    world.starts["coordinator"] = forever
    with pytest.raises(StartupError, match=r"coordinator is not ready after 0\.5 s"):
        await world.run()


async def test_a_service_that_fails_during_the_start_of_another_ends_the_wait(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)

    async def fail() -> None:
        raise OSError(5, "Input/output error")

    world.runs["shard"] = fail
    world.starts["coordinator"] = forever
    with pytest.raises(StartupError, match=r"shard cannot start: .*Input/output error"):
        await world.run()


@pytest.mark.parametrize("returns", [True, False])
async def test_a_service_that_ends_takes_the_process_down(tmp_path: Path, returns: bool) -> None:
    world = World(tmp_path)
    end = asyncio.Event()

    async def run() -> None:
        await end.wait()
        if not returns:
            raise RuntimeError("fsync failed")

    world.runs["shard"] = run
    running = await world.until_ready()
    end.set()
    assert await running == 1
    assert world.events[-1] == "stop broker"
    assert {"stop gateway", "stop coordinator", "stop shard"} <= set(world.events)


async def test_a_drain_that_hangs_is_bounded_and_the_rest_still_stops(tmp_path: Path) -> None:
    world = World(tmp_path, drain_timeout_s=0.1)
    world.stops["gateway"] = forever
    running = await world.until_ready()
    world.stop.set()
    assert await running == 0
    assert world.events[-4:] == ["stop coordinator", "stop shard", "close bus", "stop broker"]


async def test_a_signal_during_the_start_ends_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    waiting = asyncio.Event()

    async def wait() -> None:
        waiting.set()
        await forever()

    world.starts["coordinator"] = wait
    running = asyncio.create_task(world.run())
    await waiting.wait()
    world.stop.set()
    assert await running == 0
    assert "start gateway" not in world.events
    assert world.events[-1] == "stop broker"


async def test_a_broker_that_ends_is_started_again_and_nobody_is_stopped(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.broker_failures = ["the port is still in use"]
    running = await world.until_ready()
    world.broker_ends.set()
    async with asyncio.timeout(5):
        await world.broker_restarted.wait()
    assert world.broker_failures == []
    assert not [event for event in world.events if event.startswith("stop")]
    world.stop.set()
    assert await running == 0


async def test_the_bus_is_dialled_again_until_it_answers(tmp_path: Path) -> None:
    world = World(tmp_path, "shard")
    world.dial_failures = 1
    running = await world.until_ready()
    assert world.dials == 2
    world.stop.set()
    assert await running == 0


async def test_an_absent_broker_is_one_line_without_credentials(tmp_path: Path) -> None:
    url = "nats://joe:hunter2@127.0.0.1:4222"
    world = World(tmp_path, "shard", nats_url=url, connect_timeout_s=0.05)
    world.dial_failures = 1000
    with pytest.raises(StartupError) as caught:
        await world.run()
    assert str(caught.value) == (
        "no NATS server at nats://********@127.0.0.1:4222 within 0.05 s:"
        " nats://********@127.0.0.1:4222 refused"
    )


async def test_none_of_several_absent_brokers_shows_credentials(tmp_path: Path) -> None:
    url = "nats://joe:hunter2@one:4222,nats://ann:swordfish@two:4222"
    world = World(tmp_path, "shard", nats_url=url, connect_timeout_s=0.05)
    world.dial_failures = 1000
    world.dial_refusal = "nats://ann:swordfish@two:4222 refused"
    with pytest.raises(StartupError) as caught:
        await world.run()
    assert str(caught.value) == (
        "no NATS server at nats://********@one:4222,nats://********@two:4222 within 0.05 s:"
        " nats://********@two:4222 refused"
    )


async def test_a_single_service_needs_the_address_of_the_broker(tmp_path: Path) -> None:
    world = World(tmp_path, "shard", nats_url=None)
    with pytest.raises(StartupError, match="needs VECTOR_DB_NATS_URL"):
        await world.run()


async def test_all_refuses_an_address_of_a_broker_that_it_would_ignore(tmp_path: Path) -> None:
    world = World(tmp_path, nats_url="nats://127.0.0.1:4222")
    with pytest.raises(StartupError, match="unset VECTOR_DB_NATS_URL"):
        await world.run()


@pytest.mark.parametrize("field", ["http_port", "grpc_port", "admin_port"])
async def test_a_port_in_use_is_named_before_anything_starts(tmp_path: Path, field: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        world = World(tmp_path, **{field: port})
        expected = rf"port {port} on 127.0.0.1 is in use \(VECTOR_DB_{field.upper()}\)"
        with pytest.raises(StartupError, match=expected):
            await world.run()
    assert world.events == []


@pytest.mark.parametrize(("first", "second"), [("all", "shard"), ("shard", "all")])
async def test_two_processes_do_not_share_a_data_directory(
    tmp_path: Path, first: str, second: str
) -> None:
    holder = World(tmp_path, first)
    running = await holder.until_ready()
    with pytest.raises(StartupError, match=r"in use by process \d+"):
        await World(tmp_path, second).run()
    holder.stop.set()
    assert await running == 0


def test_a_service_that_is_not_installed_is_named() -> None:
    with pytest.raises(StartupError, match="'tiering' is not installed"):
        load_builders("tiering")
