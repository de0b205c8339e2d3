"""When segments are sealed and indexed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """Sizes in bytes of payload, counts in rows.

    `seal_rows`, `seal_bytes`: a growing segment is sealed at either. `index_rows_min`: the smallest
    sealed segment that is worth an index, and the smallest that an idle slice is sealed into.
    `growing_bytes_max`: payload of all growing segments, above it the largest is sealed.
    `idle_segments_max`: an idle slice with as many sealed segments waits for its full size, because
    every write of a key looks it up in each.
    """

    seal_rows: int = 65_536
    seal_bytes: int = 64 * 1024 * 1024
    index_rows_min: int = 10_000
    growing_bytes_max: int = 256 * 1024 * 1024
    idle_segments_max: int = 16
