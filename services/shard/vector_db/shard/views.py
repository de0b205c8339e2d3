"""What search sees of a segment: a frozen view at one snapshot, safe to read from any thread.

Storage makes views on the event loop (cheap: references and a mask); search reads them inline or in
the pool while writes go on. Owns the invariant that nothing a view refers to is changed in place
below its `rows`: growing arrays are replaced when they must grow, and dead rows are in `live`,
copied at capture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vector_db.common.model.rows import F32


class ByteColumn(Protocol):
    """A column of byte strings (ids, or metadata JSON with b"" for none)."""

    def get(self, row: int) -> bytes: ...

    def take(self, rows: Sequence[int]) -> list[bytes]: ...

    def range(self, start: int, stop: int) -> list[bytes]: ...


class VectorIndex(Protocol):
    """An approximate index over all rows of a sealed segment (visible or not)."""

    @property
    def rows(self) -> int:
        """How many rows it has."""

    def search(
        self, queries: F32, k: int, live: NDArray[np.bool_] | None, ef: int
    ) -> tuple[F32, NDArray[np.int64]]:
        """Scores [nq, k] (higher is better) and rows [nq, k], -1 where there are fewer.

        `queries` are normalised already where the metric is cosine.
        """


class FilterColumns(Protocol):
    """Typed columns of the metadata of one segment, shared by all its views: made lazily per path,
    or, for the declared fields of a sealed segment, mapped with their postings."""

    def mask(self, filter: Any, rows: int) -> NDArray[np.bool_]:
        """Which of the first `rows` rows match a parsed filter, shape [rows]."""

    def estimate(self, filter: Any, rows: int) -> int | None:
        """At most how many of the first `rows` rows match; None: cannot be told in microseconds.

        Exact for one comparison over all rows of a segment where no value is an array; for
        ``$and`` it is the smallest number of its parts.
        """

    def rows(self, filter: Any, rows: int) -> NDArray[np.int64] | None:
        """Those of the first `rows` rows that match, ascending, when postings tell and they are
        few; None: ask for the mask."""


@dataclass(frozen=True, slots=True)
class SegmentView:
    """Rows [0, rows) of one segment as of a snapshot; `name` "" = rows in memory.

    `vectors` float32[rows, d] as the client sent them (bit-exact); `inverse_norms` float32[rows]
    (cosine only, else None); `versions` int64[rows] begin_ts; `live` bool[rows], None = all
    visible.
    """

    rows: int
    vectors: F32
    inverse_norms: F32 | None
    versions: NDArray[np.int64]
    live: NDArray[np.bool_] | None
    ids: ByteColumn
    metadata: ByteColumn
    columns: FilterColumns
    index: VectorIndex | None
    name: str = ""
