"""A disk in memory that can fail: what a log must survive, at the speed of unit tests."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from pathlib import Path

from vector_db.common.model.rows import Buffer
from vector_db.common.ports import DiskFull


class MemoryDisk:
    """`ports.Disk`; `files` is what reads see, `synced` what a power cut would leave at least.

    `capacity` bounds the bytes of all files; `on_sync` runs inside every sync and may raise.
    """

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        self.root = Path("/memory")
        self.files: dict[str, bytes] = dict(files or {})
        self.synced: dict[str, bytes] = dict(self.files)
        self.capacity = 1 << 40
        self.on_sync: Callable[[], None] = lambda: None

    def append_file(self, name: str) -> MemoryFile:
        self.files.setdefault(name, b"")
        return MemoryFile(self, name)

    def read(self, name: str) -> bytes:
        return self.files[name]

    def read_at(self, name: str, offset: int, size: int) -> bytes:
        return self.files[name][offset : offset + size]

    def write_atomic(self, name: str, parts: Iterable[Buffer]) -> None:
        self.files[name] = self.synced[name] = b"".join(parts)

    def truncate(self, name: str, size: int) -> None:
        self.files[name] = self.synced[name] = self.files[name][:size]

    def remove(self, name: str) -> None:
        self.files.pop(name, None)
        self.synced.pop(name, None)

    def names(self, prefix: str = "") -> list[str]:
        return sorted(name for name in self.files if name.startswith(prefix))

    def free_bytes(self) -> int:
        return self.capacity - sum(map(len, self.files.values()))


class MemoryFile:
    def __init__(self, disk: MemoryDisk, name: str) -> None:
        self._disk = disk
        self._name = name

    def write(self, parts: list[Buffer]) -> None:
        data = b"".join(parts)
        if len(data) > self._disk.free_bytes():
            raise DiskFull(self._name)
        self._disk.files[self._name] += data

    def sync(self) -> None:
        self._disk.on_sync()
        self._disk.synced[self._name] = self._disk.files[self._name]

    def size(self) -> int:
        return len(self._disk.files[self._name])

    def close(self) -> None:
        pass


def io_error() -> None:
    """An `on_sync` that fails as a dying disk does."""
    raise OSError(errno.EIO, "input/output error")
