"""When memory is taken from the system, and when what was freed goes back to it.

The C library keeps what was freed for later; after a load that is as much again as the rows took
while they were in memory: buffers of requests and of segments that are sealed by now. And the
system gives memory only when it is first written to, page by page, each cleared before: where the
machine itself is a guest that may take milliseconds for a megabyte. Purely housekeeping: where the
system has none of these calls nothing happens.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import pyarrow as pa
from numpy.typing import NDArray

_MADV_POPULATE_WRITE = 23
"""From Linux 5.14 on: as a write to every page would, but the pages keep what they hold."""


def give_back_freed() -> bool:
    """Return free pages of the heap to the system, in any thread; whether there were some.

    Arrow has a pool of its own, which holds what bodies of rows were read into.
    """
    pa.default_memory_pool().release_unused()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim is not None and bool(trim(0))


def take_pages(array: NDArray[Any], start: int, stop: int) -> None:
    """Take the memory behind bytes [start, stop) of an array now, in any thread.

    What the array holds does not change, so others may read and write it meanwhile.
    """
    advise = getattr(ctypes.CDLL(None), "madvise", None)
    first = (array.ctypes.data + start) // mmap.PAGESIZE * mmap.PAGESIZE
    size = array.ctypes.data + stop - first
    if advise is not None and size > 0:
        advise(ctypes.c_void_p(first), ctypes.c_size_t(size), _MADV_POPULATE_WRITE)
