"""`vector-db cluster` as a process, and what the metrics say, on a mesh under load."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest

from tests.support.load import Load, rows_of
from tests.support.meshes import Mesh, running_mesh
from tests.support.ports import free_ports
from tests.support.processes import Service, clean_environment
from vector_db_client import Cluster, VectorDatabaseClient

SHARDS = 6
SETTLED_S_MAX = 60.0
COMMAND = [sys.executable, "-m", "vector_db.common.service.cli", "cluster"]
COORDINATOR = "vector_db_coordinator_"
STANDING = (
    "replicas_wanted", "replicas_held", "replicas_missing", "joins", "workers_alive",
    "workers_draining", "workers_gone",
)  # fmt: skip


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path, shards=1, VECTOR_DB_FAILOVER_GRACE_S="3") as mesh:
        yield mesh


def vector_db(*arguments: str, url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments, "--url", url],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def wait_for(url: str, holds: Callable[[Cluster], bool]) -> Cluster:
    """The cluster once it is as wanted."""
    until = time.monotonic() + SETTLED_S_MAX
    with VectorDatabaseClient(url) as client:
        while True:
            cluster = client.cluster()
            if holds(cluster):
                return cluster
            assert time.monotonic() < until, cluster
            time.sleep(0.05)


def spread_over(workers: int) -> Callable[[Cluster], bool]:
    """Whether so many workers hold the same number of shards each, and nothing moves."""

    def holds(cluster: Cluster) -> bool:
        held = [len(cluster.held_by(id)) for id in cluster.worker_ids]
        quiet = not cluster.joining and not cluster.leaving
        return quiet and sorted(n for n in held if n) == [SHARDS // workers] * workers

    return holds


def worker_of(shard: Service) -> str:
    return str(shard.health()["services"]["shard"]["worker"])


def standing(coordinator: Service) -> tuple[float, ...]:
    told = coordinator.metrics()
    return tuple(told[COORDINATOR + name] for name in STANDING)


def wait_standing(coordinator: Service, wanted: tuple[float, ...]) -> None:
    """Until the metrics say so: they follow a placement a moment later."""
    until = time.monotonic() + SETTLED_S_MAX
    while standing(coordinator) != wanted:
        assert time.monotonic() < until, standing(coordinator)
        time.sleep(0.05)


def wait_told(service: Service, metric: str, wanted: float) -> None:
    """Until a metric of a service has the value."""
    until = time.monotonic() + SETTLED_S_MAX
    while (told := service.metrics()[metric]) != wanted:
        assert time.monotonic() < until, (metric, told)
        time.sleep(0.05)


def moves(coordinator: Service) -> dict[str, float]:
    """Steps of moves by kind."""
    kinds = ("join", "promote", "remove", "cancel")
    told = coordinator.metrics()
    return {kind: told[f'{COORDINATOR}moves_total{{kind="{kind}"}}'] for kind in kinds}


def test_a_worker_is_drained_under_load_and_the_metrics_tell(mesh: Mesh) -> None:
    url, coordinator = mesh.gateway.url, mesh.coordinator
    wait_standing(coordinator, (0, 0, 0, 0, 1, 0, 0))
    body = {"name": "c", "dimension": 3, "metric": "euclidean", "shards": SHARDS}
    mesh.gateway.call("/v1/collections", body)
    assert moves(coordinator) == {"join": 0, "promote": 0, "remove": 0, "cancel": 0}
    with Load(mesh.gateway) as load:
        load.wait_for_more(400)
        second, third = mesh.add_shard(), mesh.add_shard()
        wait_for(url, spread_over(3))
        before = moves(coordinator)
        assert before["join"] - before["cancel"] == before["promote"] == before["remove"] >= 4
        for added in (second, third):
            wait_told(added, "vector_db_shard_shards_held", 2)
            wait_told(added, "vector_db_shard_copy_bytes_all", 0)
            assert added.metrics()["vector_db_shard_copied_bytes_total"] > 0
        wait_standing(coordinator, (SHARDS, SHARDS, 0, 0, 3, 0, 0))

        victim = worker_of(second)
        drained = vector_db("drain", victim[:8], url=url)
        assert drained.returncode == 0, drained.stderr
        assert drained.stdout.startswith(f"{victim} holds nothing (after ")
        lines = drained.stderr.splitlines()
        # The first of them may have gone before the command looks for the first time.
        assert re.match(rf"draining {victim}: ([12]) shards? of \1 left", lines[0])
        assert all(line.startswith(f"draining {victim}: ") for line in lines)
        after = wait_for(url, lambda cluster: True)
        assert after.held_by(victim) == ()
        assert after.draining == (victim,)
        wait_told(second, "vector_db_shard_shards_held", 0)
        assert moves(coordinator)["remove"] == before["remove"] + 2
        wait_standing(coordinator, (SHARDS, SHARDS, 0, 0, 3, 1, 0))

        assert "draining" in vector_db("status", url=url).stdout
        again = vector_db("drain", victim, url=url)
        assert (again.returncode, again.stderr) == (0, "")
        assert vector_db("undrain", victim, url=url).stdout == f"{victim} may hold shards again\n"
        wait_for(url, spread_over(3))
        load.wait_for_more(200)
    assert load.errors == []
    assert rows_of(mesh.gateway) == load.written


def test_the_status_of_a_mesh(mesh: Mesh) -> None:
    gateway = mesh.gateway
    body = {"name": "c", "dimension": 3, "metric": "euclidean", "shards": 2}
    gateway.call("/v1/collections", body)
    only = worker_of(mesh.shards[0])
    status = vector_db("status", url=gateway.url)
    assert (status.returncode, status.stderr) == (0, "")
    lines = [" ".join(line.replace("\u2502", " ").split()) for line in status.stdout.splitlines()]
    assert any(line.startswith(f"{only[:8]} z0 ready 2 ") for line in lines), status.stdout
    assert lines[-1] == "2 shards of 1 replica: all whole, nothing moves"
    told = orjson.loads(vector_db("status", "--json", url=gateway.url).stdout)
    assert list(told["shards"].values()) == [[only], [only]]
    assert told["replication_factor"] == 1

    mesh.shards[0].kill()
    wait_for(gateway.url, lambda cluster: not cluster.workers)
    assert f"{only[:8]} " in (silent := vector_db("status", url=gateway.url).stdout)
    assert "not heard" in silent
    wait_standing(mesh.coordinator, (2, 0, 2, 0, 0, 0, 1))


class Screen:
    """A terminal that somebody watches: what is written to it is taken off, else its writer would
    stand still once it is full."""

    def __init__(self) -> None:
        self._master, self.terminal = pty.openpty()
        self._shown = b""
        self._more = threading.Condition()
        self._watching = threading.Thread(target=self._watch)

    def __enter__(self) -> Screen:
        self._watching.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Once nobody has the terminal open any more, or ever had."""
        os.close(self.terminal)
        self._watching.join()
        os.close(self._master)

    def _watch(self) -> None:
        # At the end of its last writer Linux says EIO.
        with contextlib.suppress(OSError):
            while shown := os.read(self._master, 65536):
                with self._more:
                    self._shown += shown
                    self._more.notify_all()

    def wait_for(self, text: bytes, times: int = 1) -> None:
        """Until it was shown so often."""
        with self._more:
            there = self._more.wait_for(lambda: self._shown.count(text) >= times, SETTLED_S_MAX)
            assert there, (text, self._shown[-2000:])


def test_status_is_watched_on_a_terminal_until_ctrl_c(mesh: Mesh) -> None:
    with (
        Screen() as screen,
        subprocess.Popen(
            [*COMMAND, "status", "--watch", "--url", mesh.gateway.url],
            env=clean_environment(TERM="xterm", COLUMNS="120", LINES="40"),
            stdin=screen.terminal,
            stdout=screen.terminal,
            stderr=subprocess.PIPE,
            # A shell that runs the tests in the background has them ignore it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        ) as watching,
    ):
        try:
            screen.wait_for(b"Workers", times=3)
            mesh.add_shard()
            screen.wait_for(b"z1")
            # A gateway that is away for a moment is told, and the watch goes on.
            mesh.gateway.kill()
            screen.wait_for(b"no newer answer")
            watching.send_signal(signal.SIGINT)
            _, said = watching.communicate(timeout=20)
        finally:
            watching.kill()
    assert (watching.returncode, said) == (0, b"vector-db: stopped watching\n")


def test_errors_are_one_line(mesh: Mesh) -> None:
    only = worker_of(mesh.shards[0])
    for command in ("drain", "undrain"):
        failed = vector_db(command, "nobody", url=mesh.gateway.url)
        assert (failed.returncode, failed.stdout) == (1, "")
        assert failed.stderr == f"vector-db: no shard worker 'nobody'; known are {only}\n"
    (port,) = free_ports(1)
    for arguments in (["status"], ["status", "--json"], ["drain", "a"], ["undrain", "a"]):
        failed = vector_db(*arguments, url=f"http://127.0.0.1:{port}")
        assert (failed.returncode, failed.stdout) == (1, "")
        (line,) = failed.stderr.splitlines()
        assert line.startswith(f"vector-db: unavailable: cannot reach http://127.0.0.1:{port}")
