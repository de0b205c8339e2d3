"""The product's command line over a disk that loses what was not synced.

    python -m tests.support.lossy_process run shard

`LOSSY_DISK=forgets` in the environment makes `sync` forget its work.
"""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.lossy_disk import LossyDisk
from vector_db.common.adapters import posix_disk
from vector_db.common.service.cli import main


def _open(root: Path) -> LossyDisk:
    return LossyDisk(root, honest=os.environ.get("LOSSY_DISK") != "forgets")


if __name__ == "__main__":
    # The runner imports the adapter when it starts a service, and finds this one.
    setattr(posix_disk, "PosixDisk", _open)  # noqa: B010 (mypy: a function in place of a class)
    main()
