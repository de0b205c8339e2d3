"""A disk whose unsynced bytes die with the process: SIGKILL does to it what a power cut does.

The page cache outlives a killed process, so on a real disk a missing `sync` would never be noticed
by killing. Here what is appended lies in the memory of the process until `sync`, which writes it in
small pieces, so that a kill in the middle leaves a torn tail; and a new file has no name before its
first `sync`. A replacement gets its name once it is whole, as on the real disk.

Owns the invariant that nothing reaches the folder but through `sync`, `write_atomic`, `truncate`
and `remove`. With `honest=False` the first one forgets its work: the control of a durability test.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from vector_db.common.adapters.posix_disk import PosixDisk
from vector_db.common.model.rows import Buffer

PIECE_BYTES = 1024


class LossyDisk(PosixDisk):
    """`ports.Disk` over a folder; see the module."""

    def __init__(self, root: Path, honest: bool = True) -> None:
        super().__init__(root)
        self._honest = honest
        self._files: dict[Path, _Unsynced] = {}

    def append_file(self, name: str) -> LossyAppendFile:  # type: ignore[override]
        """Open (or make) a file; it is on the disk once it was synced."""
        path = self._path(name)
        self._make_dirs(path.parent)
        if path not in self._files:
            self._files[path] = _Unsynced(path, self._honest)
        return LossyAppendFile(self._files[path])

    def read(self, name: str) -> bytes:
        """What was written, synced or not.

        :raises FileNotFoundError: no such file.
        """
        unsynced = self._files.get(self._path(name))
        if unsynced is None:
            return super().read(name)
        return unsynced.on_disk() + b"".join(unsynced.pending)

    def write_atomic(self, name: str, parts: Iterable[Buffer]) -> None:
        """Replace a file whole; all of it is on the disk, or nothing."""
        self._files.pop(self._path(name), None)
        super().write_atomic(name, parts)

    def truncate(self, name: str, size: int) -> None:
        """Cut the file, and sync it.

        :raises FileNotFoundError: no such file.
        :raises ValueError: the file is shorter.
        """
        unsynced = self._files.get(self._path(name))
        if unsynced is not None:
            unsynced.write_out()
        super().truncate(name, size)

    def remove(self, name: str) -> None:
        """Remove a file; a missing one is no error."""
        self._files.pop(self._path(name), None)
        super().remove(name)

    def names(self, prefix: str = "") -> list[str]:
        """Files on the disk and those that are not there yet."""
        unsynced = (path.relative_to(self.root).as_posix() for path in self._files)
        return sorted({*super().names(prefix), *(n for n in unsynced if n.startswith(prefix))})


class _Unsynced:
    """What a file has in memory above what is on the disk."""

    def __init__(self, path: Path, honest: bool) -> None:
        self.path = path
        self.pending: list[bytes] = []
        self._honest = honest

    def on_disk(self) -> bytes:
        return self.path.read_bytes() if self.path.exists() else b""

    def size(self) -> int:
        on_disk = self.path.stat().st_size if self.path.exists() else 0
        return on_disk + sum(map(len, self.pending))

    def sync(self) -> None:
        if self._honest:
            self.write_out()

    def write_out(self) -> None:
        pending, self.pending = self.pending, []
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            for piece in _pieces(b"".join(pending)):
                os.write(fd, piece)
        finally:
            os.close(fd)


class LossyAppendFile:
    """`ports.AppendFile`. Several openings of one file share what is not synced."""

    def __init__(self, unsynced: _Unsynced) -> None:
        self._unsynced = unsynced

    def write(self, parts: list[Buffer]) -> None:
        """Keep the parts in memory."""
        self._unsynced.pending.extend(memoryview(part).cast("B").tobytes() for part in parts)

    def sync(self) -> None:
        """Write what is kept, when the disk is honest."""
        self._unsynced.sync()

    def size(self) -> int:
        """Bytes in the file, synced or not."""
        return self._unsynced.size()

    def close(self) -> None:
        """Nothing is held open."""


def _pieces(data: bytes) -> list[bytes]:
    return [data[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES)]
