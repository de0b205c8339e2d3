"""Columns of byte strings (ids, metadata): appended in memory, or mapped from a sealed file.

Owns the invariant that bytes below a published row never change: arrays that must grow are
replaced, and an undone tail is dropped by making a new column, so readers in other threads go on
reading the old arrays.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vector_db.common.model.rows import I64, Blob
from vector_db.shard.storage.table import Table

Bytes = NDArray[np.uint8]
_FEW = 32
"""Items up to which plain Python takes them faster than NumPy or Arrow."""


class BytesReader:
    """Reads of a column kept as offsets int64[rows + 1] and one run of bytes."""

    def columns(self) -> tuple[I64, Bytes]:
        """(offsets, data); the data covers every offset that is below the row count."""
        raise NotImplementedError

    def get(self, row: int) -> bytes:
        """The bytes at `row`."""
        offsets, data = self.columns()
        return data[offsets[row] : offsets[row + 1]].tobytes()

    def take(self, rows: Sequence[int] | NDArray[np.integer]) -> list[bytes]:
        """The bytes at `rows`, in that order."""
        offsets, data = self.columns()
        index = np.asarray(rows, dtype=np.int64)
        view = data.data
        starts, stops = offsets.take(index).tolist(), offsets.take(index + 1).tolist()
        return [bytes(view[a:b]) for a, b in zip(starts, stops)]  # noqa: B905 (of one length)

    def blob(self, rows: NDArray[np.int64]) -> Blob:
        """The bytes at `rows`, in that order, without an object for each."""
        offsets, data = self.columns()
        starts = offsets.take(rows)
        lengths = offsets.take(rows + 1) - starts
        cuts = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum(lengths, out=cuts[1:])
        source = np.arange(cuts[-1]) + np.repeat(starts - cuts[:-1], lengths)
        return Blob(cuts.astype("<u4").tobytes(), data.take(source).tobytes())

    def range(self, start: int, stop: int) -> list[bytes]:
        """The bytes of rows [start, stop)."""
        if stop <= start:
            return []
        offsets, data = self.columns()
        first = offsets[start]
        run = data[first : offsets[stop]].tobytes()
        cuts = (offsets[start : stop + 1] - first).tolist()
        return [run[a:b] for a, b in itertools.pairwise(cuts)]


def unpacked(blob: Blob) -> list[bytes]:
    """The items of a blob that came from outside the storage; many are made by Arrow, in one go."""
    n = len(blob)
    if n <= _FEW:
        return blob.unpack()
    column = pa.BinaryArray.from_buffers(
        pa.binary(), n, [None, pa.py_buffer(blob.offsets), pa.py_buffer(blob.data)]
    )
    items: list[bytes] = column.to_pylist()
    return items


_SMALL_BYTES = 1024 * 1024
_SEGMENT_BYTES = 80 * 1024 * 1024
"""What the widest column of a segment takes, and what comes until it is sealed."""


def grown(array: NDArray[np.generic], used: int, need: int) -> NDArray[np.generic]:
    """A copy of `array` with room for at least `need` entries; `used` entries are kept.

    Arrays up to 1 MiB grow eightfold, larger ones at once to what a segment takes: room that is not
    written yet costs address space only, while each copy of a large array holds up the writes. The
    eighth on top of a power of two is for the batch that passes it: segments are sealed at a power
    of two.
    """
    factor = 8 if array.nbytes <= _SMALL_BYTES else 2
    power = 1 << (max(need, factor * len(array) * 8 // 9, 16) - 1).bit_length()
    capacity = power + power // 8
    if array.nbytes > _SMALL_BYTES:
        capacity = max(capacity, _SEGMENT_BYTES * len(array) // array.nbytes)
    bigger = np.empty((capacity, *array.shape[1:]), dtype=array.dtype)
    bigger[:used] = array[:used]
    return bigger


class GrowingBytes(BytesReader):
    """A column that is appended to by one thread and read by any."""

    def __init__(self) -> None:
        self.rows = 0
        self._offsets: NDArray[np.generic] = np.zeros(1, dtype=np.int64)
        self._data: NDArray[np.generic] = np.empty(0, dtype=np.uint8)
        self.used = 0

    def columns(self) -> tuple[I64, Bytes]:
        # Offsets first: the writer publishes data before the offsets that point into it.
        offsets = self._offsets
        return offsets, self._data  # type: ignore[return-value]

    def append(self, items: Blob) -> None:
        """Append all items of `items`."""
        cuts = items.offset_array().astype(np.int64)
        self.append_columns(cuts, np.frombuffer(items.data, dtype=np.uint8))

    def append_columns(self, cuts: I64, data: Bytes) -> None:
        """Append ``len(cuts) - 1`` items, the i-th being ``data[cuts[i]:cuts[i + 1]]``."""
        n, first = len(cuts) - 1, int(cuts[0])
        size = int(cuts[-1]) - first
        if self.used + size > len(self._data):
            self._data = grown(self._data, self.used, self.used + size)
        self._data[self.used : self.used + size] = data[first : first + size]
        self._reserve(n)
        self._offsets[self.rows + 1 : self.rows + n + 1] = cuts[1:] + (self.used - first)
        self.used += size
        self.rows += n

    def append_empty(self, n: int) -> None:
        """Append `n` empty items."""
        self._reserve(n)
        self._offsets[self.rows + 1 : self.rows + n + 1] = self.used
        self.rows += n

    def copy(self, start: int, stop: int) -> GrowingBytes:
        """A column of its own with rows [start, stop)."""
        offsets, data = self.columns()
        other = GrowingBytes()
        other.append_columns(offsets[start : stop + 1], data)
        return other

    def size_bytes(self, rows: int) -> int:
        """Payload bytes of the first `rows` rows."""
        return int(self.columns()[0][rows])

    def _reserve(self, n: int) -> None:
        need = self.rows + n + 1
        if need > len(self._offsets):
            self._offsets = grown(self._offsets, self.rows + 1, need)


class MappedBytes(BytesReader):
    """A column of a sealed file; verified when it is first read."""

    def __init__(self, table: Table, name: str) -> None:
        self._table = table
        self._offsets = f"{name}_offsets"
        self._data = f"{name}_data"
        self._columns: tuple[I64, Bytes] | None = None
        self._views: tuple[memoryview[int], memoryview] | None = None

    def columns(self) -> tuple[I64, Bytes]:
        if self._columns is None:
            self._columns = self._table.column(self._offsets), self._table.column(self._data)
        return self._columns

    def take(self, rows: Sequence[int] | NDArray[np.integer]) -> list[bytes]:
        if len(rows) > _FEW:
            return super().take(rows)
        if self._views is None:
            offsets, data = self.columns()
            self._views = offsets.data.cast("B").cast("q"), data.data
        cuts, view = self._views
        return [bytes(view[cuts[row] : cuts[row + 1]]) for row in rows]
