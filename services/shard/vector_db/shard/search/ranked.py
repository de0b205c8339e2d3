"""A path of a segment's rows with every value replaced by its rank among the distinct ones.

Ranks (*codes*) 0 to 4 stand for missing, array or object, null, false and true; then come the
distinct numbers in their exact order, then the distinct strings in the order of code points. So
every comparison is a few ranges of codes: `$eq` one code, `$gt` all from one on, `$exists` all but
0. The rows sorted by code are the postings of every value and the order of every range at once.

Owns the invariant that equal values, and only those, have equal codes (``1`` equals ``1.0``), and
that codes are ordered as `model.filters` orders numbers and strings, beyond 2**53 too.

Bytes per row: the code (1, 2 or 4, by the number of distinct values) and its place in the postings
(1, 2 or 4, by the number of rows: 2 up to 65,536). Per distinct value: 4 for where its postings
start, 8 for a number (10 where float64 does not hold all of them), or 8 and the bytes of a string.
No Python objects.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vector_db.common.model.filters import Scalar
from vector_db.shard.search.filters import (
    BIG,
    FALSE,
    MISSING,
    NULL,
    NUMBER,
    OTHER,
    STRING,
    TRUE,
    Column,
    Values,
    nearest_float,
)

MISSING_CODE, OTHER_CODE, NULL_CODE, FALSE_CODE, TRUE_CODE, NUMBERS_CODE = range(6)
"""Codes of what has no order; numbers begin at the last of them, strings after the numbers."""

_CODES = {MISSING: MISSING_CODE, NULL: NULL_CODE, FALSE: FALSE_CODE, TRUE: TRUE_CODE,
          OTHER: OTHER_CODE}  # fmt: skip
_REST_MAX = 2**15 - 1

Unsigned: TypeAlias = NDArray[np.unsignedinteger[Any]]


class Strings:
    """Distinct strings in order, as UTF-8 (whose bytewise order is that of the code points)."""

    def __init__(self, offsets: NDArray[np.int64], data: NDArray[np.uint8]) -> None:
        """`offsets` int64[n + 1] into `data`."""
        self.offsets = offsets
        self.data = data
        self._offsets = offsets.data
        self._data = data.data

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, at: int) -> bytes:
        return bytes(self._data[self._offsets[at] : self._offsets[at + 1]])

    def span(self, string: str) -> tuple[int, int]:
        """(how many are smaller, how many are not greater)."""
        # A lone surrogate cannot be stored, but may be asked for: it sorts like any code point.
        text = string.encode("utf-8", "surrogatepass")
        at = bisect.bisect_left(self, text)
        return at, at + (at < len(self) and self[at] == text)


@dataclass(frozen=True, slots=True)
class Numbers:
    """Distinct numbers in order: `nearest` float64[n], and what an integer is above its nearest
    float64, `rest` int16[n] (at most 1024 for 64 bits); `rest` is empty when all of it is 0."""

    nearest: NDArray[np.float64]
    rest: NDArray[np.int16]

    def span(self, number: int | float) -> tuple[int, int]:
        """(how many are smaller, how many are not greater)."""
        nearest, rest = split(number)
        first = int(np.searchsorted(self.nearest, nearest, "left"))
        last = int(np.searchsorted(self.nearest, nearest, "right"))
        among = self.rest[first:last] if len(self.rest) else np.zeros(last - first, dtype=np.int16)
        sought = np.int16(rest)
        return (
            first + int(np.searchsorted(among, sought, "left")),
            first + int(np.searchsorted(among, sought, "right")),
        )


def split(number: int | float) -> tuple[float, int]:
    """(the nearest float64, what `number` is above it, cut to 16 bits: none stored comes near)."""
    nearest = nearest_float(number)
    if isinstance(number, float) or math.isinf(nearest):  # no stored number is infinite
        return nearest, 0
    return nearest, max(-_REST_MAX, min(_REST_MAX, number - int(nearest)))


@dataclass(frozen=True, slots=True)
class RankedColumn:
    """One path of n rows with d codes.

    `codes` unsigned[n]; `order` unsigned[n]: the rows by (code, row); `starts` uint32[d + 1]: where
    those of each code begin. `element_order` and `element_starts` (empty without arrays): the same
    for the elements of arrays, each row once per code; a row with an array has code OTHER itself.
    """

    codes: Unsigned
    order: Unsigned
    starts: NDArray[np.uint32]
    numbers: Numbers
    strings: Strings
    element_order: Unsigned
    element_starts: NDArray[np.uint32]

    @property
    def distinct(self) -> int:
        """How many codes there are."""
        return len(self.starts) - 1

    def equal(self, value: Scalar) -> tuple[int, int]:
        """The range of codes, one or none, that equal `value`."""
        if value is None:
            return NULL_CODE, NULL_CODE + 1
        if isinstance(value, bool):
            code = TRUE_CODE if value else FALSE_CODE
            return code, code + 1
        return self._span(value)

    def ordered(self, op: str, bound: int | float | str) -> tuple[int, int]:
        """The range of codes that compare to `bound` by `op`, as in `Order`."""
        strings_code = NUMBERS_CODE + len(self.numbers.nearest)
        start, stop = NUMBERS_CODE, strings_code
        if isinstance(bound, str):
            start, stop = strings_code, self.distinct
        low, high = self._span(bound)
        match op:
            case "gt":
                return high, stop
            case "gte":
                return low, stop
            case "lt":
                return start, low
            case _:
                return start, high

    def _span(self, value: int | float | str) -> tuple[int, int]:
        """The codes of what equals `value`; where it would stand if nothing does."""
        base = NUMBERS_CODE
        if isinstance(value, str):
            base += len(self.numbers.nearest)
            low, high = self.strings.span(value)
        else:
            low, high = self.numbers.span(value)
        return base + low, base + high


# --- making one -------------------------------------------------------------------------------


def ranked(column: Column) -> RankedColumn:
    """The same values, ranked. Takes time and memory for a few arrays of n entries."""
    numbers, number_ranks = _rank_numbers(column.rows, column.elements)
    strings, string_ranks = _rank_strings(column.strings_in_order)
    strings_code = NUMBERS_CODE + len(numbers.nearest)
    distinct = strings_code + len(strings)
    row_ranks, element_ranks = np.split(number_ranks, [np.count_nonzero(_is_number(column.rows))])
    string_codes = strings_code + string_ranks
    codes = _narrow(_codes(column.rows, row_ranks, string_codes), distinct - 1)
    elements = _codes(column.elements, element_ranks, string_codes)
    order, starts = _postings(codes, np.arange(len(codes)), distinct)
    known = elements != OTHER_CODE
    element_order, element_starts = _postings(elements[known], column.element_rows[known], distinct)
    return RankedColumn(
        codes=codes,
        order=_narrow(order, len(codes) - 1),
        starts=starts,
        numbers=numbers,
        strings=strings,
        element_order=_narrow(element_order, len(codes) - 1),
        element_starts=element_starts if len(element_order) else element_starts[:0],
    )


def _narrow(array: NDArray[Any], top: int) -> Unsigned:
    """As the smallest unsigned type that holds numbers up to `top`."""
    narrow: Unsigned = array.astype(np.min_scalar_type(max(top, 0)), copy=False)
    return narrow


def _is_number(values: Values) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (values.kinds == NUMBER) | (values.kinds == BIG)
    return found


def _rank_numbers(*parts: Values) -> tuple[Numbers, NDArray[np.int64]]:
    """The distinct numbers of all parts, and the rank of each number that the parts have."""
    nearest = np.concatenate([_nearest(part)[_is_number(part)] for part in parts])
    rest = np.concatenate([_rest(part)[_is_number(part)] for part in parts])
    order = np.lexsort((rest, nearest))
    nearest, rest = nearest[order], rest[order]
    is_new = np.ones(len(order), dtype=np.bool_)
    is_new[1:] = (nearest[1:] != nearest[:-1]) | (rest[1:] != rest[:-1])
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.cumsum(is_new) - 1
    rest = rest[is_new]
    return Numbers(nearest[is_new], rest if rest.any() else rest[:0]), ranks


def _nearest(values: Values) -> NDArray[np.float64]:
    nearest = values.numbers.copy()
    nearest[values.big_at] = [nearest_float(number) for number in values.big]
    return nearest


def _rest(values: Values) -> NDArray[np.int16]:
    rest = np.zeros(len(values.kinds), dtype=np.int16)
    rest[values.big_at] = [split(number)[1] for number in values.big]
    return rest


def _rank_strings(strings: Any) -> tuple[Strings, NDArray[np.int64]]:
    """The strings in order, and the rank of each as it was given."""
    texts = [string.encode() for string in strings]
    order = sorted(range(len(texts)), key=texts.__getitem__)
    ranks = np.empty(len(texts), dtype=np.int64)
    ranks[order] = np.arange(len(texts))
    offsets = np.zeros(len(texts) + 1, dtype=np.int64)
    np.cumsum([len(texts[at]) for at in order], out=offsets[1:])
    data = np.frombuffer(b"".join([texts[at] for at in order]), dtype=np.uint8)
    return Strings(offsets, data), ranks


def _codes(
    values: Values, number_ranks: NDArray[np.int64], string_codes: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The code of each value; `number_ranks` are those of its numbers, in order."""
    by_kind = np.zeros(max(_CODES) + 1, dtype=np.int64)
    by_kind[list(_CODES)] = list(_CODES.values())
    codes: NDArray[np.int64] = by_kind[values.kinds]
    codes[_is_number(values)] = NUMBERS_CODE + number_ranks
    is_string = values.kinds == STRING
    codes[is_string] = string_codes[values.codes[is_string]]
    return codes


def _postings(
    codes: NDArray[Any], rows: NDArray[np.int64], distinct: int
) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """`rows` (ascending) by (code, row), each once per code, and where each code's begin."""
    order = np.argsort(codes, kind="stable")
    codes, rows = codes[order], rows[order]
    is_new = np.ones(len(rows), dtype=np.bool_)
    is_new[1:] = (codes[1:] != codes[:-1]) | (rows[1:] != rows[:-1])
    starts = np.zeros(distinct + 1, dtype=np.uint32)
    np.cumsum(np.bincount(codes[is_new], minlength=distinct), out=starts[1:])
    return rows[is_new], starts
