"""A damaged log: the exact prefix when its end was torn, a refusal otherwise, never a wrong answer.

The short log of these tests has the groups (1), (2, 3), (4, 5), each synced before the next.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.shard_wal.memory_disk import MemoryDisk
from vector_db.common.adapters.posix_disk import PosixDisk
from vector_db.common.model.errors import NewerFormat, StorageCorrupt
from vector_db.shard.storage import recovery
from vector_db.shard.storage.records import RecordType
from vector_db.shard.storage.store import StoreOptions
from vector_db.shard.storage.wal import Wal

FILE_HEADER = 32
RECORD_HEADER = 25
PAYLOADS = [b"first", b"", b"third" * 9, b"f", b"the fifth"]
NAME = f"wal/{1:020}.log"
SECTOR = 512


def fixed_marker(n: int) -> bytes:
    return b"MARK"[:n]


def short_log() -> bytes:
    disk = MemoryDisk()
    wal, _ = Wal.open(disk, entropy=fixed_marker)
    for group in (PAYLOADS[:1], PAYLOADS[1:3], PAYLOADS[3:]):
        for payload in group:
            wal.append(1, [payload])
        wal.flush()
    return disk.files[NAME]


LOG = short_log()
ENDS = list(itertools.accumulate((RECORD_HEADER + len(p) for p in PAYLOADS), initial=FILE_HEADER))
"""Where the first n records end, for n from 0."""


def recover(files: dict[str, bytes]) -> list[bytes]:
    """The payloads that are found; checks too that the log can go on, and is then found whole."""
    disk = MemoryDisk(files)
    wal, recovered = Wal.open(disk)
    assert disk.files == disk.synced
    found = [(lsn, bytes(p)) for lsn, _, p in wal.replay(wal.first_lsn)]
    assert [lsn for lsn, _ in found] == list(range(recovered.first_lsn, recovered.last_lsn + 1))
    assert wal.append(1, [b"more"]) == recovered.last_lsn + 1
    wal.flush()
    again, clean = Wal.open(disk)
    assert (clean.last_lsn, clean.torn_bytes) == (recovered.last_lsn + 1, 0)
    payloads = [p for _, p in found]
    assert [bytes(p) for _, _, p in again.replay(again.first_lsn)] == [*payloads, b"more"]
    return payloads


def whole_records(size: int) -> int:
    return max(0, sum(end <= size for end in ENDS) - 1)


def test_a_log_cut_at_any_byte_holds_the_exact_prefix() -> None:
    assert ENDS[-1] == len(LOG)
    for size in range(len(LOG) + 1):
        assert recover({NAME: LOG[:size]}) == PAYLOADS[: whole_records(size)], size


def test_a_log_whose_end_reads_as_zeros_holds_the_exact_prefix() -> None:
    for size in range(ENDS[3], len(LOG)):
        if not any(LOG[size:]):
            continue
        zeroed = LOG[:size] + bytes(len(LOG) - size)
        kept = max(n for n in range(6) if zeroed[: ENDS[n]] == LOG[: ENDS[n]])
        assert recover({NAME: zeroed}) == PAYLOADS[:kept], size
    assert recover({NAME: LOG + bytes(5000)}) == PAYLOADS


def test_one_flipped_bit_is_refused_everywhere_but_in_the_last_record() -> None:
    for position in range(len(LOG)):
        for bit in range(8):
            damaged = bytearray(LOG)
            damaged[position] ^= 1 << bit
            files = {NAME: bytes(damaged)}
            if position >= ENDS[4]:
                assert recover(files) == PAYLOADS[:4]
                continue
            with pytest.raises((StorageCorrupt, NewerFormat)) as caught:
                Wal.open(MemoryDisk(files))
            if position >= FILE_HEADER:
                record = whole_records(position)
                assert f"{NAME}: offset {ENDS[record]}: record {record + 1}" in str(caught.value)


def test_a_refused_log_is_left_as_it_is() -> None:
    damaged = LOG[:40] + b"\xff" + LOG[41:]
    disk = MemoryDisk({NAME: damaged})
    with pytest.raises(StorageCorrupt):
        Wal.open(disk)
    assert disk.files == {NAME: damaged}


def two_files() -> dict[str, bytes]:
    disk = MemoryDisk()
    wal, _ = Wal.open(disk, segment_bytes=64)
    for payload in (b"a" * 20, b"b" * 20, b"c" * 20, b"d" * 20):
        wal.append(1, [payload])
        wal.flush()
    return disk.files


def test_a_file_that_has_a_successor_must_be_whole() -> None:
    files = two_files()
    first, *_ = sorted(files)
    for size in range(len(files[first])):
        with pytest.raises(StorageCorrupt):
            Wal.open(MemoryDisk({**files, first: files[first][:size]}))


def test_a_missing_file_in_the_middle_is_refused() -> None:
    files = two_files()
    names = sorted(files)
    assert len(names) == 4
    del files[names[1]]
    with pytest.raises(StorageCorrupt, match="starts at record 3"):
        Wal.open(MemoryDisk(files))


def test_a_file_under_the_name_of_another_is_refused() -> None:
    files = two_files()
    _, second, *_ = sorted(files)
    with pytest.raises(StorageCorrupt, match="the header says first record 2"):
        Wal.open(MemoryDisk({f"wal/{7:020}.log": files[second]}))
    with pytest.raises(StorageCorrupt, match="not a file of the log"):
        Wal.open(MemoryDisk({"wal/7.log": files[second]}))


def test_a_file_that_died_while_it_was_made_holds_nothing() -> None:
    files = two_files()
    *rest, last = sorted(files)
    for size in range(FILE_HEADER + 1):
        assert recover({**files, last: files[last][:size]}) == [b"a" * 20, b"b" * 20, b"c" * 20]
        assert recover({**files, last: bytes(size)}) == [b"a" * 20, b"b" * 20, b"c" * 20]
    assert recover({last: b""}) == []
    assert len(rest) == 3


def test_a_newer_format_is_refused_by_name() -> None:
    newer = LOG[:8] + b"\x02" + LOG[9:]
    with pytest.raises(NewerFormat, match="log format 2, this program knows up to 1"):
        Wal.open(MemoryDisk({NAME: newer}))


def test_a_record_of_another_log_inside_a_torn_payload_is_not_taken_for_one() -> None:
    disk = MemoryDisk()
    wal, _ = Wal.open(disk)
    wal.append(1, [b"a"])
    wal.flush()
    kept = len(disk.files[NAME])
    wal.append(1, [LOG, b"b"])
    wal.flush()
    assert recover({NAME: disk.files[NAME][:-1]}) == [b"a"]
    assert kept < len(disk.files[NAME])


def large_groups() -> tuple[bytes, list[int], list[bytes]]:
    """Three groups of three records of a few sectors: the log, where groups end, the payloads."""
    disk = MemoryDisk()
    wal, _ = Wal.open(disk)
    payloads = [bytes([65 + n]) * (400 + 300 * n) for n in range(9)]
    ends = [len(disk.files[NAME])]
    for first in (0, 3, 6):
        for payload in payloads[first : first + 3]:
            wal.append(1, [payload])
        wal.flush()
        ends.append(len(disk.files[NAME]))
    return disk.files[NAME], ends, payloads


def zero_sector(data: bytes, index: int, start: int = 0) -> bytes:
    first = max(index * SECTOR, start)
    end = min((index + 1) * SECTOR, len(data))
    return data[:first] + bytes(max(0, end - first)) + data[end:]


def test_a_lost_sector_of_the_last_group_is_torn_and_of_an_earlier_one_corrupt() -> None:
    data, ends, payloads = large_groups()
    for index in range(ends[2] // SECTOR + 1, len(data) // SECTOR):
        found = recover({NAME: zero_sector(data, index)})
        assert found[:6] == payloads[:6]
        assert found == payloads[: len(found)]
        assert len(found) < 9
    for index in range(1, ends[2] // SECTOR):
        with pytest.raises(StorageCorrupt):
            Wal.open(MemoryDisk({NAME: zero_sector(data, index)}))


@settings(max_examples=200)
@given(st.data())
def test_no_power_cut_makes_a_log_unreadable_or_loses_what_was_synced(data: st.DataObject) -> None:
    """Of the bytes that were not synced, any sectors and any length may have reached the disk."""
    payload = st.binary(max_size=1500)
    groups = data.draw(st.lists(st.lists(payload, min_size=1, max_size=4), max_size=4))
    disk = MemoryDisk()
    wal, _ = Wal.open(disk)
    for group in groups:
        for item in group:
            wal.append(1, [item])
        wal.flush()
    synced = len(disk.files[NAME])
    last = data.draw(st.lists(payload, min_size=1, max_size=5))
    for item in last:
        wal.append(1, [item])
    wal.flush()
    torn = disk.files[NAME][: data.draw(st.integers(synced, len(disk.files[NAME])))]
    sectors = range(synced // SECTOR, len(torn) // SECTOR + 1)
    for index in data.draw(st.lists(st.sampled_from(sectors), unique=True)):
        torn = zero_sector(torn, index, start=synced)

    found = recover({NAME: torn})
    acknowledged = [item for group in groups for item in group]
    assert found[: len(acknowledged)] == acknowledged
    assert found == [*acknowledged, *last][: len(found)]


def test_a_record_of_a_newer_program_is_not_called_damage(tmp_path: Path) -> None:
    disk = PosixDisk(tmp_path)
    wal = recovery.recover(disk, StoreOptions()).wal
    wal.append(max(RecordType) + 1, [b"later"])
    wal.flush()
    wal.close()
    with pytest.raises(NewerFormat, match=r"wal: record 1 is of type 6, .* up to 5"):
        recovery.recover(disk, StoreOptions())
