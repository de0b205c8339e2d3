"""The file format of everything the storage keeps but raw vectors: named columns with checksums.

Layout: ``VDBT | version u16 | 0 u16 | header bytes u32 | crc32c u32 | header JSON | columns``, all
little-endian. The crc covers the twelve bytes before it and the header, which is padded with spaces
to a multiple of 64; every column is padded with zeros to a multiple of 64 and its crc covers the
padding too, so no byte of a file is outside a checksum.

Version 2 is a file with a column that a reader must not leave out (`versions`), version 1 one
without: whoever knows only version 1 refuses the file instead of answering without that column.

Owns the invariant that no byte of a column is handed out before its checksum was verified.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import google_crc32c
import msgspec
import numpy as np
from numpy.typing import NDArray

from vector_db.common.model.errors import NewerFormat, StorageCorrupt
from vector_db.common.model.rows import Buffer
from vector_db.common.ports import Disk

FORMAT_VERSION = 2
COLUMN_FORMATS = {"versions": 2}
"""Columns that are not in each file of their kind, and the format that has them."""
_MAGIC = b"VDBT"
_PROLOGUE = struct.Struct("<4sHHI")
_CRC = struct.Struct("<I")
_START = _PROLOGUE.size + _CRC.size
_ALIGN = 64
_CRC_CHUNK_BYTES = 256 * 1024
"""Small enough to stay in the cache, and to let other threads have the interpreter in between."""


class ColumnEntry(msgspec.Struct, frozen=True):
    """Where one column lies. `size_bytes` is without padding, `crc32c` with it."""

    name: str
    dtype: str
    offset: int
    size_bytes: int
    crc32c: int


class Header(msgspec.Struct, frozen=True):
    """What the file says of itself. `meta` belongs to the writer."""

    kind: str
    meta: dict[str, Any]
    columns: list[ColumnEntry]


def as_buffer(array: NDArray[Any]) -> Buffer:
    """The bytes of `array` in C order, without a copy where it is contiguous."""
    if array.size == 0:
        return b""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def crc32c(data: Buffer, value: int = 0) -> int:
    """The crc32c of `data`, continued from `value`."""
    view = memoryview(data)
    for start in range(0, len(view), _CRC_CHUNK_BYTES):
        chunk = bytes(view[start : start + _CRC_CHUNK_BYTES])
        value = int(google_crc32c.extend(value, chunk))
    return value


def _padding(size: int) -> bytes:
    return bytes(-size % _ALIGN)


def write_table(
    disk: Disk, name: str, kind: str, meta: dict[str, Any], columns: Mapping[str, NDArray[Any]]
) -> int:
    """Write the file whole and durably; its size in bytes.

    :param columns: one-dimensional or C-ordered arrays, stored flat.
    :raises DiskFull: nothing of the file counts.
    """
    buffers = [as_buffer(a) for a in columns.values()]
    checks = [crc32c(_padding(len(b)), crc32c(b)) for b in buffers]

    def header(base: int) -> bytes:
        entries, at = [], base
        for (column, array), buffer, check in zip(columns.items(), buffers, checks, strict=True):
            entries.append(ColumnEntry(column, array.dtype.str, at, len(buffer), check))
            at += len(buffer) + len(_padding(len(buffer)))
        return msgspec.json.encode(Header(kind, meta, entries))

    # The offsets are part of the header whose length moves them: reserve room for their digits.
    base = _START + len(header(10**15))
    base += len(_padding(base))
    text = header(base).ljust(base - _START)
    version = max((COLUMN_FORMATS.get(column, 1) for column in columns), default=1)
    prologue = _PROLOGUE.pack(_MAGIC, version, 0, len(text))
    parts: list[Buffer] = [prologue, _CRC.pack(crc32c(text, crc32c(prologue))), text]
    for buffer in buffers:
        parts += [buffer, _padding(len(buffer))]
    disk.write_atomic(name, parts)
    return sum(len(p) for p in parts)


class MappedFile:
    """A whole file mapped for reading. The mapping outlives the file's removal.

    :raises StorageCorrupt: the file is missing or not `size_bytes` long (when given).
    """

    def __init__(self, root: Path, name: str, size_bytes: int | None = None) -> None:
        self.name = str(root / name)
        try:
            with (root / name).open("rb") as file:
                size = file.seek(0, 2)
                wrong = size_bytes is not None and size != size_bytes
                if size == 0 or wrong:
                    want = "more" if size_bytes is None else f"{size_bytes}"
                    raise StorageCorrupt(f"{self.name}: {size} bytes at offset {size}, want {want}")
                self.size_bytes = size
                self.data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except FileNotFoundError:
            raise StorageCorrupt(f"{self.name}: the file is missing") from None

    def check(self, offset: int, size: int, want: int, what: str) -> None:
        """Compare the crc32c of a range.

        :raises StorageCorrupt: it differs.
        """
        got = crc32c(self.data[offset : offset + size])
        if got != want:
            raise StorageCorrupt(
                f"{self.name}: {what} at offset {offset} ({size} bytes) has crc32c {got:08x}, "
                f"want {want:08x}"
            )


class Table:
    """A file of columns, mapped; each column is verified when it is first used.

    Using a column from several threads at once is safe: verifying twice changes nothing.
    """

    def __init__(self, root: Path, name: str, kind: str) -> None:
        """Map the file and check its header.

        :raises StorageCorrupt: missing, cut short, damaged, or of another kind.
        :raises NewerFormat: written by a newer program.
        """
        self._file = MappedFile(root, name)
        self.name = self._file.name
        self.size_bytes = self._file.size_bytes
        header = _read_header(self._file, kind)
        self.meta = header.meta
        self._entries = {entry.name: entry for entry in header.columns}
        self._columns: dict[str, NDArray[Any]] = {}
        end = max((e.offset + e.size_bytes + -e.size_bytes % _ALIGN for e in header.columns),
                  default=self.size_bytes)  # fmt: skip
        if end != self.size_bytes:
            raise StorageCorrupt(f"{self.name}: ends at offset {self.size_bytes}, want {end}")

    def column(self, name: str) -> NDArray[Any]:
        """The column as a flat read-only array over the mapping.

        :raises StorageCorrupt: its checksum differs, or there is no such column.
        """
        if (column := self._columns.get(name)) is not None:
            return column
        entry = self._entries.get(name)
        if entry is None:
            raise StorageCorrupt(
                f"{self.name}: no column {name!r} in the header at offset {_START}"
            )
        padded = entry.size_bytes + -entry.size_bytes % _ALIGN
        self._file.check(entry.offset, padded, entry.crc32c, f"column {name!r}")
        dtype = np.dtype(entry.dtype)
        column = np.frombuffer(
            self._file.data, dtype, entry.size_bytes // dtype.itemsize, entry.offset
        )
        self._columns[name] = column
        return column

    def has(self, name: str) -> bool:
        """Whether there is such a column."""
        return name in self._entries

    def size_of(self, name: str) -> int:
        """Bytes of a column, 0 where there is none."""
        entry = self._entries.get(name)
        return 0 if entry is None else entry.size_bytes

    def verify(self) -> None:
        """Verify every column now.

        :raises StorageCorrupt: names the file and the offset.
        """
        for name in self._entries:
            self.column(name)


def _read_header(file: MappedFile, kind: str) -> Header:
    data = file.data
    if len(data) < _START:
        raise StorageCorrupt(f"{file.name}: cut short at offset {len(data)}")
    magic, version, _, length = _PROLOGUE.unpack_from(data, 0)
    if magic != _MAGIC or _START + length > len(data):
        raise StorageCorrupt(f"{file.name}: not a column file (offset 0)")
    (want,) = _CRC.unpack_from(data, _PROLOGUE.size)
    text = data[_START : _START + length]
    if crc32c(text, crc32c(data[: _PROLOGUE.size])) != want:
        raise StorageCorrupt(f"{file.name}: the header at offset 0 does not match its crc32c")
    if version > FORMAT_VERSION:
        raise NewerFormat(
            f"{file.name}: offset 4: format {version}, this program knows up to {FORMAT_VERSION}"
        )
    header = msgspec.json.decode(text, type=Header)
    if header.kind != kind:
        raise StorageCorrupt(f"{file.name}: holds {header.kind!r}, want {kind!r} (offset {_START})")
    return header
