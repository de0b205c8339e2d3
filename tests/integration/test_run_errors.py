"""`vector-db run` as an operator meets it: real processes, their one line and their exit codes."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ports import free_ports
from tests.support.processes import clean_environment

START_S_MAX = 60.0


class Launcher:
    """Starts `vector-db run` with an environment of its own, and leaves no process behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen[str]] = []

    def start(self, which: str, **settings: object) -> subprocess.Popen[str]:
        http_port, grpc_port = free_ports(2)
        defaults = {
            "data_dir": self.folder / "data",
            "http_port": http_port,
            "grpc_port": grpc_port,
        }
        ours = {f"VECTOR_DB_{k.upper()}": str(v) for k, v in (defaults | settings).items()}
        process = subprocess.Popen(
            [sys.executable, "-m", "vector_db.common.service.cli", "run", which],
            cwd=self.folder,
            env=clean_environment(**ours),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def refused(self, which: str, **settings: object) -> str:
        """The one line with which the process refuses."""
        process = self.start(which, **settings)
        out, err = process.communicate(timeout=START_S_MAX)
        assert process.returncode == 1, err
        assert out == ""
        assert re.fullmatch(r"vector-db: [^\n]+\n", err), err
        return err

    def ready(self, which: str = "all", **settings: object) -> tuple[subprocess.Popen[str], str]:
        """A process that serves, and its HTTP address."""
        process = self.start(which, **settings)
        assert process.stdout is not None
        # Read past the file object: a line in its buffer would be invisible to select.
        pipe, said = process.stdout.fileno(), ""
        deadline = time.monotonic() + START_S_MAX
        while time.monotonic() < deadline:
            if not select.select([pipe], [], [], 1.0)[0]:
                continue
            chunk = os.read(pipe, 4096).decode()
            if not chunk:
                break
            said += chunk
            if found := re.search(r"ready: .*?(http://\S+).*\n", said):
                return process, found[1]
        process.kill()
        pytest.fail(f"not ready: {process.communicate()[1]}")

    def close(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Launcher]:
    launcher = Launcher(tmp_path)
    yield launcher
    launcher.close()


def get(url: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command_name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def wait_ended(pid: int, timeout_s: float = 10.0) -> None:
    """Until the process, not a child of ours, is gone."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([handle], [], [], timeout_s)[0], f"process {pid} lives on"
    finally:
        os.close(handle)


@pytest.mark.parametrize("field", ["http_port", "grpc_port", "admin_port"])
def test_a_port_in_use(launcher: Launcher, field: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = launcher.refused("all", **{field: port})
    assert f"port {port} on 127.0.0.1 is in use (VECTOR_DB_{field.upper()})" in line


def test_a_data_directory_that_cannot_be_made(launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    line = launcher.refused("all", data_dir=tmp_path / "file" / "data")
    assert "is not writable: Not a directory" in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_data_directory(launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o500)
    assert "is not writable: Permission denied" in launcher.refused("all")


@pytest.mark.parametrize("which", ["gateway", "coordinator", "shard"])
def test_a_single_service_without_the_address_of_a_broker(launcher: Launcher, which: str) -> None:
    assert "needs VECTOR_DB_NATS_URL" in launcher.refused(which)


@pytest.mark.parametrize("which", ["gateway", "coordinator", "shard"])
def test_no_broker_at_the_address(launcher: Launcher, which: str) -> None:
    (port,) = free_ports(1)
    url = f"nats://joe:hunter2@127.0.0.1:{port}"
    line = launcher.refused(which, nats_url=url, connect_timeout_s=0.5)
    assert f"no NATS server at nats://********@127.0.0.1:{port} within 0.5 s" in line
    assert "hunter2" not in line


def test_replicas_of_streams_asked_of_one_broker(launcher: Launcher) -> None:
    line = launcher.refused("all", stream_replicas=3)
    assert "streams with 3 replicas need as many NATS servers in a cluster" in line


def test_an_open_address_without_a_key(launcher: Launcher) -> None:
    assert "listening on 0.0.0.0 needs VECTOR_DB_API_KEY" in launcher.refused("all", host="0.0.0.0")


def test_a_setting_whose_subsystem_does_not_exist(launcher: Launcher) -> None:
    line = launcher.refused("all", compression_enabled=1)
    assert "storage.compression_enabled (VECTOR_DB_COMPRESSION_ENABLED)" in line


def test_a_second_process_on_the_data_directory(launcher: Launcher) -> None:
    first, _ = launcher.ready()
    assert f"is in use by process {first.pid} (" in launcher.refused("all")
    line = launcher.refused("shard", nats_url="nats://127.0.0.1:1")
    assert f"is in use by process {first.pid} (" in line
    first.terminate()
    assert first.wait(30) == 0
    launcher.ready()


def test_sigterm_drains_and_leaves_no_child(launcher: Launcher) -> None:
    process, url = launcher.ready()
    status, body = get(f"{url}/health")
    assert (status, json.loads(body)["ready"]) == (200, True)
    assert get(f"{url}/readyz")[0] == 200
    family = children(process.pid)
    assert "nats-server" in {command_name(pid) for pid in family}
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()
    for pid in family:
        wait_ended(pid)


def test_control_c_ends_the_whole_group_cleanly(launcher: Launcher) -> None:
    process, _ = launcher.ready()
    # A terminal sends the signal to every process of the foreground group, the broker included.
    for pid in [*children(process.pid), process.pid]:
        os.kill(pid, signal.SIGINT)
    assert process.wait(30) == 0
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()


def test_a_killed_process_leaves_no_child_and_starts_again(launcher: Launcher) -> None:
    process, _ = launcher.ready()
    family = children(process.pid)
    process.kill()
    process.wait(30)
    for pid in family:
        wait_ended(pid)
    launcher.ready()


def test_a_killed_broker_is_started_again_and_the_process_serves_on(launcher: Launcher) -> None:
    process, url = launcher.ready()
    (broker,) = [pid for pid in children(process.pid) if command_name(pid) == "nats-server"]
    assert insert(url, "before")
    os.kill(broker, signal.SIGKILL)
    wait_ended(broker)
    deadline = time.monotonic() + 30
    while not insert(url, "after") and time.monotonic() < deadline:
        # A write refused while the broker is away is retryable; each try waits at the server.
        select.select([], [], [], 0.1)
    assert process.poll() is None
    assert similar(url) == {"before", "after"}


def post(url: str, body: object) -> tuple[int, bytes]:
    data = json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def insert(url: str, row_id: str) -> bool:
    """Whether the row was acknowledged; anything but a retryable refusal fails."""
    rows = {"vectors": [{"id": row_id, "dimensions": [0.1, 0.2, 0.3]}]}
    status, body = post(f"{url}/vectors", rows)
    assert status in (200, 201, 503), body
    return status != 503


def similar(url: str) -> set[str]:
    status, body = post(f"{url}/query", {"vector": [0.1, 0.2, 0.3], "k": 10})
    assert status == 200, body
    return {row["id"] for row in json.loads(body)["vectors"]}
