"""What the benchmarks share: a real server process, a light HTTP client, statistics and tables.

Owns the rule of every figure: the client sends bytes encoded beforehand and does as little as it
can, in another process than the server's, so that the server is what is measured.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import numpy as np
import uvloop
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "bench" / "out"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0

F32 = NDArray[np.float32]


class BenchError(Exception):
    """A benchmark cannot go on; the message is for the person at the terminal."""


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def encode_request(
    method: str,
    path: str,
    body: bytes = b"",
    content_type: str = "application/json",
    headers: str = "",
) -> bytes:
    """A whole HTTP/1.1 request, ready to be written to a keep-alive connection.

    :param headers: further lines, each with its line break.
    """
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n{headers}\r\n"
    )
    return head.encode() + body


class HttpConnection(asyncio.Protocol):
    """One keep-alive connection, one request at a time; answers must carry Content-Length."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._buffer = bytearray()
        self._need = -1
        self._head_size = 0
        self.head = b""
        """Status line and headers of the last answer."""

    @classmethod
    async def open(cls, port: int) -> HttpConnection:
        """Connect to the loopback."""
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(cls, "127.0.0.1", port)
        return connection

    async def request(self, encoded: bytes) -> tuple[int, bytes]:
        """Send what `encode_request` made: (status, body)."""
        if self._transport is None or self._transport.is_closing():
            raise BenchError("the server closed the connection")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(encoded)
        return await self._answer

    def header(self, name: str) -> str:
        """A header of the last answer, by its name in any case; "" when it is not there."""
        for line in self.head.split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            if key.lower() == name.lower().encode():
                return value.strip().decode()
        return ""

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not registered as asyncio's classes.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(BenchError(f"the server hung up: {exc}"))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._need < 0:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._buffer[:end]).lower()
            at = head.find(b"content-length:")
            if at < 0:
                raise BenchError(f"an answer without Content-Length: {head[:200]!r}")
            self._head_size = end + 4
            self._need = self._head_size + int(head[at + 15 :].split(b"\r\n", 1)[0])
        if len(self._buffer) < self._need or self._answer is None:
            return
        status = int(self._buffer[9:12])
        self.head = bytes(self._buffer[: self._head_size])
        body = bytes(self._buffer[self._head_size : self._need])
        self._buffer.clear()
        self._need = -1
        answer, self._answer = self._answer, None
        answer.set_result((status, body))


class ServerProcess:
    """`vector-db run all` as a process of its own, on free ports and an empty data directory.

    A context manager; leaving it stops the process and removes the data.
    """

    def __init__(self, python: str = sys.executable, **variables: str) -> None:
        """`python`: the interpreter of another installation, to compare two versions."""
        OUT.mkdir(parents=True, exist_ok=True)
        # Beside the repository and not in /tmp, which may be memory: fsync must mean something.
        self.directory = Path(tempfile.mkdtemp(prefix="run-", dir=OUT))
        self.http_port = free_port()
        self.grpc_port = free_port()
        self._log = self.directory / "server.log"
        self._python = python
        self._variables = variables
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ServerProcess:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        if kind is not None:
            print(f"--- the server's log ---\n{self._log_tail()}", file=sys.stderr)
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def data_dir(self) -> Path:
        """What the server stores; gone when the context is left."""
        return self.directory / "data"

    @property
    def pid(self) -> int:
        """The server process.

        :raises BenchError: it is stopped.
        """
        if self._process is None:
            raise BenchError("the server is stopped")
        return self._process.pid

    def start(self, **variables: str) -> None:
        """Start on the data that is there, and wait until it is ready.

        :param variables: further `VECTOR_DB_` settings, for this start alone.
        """
        env = {k: v for k, v in os.environ.items() if not k.startswith("VECTOR_DB_")}
        env |= {
            "VECTOR_DB_DATA_DIR": str(self.data_dir),
            "VECTOR_DB_HTTP_PORT": str(self.http_port),
            "VECTOR_DB_GRPC_PORT": str(self.grpc_port),
            "VECTOR_DB_LOG_LEVEL": "warning",
            **self._variables,
            **variables,
        }
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._python, "-m", "vector_db.common.service.cli", "run", "all"],
                cwd=self.directory,
                env=env,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self._wait_ready()
        except BaseException:
            self.stop()
            raise

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                raise BenchError(f"the server ended at its start:\n{self._log_tail()}")
            if _answers_ready(self.http_port):
                return
            time.sleep(0.05)
        raise BenchError(f"the server is not ready after {START_TIMEOUT_S} s:\n{self._log_tail()}")

    def stop(self) -> None:
        """End the process in an orderly way; its data stays."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _log_tail(self) -> str:
        return self._log.read_text(errors="replace")[-4000:] if self._log.exists() else ""


def _answers_ready(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as probe:
            probe.sendall(b"GET /readyz HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
            return probe.recv(64).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


async def call_json(
    connection: HttpConnection, method: str, path: str, body: Any = None
) -> dict[str, Any]:
    """One JSON call outside the measured part; anything but a 2xx ends the benchmark."""
    encoded = b"" if body is None else json.dumps(body).encode()
    status, answer = await connection.request(encode_request(method, path, encoded))
    if not 200 <= status < 300:
        raise BenchError(f"{method} {path}: {status} {answer[:500]!r}")
    decoded: dict[str, Any] = json.loads(answer)
    return decoded


async def send_all(
    connections: Sequence[HttpConnection], requests: Iterable[bytes]
) -> tuple[float, list[float], list[bytes]]:
    """Send every request once, one in flight per connection.

    :returns: wall seconds, seconds of each request, bodies of the answers (in order of completion
        per connection, not of the requests, unless there is one connection).
    """
    queue = iter(requests)
    seconds: list[float] = []
    bodies: list[bytes] = []

    async def client(connection: HttpConnection) -> None:
        for encoded in queue:
            started = time.perf_counter()
            status, body = await connection.request(encoded)
            seconds.append(time.perf_counter() - started)
            if not 200 <= status < 300:
                raise BenchError(f"status {status}: {body[:500]!r}")
            bodies.append(body)

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for connection in connections:
            group.create_task(client(connection))
    return time.perf_counter() - started, seconds, bodies


def run_against_server(measure: Callable[[ServerProcess], Coroutine[Any, Any, None]]) -> None:
    """Start a server, await `measure` on a fast loop, stop; a `BenchError` ends with one line."""
    try:
        with ServerProcess() as server:
            uvloop.run(measure(server))
    except* BenchError as errors:
        sys.exit(f"the benchmark cannot go on: {first_of(errors)}")


def first_of(errors: BaseException) -> BaseException:
    """The first error of a group, however deep."""
    while isinstance(errors, BaseExceptionGroup):
        errors = errors.exceptions[0]
    return errors


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and range of repeated figures."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        return cls(float(np.median(values)), min(values), max(values))


def percentile(values: Sequence[float], q: float) -> float:
    """The q-th percentile (0 to 100)."""
    return float(np.percentile(np.asarray(values), q))


def print_table(
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    left: frozenset[int] = frozenset((0,)),
) -> None:
    """A table on the terminal: the columns `left` to the left, the others to the right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    print(f"\n{title}")
    for row in (header, ["-" * w for w in widths], *rows):
        cells = [
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def save(name: str, result: dict[str, Any]) -> Path:
    """Write the figures, with the machine they were taken on, to `bench/out/<name>.json`."""
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / f"{name}.json"
    machine = {
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    path.write_text(json.dumps({"machine": machine, **result}, indent=2) + "\n")
    return path
