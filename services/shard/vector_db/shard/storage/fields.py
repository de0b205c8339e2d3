"""`fields.arrow`: the declared metadata fields of a sealed segment, ranked, with their postings.

An Arrow IPC file that any Arrow reader opens: one record batch of one row, in which each declared
path is a struct of lists (see `RankedColumn`). Arrow has no checksums, so before its footer, where
no reader looks, lies a seal: ``VDBF | version u16 | 0 u16 | file bytes u64 | crc32c u32 of all else
| crc32c u32 of the seal``, little-endian.

Owns two invariants: no byte of the file is parsed or handed out before its checksum was verified;
and the file is derived from the segment, so that one without it is whole, and it may be replaced at
any time (a reader goes on with the file that it has mapped).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vector_db.common.model.errors import NewerFormat, StorageCorrupt
from vector_db.common.model.filters import Path
from vector_db.common.ports import Disk
from vector_db.shard.search.columns import Columns
from vector_db.shard.search.ranked import Numbers, RankedColumn, Strings, ranked
from vector_db.shard.storage.payloads import BytesReader
from vector_db.shard.storage.table import MappedFile, crc32c

FIELDS_FILE = "fields.arrow"
FORMAT_VERSION = 1
_MAGIC = b"VDBF"
_SEAL = struct.Struct("<4sHHQII")
_SEALED_BYTES = _SEAL.size - 4
_ARROW_TAIL = struct.Struct("<i6s")
"""How an Arrow file ends: the size of the footer before it, and the magic."""
_ARROW_MAGIC = b"ARROW1"


def write_fields(
    disk: Disk, name: str, paths: Sequence[str], metadata: BytesReader, rows: int
) -> None:
    """Write the fields of the segment `name` durably, in place of those it had, in any thread.

    :param paths: dotted; without any the file is removed.
    :param metadata: the segment's, of which the first `rows` rows are all.
    :raises DiskFull: the old file stands.
    :raises StorageCorrupt: the metadata of a row is no JSON.
    """
    wanted = {path: _parsed(path) for path in dict.fromkeys(paths)}
    if not wanted:
        disk.remove(f"{name}/{FIELDS_FILE}")
        return
    columns = Columns(metadata).freeze(set(wanted.values()), rows)
    fields = {path: ranked(columns[parsed]) for path, parsed in wanted.items()}
    data = _arrow_file(fields, rows)
    cut = _footer_start(data)
    before, after = data[:cut], data[cut:]
    size = len(data) + _SEAL.size
    check = crc32c(after, crc32c(before))
    seal = _SEAL.pack(_MAGIC, FORMAT_VERSION, 0, size, check, 0)[:_SEALED_BYTES]
    seal += struct.pack("<I", crc32c(seal))
    disk.write_atomic(f"{name}/{FIELDS_FILE}", [before, seal, after])


def open_fields(root: FilePath, name: str, rows: int) -> Fields | None:
    """Map the fields of the segment `name` of `rows` rows; None: it has none.

    :raises StorageCorrupt: cut short, or its seal is damaged.
    :raises NewerFormat: written by a newer program.
    """
    if not (root / name / FIELDS_FILE).exists():
        return None
    return Fields(MappedFile(root, f"{name}/{FIELDS_FILE}"), rows)


class Fields:
    """A mapped file of fields, verified when it is first used. Safe to use from several threads."""

    def __init__(self, file: MappedFile, rows: int) -> None:
        """:raises StorageCorrupt, NewerFormat: see `open_fields`."""
        self._file = file
        self._rows = rows
        self._cut, self._check = _read_seal(file)
        self._columns: dict[Path, RankedColumn] | None = None
        self.size_bytes = file.size_bytes

    @property
    def paths(self) -> tuple[str, ...]:
        """The declared paths, dotted.

        :raises StorageCorrupt: the file is damaged.
        """
        return tuple(".".join(path) for path in self._verified())

    def column(self, path: Path) -> RankedColumn | None:
        """The column of a declared path, over the mapping; None: it is not declared.

        :raises StorageCorrupt: the file is damaged.
        """
        return self._verified().get(path)

    def verify(self) -> None:
        """Read and check every byte now.

        :raises StorageCorrupt: names the file and the offset.
        """
        self._verified()

    def _verified(self) -> dict[Path, RankedColumn]:
        if self._columns is None:
            data = self._file.data
            got = crc32c(data[self._cut + _SEAL.size :], crc32c(data[: self._cut]))
            if got != self._check:
                raise StorageCorrupt(
                    f"{self._file.name}: the fields at offset 0 ({len(data)} bytes) have crc32c "
                    f"{got:08x}, want {self._check:08x}"
                )
            self._columns = _read_arrow_file(self._file, self._rows)
        return self._columns


# --- the seal ---------------------------------------------------------------------------------


def _footer_start(data: memoryview) -> int:
    """Where the footer of an Arrow file begins; not within the file when it is none."""
    tail = len(data) - _ARROW_TAIL.size
    footer_bytes, magic = _ARROW_TAIL.unpack_from(data, tail) if tail >= 0 else (0, b"")
    return tail - footer_bytes if magic == _ARROW_MAGIC and 0 < footer_bytes <= tail else -1


def _read_seal(file: MappedFile) -> tuple[int, int]:
    """(where the seal lies, the crc32c of all but the seal)."""
    data = file.data
    cut = _footer_start(data) - _SEAL.size
    if cut < 0:
        raise StorageCorrupt(f"{file.name}: no Arrow file, or cut short (offset {len(data)})")
    magic, version, _, size, check, seal_check = _SEAL.unpack_from(data, cut)
    if magic != _MAGIC or crc32c(data[cut : cut + _SEALED_BYTES]) != seal_check:
        raise StorageCorrupt(f"{file.name}: the seal at offset {cut} does not match its crc32c")
    if version > FORMAT_VERSION:
        raise NewerFormat(
            f"{file.name}: offset {cut + 4}: format {version}, this program knows up to "
            f"{FORMAT_VERSION}"
        )
    if size != len(data):
        raise StorageCorrupt(f"{file.name}: ends at offset {len(data)}, want {size}")
    return cut, check


# --- Arrow ------------------------------------------------------------------------------------


def _arrow_file(fields: dict[str, RankedColumn], rows: int) -> memoryview:
    structs = {path: _struct(column) for path, column in fields.items()}
    schema = pa.schema(
        [pa.field(path, array.type) for path, array in structs.items()], {"rows": str(rows)}
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch(list(structs.values()), schema=schema))
    return memoryview(sink.getvalue())


def _struct(column: RankedColumn) -> Any:
    strings = pa.LargeStringArray.from_buffers(
        len(column.strings),
        pa.py_buffer(column.strings.offsets),
        pa.py_buffer(column.strings.data),
    )
    parts = {
        "codes": column.codes,
        "order": column.order,
        "starts": column.starts,
        "numbers": column.numbers.nearest,
        "number_rests": column.numbers.rest,
        "strings": strings,
        "element_order": column.element_order,
        "element_starts": column.element_starts,
    }
    lists = [pa.LargeListArray.from_arrays([0, len(p)], pa.array(p)) for p in parts.values()]
    return pa.StructArray.from_arrays(lists, list(parts))


def _read_arrow_file(file: MappedFile, rows: int) -> dict[Path, RankedColumn]:
    reader = pa.ipc.open_file(pa.py_buffer(file.data))
    batch = reader.get_batch(0)
    if (held := batch.schema.metadata[b"rows"]) != str(rows).encode():
        raise StorageCorrupt(f"{file.name}: fields of {held.decode()} rows, want {rows} (offset 0)")
    names = batch.schema.names
    return {_parsed(path): _column(batch.column(at)) for at, path in enumerate(names)}


def _column(fields: Any) -> RankedColumn:
    def items(name: str) -> Any:
        return fields.field(name).values

    def array(name: str) -> NDArray[Any]:
        found: NDArray[Any] = items(name).to_numpy(zero_copy_only=True)
        return found

    return RankedColumn(
        codes=array("codes"),
        order=array("order"),
        starts=array("starts"),
        numbers=Numbers(array("numbers"), array("number_rests")),
        strings=_strings(items("strings")),
        element_order=array("element_order"),
        element_starts=array("element_starts"),
    )


def _strings(array: Any) -> Strings:
    _, offsets, data = array.buffers()
    if len(array) == 0:
        return Strings(np.zeros(1, dtype=np.int64), np.empty(0, dtype=np.uint8))
    bounds = np.frombuffer(offsets, dtype=np.int64, count=len(array) + 1)
    return Strings(bounds, np.frombuffer(data, dtype=np.uint8, count=int(bounds[-1])))


def _parsed(path: str) -> Path:
    return tuple(path.split("."))
