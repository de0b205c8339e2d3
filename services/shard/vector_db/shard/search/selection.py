"""The rows of a ranked column that a comparison matches: counted, listed, tested or masked.

Owns the invariant that the four agree with `model.filters.matches`: counting looks only at
where postings start, listing reads only the postings, testing reads only the codes of the rows in
question, the mask reads every code.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vector_db.common.model.filters import Exists, In, Order
from vector_db.shard.search.filters import Leaf
from vector_db.shard.search.ranked import MISSING_CODE, RankedColumn

Ranges: TypeAlias = tuple[tuple[int, int], ...]
"""Half-open, ascending, apart from each other."""

Mask: TypeAlias = NDArray[np.bool_]
RowNumbers: TypeAlias = NDArray[np.int64]

_RANGES_COMPARED_MAX = 3
"""More are looked up in a table of codes."""


def united(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """The union, normalised."""
    found: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if low >= high:
            continue
        if found and low <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], high)
        else:
            found.append((low, high))
    return tuple(found)


def inverted(ranges: Ranges, stop: int) -> Ranges:
    """What of [0, stop) is in no range."""
    edges = [0, *(edge for pair in ranges for edge in pair), stop]
    return united(zip(edges[::2], edges[1::2], strict=True))


def common(a: Ranges, b: Ranges, stop: int) -> Ranges:
    """What of [0, stop) is in both."""
    return inverted(united([*inverted(a, stop), *inverted(b, stop)]), stop)


def select(column: RankedColumn, leaf: Leaf) -> Selection:
    """The rows that match a comparison of the column's path."""
    match leaf:
        case In(_, values):
            ranges = united([column.equal(value) for value in values])
            codes = (code for low, high in ranges for code in range(low, high))
            starts = column.element_starts
            held = tuple(c for c in codes if len(starts) and starts[c] < starts[c + 1])
            return Selection(column, ranges, held)
        case Order(_, op, bound):
            return Selection(column, united([column.ordered(op, bound)]))
        case Exists():
            return Selection(column, united([(MISSING_CODE + 1, column.distinct)]))


@dataclass(frozen=True, slots=True)
class Selection:
    """Rows with a code in `ranges`, and those with an array that has one of the codes `elements`;
    with `negated` those with a code in `ranges` but without such an array."""

    column: RankedColumn
    ranges: Ranges
    elements: tuple[int, ...] = ()
    negated: bool = False

    def negate(self) -> Selection:
        """Exactly the other rows."""
        others = inverted(self.ranges, self.column.distinct)
        return Selection(self.column, others, self.elements, not self.negated)

    def most(self) -> int:
        """At most so many rows: the postings that `pick` reads. Exact without arrays."""
        starts = self.column.starts
        scalars = sum(int(starts[high]) - int(starts[low]) for low, high in self.ranges)
        if self.negated:
            return scalars
        return scalars + sum(len(self._posting(code)) for code in self.elements)

    def pick(self, rows: int) -> RowNumbers:
        """Which of the first `rows` rows, ascending."""
        column = self.column
        runs = [
            column.order[int(column.starts[low]) : int(column.starts[high])]
            for low, high in self.ranges
        ]
        if not self.negated:
            runs += [self._posting(code) for code in self.elements]
        runs = [run for run in runs if len(run)]
        found = runs[0] if len(runs) == 1 else np.concatenate([column.order[:0], *runs])
        if len(runs) > 1 or any(high - low > 1 for low, high in self.ranges):
            # A row has one code, but its array may have several of the elements.
            found = np.sort(found) if self.negated or len(self.elements) < 2 else np.unique(found)
        picked = _first(found, rows, column).astype(np.int64)
        if self.negated and self.elements:
            picked = picked[~self._has_element(picked)]
        return picked

    def at(self, picked: RowNumbers) -> Mask:
        """Which of the rows `picked`, bool[len(picked)]."""
        found = self._accepts(self.column.codes[picked])
        if not self.elements:
            return found
        held = self._has_element(picked)
        return found & ~held if self.negated else found | held

    def mask(self, rows: int) -> Mask:
        """Which of the first `rows` rows, bool[rows]."""
        mask = self._accepts(self.column.codes[:rows])
        for code in self.elements:
            posting = _first(self._posting(code), rows, self.column)
            mask[posting.astype(np.intp)] = not self.negated  # NumPy casts it more slowly itself
        return mask

    def _posting(self, code: int) -> NDArray[Any]:
        """The rows with an array that has the code, ascending."""
        starts = self.column.element_starts
        return self.column.element_order[int(starts[code]) : int(starts[code + 1])]

    def _has_element(self, picked: RowNumbers) -> Mask:
        found = np.zeros(len(picked), dtype=np.bool_)
        for code in self.elements:
            posting = self._posting(code)
            sought = picked.astype(posting.dtype)
            places = np.searchsorted(posting, sought)
            found |= posting[np.minimum(places, len(posting) - 1)] == sought
        return found

    def _accepts(self, codes: NDArray[Any]) -> Mask:
        """Which codes lie in a range; a new array."""
        stop = self.column.distinct
        if len(self.ranges) > _RANGES_COMPARED_MAX:
            table = np.zeros(stop, dtype=np.bool_)
            for low, high in self.ranges:
                table[low:high] = True
            return table.take(codes)
        mask = np.zeros(len(codes), dtype=np.bool_)
        for at, (low, high) in enumerate(self.ranges):
            found = _between(codes, low, high, stop)
            mask = found if at == 0 else np.logical_or(mask, found, out=mask)
        return mask


def _between(codes: NDArray[Any], low: int, high: int, stop: int) -> Mask:
    found: Mask
    if high - low == 1:
        found = codes == low
    elif high == stop:
        found = codes >= low
    else:
        found = codes < high
        if low > 0:
            found &= codes >= low
    return found


def _first(ascending: NDArray[Any], rows: int, column: RankedColumn) -> NDArray[Any]:
    """Those of the row numbers that are below `rows`."""
    if rows >= len(column.codes):
        return ascending
    return ascending[: int(np.searchsorted(ascending, ascending.dtype.type(rows)))]
