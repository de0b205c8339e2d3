"""What the write-ahead log promises of records, groups, files and a failing disk."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.unit.shard_wal.memory_disk import MemoryDisk, io_error
from vector_db.common.adapters.posix_disk import PosixDisk
from vector_db.common.model.errors import StorageCorrupt
from vector_db.common.ports import Disk, DiskFull
from vector_db.shard.storage.wal import Recovered, Wal, WalFailed


def put(wal: Wal, *payloads: bytes) -> None:
    """One group."""
    for payload in payloads:
        wal.append(1, [payload])
    wal.flush()


def content(disk: Disk) -> list[bytes]:
    wal, _ = Wal.open(disk)
    return [bytes(payload) for _, _, payload in wal.replay(wal.first_lsn)]


def test_what_was_flushed_is_found_again_in_order_on_a_real_disk(tmp_path: Path) -> None:
    disk = PosixDisk(tmp_path)
    wal, recovered = Wal.open(disk)
    assert recovered == Recovered(1, 0)
    large = bytes(range(256)) * 4096
    assert wal.append(1, [b"a"]) == 1
    assert wal.append(2, [b"", bytearray(b"b"), memoryview(b"xcx")[1:2]]) == 2
    assert wal.pending_bytes == 3
    assert wal.flush() == 2
    assert (wal.append(255, [b"head", large]), wal.append(0, [])) == (3, 4)
    assert wal.durable_lsn == 2
    assert wal.flush() == wal.durable_lsn == 4
    assert wal.pending_bytes == 0
    wal.close()

    again, recovered = Wal.open(disk)
    assert recovered == Recovered(1, 4)
    assert [(lsn, kind, bytes(p)) for lsn, kind, p in again.replay(0)] == [
        (1, 1, b"a"),
        (2, 2, b"bc"),
        (3, 255, b"head" + large),
        (4, 0, b""),
    ]
    assert again.append(1, [b"next"]) == 5
    again.close()


def test_what_was_not_flushed_is_not_there() -> None:
    disk = MemoryDisk()
    wal, _ = Wal.open(disk)
    put(wal, b"a")
    wal.append(1, [b"b"])
    assert [bytes(p) for _, _, p in wal.replay(1)] == [b"a"]
    assert content(disk) == [b"a"]


def test_a_flush_of_nothing_touches_nothing() -> None:
    disk = MemoryDisk()
    wal, _ = Wal.open(disk)
    disk.on_sync = io_error
    assert wal.flush() == 0


def test_files_are_rotated_and_those_below_a_record_removed() -> None:
    disk = MemoryDisk()
    wal, _ = Wal.open(disk, segment_bytes=120)
    for n in range(10):
        put(wal, b"%d" % n * 50)
    names = disk.names("wal/")
    assert names == [f"wal/{n:020}.log" for n in (1, 3, 5, 7, 9)]
    assert wal.size_bytes == sum(map(len, disk.files.values()))

    wal.truncate_before(6)
    assert disk.names("wal/") == names[2:]
    assert wal.first_lsn == 5
    assert [lsn for lsn, _, _ in wal.replay(8)] == [8, 9, 10]
    with pytest.raises(StorageCorrupt, match="holds records 5 to 10, not record 4"):
        next(wal.replay(4))

    wal.truncate_before(1000)
    assert disk.names("wal/") == names[-1:]
    again, recovered = Wal.open(disk)
    assert recovered == Recovered(9, 10)
    assert again.append(1, [b""]) == 11


def test_replay_behind_the_end_is_empty_and_further_is_refused() -> None:
    wal, _ = Wal.open(MemoryDisk())
    put(wal, b"a")
    assert list(wal.replay(2)) == []
    with pytest.raises(StorageCorrupt):
        next(wal.replay(3))


def test_the_header_of_a_new_file_is_synced_before_records_follow() -> None:
    disk = MemoryDisk()
    wal, _ = Wal.open(disk, segment_bytes=100)
    put(wal, b"a" * 100)
    sizes: list[int] = []
    disk.on_sync = lambda: sizes.append(len(disk.files[disk.names("wal/")[-1]]))
    put(wal, b"b" * 100)
    assert sizes == [32, 32 + 25 + 100]


def test_records_appended_during_a_flush_belong_to_the_next_group() -> None:
    disk = MemoryDisk()
    wal, _ = Wal.open(disk)
    syncing, go = threading.Event(), threading.Event()

    def on_sync() -> None:
        syncing.set()
        assert go.wait(10)

    wal.append(1, [b"a"])
    disk.on_sync = on_sync
    flusher = threading.Thread(target=wal.flush)
    flusher.start()
    assert syncing.wait(10)
    assert wal.append(1, [b"b"]) == 2
    assert (wal.durable_lsn, wal.pending_bytes) == (0, 1)
    go.set()
    flusher.join()
    assert wal.durable_lsn == 1
    assert wal.flush() == 2
    assert content(disk) == [b"a", b"b"]


def test_a_failed_fsync_ends_the_log() -> None:
    disk = MemoryDisk()
    wal, _ = Wal.open(disk)
    put(wal, b"a")
    wal.append(1, [b"b"])
    disk.on_sync = io_error
    with pytest.raises(OSError, match="input/output"):
        wal.flush()
    disk.on_sync = lambda: None
    for call in (wal.flush, lambda: wal.append(1, [b"c"])):
        with pytest.raises(WalFailed):
            call()
    assert wal.durable_lsn == 1


def test_a_full_disk_keeps_the_whole_group_for_a_later_flush() -> None:
    disk = MemoryDisk()
    wal, _ = Wal.open(disk)
    put(wal, b"a")
    disk.capacity = sum(map(len, disk.files.values())) + 40
    wal.append(1, [b"b"])
    wal.append(1, [b"c" * 100])
    with pytest.raises(DiskFull):
        wal.flush()
    assert (wal.durable_lsn, wal.next_lsn, wal.pending_bytes) == (1, 4, 101)
    assert content(MemoryDisk(disk.files)) == [b"a"]
    disk.capacity = 1 << 40
    assert wal.flush() == 3
    put(wal, b"d")
    assert content(disk) == [b"a", b"b", b"c" * 100, b"d"]


def test_a_full_disk_at_a_new_file_leaves_no_file_behind() -> None:
    disk = MemoryDisk()
    wal, _ = Wal.open(disk, segment_bytes=50)
    put(wal, b"a" * 50)
    before = dict(disk.files)
    disk.capacity = disk.capacity - disk.free_bytes() + 10
    wal.append(1, [b"b"])
    with pytest.raises(DiskFull):
        wal.flush()
    assert disk.files == before
    disk.capacity = 1 << 40
    put(wal, b"c")
    assert content(disk) == [b"a" * 50, b"b", b"c"]


def test_records_appended_while_the_disk_was_found_full_come_after_the_group() -> None:
    disk = MemoryDisk()
    wal, _ = Wal.open(disk)
    disk.capacity = 0

    wal.append(1, [b"a" * 100])
    file = wal._active.file
    write = file.write

    def write_late(parts: list[bytes | bytearray | memoryview]) -> None:
        assert wal.append(1, [b"late"]) == 2
        write(parts)

    file.write = write_late  # type: ignore[method-assign]
    with pytest.raises(DiskFull):
        wal.flush()
    file.write = write  # type: ignore[method-assign]
    disk.capacity = 1 << 40
    assert (wal.flush(), wal.next_lsn) == (2, 3)
    put(wal, b"b")
    assert content(disk) == [b"a" * 100, b"late", b"b"]


@pytest.mark.parametrize("record_type", [-1, 256])
def test_a_type_that_is_no_byte_is_refused_and_takes_no_lsn(record_type: int) -> None:
    wal, _ = Wal.open(MemoryDisk())
    with pytest.raises(ValueError, match="type"):
        wal.append(record_type, [b""])
    assert wal.next_lsn == 1


def test_a_closed_log_refuses() -> None:
    wal, _ = Wal.open(MemoryDisk())
    wal.close()
    wal.close()
    with pytest.raises(WalFailed):
        wal.append(1, [b""])
