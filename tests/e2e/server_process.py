"""A whole `vector-db run all` as a process of its own, for tests that need the real thing."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_READY_S = 60.0
_POLL_S = 0.05


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class ServerProcess:
    """`vector-db run all` over `folder`; it may be started again after it ended.

    `environment` adds to (and overrides) the settings that tests need.
    """

    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    http_port: int = field(default_factory=free_port)
    grpc_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Of the REST edge, without a slash at the end."""
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def log(self) -> str:
        """What the process wrote, over all its starts."""
        return (self.folder / "server.log").read_text(errors="replace")

    def start(self) -> None:
        """Return once it is ready.

        :raises RuntimeError: it ended, or was not ready in time; with the end of its log.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = {k: v for k, v in os.environ.items() if not k.startswith("VECTOR_DB_")}
        settings = {
            "VECTOR_DB_HTTP_PORT": str(self.http_port),
            "VECTOR_DB_GRPC_PORT": str(self.grpc_port),
            "VECTOR_DB_DATA_DIR": str(self.folder / "data"),
        }
        with open(self.folder / "server.log", "ab") as log:
            # Its own session: `kill` reaches the broker that it started too.
            self.process = subprocess.Popen(
                [sys.executable, "-m", "vector_db.common.service.cli", "run", "all"],
                env={**kept, **settings, **self.environment},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._wait_ready()
        except RuntimeError:
            self.kill()
            raise

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + _READY_S
        while not self.answers("/readyz"):
            if self.process is None or self.process.poll() is not None:
                raise RuntimeError(f"the server ended:\n{self.log[-4000:]}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"the server is not ready:\n{self.log[-4000:]}")
            time.sleep(_POLL_S)

    def answers(self, path: str) -> bool:
        """Whether a GET of `path` answers 200."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def stop(self) -> int:
        """End it by SIGTERM; its exit status. Killed when it takes too long."""
        if self.process is None:
            return 0
        self.process.terminate()
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            return -signal.SIGKILL
        finally:
            self.kill()

    def kill(self) -> None:
        """SIGKILL to the process and the broker that it started."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = None
