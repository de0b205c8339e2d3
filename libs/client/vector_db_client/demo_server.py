"""A server of its own for the demo: a child process that never outlives it.

The server is another distribution, so it is started as a command, not imported.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

HOST = "127.0.0.1"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
_POLL_S = 0.05
_LOG_LINES = 5


class DemoError(Exception):
    """The demo cannot go on; the message is the one line that people see."""


class DemoServer:
    """`vector-db run all` on fixed ports; it writes to ``server.log`` in its data directory."""

    def __init__(self, http_port: int, grpc_port: int, data_dir: Path | None) -> None:
        """:param data_dir: kept afterwards; None: a temporary one, removed."""
        self.url = f"http://{HOST}:{http_port}"
        self._ports = {"--http-port": http_port, "--grpc-port": grpc_port}
        self._keep = data_dir is not None
        self._wanted_dir = data_dir
        self._child: subprocess.Popen[bytes] | None = None
        self.data_dir = Path()

    def __enter__(self) -> Self:
        for option, port in self._ports.items():
            _check_free(option, port)
        self.data_dir = self._wanted_dir or Path(tempfile.mkdtemp(prefix="vector-db-demo-"))
        self.data_dir.mkdir(parents=True, exist_ok=True)
        try:
            self._start()
            self._wait_ready()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    @property
    def log(self) -> Path:
        """What the server says."""
        return self.data_dir / "server.log"

    def serve(self) -> None:
        """Until a signal stops the demo.

        :raises DemoError: the server ended by itself.
        """
        if self._child is not None:
            code = self._child.wait()
            raise DemoError(f"the server ended with code {code}{self._last_words()}")

    def _start(self) -> None:
        environment = os.environ | {
            "VECTOR_DB_HOST": HOST,
            "VECTOR_DB_HTTP_PORT": str(self._ports["--http-port"]),
            "VECTOR_DB_GRPC_PORT": str(self._ports["--grpc-port"]),
            "VECTOR_DB_DATA_DIR": str(self.data_dir.absolute()),
        }
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "vector_db.common.service.cli", "run", "all"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C goes to the demo alone, which then ends the server in good order.
                process_group=0,
            )

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while self._child is not None and self._child.poll() is None:
            if _is_ready(self.url):
                return
            if time.monotonic() > deadline:
                raise DemoError(
                    f"the server is not ready after {START_TIMEOUT_S:g} s{self._last_words()}"
                )
            time.sleep(_POLL_S)
        raise DemoError(f"the server did not start{self._last_words()}")

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        return ": " + " / ".join(line.strip() for line in lines) if lines else ""

    def _stop(self) -> None:
        child, self._child = self._child, None
        try:
            if child is not None and child.poll() is None:
                child.terminate()
                child.wait(STOP_TIMEOUT_S)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            pass  # asked twice, or it hangs: killed below
        finally:
            if child is not None and child.poll() is None:
                child.kill()
                child.wait()
            if not self._keep and self.data_dir != Path():
                shutil.rmtree(self.data_dir, ignore_errors=True)


@contextmanager
def signals_as_interrupts() -> Iterator[None]:
    """SIGTERM and SIGHUP end the demo as Ctrl-C does, so that it ends its server."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_free(option: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError as error:
            raise DemoError(
                f"port {port} on {HOST} cannot be used ({error.strerror}): stop what listens "
                f"there, choose another with {option}, or show the demo on a running server "
                "with --url"
            ) from None


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
