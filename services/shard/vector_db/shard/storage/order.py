"""Rows in the order of their ids, for scrolling: sorted once, not at every page.

Ids hold no control characters (`model.ids`), so padding with zero bytes keeps the bytewise order.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vector_db.common.model.rows import U32
from vector_db.shard.storage.payloads import BytesReader


def sorted_rows(ids: BytesReader, start: int, stop: int) -> U32:
    """Rows [start, stop) by their ids bytewise, equal ids by row. No Python object per row."""
    offsets, data = ids.columns()
    cuts = offsets[start : stop + 1]
    n, lengths = stop - start, np.diff(cuts)
    width = int(lengths.max(initial=1))
    matrix = np.zeros(n * width, dtype=np.uint8)
    shift = np.repeat(np.arange(n, dtype=np.int64) * width - cuts[:-1], lengths)
    source = np.arange(cuts[0], cuts[-1], dtype=np.int64)
    matrix[source + shift] = data[cuts[0] : cuts[-1]]
    order = np.argsort(matrix.view(f"S{width}"), kind="stable")
    return (order + start).astype(np.uint32)


class IdRuns:
    """The order of a column that grows: a few sorted runs, merged as they double.

    Each row is sorted O(log rows) times in all, whatever the pages between the appends.
    """

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._runs: list[NDArray[np.uint32]] = []
        self._covered = 0

    def runs(self, ids: BytesReader, rows: int) -> list[U32]:
        """Sorted runs that together hold rows [0, rows) and maybe later ones."""
        if rows > self._covered:
            start = self._covered
            while self._runs and rows - start >= self._covered - self._starts[-1]:
                start = self._starts.pop()
                self._covered = start
                self._runs.pop()
            self._starts.append(start)
            self._runs.append(sorted_rows(ids, start, rows))
            self._covered = rows
        return self._runs
