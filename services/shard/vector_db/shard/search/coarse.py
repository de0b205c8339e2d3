"""The rows of a growing segment at one byte a component, for exact searches that read a quarter.

Rows that were just written have no index yet: every search scans them all, at the speed of memory.
Here each row is also kept as whole steps of a step of its own, with a bound of what that hides, so
that a search reads the codes, leaves out all rows that cannot be among its best, and scores the few
that are left exactly. Owns two invariants: no row of the true best k is left out, and codes of rows
below a published count never change.

Codes are made when a search first wants them: loading without searches costs nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vector_db.common.model.collection import Metric
from vector_db.common.model.rows import F32
from vector_db.shard.native import native
from vector_db.shard.search.score import METRIC_NUMBERS, Queries

ROWS_MIN = 2048
"""Below, a pass over the rows themselves costs no more."""
_ROOM_MIN = 4096
_LENGTH_OF_UNIT = 1 + 1e-6
"""Unit vectors are rounded to float32."""


class Codes(NamedTuple):
    """Row i is about ``steps[i] * codes[i]``, at most `errors[i]` away, and about `lengths[i]`
    long. int8[n, d], float32[n] each."""

    codes: NDArray[np.int8]
    steps: F32
    errors: F32
    lengths: F32

    def part(self, start: int, stop: int) -> Codes:
        """Of rows [start, stop)."""
        codes, steps, errors, lengths = self
        span = slice(start, stop)
        return Codes(codes[span], steps[span], errors[span], lengths[span])

    @classmethod
    def room(cls, rows: int, dimension: int) -> Codes:
        """For so many rows, not written yet."""
        codes = np.empty((rows, dimension), dtype=np.int8)
        columns = (np.empty(rows, dtype=np.float32) for _ in range(3))
        return cls(codes, *columns)


class CoarseRows:
    """Codes of a prefix of rows that are appended to; from any thread."""

    possible = native is not None
    """Whether there are compiled loops for it."""

    def __init__(self, dimension: int) -> None:
        self._lock = threading.Lock()
        self._codes = Codes.room(0, dimension)
        self._dimension = dimension
        self.rows = 0

    @property
    def memory_bytes(self) -> int:
        """Bytes written, not the room behind them."""
        return self.rows * (self._dimension + 12)

    def candidates(
        self,
        vectors: F32,
        live: NDArray[np.bool_] | None,
        queries: Queries,
        q: int,
        k: int,
    ) -> NDArray[np.int64] | None:
        """Rows that may be among the best `k` for query `q`, ascending; None: numbers too large.

        `vectors` float32[n, d], the first rows of those that all calls are about; `live` bool[n],
        None: all.
        """
        if native is None:
            return None
        rows = len(vectors)
        if self.rows < rows:
            with self._lock:
                self._extend(vectors, native.encode)
        codes = self._codes.part(0, rows)
        length = _LENGTH_OF_UNIT
        if queries.metric is Metric.EUCLIDEAN:
            length *= float(queries.lengths[q])
        found = np.empty(rows, dtype=np.int64)
        about = (METRIC_NUMBERS[queries.metric], queries.seeking[q], length)
        count = native.candidates(*about, *codes, live, k, found)
        return None if count < 0 else found[:count]

    def _extend(self, vectors: F32, encode: Callable[..., None]) -> None:
        done, rows = self.rows, len(vectors)
        if done >= rows:
            return
        codes = self._codes
        if len(codes.codes) < rows:
            codes = Codes.room(max(_ROOM_MIN, rows + rows // 2), self._dimension)
            old, new = self._codes.part(0, done), codes.part(0, done)
            new.codes[:] = old.codes
            new.steps[:], new.errors[:], new.lengths[:] = old.steps, old.errors, old.lengths
        encode(vectors[done:rows], self._dimension, *codes.part(done, rows))
        # Codes before their count: who reads without the lock looks at the count first.
        self._codes = codes
        self.rows = rows
