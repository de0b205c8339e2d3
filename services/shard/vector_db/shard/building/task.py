"""One segment's build as a value, and the doing of it: merge its rows, then build its index.

Owns the invariant that a build writes only into the directory of the segment that it makes, so that
one which failed, was killed or ran out of disk has changed nothing that is in use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from vector_db.common.ports import Disk
from vector_db.shard.index.build import IndexSpec, build_index
from vector_db.shard.storage.merging import write_merged
from vector_db.shard.storage.sealed import SealedSegment
from vector_db.shard.storage.table import Table, write_table

_DROPPED_KIND = "dropped"


class BuildTask(msgspec.Struct, frozen=True):
    """What to make of the segment `name`.

    `merge`: the segments (oldest first) whose rows it takes, less those of `drop_rows`; empty: it
    is there already. `fields`: the metadata paths that it shall have declared, None: as they are.
    `index`: what to build over it, None: nothing.
    """

    name: str
    merge: tuple[str, ...] = ()
    fields: tuple[str, ...] | None = None
    index: IndexSpec | None = None


def drop_rows(disk: Disk, name: str, dropped: Sequence[NDArray[np.integer]]) -> None:
    """Say which rows of each merged segment are left out, before the task runs.

    :raises DiskFull: nothing was said.
    """
    columns = {str(at): rows.astype(np.uint32) for at, rows in enumerate(dropped)}
    write_table(disk, _dropped_file(name), _DROPPED_KIND, {}, columns)


def discard(disk: Disk, task: BuildTask) -> None:
    """Remove what a merge wrote that failed: its disk may be needed. In any thread.

    The directory stays, see `leftovers`.
    """
    directory = disk.root / task.name
    for path in directory.iterdir() if directory.is_dir() else ():
        path.unlink(missing_ok=True)


def run_task(disk: Disk, task: BuildTask, threads: int, progress: Callable[[int], None]) -> None:
    """Do it; `progress` is told how many rows are in the index.

    A merge that leaves no row leaves no segment.

    :raises DiskFull: what was written is no segment, or has no index.
    :raises OSError: likewise.
    """
    if task.merge:
        sources = [SealedSegment(disk.root, name) for name in task.merge]
        told = Table(disk.root, _dropped_file(task.name), _DROPPED_KIND)
        dropped = [told.column(str(at)) for at in range(len(sources))]
        rows = write_merged(disk, task.name, sources, dropped, task.fields or ())
        disk.remove(_dropped_file(task.name))
        if not rows:
            return
    elif task.fields is not None:
        SealedSegment(disk.root, task.name).rewrite_fields(disk, task.fields)
    if task.index is not None:
        segment = SealedSegment(disk.root, task.name)
        build_index(segment.vectors, task.index, disk.root, segment.directory, threads, progress)


def _dropped_file(name: str) -> str:
    return f"{name}/dropped.vdb"
