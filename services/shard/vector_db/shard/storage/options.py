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
    every write of a key looks it up in each. `idle_rows_min`: the smallest growing segment that is
    sealed once the slice was idle for long, to be merged into a larger one.
    `quick_rows_min`: the smallest segment that gets a quick index until its own is built.
    `segment_rows_max`, `segment_bytes_max`: the largest that a merge makes. `merge_inline_bytes`:
    up to there a merge without an index is done in a thread. `hot_bytes`: memory for rows, their
    deaths and keys, and indexes.
    """

    seal_rows: int = 65_536
    seal_bytes: int = 64 * 1024 * 1024
    index_rows_min: int = 10_000
    growing_bytes_max: int = 256 * 1024 * 1024
    idle_segments_max: int = 16
    idle_rows_min: int = 1_000
    quick_rows_min: int = 20_000
    segment_rows_max: int = 8_000_000
    segment_bytes_max: int = 16 * 1024 * 1024 * 1024
    merge_inline_bytes: int = 16 * 1024 * 1024
    hot_bytes: int = 10_000_000_000

    @classmethod
    def within(cls, hot_bytes: int) -> StoreOptions:
        """The defaults, with a budget of memory."""
        usual = cls().growing_bytes_max
        return cls(hot_bytes=hot_bytes, growing_bytes_max=min(usual, hot_bytes // 4))
