"""The write-ahead log of one worker: segmented, checksummed, written by group.

Owns the invariant that whatever `durable_lsn` covers is found again by `open`, in order and bit for
bit, or `open` refuses: a torn tail is cut, damage anywhere else is never passed over. One thread
appends, replays and truncates; `flush` may run on another one meanwhile.
"""

from __future__ import annotations

import os
import threading
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from vector_db.common.model.errors import StorageCorrupt
from vector_db.common.model.rows import Buffer
from vector_db.common.ports import AppendFile, Disk, DiskFull
from vector_db.shard.storage.wal_format import (
    FILE_HEADER_BYTES,
    MARKER_BYTES,
    PAYLOAD_BYTES_MAX,
    BadHeader,
    Record,
    file_header,
    judge_tail,
    read_file_header,
    read_record,
    record_header,
)

SEGMENT_BYTES: Final = 64 * 1024 * 1024
"""A file that has reached this size takes no further group."""
_JOIN_BYTES_MAX: Final = 4096
"""Smaller payloads are joined with their header: a copy is cheaper than an iovec entry."""
_PREFIX: Final = "wal/"
_SUFFIX: Final = ".log"

Entropy: TypeAlias = Callable[[int], bytes]
"""n random bytes, for the marker of a new file."""


class WalFailed(Exception):
    """An earlier write or fsync failed: what is on the medium is not known. Exit the process."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """What `Wal.open` found: records `first_lsn` to `last_lsn` (the lesser one when none).

    `torn_bytes` were cut off the end of `torn_file` ("" when nothing was).
    """

    first_lsn: int
    last_lsn: int
    torn_bytes: int = 0
    torn_file: str = ""


@dataclass(slots=True)
class _Segment:
    name: str
    first_lsn: int
    size: int
    marker: bytes
    offsets: array[int]
    """Where each record begins: 8 bytes a record."""


@dataclass(slots=True)
class _Active:
    """The file that is appended to."""

    file: AppendFile
    marker: bytes


@dataclass(frozen=True, slots=True)
class _Pending:
    lsn: int
    type: int
    parts: list[Buffer]


class Wal:
    """Made by `open`. Lsns start at 1 and have no gaps."""

    def __init__(
        self,
        disk: Disk,
        segments: list[_Segment],
        active: _Active,
        next_lsn: int,
        segment_bytes: int,
        entropy: Entropy,
    ) -> None:
        self._disk = disk
        self._segments = segments
        self._active = active
        self._next_lsn = next_lsn
        self._durable_lsn = next_lsn - 1
        self._segment_bytes = segment_bytes
        self._entropy = entropy
        self._pending: list[_Pending] = []
        self._pending_bytes = 0
        self._writing: list[_Pending] = []
        self._failed = False
        self._state = threading.Lock()
        self._flushing = threading.Lock()

    @classmethod
    def open(
        cls, disk: Disk, *, segment_bytes: int = SEGMENT_BYTES, entropy: Entropy = os.urandom
    ) -> tuple[Wal, Recovered]:
        """Check every file under ``wal/``, cut a torn tail, and stand ready to append.

        :raises StorageCorrupt: a record that was synced is damaged or missing; names file, offset.
        :raises NewerFormat: a file of a newer program.
        :raises DiskFull: no room for the first file.
        """
        segments, active, next_lsn, recovered = _recover(disk)
        if active is None:
            segment, active = _create(disk, next_lsn, entropy)
            segments.append(segment)
        wal = cls(disk, segments, active, next_lsn, segment_bytes, entropy)
        return wal, replace(recovered, first_lsn=wal.first_lsn, last_lsn=wal.durable_lsn)

    @property
    def durable_lsn(self) -> int:
        """The last record that is on the medium; below `first_lsn` when there is none."""
        return self._durable_lsn

    @property
    def next_lsn(self) -> int:
        """What the next `append` answers."""
        return self._next_lsn

    @property
    def first_lsn(self) -> int:
        """The oldest record that `replay` can give."""
        return self._segments[0].first_lsn

    @property
    def pending_bytes(self) -> int:
        """Bytes of payload that the next `flush` writes."""
        return self._pending_bytes

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(segment.size for segment in self._segments)

    @property
    def end(self) -> str:
        """Where the next record goes: the file and its offset, for messages."""
        last = self._segments[-1]
        return f"{self._disk.root / last.name}: offset {last.size}"

    def append(self, record_type: int, parts: list[Buffer]) -> int:
        """Buffer one record (`record_type` a u8); its lsn. It is durable once a `flush` covers it.

        The parts are kept by reference: they must not change before they are flushed.

        :raises WalFailed: an earlier write or fsync failed.
        :raises ValueError: a type or a payload (1 GiB) that a record cannot hold.
        """
        size = sum(p.nbytes if isinstance(p, memoryview) else len(p) for p in parts)
        if not 0 <= record_type <= 255 or size > PAYLOAD_BYTES_MAX:
            raise ValueError(f"not a log record: type {record_type}, {size} bytes")
        with self._state:
            self._check()
            lsn = self._next_lsn
            self._next_lsn += 1
            self._pending.append(_Pending(lsn, record_type, parts))
            self._pending_bytes += size
        return lsn

    def flush(self) -> int:
        """Write and sync all that is buffered, as one group; the durable lsn. Blocks.

        Records appended meanwhile belong to the next group. After any error but `DiskFull` the log
        is of no further use.

        :raises DiskFull: nothing of the group is on the medium, and all of it stays buffered with
            its lsns: whoever appended has acted on them already. A later flush tries again.
        :raises WalFailed: an earlier write or fsync failed.
        :raises OSError: this write or fsync failed.
        """
        with self._flushing:
            with self._state:
                self._check()
                group = self._writing = self._pending
                self._pending = []
                self._pending_bytes = 0
            if not group:
                return self._durable_lsn
            try:
                self._write(group)
            except DiskFull:
                self._keep(group)
                raise
            except BaseException:
                self._failed = True
                raise
            with self._state:
                self._durable_lsn = group[-1].lsn
                self._writing = []
            return self._durable_lsn

    def read(self, lsn: int) -> tuple[int, memoryview]:
        """(type, payload) of one record, durable or still buffered. One read of its own size.

        May run while another thread flushes.

        :raises StorageCorrupt: the record is damaged, or the log does not hold it.
        """
        with self._state:
            for group in (self._writing, self._pending):
                if group and group[0].lsn <= lsn <= group[-1].lsn:
                    item = group[lsn - group[0].lsn]
                    return item.type, memoryview(b"".join(item.parts))
            if not self.first_lsn <= lsn <= self._durable_lsn:
                raise StorageCorrupt(
                    f"{self._disk.root / _PREFIX}: holds records {self.first_lsn} to "
                    f"{self._durable_lsn}, not record {lsn}"
                )
            at = bisect_right(self._segments, lsn, key=lambda s: s.first_lsn) - 1
            segment = self._segments[at]
            index = lsn - segment.first_lsn
            start = segment.offsets[index]
            last = index + 1 == len(segment.offsets)
            end = segment.size if last else segment.offsets[index + 1]
        data = self._disk.read_at(segment.name, start, end - start)
        record = read_record(data, 0, segment.marker)
        if record is None or record.lsn != lsn:
            where = self._disk.root / segment.name
            raise StorageCorrupt(f"{where}: offset {start}: record {lsn} is damaged")
        return record.type, memoryview(data)[record.start : record.end]

    def replay(self, from_lsn: int) -> Iterator[tuple[int, int, memoryview]]:
        """(lsn, type, payload) of every durable record from `from_lsn` on, in order.

        :raises StorageCorrupt: a record is damaged, or the log does not reach back, or up, to
            `from_lsn`.
        """
        wanted = max(from_lsn, 1)
        durable_lsn = self._durable_lsn
        if not self.first_lsn <= wanted <= durable_lsn + 1:
            raise StorageCorrupt(
                f"{self._disk.root / _PREFIX}: holds records {self.first_lsn} to {durable_lsn}, "
                f"not record {wanted}"
            )
        following = [segment.first_lsn for segment in self._segments[1:]] + [durable_lsn + 1]
        for segment, next_first in zip(list(self._segments), following, strict=True):
            if next_first <= wanted:
                continue
            data = self._disk.read(segment.name)
            where = str(self._disk.root / segment.name)
            view = memoryview(data)
            lsn = segment.first_lsn - 1
            for record in _records(data, _marker(data, segment.first_lsn, where), lsn + 1, where):
                if record.lsn >= next_first:
                    break
                lsn = record.lsn
                if lsn >= wanted:
                    yield lsn, record.type, view[record.start : record.end]
            if lsn != next_first - 1:
                raise StorageCorrupt(f"{where}: ends with record {lsn}, not {next_first - 1}")

    def truncate_before(self, lsn: int) -> None:
        """Remove the files that hold only records below `lsn`; never the one appended to."""
        while len(self._segments) > 1 and self._segments[1].first_lsn <= lsn:
            self._disk.remove(self._segments[0].name)
            del self._segments[0]

    def close(self) -> None:
        """Give the file back. What is not flushed is lost, as in a crash; idempotent."""
        with self._flushing, self._state:
            self._failed = True
            self._pending = []
            self._pending_bytes = 0
            self._active.file.close()

    def _check(self) -> None:
        if self._failed:
            raise WalFailed("the log is closed, or an earlier write or fsync failed")

    def _write(self, group: list[_Pending]) -> None:
        if self._segments[-1].size >= self._segment_bytes:
            segment, active = _create(self._disk, group[0].lsn, self._entropy)
            self._active.file.close()
            self._segments.append(segment)
            self._active = active
        marker = self._active.marker
        parts: list[Buffer] = []
        offsets: list[int] = []
        end = self._segments[-1].size
        for item in group:
            offsets.append(end)
            payload = [p if isinstance(p, bytes) else bytes(p) for p in item.parts]
            header = record_header(marker, item.type, item.lsn, item.lsn - group[0].lsn, payload)
            size = sum(map(len, payload))
            end += len(header) + size
            if size <= _JOIN_BYTES_MAX:
                parts.append(b"".join((header, *payload)))
            else:
                parts += (header, *payload)
        self._active.file.write(parts)
        self._active.file.sync()
        self._segments[-1].offsets.extend(offsets)
        self._segments[-1].size = end

    def _keep(self, group: list[_Pending]) -> None:
        """After `DiskFull`: the file is cut back; make the cut durable, buffer the group again."""
        try:
            self._active.file.sync()
        except BaseException:
            self._failed = True
            raise
        with self._state:
            self._writing = []
            self._pending = group + self._pending
            self._pending_bytes = sum(
                p.nbytes if isinstance(p, memoryview) else len(p)
                for item in self._pending
                for p in item.parts
            )


def _create(disk: Disk, first_lsn: int, entropy: Entropy) -> tuple[_Segment, _Active]:
    """A new file, its name and header durable before any record goes into it."""
    name = f"{_PREFIX}{first_lsn:020}{_SUFFIX}"
    marker = entropy(MARKER_BYTES)
    file = disk.append_file(name)
    try:
        file.write([file_header(marker, first_lsn)])
        file.sync()
    except DiskFull:
        file.close()
        disk.remove(name)
        raise
    segment = _Segment(name, first_lsn, file.size(), marker, array("Q"))
    return segment, _Active(file, marker)


def _recover(disk: Disk) -> tuple[list[_Segment], _Active | None, int, Recovered]:
    """(files, the one to append to if there is one, next lsn, what was cut)."""
    segments: list[_Segment] = []
    next_lsn = 1
    names = disk.names(_PREFIX)
    for name in names:
        first_lsn = _first_lsn(disk, name)
        where = str(disk.root / name)
        if segments and first_lsn != next_lsn:
            raise StorageCorrupt(
                f"{where}: offset 0: starts at record {first_lsn}, the file before it ends with "
                f"{next_lsn - 1}"
            )
        next_lsn = first_lsn
        last = name == names[-1]
        data = disk.read(name)
        if last and _is_unborn(data, where):
            disk.remove(name)
            return segments, None, next_lsn, Recovered(0, 0, len(data), name)
        marker = _marker(data, first_lsn, where)
        end = FILE_HEADER_BYTES
        offsets = array("Q")
        for record in _records(data, marker, first_lsn, where):
            offsets.append(end)
            next_lsn, end = record.lsn + 1, record.end
        segments.append(_Segment(name, first_lsn, end, marker, offsets))
        if not last:
            if end < len(data):
                # The next file was made only after all of this one was synced.
                raise StorageCorrupt(f"{where}: offset {end}: record {next_lsn} is damaged")
            continue
        if end < len(data):
            judge_tail(data, end, marker, next_lsn, where)
            disk.truncate(name, end)
        active = _Active(disk.append_file(name), marker)
        # What a killed process had written but not synced counts from here on.
        active.file.sync()
        torn = len(data) - end
        return segments, active, next_lsn, Recovered(0, 0, torn, name if torn else "")
    return segments, None, next_lsn, Recovered(0, 0)


def _is_unborn(data: bytes, where: str) -> bool:
    """Whether a file was being made when the process died: no record can be in it yet."""
    if len(data) > FILE_HEADER_BYTES:
        return False
    try:
        read_file_header(data, where)
    except BadHeader:
        return True
    return False


def _first_lsn(disk: Disk, name: str) -> int:
    digits = name.removeprefix(_PREFIX).removesuffix(_SUFFIX)
    if not (name.endswith(_SUFFIX) and len(digits) == 20 and digits.isdecimal()):
        raise StorageCorrupt(f"{disk.root / name}: offset 0: not a file of the log")
    return int(digits)


def _marker(data: bytes, first_lsn: int, where: str) -> bytes:
    try:
        marker, in_header = read_file_header(data, where)
    except BadHeader as error:
        raise StorageCorrupt(f"{where}: offset 0: {error}") from error
    if in_header != first_lsn:
        raise StorageCorrupt(f"{where}: offset 0: the header says first record {in_header}")
    return marker


def _records(data: bytes, marker: bytes, lsn: int, where: str) -> Iterator[Record]:
    """Whole records from the start of a file up to the first place where there is none."""
    offset = FILE_HEADER_BYTES
    while (record := read_record(data, offset, marker)) is not None:
        if record.lsn != lsn:
            raise StorageCorrupt(f"{where}: offset {offset}: record {record.lsn}, want {lsn}")
        yield record
        lsn, offset = record.lsn + 1, record.end
