"""Gives memory that was freed back to the system, which the C library keeps for later.

After a load that is as much again as the rows took while they were in memory: buffers of requests
and of segments that are sealed by now. Purely housekeeping: without glibc nothing happens.
"""

from __future__ import annotations

import ctypes

import pyarrow as pa


def give_back_freed() -> bool:
    """Return free pages of the heap to the system, in any thread; whether there were some.

    Arrow has a pool of its own, which holds what bodies of rows were read into.
    """
    pa.default_memory_pool().release_unused()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim is not None and bool(trim(0))
