"""Real processes of the product for tests: the whole of it in one, or each service on its own.

Every process listens on 127.0.0.1 on ports of its own, and is ended by the id of its process group,
with the broker that it started.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from tests.support.ports import free_ports

READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
ARROW = "application/vnd.apache.arrow.stream"


def clean_environment(**settings: str) -> dict[str, str]:
    """This process's environment without any setting of the product, plus `settings`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("VECTOR_DB_")}
    return kept | settings


def with_tests_on_path() -> dict[str, str]:
    """The environment in which a `Service.module` out of these tests is found."""
    return {"PYTHONPATH": f"{Path(__file__).parents[2]}:{os.environ.get('PYTHONPATH', '')}"}


class HttpError(Exception):
    """An answer that is no 2xx."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"{status}: {body[:500]!r}")
        self.status = status
        self.body = body


def call(
    url: str,
    body: Any = None,
    method: str | None = None,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 60.0,
) -> dict[str, Any]:
    """One request; `body` None is a GET, bytes are an Arrow stream, anything else goes as JSON.

    :raises HttpError: the answer is no 2xx.
    :raises OSError: no answer.
    """
    data, kind = body, ARROW
    if body is not None and not isinstance(body, bytes):
        data = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
        kind = "application/json"
    request = urllib.request.Request(
        url, data, {"Content-Type": kind, **(headers or {})}, method=method
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            answer: dict[str, Any] = orjson.loads(response.read())
            return answer
    except urllib.error.HTTPError as error:
        with error:
            raise HttpError(error.code, error.read()) from error


class Service:
    """One process: ``vector-db run WHICH``, in a process group of its own, over `folder`.

    It may be started again, on the same ports and data, after it ended. `settings` are variables
    of its environment and override what is chosen here.
    """

    module = "vector_db.common.service.cli"
    """What is run; it takes the command line of `vector-db`."""

    def __init__(self, which: str, folder: Path, **settings: str) -> None:
        self.which = which
        self.folder = folder
        self.http_port, self.grpc_port, self.admin_port = free_ports(3)
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
        """The REST edge, without a slash at the end."""
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def grpc_target(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def log(self) -> str:
        """What the process wrote, over all its starts."""
        return (self.folder / f"{self.which}.log").read_text(errors="replace")

    def spawn(self) -> None:
        """Start the process without waiting."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{self.which}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self.module, "run", self.which],
                cwd=self.folder,
                env=clean_environment(**self.settings),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        """Until its probe says ready; what is not ready in time is killed.

        :raises RuntimeError: it ended, or takes too long; with the end of its log.
        """
        until = time.monotonic() + READY_TIMEOUT_S
        while True:
            ended = self.process is None or self.process.poll() is not None
            if not ended and self.is_ready():
                return
            if ended or time.monotonic() > until:
                self.kill()
                said = "ended" if ended else "is not ready"
                raise RuntimeError(f"{self.which} {said}: {self.log[-4000:]}")
            time.sleep(0.02)

    def is_ready(self) -> bool:
        """Whether its probe answers 200 now."""
        edge = self.which in ("all", "gateway")
        port = self.http_port if edge else self.admin_port
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def start(self) -> None:
        """Start, and wait until it is ready."""
        self.spawn()
        self.wait_ready()

    def call(
        self,
        path: str,
        body: Any = None,
        method: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """One request to the REST edge. See `call`."""
        return call(self.url + path, body, method, headers)

    def health(self) -> dict[str, Any]:
        """Its facts, ready or not."""
        edge = self.which in ("all", "gateway")
        port = self.http_port if edge else self.admin_port
        return call(f"http://127.0.0.1:{port}/health")

    def metrics(self) -> dict[str, float]:
        """What `/metrics` says, by name with labels."""
        edge = self.which in ("all", "gateway")
        port = self.http_port if edge else self.admin_port
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        told = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in told}

    def kill(self) -> None:
        """SIGKILL to the whole process group: no service gets to say good-bye.

        Reaches what the process left behind, too, when it has ended already.
        """
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = None

    def stop(self) -> int:
        """SIGTERM, and the exit code once it has drained; killed when it takes too long."""
        if self.process is None:
            raise RuntimeError("spawn() comes first")
        self.process.terminate()
        try:
            return self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return -signal.SIGKILL
        finally:
            self.kill()
