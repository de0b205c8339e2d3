"""One process per data directory.

Owns the invariant that two processes never write the same files: an exclusive `flock`, which the
kernel releases when its holder dies, however it dies. The file stays behind on purpose: removing
it would let two processes lock two different files of one name.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from vector_db.common.model.errors import StartupError


class DataDirLock:
    """A held lock file; made by `acquire`."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd

    @classmethod
    def acquire(cls, path: Path) -> DataDirLock:
        """Lock `path` (made where absent, with its folder) and write this process's id into it.

        :raises StartupError: another process holds it (named by its id), or the folder is not
            writable.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StartupError(
                f"the data directory {path.parent} is not writable: {error.strerror}"
            ) from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
            os.close(fd)
            by = f"process {holder}" if holder.isdigit() else "another process"
            raise StartupError(
                f"the data directory {path.parent} is in use by {by} (lock file {path})"
            ) from None
        except OSError as error:
            os.close(fd)
            raise StartupError(f"cannot lock {path}: {error.strerror}") from None
        try:
            # Fixed width, so that the next holder overwrites it whole without allocating.
            os.pwrite(fd, f"{os.getpid():<20}\n".encode(), 0)
        except OSError as error:
            # The id is a courtesy, the lock is held: a full disk must not keep a database from
            # starting, since starting is how its rows get read and deleted.
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                os.close(fd)
                raise StartupError(f"cannot write {path}: {error.strerror}") from None
        return cls(path, fd)

    def release(self) -> None:
        """Let the next process in; idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
