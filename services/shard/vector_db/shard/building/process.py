"""A build in a process of its own, so that neither the event loop nor searches wait for it.

Owns the invariant that a build never outlives who asked for it: the child reads its standard input,
which ends when the parent dies, and exits then. The parent may tell it there, at any time, how many
threads to use: all cores while nobody else wants them, one while the worker is written to, and 0,
which is one that rests most of the time, while it is asked.

Run as ``python -m vector_db.shard.building.process ROOT THREADS``, the task as a line on standard
input.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import faiss as _faiss
import msgspec

from vector_db.common.adapters.posix_disk import PosixDisk, disk_full
from vector_db.common.ports import DiskFull
from vector_db.shard.building.task import BuildTask, run_task

faiss: Any = _faiss
NICENESS = 15
REST_SHARE = 0.8
"""Niceness gives the worker its cores at once, but neither caches nor the other half of a core."""
_REST_S_MAX = 2.0
"""What the parent says in between is heard so late at most."""
_EXIT_FAILED = 1
_EXIT_ORPHANED = 3
_EXIT_DISK_FULL = 28
_ENDED_FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT)


class BuildFailed(Exception):
    """The build process ended before its end; the message is what it said last."""


class BuildKilled(BuildFailed):
    """A signal ended it, which says nothing of the work."""


class BuildProcess:
    """One build under way. Not for several threads at once; never blocks but in `wait`, `kill`."""

    def __init__(self, root: Path, task: BuildTask, threads: int = 1) -> None:
        """Start it on the data directory `root`.

        :raises OSError: no process could be started.
        """
        self._process = subprocess.Popen(
            [sys.executable, "-m", "vector_db.shard.building.process", str(root), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "OPENBLAS_NUM_THREADS": str(max(1, threads))},
        )
        self._threads = threads
        self._said = b""
        self.rows_done = 0
        """Rows that are in the index."""
        if self._process.stdout is not None:
            os.set_blocking(self._process.stdout.fileno(), False)
        self._tell(msgspec.json.encode(task))

    @property
    def pid(self) -> int:
        """The build process."""
        return self._process.pid

    def use_threads(self, threads: int) -> None:
        """Go on with so many threads; 0: with one that rests `REST_SHARE` of the time."""
        if threads != self._threads:
            self._threads = threads
            self._tell(str(threads).encode())

    def poll(self) -> bool:
        """Whether it is done; notes its progress.

        :raises DiskFull: it found no room.
        :raises BuildFailed: the process ended otherwise; `BuildKilled`: by a signal.
        """
        self._note_progress()
        return self._settle(self._process.poll())

    def wait(self, timeout_s: float) -> None:
        """Block until it is done.

        :raises DiskFull: it found no room.
        :raises BuildFailed: the process ended otherwise; `BuildKilled`: by a signal.
        :raises TimeoutError: it goes on.
        """
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"not built after {timeout_s} s") from None
        self._settle(code)

    def kill(self) -> None:
        """End the build, if it still runs, and forget the process; idempotent."""
        self._process.kill()
        self._process.wait()
        self._close()

    def _tell(self, line: bytes) -> None:
        if self._process.stdin is None or self._process.stdin.closed:
            return
        try:
            self._process.stdin.write(line + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            # It has ended; `poll` says how.
            return

    def _note_progress(self) -> None:
        out = self._process.stdout
        if out is None or out.closed:
            return
        try:
            self._said += os.read(out.fileno(), 1 << 16)
        except BlockingIOError:
            return
        *lines, self._said = self._said.split(b"\n")
        if lines:
            self.rows_done = int(lines[-1])

    def _settle(self, code: int | None) -> bool:
        if code is None:
            return False
        said = b""
        if self._process.stderr is not None and not self._process.stderr.closed:
            said = self._process.stderr.read()
        self._close()
        if code != 0:
            lines = said.decode(errors="replace").strip().splitlines()
            last = lines[-1] if lines else ""
            if code == _EXIT_DISK_FULL:
                raise DiskFull(last)
            if code in _ENDED_FROM_OUTSIDE:
                raise BuildKilled(f"the build was ended by signal {-code}")
            raise BuildFailed(f"the build ended with {code}: {last}")
        return True

    def _close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None and not pipe.closed:
                pipe.close()


class _Child:
    """The build process's own side: what the parent wants, and what it is told."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._noted_s = time.monotonic()

    def listen(self) -> None:
        """Until the parent has closed the pipe or is gone; then nobody wants the build."""
        for line in sys.stdin.buffer:
            self._threads = int(line)
        os._exit(_EXIT_ORPHANED)

    def note(self, rows: int) -> None:
        """Tell the parent; what it wants of the threads holds from here on."""
        os.write(1, b"%d\n" % rows)
        faiss.omp_set_num_threads(max(1, self._threads))
        if not self._threads:
            time.sleep(rest_s(time.monotonic() - self._noted_s))
        self._noted_s = time.monotonic()


def rest_s(worked_s: float) -> float:
    """How long a build rests after so much work, beside a worker that is asked."""
    return min(worked_s * REST_SHARE / (1 - REST_SHARE), _REST_S_MAX)


def main(arguments: list[str]) -> None:
    """The build process."""
    os.nice(NICENESS)
    root, threads = Path(arguments[0]), int(arguments[1])
    task = msgspec.json.decode(sys.stdin.buffer.readline(), type=BuildTask)
    child = _Child(threads)
    threading.Thread(target=child.listen, daemon=True).start()
    code = 0
    try:
        with disk_full(task.name):
            run_task(PosixDisk(root), task, max(1, threads), child.note)
    except DiskFull as full:
        code = _EXIT_DISK_FULL
        print(f"{full}", file=sys.stderr)
    except Exception:
        code = _EXIT_FAILED
        traceback.print_exc()
    # The listener's read never ends by itself, and an orderly end would wait for it.
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
