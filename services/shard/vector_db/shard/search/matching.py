"""The visible rows of a view that match a filter, listed when they are few, else masked.

Owns the invariant that visibility is part of both: no row that the snapshot does not show is among
them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vector_db.common.model.filters import Filter
from vector_db.shard.search.selection import Mask, RowNumbers
from vector_db.shard.views import SegmentView


@dataclass(frozen=True, slots=True)
class Matching:
    """`count` of the first `of` rows: int64[count] `rows`, ascending, when postings told them, else
    those of `mask`, bool[of], None: all."""

    of: int
    count: int
    mask: Mask | None = None
    rows: RowNumbers | None = None

    def as_rows(self) -> RowNumbers:
        """int64[count], ascending."""
        if self.rows is not None:
            return self.rows
        return np.arange(self.of) if self.mask is None else np.flatnonzero(self.mask)

    def as_mask(self) -> Mask | None:
        """bool[of]; None: all."""
        if self.rows is None:
            return self.mask
        mask = np.zeros(self.of, dtype=np.bool_)
        mask[self.rows] = True
        return mask


def matching(view: SegmentView, filter: Filter | None) -> Matching:
    """The rows of the view that are visible and match.

    :raises StorageCorrupt: a file of the segment is damaged.
    """
    live = view.live
    if filter is None:
        return Matching(view.rows, view.matching, mask=live)
    rows = view.columns.rows(filter, view.rows)
    if rows is not None:
        rows = rows if live is None else rows[live[rows]]
        return Matching(view.rows, len(rows), rows=rows)
    mask = view.columns.mask(filter, view.rows)
    if live is not None:
        np.logical_and(mask, live, out=mask)
    return Matching(view.rows, int(np.count_nonzero(mask)), mask=mask)
