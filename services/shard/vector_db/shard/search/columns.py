"""Typed columns of a segment's metadata, made per path when a filter first asks for it.

Owns the invariant that what is stored about a row never changes: columns only grow at their end, so
a mask is evaluated outside the lock on a frozen prefix while another thread appends rows.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Generic, TypeAlias, TypeVar

import numpy as np
import orjson
from numpy.typing import NDArray

from vector_db.common.model.errors import StorageCorrupt
from vector_db.common.model.filters import Filter, Path, paths
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
    evaluate,
    exact_float,
)
from vector_db.shard.views import ByteColumn

PATHS_MAX = 32
"""Columns kept per segment, the least recently used goes first: paths come from requests, and each
costs 13 bytes a row and its distinct strings."""

PARSE_ROWS = 4096
"""Rows parsed at a time: bounds the Python objects alive while columns are made."""

Document: TypeAlias = dict[str, object] | None

Scalar = TypeVar("Scalar", bound=np.generic)
_ABSENT = object()
_NAN = float("nan")


class Columns:
    """`FilterColumns` over the metadata JSON of one segment (b"" = none)."""

    def __init__(self, metadata: ByteColumn) -> None:
        self._metadata = metadata
        self._lock = threading.Lock()
        self._columns: OrderedDict[Path, _GrowingColumn] = OrderedDict()

    def mask(self, filter: Filter, rows: int) -> NDArray[np.bool_]:
        """Which of the first `rows` rows match, shape [rows].

        :raises StorageCorrupt: the metadata of a row is no JSON.
        """
        frozen = self.freeze(paths(filter), rows)
        return evaluate(filter, lambda leaf: frozen[leaf.path].mask(leaf), rows)

    def estimate(self, filter: Filter, rows: int) -> int | None:
        """None: nothing is known of the values before they are looked at."""
        return None

    def rows(self, filter: Filter, rows: int) -> NDArray[np.int64] | None:
        """None: there are no postings."""
        return None

    def freeze(self, wanted: set[Path], rows: int) -> dict[Path, Column]:
        """The columns of some paths, each of the first `rows` rows.

        :raises StorageCorrupt: the metadata of a row is no JSON.
        """
        with self._lock:
            self._extend(wanted, rows)
            frozen = {path: self._columns[path].freeze(rows) for path in wanted}
            while len(self._columns) > PATHS_MAX:
                self._columns.popitem(last=False)
        return frozen

    def _extend(self, wanted: set[Path], rows: int) -> None:
        """Bring the wanted columns to `rows`; rows that several of them lack are parsed once."""
        for path in wanted:
            self._columns.setdefault(path, _GrowingColumn(path))
            self._columns.move_to_end(path)
        while behind := [c for p in wanted if (c := self._columns[p]).count < rows]:
            start = min(c.count for c in behind)
            stop = min(rows, start + PARSE_ROWS, *(c.count for c in behind if c.count > start))
            documents = _parse(self._metadata.range(start, stop), start)
            for column in behind:
                if column.count == start:
                    column.append(documents)


def _parse(items: list[bytes], start: int) -> list[Document]:
    """The documents of the rows from `start`; one JSON array parses faster than its parts."""
    where = f"metadata of rows {start} to {start + len(items)}"
    try:
        documents: list[Document] = orjson.loads(
            b"[" + b",".join([item or b"null" for item in items]) + b"]"
        )
    except orjson.JSONDecodeError as error:
        raise StorageCorrupt(f"{where}: {error}") from None
    if len(documents) != len(items):
        raise StorageCorrupt(f"{where}: {len(documents)} documents")
    return documents


class _GrowingColumn:
    """One path: appended to under the lock, read through frozen prefixes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._strings: dict[str, int] = {}
        self._strings_in_order: list[str] = []
        self._rows = _GrowingValues()
        self._elements = _GrowingValues()
        self._element_rows = _GrowingArray(np.int64)

    @property
    def count(self) -> int:
        return self._rows.count

    def append(self, documents: list[Document]) -> None:
        found = self._lookup(documents)
        elements: list[object] = []
        element_rows: list[int] = []
        for row, value in enumerate(found, self._rows.count):
            if type(value) is list:
                elements.extend(value)
                element_rows.extend([row] * len(value))
        self._rows.append(found, self._code)
        if elements:
            self._elements.append(elements, self._code)
            self._element_rows.append(element_rows)

    def freeze(self, rows: int) -> Column:
        """The first `rows` rows; the arrays are views."""
        element_rows = self._element_rows.view()
        elements = int(np.searchsorted(element_rows, rows))
        return Column(
            rows=self._rows.freeze(rows),
            elements=self._elements.freeze(elements),
            element_rows=element_rows[:elements],
            strings=self._strings,
            strings_in_order=self._strings_in_order,
        )

    def _lookup(self, documents: list[Document]) -> list[object]:
        first, *rest = self._path
        found = [_ABSENT if d is None else d.get(first, _ABSENT) for d in documents]
        for key in rest:
            found = [d.get(key, _ABSENT) if type(d) is dict else _ABSENT for d in found]
        return found

    def _code(self, string: str) -> int:
        code = self._strings.setdefault(string, len(self._strings_in_order))
        if code == len(self._strings_in_order):
            self._strings_in_order.append(string)
        return code


class _GrowingArray(Generic[Scalar]):
    """An array that doubles; entries below a view handed out are never written again."""

    def __init__(self, dtype: type[Scalar]) -> None:
        self._data = np.empty(0, dtype=dtype)
        self.count = 0

    def append(self, items: Sequence[object]) -> None:
        need = self.count + len(items)
        if need > len(self._data):
            grown = np.empty(max(need, 2 * len(self._data)), dtype=self._data.dtype)
            grown[: self.count] = self._data[: self.count]
            self._data = grown
        self._data[self.count : need] = items
        self.count = need

    def view(self) -> NDArray[Scalar]:
        return self._data[: self.count]


class _GrowingValues:
    """Scalars by kind, as `Values` describes them."""

    def __init__(self) -> None:
        self._kinds = _GrowingArray(np.uint8)
        self._numbers = _GrowingArray(np.float64)
        self._codes = _GrowingArray(np.int32)
        self._big_at = _GrowingArray(np.int64)
        self._big = _GrowingArray(np.object_)

    @property
    def count(self) -> int:
        return self._kinds.count

    def append(self, values: list[object], code: Callable[[str], int]) -> None:
        kinds = [OTHER] * len(values)
        numbers = [_NAN] * len(values)
        codes = [-1] * len(values)
        big_at: list[int] = []
        for i, value in enumerate(values):
            if value is _ABSENT:
                kinds[i] = MISSING
            elif isinstance(value, str):
                kinds[i] = STRING
                codes[i] = code(value)
            elif value is None:
                kinds[i] = NULL
            elif isinstance(value, bool):
                kinds[i] = TRUE if value else FALSE
            elif isinstance(value, (int, float)):
                number = exact_float(value)
                if number is None:
                    kinds[i] = BIG
                    big_at.append(i)
                else:
                    kinds[i] = NUMBER
                    numbers[i] = number
        if big_at:
            self._big_at.append([self.count + i for i in big_at])
            self._big.append([values[i] for i in big_at])
        self._kinds.append(kinds)
        self._numbers.append(numbers)
        self._codes.append(codes)

    def freeze(self, count: int) -> Values:
        """The first `count` values; the arrays are views."""
        big_at = self._big_at.view()
        bigs = int(np.searchsorted(big_at, count))
        return Values(
            kinds=self._kinds.view()[:count],
            numbers=self._numbers.view()[:count],
            codes=self._codes.view()[:count],
            big_at=big_at[:bigs],
            big=self._big.view()[:bigs],
        )
