"""The bytes of the write-ahead log: file header, record, and how a damaged tail is judged.

Owns the line between *torn* and *corrupt*. A file is::

    header   VDBWAL\\0\\0 | version u32 | marker 4 bytes | first lsn u64 | 0 u32 | crc32c u32
    record   marker | length u32 | crc32c u32 | type u8 | lsn u64 | group u32 | payload

All integers are little-endian. The marker is random per file, so that nothing a client wrote into a
payload can pass for a record. `group` is the distance of a record to the first one of its group,
the records that were written and synced together: when a record is bad and a later one is whole,
it tells whether the bad one had been synced before. The crc covers everything behind itself and the
length before it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import google_crc32c

from vector_db.common.model.errors import NewerFormat, StorageCorrupt

FORMAT_VERSION: Final = 1
MARKER_BYTES: Final = 4
_MAGIC: Final = b"VDBWAL\0\0"
_FILE: Final = struct.Struct("<8sI4sQI")
_U32: Final = struct.Struct("<I")
FILE_HEADER_BYTES: Final = _FILE.size + _U32.size
_RECORD: Final = struct.Struct("<4sII")
_COVERED: Final = struct.Struct("<IBQI")
"""length, type, lsn, group: as the crc sees them; on disk the crc stands behind the length."""
_TAIL: Final = struct.Struct("<BQI")
RECORD_HEADER_BYTES: Final = _RECORD.size + _TAIL.size
PAYLOAD_BYTES_MAX: Final = 1 << 30
_SECTOR_BYTES: Final = 512
"""The smallest unit that a power cut leaves unwritten."""


class BadHeader(Exception):
    """A file header that is cut short or damaged."""


@dataclass(frozen=True, slots=True)
class Record:
    """Where a whole record lies in its file: `payload` bytes from `start`, `end` exclusive."""

    type: int
    lsn: int
    group: int
    start: int
    end: int


def file_header(marker: bytes, first_lsn: int) -> bytes:
    """The header of a new file whose first record is `first_lsn`."""
    body = _FILE.pack(_MAGIC, FORMAT_VERSION, marker, first_lsn, 0)
    return body + _U32.pack(google_crc32c.value(body))


def read_file_header(data: bytes, where: str) -> tuple[bytes, int]:
    """(marker, first lsn) of a file.

    :raises NewerFormat: written by a newer program; `where` is in the message.
    :raises BadHeader: cut short or damaged.
    """
    if len(data) < FILE_HEADER_BYTES:
        raise BadHeader("the file header is cut short")
    magic, version, marker, first_lsn, _ = _FILE.unpack_from(data)
    if magic == _MAGIC and version > FORMAT_VERSION:
        raise NewerFormat(
            f"{where}: offset 8: log format {version}, this program knows up to {FORMAT_VERSION}"
        )
    (crc,) = _U32.unpack_from(data, _FILE.size)
    if magic != _MAGIC or crc != google_crc32c.value(data[: _FILE.size]):
        raise BadHeader("the file header is damaged")
    return marker, first_lsn


def record_header(
    marker: bytes, record_type: int, lsn: int, group: int, parts: list[bytes]
) -> bytes:
    """The header of a record whose payload is `parts`, one after another."""
    length = sum(map(len, parts))
    crc = google_crc32c.value(_COVERED.pack(length, record_type, lsn, group))
    for part in parts:
        crc = google_crc32c.extend(crc, part)
    return _RECORD.pack(marker, length, crc) + _TAIL.pack(record_type, lsn, group)


def read_record(data: bytes, offset: int, marker: bytes) -> Record | None:
    """The record at `offset`, or None where there is no whole one."""
    start = offset + RECORD_HEADER_BYTES
    if start > len(data):
        return None
    found, length, crc = _RECORD.unpack_from(data, offset)
    end = start + length
    if found != marker or end > len(data):
        return None
    record_type, lsn, group = _TAIL.unpack_from(data, offset + _RECORD.size)
    seen = google_crc32c.value(_COVERED.pack(length, record_type, lsn, group))
    if google_crc32c.extend(seen, data[start:end]) != crc:
        return None
    return Record(record_type, lsn, group, start, end)


def judge_tail(data: bytes, offset: int, marker: bytes, lsn: int, where: str) -> None:
    """Return when all that lies from `offset` on, where record `lsn` should stand, is a torn write.

    Torn is: nothing whole follows; or what follows was written together with the bad record, none
    of it ever synced, and the damage is what a power cut leaves: sectors that read as zeros.

    :raises StorageCorrupt: a record that was synced is damaged; names `where` and the offset.
    """
    position = offset
    while (position := data.find(marker, position + 1)) >= 0:
        record = read_record(data, position, marker)
        if record is None:
            continue
        unsynced = record.lsn - record.group <= lsn < record.lsn
        if not (unsynced and _has_hole(data, offset, position)):
            raise StorageCorrupt(
                f"{where}: offset {offset}: record {lsn} is damaged, record {record.lsn} behind "
                "it is whole"
            )
        position = record.end - 1


def _has_hole(data: bytes, start: int, end: int) -> bool:
    """Whether a sector, or what of one lies behind `start`, reads as zeros before `end`."""
    boundary = min(-(-start // _SECTOR_BYTES) * _SECTOR_BYTES, end)
    if boundary > start and not any(data[start:boundary]):
        return True
    zeros = bytes(_SECTOR_BYTES)
    return any(
        data[at : at + _SECTOR_BYTES] == zeros
        for at in range(boundary, end - _SECTOR_BYTES + 1, _SECTOR_BYTES)
    )
