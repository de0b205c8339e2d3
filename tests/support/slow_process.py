"""The product's command line over a disk that can be made slow while it runs.

    python -m tests.support.slow_process run shard

While a file `slow_disk` lies in the working directory, each sync takes as many milliseconds more as
it says.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from vector_db.common.adapters import posix_disk
from vector_db.common.service.cli import main

SLOW_MODULE = "tests.support.slow_process"
CONTROL = Path("slow_disk")


class SlowAppendFile(posix_disk.PosixAppendFile):
    """`ports.AppendFile` with syncs as slow as the control file says."""

    def sync(self) -> None:
        """Wait, then sync."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            time.sleep(float(CONTROL.read_text()) / 1000)
        super().sync()


if __name__ == "__main__":
    # The disk finds the class by this name when it opens a file.
    setattr(posix_disk, "PosixAppendFile", SlowAppendFile)  # noqa: B010 (mypy: assigns a type)
    main()
