"""The durable files of one service on a POSIX file system.

Owns two invariants. What `sync` or `write_atomic` has answered survives a power cut, names of new
files and new directories included. A write that finds the disk full leaves the file as it was.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from vector_db.common.model.rows import Buffer
from vector_db.common.ports import DiskFull

_TEMP_SUFFIX = ".tmp"
_FULL = frozenset((errno.ENOSPC, errno.EDQUOT))
_IOV_MAX: int = os.sysconf("SC_IOV_MAX")
_WRITEV_BYTES_MAX = 1 << 30
"""Linux moves at most 2 GiB - 4 KiB in one call; stay well below."""
_BATCH_BYTES = 1 << 20


@contextmanager
def disk_full(what: str) -> Iterator[None]:
    """Turn "no space" and "over quota" into `DiskFull`; let every other error pass."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFull(f"{what}: {os.strerror(error.errno or 0)}") from error
        raise


def _sync_dir(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _make_dir(path: Path) -> None:
    with disk_full(str(path)):
        path.mkdir(exist_ok=True)
        _sync_dir(path.parent)


def _write_all(fd: int, parts: list[Buffer]) -> int:
    """Write every byte of `parts` with as few calls as the kernel allows; returns their number."""
    pending = [view for view in (memoryview(p).cast("B") for p in parts) if view.nbytes]
    total = sum(view.nbytes for view in pending)
    start = 0
    while start < len(pending):
        batch: list[memoryview] = []
        size = 0
        for view in pending[start : start + _IOV_MAX]:
            if batch and size + view.nbytes > _WRITEV_BYTES_MAX:
                break
            batch.append(view)
            size += view.nbytes
        written = os.writev(fd, batch)
        while start < len(pending) and written >= pending[start].nbytes:
            written -= pending[start].nbytes
            start += 1
        if written:
            pending[start] = pending[start][written:]
    return total


def _batches(parts: Iterable[Buffer]) -> Iterator[list[Buffer]]:
    """The parts in lists worth a system call; those made on the way are never all in memory."""
    if isinstance(parts, list):
        yield parts
        return
    batch: list[Buffer] = []
    size = 0
    for part in parts:
        batch.append(part)
        size += memoryview(part).nbytes
        if size >= _BATCH_BYTES or len(batch) >= _IOV_MAX:
            yield batch
            batch, size = [], 0
    yield batch


class PosixAppendFile:
    """`ports.AppendFile` over one descriptor. Not for two threads at once."""

    def __init__(self, path: Path) -> None:
        with disk_full(str(path)):
            self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._path = path
        self._size = os.fstat(self._fd).st_size
        self._entry_durable = False
        self._closed = False

    def write(self, parts: list[Buffer]) -> None:
        """Append the parts; they need `sync` to be durable.

        :raises DiskFull: the file is cut back to where it was.
        :raises OSError: the medium failed; the file is cut back where that is still possible.
        """
        try:
            with disk_full(str(self._path)):
                self._size += _write_all(self._fd, parts)
        except (DiskFull, OSError):
            os.ftruncate(self._fd, self._size)
            raise

    def sync(self) -> None:
        """All that was written is on the medium when this returns.

        :raises OSError: final. The kernel may have dropped the pages: a second call that succeeds
            proves nothing.
        """
        os.fdatasync(self._fd)
        if not self._entry_durable:
            _sync_dir(self._path.parent)
            self._entry_durable = True

    def size(self) -> int:
        """Bytes in the file, synced or not."""
        return self._size

    def close(self) -> None:
        """Give the descriptor back, without a sync; idempotent."""
        if not self._closed:
            self._closed = True
            os.close(self._fd)


class PosixDisk:
    """`ports.Disk` below `root`, which is made where it does not exist.

    Names are relative and use '/'; their directories are made, durably, when they are first needed.

    :raises OSError: `root` cannot be made.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root).absolute()
        self._durable_dirs = {self.root}
        missing = []
        top = self.root
        while not top.is_dir():
            missing.append(top)
            top = top.parent
        for directory in reversed(missing):
            _make_dir(directory)

    def append_file(self, name: str) -> PosixAppendFile:
        """Open (or make) a file for appending; its directory entry is durable after `sync`.

        :raises DiskFull: no room for the new file.
        """
        path = self._path(name)
        self._make_dirs(path.parent)
        return PosixAppendFile(path)

    def read(self, name: str) -> bytes:
        """:raises FileNotFoundError: no such file."""
        return self._path(name).read_bytes()

    def read_at(self, name: str, offset: int, size: int) -> bytes:
        """Bytes [offset, offset + size) of a file, fewer where it ends before.

        :raises FileNotFoundError: no such file.
        """
        with self._path(name).open("rb", buffering=0) as file:
            parts = []
            while size and (part := os.pread(file.fileno(), size, offset)):
                parts.append(part)
                offset, size = offset + len(part), size - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write_atomic(self, name: str, parts: Iterable[Buffer]) -> None:
        """Replace a file whole: temp + fsync + rename + fsync(dir).

        :raises DiskFull: the old file stands.
        """
        path = self._path(name)
        self._make_dirs(path.parent)
        temp = path.with_name(path.name + _TEMP_SUFFIX)
        try:
            with disk_full(str(path)):
                fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
                try:
                    for some in _batches(parts):
                        _write_all(fd, some)
                    os.fsync(fd)
                finally:
                    os.close(fd)
                os.replace(temp, path)
        except (DiskFull, OSError):
            temp.unlink(missing_ok=True)
            raise
        _sync_dir(path.parent)

    def truncate(self, name: str, size: int) -> None:
        """Cut the file and sync it.

        :raises FileNotFoundError: no such file.
        :raises ValueError: the file is shorter than `size` bytes.
        """
        path = self._path(name)
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            if os.fstat(fd).st_size < size:
                raise ValueError(f"{path}: cannot be cut to {size} bytes, it is shorter")
            os.ftruncate(fd, size)
            os.fsync(fd)
        finally:
            os.close(fd)
        _sync_dir(path.parent)

    def remove(self, name: str) -> None:
        """Remove a file, durably; a missing one is no error."""
        path = self._path(name)
        try:
            path.unlink()
        except FileNotFoundError:
            return
        _sync_dir(path.parent)

    def names(self, prefix: str = "") -> list[str]:
        """Files under the root (relative, with '/'), sorted, whose names start with `prefix`.

        What a crash left of `write_atomic` is not listed; the next write of that name replaces it.
        """
        folder, slash, _ = prefix.rpartition("/")
        top = self._path(folder) if slash else self.root
        found: list[str] = []
        for directory, _, files in os.walk(top, onerror=_raise_unless_missing):
            relative = Path(directory).relative_to(self.root).as_posix()
            base = "" if relative == "." else f"{relative}/"
            found += [base + f for f in files if not f.endswith(_TEMP_SUFFIX)]
        return sorted(name for name in found if name.startswith(prefix))

    def free_bytes(self) -> int:
        """Bytes that this process may still write on the file system of the root."""
        stats = os.statvfs(self.root)
        return stats.f_bavail * stats.f_frsize

    def _path(self, name: str) -> Path:
        pure = PurePosixPath(name)
        if not name or pure.is_absolute() or ".." in pure.parts or name.endswith(_TEMP_SUFFIX):
            raise ValueError(f"not a name below the root: {name!r}")
        return self.root / pure

    def _make_dirs(self, path: Path) -> None:
        """Make missing directories from the top down, each entry synced in its parent.

        Once per directory and process, also where it is there already: it may be what a killed
        process made and did not sync.
        """
        doubtful = []
        while path not in self._durable_dirs:
            doubtful.append(path)
            path = path.parent
        for directory in reversed(doubtful):
            _make_dir(directory)
            self._durable_dirs.add(directory)


def _raise_unless_missing(error: OSError) -> None:
    """`os.walk` hides errors unless told not to; a directory that does not exist holds no files."""
    if not isinstance(error, FileNotFoundError):
        raise error
