"""The driver of a peer as a process: commands to it, answers from it, each bounded in time."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from bench.common import ROOT, BenchError
from bench.memory import NONE, Memory, children_of, memory_of, processes_naming

CLOSE_TIMEOUT_S = 30.0
_LOG_TAIL = 300


class DriverProcess:
    """A context manager; leaving it ends the process and all that it started."""

    def __init__(self, python: Path, driver: str, directory: Path, budget_s: float) -> None:
        """`directory`: of this run alone; `budget_s`: of all commands together."""
        self._directory = directory
        self._log = directory / "driver.log"
        self._ends = time.monotonic() + budget_s
        self._budget_s = budget_s
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [str(python), "-m", f"bench.peers.drivers.{driver}"],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self._buffer = b""

    def __enter__(self) -> DriverProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for send in (signal.SIGTERM, signal.SIGKILL):
            for pid in self._pids():
                with suppress(ProcessLookupError):
                    os.kill(pid, send)
            ends = time.monotonic() + CLOSE_TIMEOUT_S
            while time.monotonic() < ends and (self._process.poll() is None or self._pids()):
                time.sleep(0.05)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def call(self, do: str, **arguments: Any) -> dict[str, Any]:
        """One command.

        :raises BenchError: the driver ended, or the budget is spent.
        """
        if self._process.stdin is None:
            raise BenchError("the driver has no input")
        line = json.dumps({"do": do, **arguments}) + "\n"
        try:
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            raise BenchError(f"{do}: {self._last_words()}") from None
        answer: dict[str, Any] = json.loads(self._line(do))
        return answer

    def memory(self) -> Memory:
        """Of the driver and of the servers that it started."""
        return sum((memory_of(pid) for pid in self._pids()), NONE)

    def _pids(self) -> set[int]:
        """The driver, and what it started: below it, or with the path of its directory.

        A server that made itself a daemon is no child of the driver any more.
        """
        roots = set(processes_naming(self._directory))
        if self._process.poll() is None:
            roots.add(self._process.pid)
        return roots.union(*(children_of(pid) for pid in roots))

    def _line(self, do: str) -> bytes:
        if self._process.stdout is None:
            raise BenchError("the driver has no output")
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                left_s = self._ends - time.monotonic()
                if left_s <= 0 or not selector.select(left_s):
                    raise BenchError(f"{do}: not done after {self._budget_s:.0f} s in all")
                data = os.read(self._process.stdout.fileno(), 1 << 16)
                if not data:
                    raise BenchError(f"{do}: {self._last_words()}")
                self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _last_words(self) -> str:
        lines = [
            line for line in self._log.read_text(errors="replace").splitlines() if line.strip()
        ]
        return lines[-1][:_LOG_TAIL] if lines else f"the driver ended: {self._process.poll()}"
