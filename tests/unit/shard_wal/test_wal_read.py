"""Single records read back from the log, wherever they are."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.unit.shard_wal.memory_disk import MemoryDisk
from vector_db.common.adapters.posix_disk import PosixDisk
from vector_db.common.model.errors import StorageCorrupt
from vector_db.common.ports import Disk, DiskFull
from vector_db.shard.storage.wal import Wal


def payload(n: int) -> bytes:
    return b"%d" % n * (n % 7 * 40)


def fill(disk: Disk) -> Wal:
    """Records 1 to 30 in several files and groups; 31 to 33 are buffered."""
    wal, _ = Wal.open(disk, segment_bytes=1000)
    for n in range(1, 31):
        wal.append(n, [payload(n)[:10], payload(n)[10:]])
        if n % 3 == 0:
            wal.flush()
    for n in range(31, 34):
        wal.append(n, [payload(n)])
    return wal


def check(wal: Wal, first: int, last: int) -> None:
    for n in range(last, first - 1, -1):
        record_type, data = wal.read(n)
        assert (record_type, bytes(data)) == (n, payload(n))


@pytest.mark.parametrize("posix", [False, True])
def test_every_record_can_be_read_in_any_order(posix: bool, tmp_path: Path) -> None:
    disk: Disk = PosixDisk(tmp_path) if posix else MemoryDisk()
    wal = fill(disk)
    assert len(disk.names("wal/")) > 3
    check(wal, 1, 33)
    wal.flush()
    wal.close()
    again, _ = Wal.open(disk, segment_bytes=1000)
    check(again, 1, 33)
    again.append(34, [payload(34)])
    check(again, 1, 34)
    again.flush()
    check(again, 1, 34)
    again.close()


def test_one_record_is_one_read_of_its_own_size() -> None:
    disk = MemoryDisk()
    wal = fill(disk)
    sizes: list[int] = []
    read_at = disk.read_at

    def counted(name: str, offset: int, size: int) -> bytes:
        sizes.append(size)
        return read_at(name, offset, size)

    disk.read_at = counted  # type: ignore[method-assign]
    wal.read(6)
    wal.read(32)
    assert sizes == [25 + len(payload(6))]


def test_a_record_that_is_being_written_can_be_read() -> None:
    disk = MemoryDisk()
    wal, _ = Wal.open(disk)
    wal.append(1, [payload(1)])
    wal.append(2, [payload(2)])
    syncing, go = threading.Event(), threading.Event()

    def on_sync() -> None:
        syncing.set()
        assert go.wait(10)

    disk.on_sync = on_sync
    flusher = threading.Thread(target=wal.flush)
    flusher.start()
    assert syncing.wait(10)
    wal.append(3, [payload(3)])
    check(wal, 1, 3)
    go.set()
    flusher.join()
    check(wal, 1, 3)


def test_records_that_found_the_disk_full_can_be_read() -> None:
    disk = MemoryDisk()
    wal, _ = Wal.open(disk)
    wal.append(1, [payload(1)])
    wal.append(2, [payload(2)])
    disk.capacity = 0
    with pytest.raises(DiskFull):
        wal.flush()
    check(wal, 1, 2)
    disk.capacity = 1 << 40
    wal.flush()
    check(wal, 1, 2)


def test_what_was_cut_or_never_written_is_refused() -> None:
    wal = fill(MemoryDisk())
    wal.truncate_before(20)
    assert wal.first_lsn > 1
    check(wal, wal.first_lsn, 33)
    for lsn in (0, wal.first_lsn - 1, 34):
        with pytest.raises(StorageCorrupt, match=f"not record {lsn}"):
            wal.read(lsn)


def test_a_record_that_was_damaged_meanwhile_is_refused_by_name() -> None:
    disk = MemoryDisk()
    wal = fill(disk)
    name = disk.names("wal/")[0]
    data = bytearray(disk.files[name])
    data[40] ^= 1
    disk.files[name] = bytes(data)
    with pytest.raises(StorageCorrupt, match=f"{name}: offset 32: record 1 is damaged"):
        wal.read(1)
    check(wal, 2, 33)
