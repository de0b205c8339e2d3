"""What search sees of a segment: a frozen view at one snapshot, safe to read from any thread.

Storage makes views on the event loop (cheap: references and a mask); search reads them inline or in
the pool while writes go on. Owns the invariant that nothing a view refers to is changed in place
below its `rows`: growing arrays are replaced when they must grow, and dead rows are in `live`,
copied at capture.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vector_db.common.model.collection import IndexKind
from vector_db.common.model.rows import F32, I64, Blob


class ByteColumn(Protocol):
    """A column of byte strings (ids, or metadata JSON with b"" for none)."""

    def columns(self) -> tuple[I64, NDArray[np.uint8]]:
        """(offsets, data): item i is ``data[offsets[i]:offsets[i + 1]]``."""

    def get(self, row: int) -> bytes: ...

    def take(self, rows: Sequence[int] | NDArray[np.integer]) -> list[bytes]: ...

    def range(self, start: int, stop: int) -> list[bytes]: ...

    def blob(self, rows: NDArray[np.int64]) -> Blob: ...


class Searcher(Protocol):
    """An approximate index over all rows of a sealed segment (visible or not), as FAISS has it."""

    @property
    def kind(self) -> IndexKind: ...

    @property
    def rows(self) -> int:
        """How many rows it has."""

    @property
    def dimension(self) -> int: ...

    @property
    def efforts(self) -> Sequence[int]:
        """Efforts worth measuring, ascending."""

    @property
    def entry_row(self) -> int:
        """The row that every search begins at, -1: there is none."""

    def without(self, rows: NDArray[np.int64], vectors: F32) -> AbstractContextManager[None]:
        """While it is entered, searches go as if `rows` of `vectors` (all of them) were not there.

        For an index in memory, which nobody else searches meanwhile; the entry is not among them.
        What lists find of them is left to the mask of a search.
        """

    def width(self, k: int) -> int:
        """How many hits to ask for, so that the best `k` are among them once scored exactly."""

    def cost_us(self, effort: int) -> float:
        """Estimated microseconds of one query."""

    def search(
        self,
        queries: F32,
        k: int,
        live: NDArray[np.bool_] | None,
        effort: int,
        packed: NDArray[np.uint8] | None = None,
    ) -> tuple[F32, NDArray[np.int64]]:
        """Scores [nq, k] (higher is better) and rows [nq, k], -1 where there are fewer.

        `queries` are normalised already where the metric is cosine. `live` is bool of the first
        rows (later ones are not live), None for all, `packed` the same as bits where known.
        `effort`: beam of a graph, number of lists.
        """


class VectorIndex(Protocol):
    """A `Searcher` with a kind, and efforts calibrated on its rows."""

    @property
    def rows(self) -> int: ...

    @property
    def kind(self) -> IndexKind: ...

    def width(self, k: int) -> int: ...

    def cost_us(self, effort: int) -> float: ...

    def effort(self, k: float, recall: float) -> int:
        """The least effort that holds `recall` for the best `k`."""

    def search(
        self,
        queries: F32,
        k: int,
        live: NDArray[np.bool_] | None,
        effort: int,
        packed: NDArray[np.uint8] | None = None,
    ) -> tuple[F32, NDArray[np.int64]]: ...


class CoarseSearch(Protocol):
    """The rows in memory at one byte a component."""

    def candidates(
        self,
        vectors: F32,
        live: NDArray[np.bool_] | None,
        queries: Any,
        q: int,
        k: int,
    ) -> NDArray[np.int64] | None:
        """Rows, ascending, among which are the best `k` of `vectors` for query `q` of `queries`
        (a `score.Queries`), ties included; None: it cannot tell."""


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

    `vectors` float32[rows, d], contiguous, as the client sent them (bit-exact); `inverse_norms`
    float32[rows] (cosine only, else None); `versions` int64[rows], see `Segment`; `live`
    bool[rows], None = all visible; `visible` how many (-1: to be counted); `packed` the bits of
    `live`, `listed` the rows of `live`, ascending, where they are known; `coarse` finds candidates
    in rows in memory.
    `plans` remembers how searches of this view are done.
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
    visible: int = -1
    packed: NDArray[np.uint8] | None = None
    listed: NDArray[np.int64] | None = None
    coarse: CoarseSearch | None = None
    plans: dict[Hashable, Any] = field(default_factory=dict)

    @property
    def matching(self) -> int:
        """How many rows are visible."""
        if self.visible >= 0:
            return self.visible
        return self.rows if self.live is None else int(np.count_nonzero(self.live))

    def showing(self, live: NDArray[np.bool_] | None) -> SegmentView:
        """The view with other rows visible."""
        return replace(self, live=live, visible=-1, packed=None, listed=None)

    def showing_rows(self, rows: NDArray[np.int64]) -> SegmentView:
        """The view with only `rows` (ascending) visible."""
        live = np.zeros(self.rows, dtype=np.bool_)
        live[rows] = True
        return replace(self, live=live, visible=len(rows), packed=None, listed=rows)
