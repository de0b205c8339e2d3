"""Evaluating a filter over typed columns, without a Python object per row.

Owns the invariant that the mask equals `model.filters.matches` row by row, exactness included:
float64 holds only numbers that it represents exactly, other integers are kept as they are.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vector_db.common.model.filters import And, Exists, Filter, In, Not, Or, Order, Scalar

MISSING, NULL, FALSE, TRUE, NUMBER, BIG, STRING, OTHER = range(8)
"""Kinds of values. BIG: an integer that float64 cannot hold. OTHER: an array or an object."""

Leaf: TypeAlias = In | Order | Exists
"""A comparison of one field."""

_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}


@dataclass(frozen=True, slots=True)
class Values:
    """n scalars. `kinds` uint8[n]; `numbers` float64[n], NaN unless NUMBER; `codes` int32[n], the
    string's number in the dictionary, -1 unless STRING; `big_at` int64[b] says where the integers
    `big` (object[b]) stand.
    """

    kinds: NDArray[np.uint8]
    numbers: NDArray[np.float64]
    codes: NDArray[np.int32]
    big_at: NDArray[np.int64]
    big: NDArray[np.object_]


@dataclass(frozen=True, slots=True)
class Column:
    """One path of n rows: their scalars, and the elements of those that are arrays.

    `element_rows` int64[elements.n] is the row of each element. `strings` numbers the `codes` in
    the order of first sight. Both string tables may go on growing while they are read.
    """

    rows: Values
    elements: Values
    element_rows: NDArray[np.int64]
    strings: Mapping[str, int]
    strings_in_order: Sequence[str]

    def mask(self, leaf: Leaf) -> NDArray[np.bool_]:
        """Which rows a comparison of this path matches, bool[n]."""
        match leaf:
            case In(_, values):
                return _any_equal(self, values)
            case Order(_, op, bound):
                return _ordered(self, op, bound)
            case Exists():
                present: NDArray[np.bool_] = self.rows.kinds != MISSING
                return present


def evaluate(
    filter: Filter, leaf_mask: Callable[[Leaf], NDArray[np.bool_]], rows: int
) -> NDArray[np.bool_]:
    """Which rows match, bool[rows].

    :param leaf_mask: which rows a comparison matches, bool[rows]; a new array each time.
    """
    match filter:
        case Not(part):
            return ~evaluate(part, leaf_mask, rows)
        case And(parts):
            mask = np.ones(rows, dtype=np.bool_)
            for part in parts:
                mask &= evaluate(part, leaf_mask, rows)
            return mask
        case Or(parts):
            mask = np.zeros(rows, dtype=np.bool_)
            for part in parts:
                mask |= evaluate(part, leaf_mask, rows)
            return mask
        case _:
            return leaf_mask(filter)


def _any_equal(column: Column, operands: tuple[Scalar, ...]) -> NDArray[np.bool_]:
    sought = _Sought(operands, column.strings)
    mask = sought.among(column.rows)
    if len(column.element_rows):
        mask[column.element_rows[sought.among(column.elements)]] = True
    return mask


class _Sought:
    """The operands of an equality, sorted by kind."""

    def __init__(self, operands: tuple[Scalar, ...], strings: Mapping[str, int]) -> None:
        kinds: set[int] = set()
        numbers: list[float] = []
        codes: set[int] = set()
        self._big: set[int] = set()
        for operand in operands:
            if operand is None:
                kinds.add(NULL)
            elif isinstance(operand, bool):
                kinds.add(TRUE if operand else FALSE)
            elif isinstance(operand, str):
                codes.add(strings.get(operand, -2))
            elif (number := exact_float(operand)) is not None:
                numbers.append(number)
            else:
                self._big.add(int(operand))
        codes.discard(-2)
        self._kinds = np.array(sorted(kinds), dtype=np.uint8)
        self._numbers = np.array(numbers, dtype=np.float64)
        self._codes = np.array(sorted(codes), dtype=np.int32)

    def among(self, values: Values) -> NDArray[np.bool_]:
        mask = np.zeros(len(values.kinds), dtype=np.bool_)
        for sought, held in (
            (self._kinds, values.kinds),
            (self._numbers, values.numbers),
            (self._codes, values.codes),
        ):
            if len(sought) == 1:
                mask |= held == sought[0]
            elif len(sought):
                mask |= np.isin(held, sought)
        if self._big and len(values.big_at):
            mask[values.big_at[[b in self._big for b in values.big]]] = True
        return mask


def _ordered(column: Column, op: str, bound: int | float | str) -> NDArray[np.bool_]:
    values = column.rows
    if isinstance(bound, str):
        compare = _COMPARE[op]
        strings = column.strings_in_order[:]
        by_code = np.zeros(len(strings) + 1, dtype=np.bool_)
        by_code[:-1] = [compare(s, bound) for s in strings]
        return by_code[values.codes]  # code -1, no string, takes the last entry: False
    mask = _numbers_ordered(values.numbers, op, bound)
    if len(values.big_at):
        mask[values.big_at] = _COMPARE[op](values.big, bound)
    return mask


def _numbers_ordered(
    numbers: NDArray[np.float64], op: str, bound: int | float
) -> NDArray[np.bool_]:
    """`numbers op bound`, exact though float64 may not hold `bound`: nothing equals it then."""
    number = exact_float(bound)
    if number is None:
        number = nearest_float(bound)
        if number > bound:
            op = "lt" if op in ("lt", "lte") else "gte"
        else:
            op = "lte" if op in ("lt", "lte") else "gt"
    mask: NDArray[np.bool_] = _COMPARE[op](numbers, number)
    return mask


def nearest_float(number: int | float) -> float:
    """`number` as a float, infinite where an integer is beyond the largest."""
    try:
        return float(number)
    except OverflowError:
        return float("inf") if number > 0 else float("-inf")


def exact_float(number: int | float) -> float | None:
    """`number` as a float64 when that holds it exactly, else None."""
    nearest = nearest_float(number)
    return nearest if nearest == number else None
