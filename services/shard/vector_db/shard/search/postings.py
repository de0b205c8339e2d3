"""Filters over declared fields: answered from postings when they match few rows.

Owns the invariants that an answer equals `model.filters.matches` row by row whichever way it was
made, and that the postings read by `rows` are bounded by `few_rows`, whatever the filter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np

from vector_db.common.model.filters import And, Filter, Not, Or, Path, paths
from vector_db.shard.search.columns import Columns
from vector_db.shard.search.filters import Leaf, evaluate
from vector_db.shard.search.ranked import RankedColumn
from vector_db.shard.search.selection import (
    Mask,
    RowNumbers,
    Selection,
    common,
    select,
    united,
)

_FEW_ROWS_MIN = 1024
_FEW_ROWS_SHARE = 64


def few_rows(rows: int) -> int:
    """Up to so many of `rows` rows are sooner listed than found by a pass over all."""
    return max(_FEW_ROWS_MIN, rows // _FEW_ROWS_SHARE)


class RankedColumns(Protocol):
    """The declared fields of one segment."""

    def column(self, path: Path) -> RankedColumn | None:
        """The field; None: it was not declared when the segment was written."""


class DeclaredColumns:
    """`FilterColumns` of a segment with declared fields; other paths are made lazily."""

    def __init__(self, declared: RankedColumns, lazy: Columns) -> None:
        self._declared = declared
        self._lazy = lazy

    def mask(self, filter: Filter, rows: int) -> Mask:
        """Which of the first `rows` rows match, bool[rows].

        :raises StorageCorrupt: a file of the segment is damaged.
        """
        selected = _select(filter, self._declared.column)
        if selected is None:
            return self._mixed(filter, rows)
        if selected.most() > few_rows(rows):
            return selected.mask(rows)
        mask = np.zeros(rows, dtype=np.bool_)
        mask[selected.pick(rows)] = True
        return mask

    def estimate(self, filter: Filter, rows: int) -> int | None:
        """At most how many of the first `rows` rows match; None: a path is not declared.

        :raises StorageCorrupt: a file of the segment is damaged.
        """
        selected = _select(filter, self._declared.column)
        return None if selected is None else min(rows, selected.most())

    def rows(self, filter: Filter, rows: int) -> RowNumbers | None:
        """Those of the first `rows` rows that match, ascending; None: a path is not declared, or
        they may be more than `few_rows`.

        :raises StorageCorrupt: a file of the segment is damaged.
        """
        selected = _select(filter, self._declared.column)
        if selected is None or selected.most() > few_rows(rows):
            return None
        return selected.pick(rows)

    def _mixed(self, filter: Filter, rows: int) -> Mask:
        declared = {path: self._declared.column(path) for path in paths(filter)}
        frozen = self._lazy.freeze({p for p, column in declared.items() if column is None}, rows)

        def leaf_mask(leaf: Leaf) -> Mask:
            column = declared[leaf.path]
            if column is None:
                return frozen[leaf.path].mask(leaf)
            return select(column, leaf).mask(rows)

        return evaluate(filter, leaf_mask, rows)


@dataclass(frozen=True, slots=True)
class _All:
    """The rows of every part, of which there is at least one."""

    parts: tuple[_Selected, ...]

    def most(self) -> int:
        return min(part.most() for part in self.parts)

    def pick(self, rows: int) -> RowNumbers:
        """The rows of the smallest part, of which the others are asked."""
        first, *others = sorted(self.parts, key=lambda part: part.most())
        picked = first.pick(rows)
        for part in others:
            picked = picked[part.at(picked)]
        return picked

    def at(self, picked: RowNumbers) -> Mask:
        mask = self.parts[0].at(picked)
        for part in self.parts[1:]:
            mask &= part.at(picked)
        return mask

    def mask(self, rows: int) -> Mask:
        mask = self.parts[0].mask(rows)
        for part in self.parts[1:]:
            mask &= part.mask(rows)
        return mask


@dataclass(frozen=True, slots=True)
class _Any:
    """The rows of any part, of which there is at least one."""

    parts: tuple[_Selected, ...]

    def most(self) -> int:
        return sum(part.most() for part in self.parts)

    def pick(self, rows: int) -> RowNumbers:
        return np.unique(np.concatenate([part.pick(rows) for part in self.parts]))

    def at(self, picked: RowNumbers) -> Mask:
        mask = self.parts[0].at(picked)
        for part in self.parts[1:]:
            mask |= part.at(picked)
        return mask

    def mask(self, rows: int) -> Mask:
        mask = self.parts[0].mask(rows)
        for part in self.parts[1:]:
            mask |= part.mask(rows)
        return mask


_Selected: TypeAlias = Selection | _All | _Any


def _select(
    filter: Filter, column: Callable[[Path], RankedColumn | None], negated: bool = False
) -> _Selected | None:
    """The filter with its negations moved down to the comparisons.

    None: a path is not declared, or a part is empty (and so compares nothing).
    """
    if isinstance(filter, Not):
        return _select(filter.part, column, not negated)
    if isinstance(filter, And | Or):
        parts = []
        for part in filter.parts:
            if (selected := _select(part, column, negated)) is None:
                return None
            parts.append(selected)
        every = isinstance(filter, And) is not negated
        joined = _joined(parts, every)
        if len(joined) <= 1:
            return joined[0] if joined else None
        return _All(joined) if every else _Any(joined)
    if (found := column(filter.path)) is None:
        return None
    selection = select(found, filter)
    return selection.negate() if negated else selection


def _joined(parts: list[_Selected], every: bool) -> tuple[_Selected, ...]:
    """The parts, with those on one column made one: the two ends of an interval match many rows,
    both together few."""
    joined: list[_Selected] = []
    simple: dict[int, Selection] = {}
    for part in parts:
        if not isinstance(part, Selection) or part.elements:
            joined.append(part)
            continue
        key = id(part.column)
        if (other := simple.get(key)) is None:
            simple[key] = part
        elif every:
            ranges = common(other.ranges, part.ranges, part.column.distinct)
            simple[key] = Selection(part.column, ranges)
        else:
            simple[key] = Selection(part.column, united([*other.ranges, *part.ranges]))
    return (*joined, *simple.values())
