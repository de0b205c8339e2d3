"""Building an index in a process of its own, so that neither the event loop nor searches wait.

Owns the invariant that a build never outlives who asked for it, and never leaves a half-made index
that opens: the child reads its standard input, which ends when the parent dies, and exits then; and
the files appear by rename, the one that makes them valid last (see `hnsw.py`).

Run as ``python -m vector_db.shard.index.builder VECTORS ROWS DIMENSION METRIC DIRECTORY THREADS``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

from vector_db.common.model.collection import Metric

NICENESS = 10


class BuildFailed(Exception):
    """The build process ended without an index; the message is what it said last."""


class IndexBuild:
    """One build under way. Not for several threads at once; never blocks but in `wait`, `kill`."""

    def __init__(
        self,
        vectors: Path,
        rows: int,
        dimension: int,
        metric: Metric,
        directory: Path,
        threads: int = 1,
    ) -> None:
        """Start building over the first `rows` x `dimension` float32 of the file `vectors`.

        The index files appear in `directory`.

        :raises OSError: no process could be started.
        """
        arguments = [vectors, rows, dimension, metric.value, directory, threads]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "vector_db.shard.index.builder", *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "OPENBLAS_NUM_THREADS": str(threads)},
        )

    @property
    def pid(self) -> int:
        """The build process."""
        return self._process.pid

    def poll(self) -> bool:
        """Whether the index is there to open.

        :raises BuildFailed: the process ended without one.
        """
        return self._settle(self._process.poll())

    def wait(self, timeout_s: float) -> None:
        """Block until the index is there to open.

        :raises BuildFailed: the process ended without one.
        :raises TimeoutError: it goes on.
        """
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"no index after {timeout_s} s") from None
        self._settle(code)

    def kill(self) -> None:
        """End the build, if it still runs, and forget the process; idempotent."""
        self._process.kill()
        self._process.wait()
        self._close()

    def _settle(self, code: int | None) -> bool:
        if code is None:
            return False
        said = b""
        if self._process.stderr is not None and not self._process.stderr.closed:
            said = self._process.stderr.read()
        self._close()
        if code != 0:
            lines = said.decode(errors="replace").strip().splitlines()
            raise BuildFailed(f"index build ended with {code}: {lines[-1] if lines else ''}")
        return True

    def _close(self) -> None:
        for pipe in (self._process.stdin, self._process.stderr):
            if pipe is not None:
                pipe.close()


def main(arguments: list[str]) -> None:
    """The build process."""
    os.nice(NICENESS)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    import numpy as np

    from vector_db.shard.index.hnsw import build_hnsw

    vectors, rows, dimension, metric, directory, threads = arguments
    shape = (int(rows), int(dimension))
    mapped = np.memmap(vectors, dtype="<f4", mode="r", shape=shape)
    build_hnsw(mapped, Metric(metric), Path(directory), int(threads))


def _exit_with_parent() -> None:
    """The parent never writes: reading ends when the parent has closed the pipe or is gone."""
    os.read(0, 1)
    os._exit(3)


if __name__ == "__main__":
    main(sys.argv[1:])
