"""Real processes of the product for tests: the whole of it in one, or each service on its own.

Every process listens on 127.0.0.1 on ports that were free just before, and is ended by pid.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import orjson

READY_TIMEOUT_S = 60.0


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def clean_environment(**settings: str) -> dict[str, str]:
    """This process's environment without any setting of the product, plus `settings`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("VECTOR_DB_")}
    return kept | settings


class HttpError(Exception):
    """An answer that is no 2xx."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"{status}: {body[:500]!r}")
        self.status = status
        self.body = body


def call(
    url: str, body: Any = None, method: str | None = None, timeout_s: float = 60.0
) -> dict[str, Any]:
    """One JSON request; `body` None is a GET.

    :raises HttpError: the answer is no 2xx.
    :raises OSError: no answer.
    """
    data = None if body is None else orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            answer: dict[str, Any] = orjson.loads(response.read())
            return answer
    except urllib.error.HTTPError as error:
        raise HttpError(error.code, error.read()) from error


def wait_for_url(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until `url` answers 200.

    :raises RuntimeError: the process ended, or it takes too long; with the end of its log.
    """
    until = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except (OSError, urllib.error.URLError):
            time.sleep(0.02)
    raise RuntimeError(f"{url} is not ready: {log.read_text(errors='replace')[-3000:]}")


class Service:
    """One process: ``vector-db run WHICH``, in a process group of its own."""

    def __init__(self, which: str, folder: Path, **settings: str) -> None:
        self.which = which
        self.folder = folder
        self.log = folder / f"{which}.log"
        self.http_port = free_port()
        self.grpc_port = free_port()
        self.admin_port = free_port()
        self.settings = {
            "VECTOR_DB_DATA_DIR": str(folder / "data"),
            "VECTOR_DB_HTTP_PORT": str(self.http_port),
            "VECTOR_DB_GRPC_PORT": str(self.grpc_port),
            "VECTOR_DB_ADMIN_PORT": str(self.admin_port),
            **settings,
        }
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The REST edge."""
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def grpc_target(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def probe_url(self) -> str:
        edge = self.which in ("all", "gateway")
        return f"http://127.0.0.1:{self.http_port if edge else self.admin_port}/readyz"

    def spawn(self) -> None:
        """Start the process without waiting."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "vector_db.common.service.cli", "run", self.which],
                cwd=self.folder,
                env=clean_environment(**self.settings),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        """Until its probe says ready."""
        if self.process is None:
            raise RuntimeError("spawn() comes first")
        wait_for_url(self.probe_url, self.process, self.log)

    def start(self) -> None:
        """Start, and wait until it is ready."""
        self.spawn()
        self.wait_ready()

    def call(self, path: str, body: Any = None, method: str | None = None) -> dict[str, Any]:
        """One JSON request to the REST edge."""
        return call(self.url + path, body, method)

    def kill(self) -> None:
        """SIGKILL to the whole process group: no service gets to say good-bye."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def stop(self) -> int:
        """SIGTERM, and the exit code once it has drained."""
        if self.process is None:
            raise RuntimeError("spawn() comes first")
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.process.returncode
