"""What every `Disk` promises, run over the real file system and over the disks of the tests."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.lossy_disk import LossyDisk
from tests.unit.shard_wal.memory_disk import MemoryDisk
from vector_db.common.adapters.posix_disk import PosixDisk
from vector_db.common.adapters.system_clock import SystemClock
from vector_db.common.ports import Disk, DiskFull


@pytest.fixture(params=["posix", "memory", "lossy"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    root = tmp_path / "a" / "root"
    match request.param:
        case "posix":
            return PosixDisk(root)
        case "lossy":
            return LossyDisk(root)
        case _:
            return MemoryDisk()


def test_an_appended_file_grows_at_its_end_over_several_openings(disk: Disk) -> None:
    file = disk.append_file("wal/1.log")
    file.write([b"a", bytearray(b"b"), memoryview(b"xcx")[1:2], b""])
    file.sync()
    assert file.size() == 3
    file.close()
    again = disk.append_file("wal/1.log")
    assert again.size() == 3
    again.write([b"d"])
    again.write([])
    again.sync()
    again.close()
    assert disk.read("wal/1.log") == b"abcd"


def test_a_stretch_of_a_file_is_read_alone(disk: Disk) -> None:
    disk.write_atomic("f", [b"abcdef"])
    assert disk.read_at("f", 2, 3) == b"cde"
    assert disk.read_at("f", 4, 9) == b"ef"
    assert disk.read_at("f", 6, 1) == disk.read_at("f", 0, 0) == b""


def test_a_file_is_replaced_whole(disk: Disk) -> None:
    disk.write_atomic("x/manifest", [b"old"])
    disk.write_atomic("x/manifest", [b"n", memoryview(b"ew")])
    assert disk.read("x/manifest") == b"new"
    assert disk.names() == ["x/manifest"]


def test_a_cut_file_ends_where_it_was_cut_and_grows_from_there(disk: Disk) -> None:
    disk.write_atomic("f", [b"abcdef"])
    disk.truncate("f", 2)
    file = disk.append_file("f")
    file.write([b"X"])
    file.close()
    assert disk.read("f") == b"abX"


def test_names_are_sorted_relative_and_chosen_by_prefix(disk: Disk) -> None:
    assert disk.names() == disk.names("wal/") == []
    for name in ("wal/2", "wal/10", "walrus", "seg/a/b", "seg/a/c", "z"):
        disk.write_atomic(name, [b""])
    assert disk.names() == ["seg/a/b", "seg/a/c", "wal/10", "wal/2", "walrus", "z"]
    assert disk.names("wal") == ["wal/10", "wal/2", "walrus"]
    assert disk.names("wal/") == ["wal/10", "wal/2"]
    assert disk.names("seg/a/b") == ["seg/a/b"]
    assert disk.names("none/") == []


def test_a_removed_file_is_gone_and_a_missing_one_no_error(disk: Disk) -> None:
    disk.write_atomic("f", [b"a"])
    disk.remove("f")
    disk.remove("f")
    assert disk.names() == []
    with pytest.raises((FileNotFoundError, KeyError)):
        disk.read("f")


def test_free_bytes_is_something(disk: Disk) -> None:
    assert disk.free_bytes() > 0


def test_what_was_not_synced_dies_with_a_process_on_a_lossy_disk(tmp_path: Path) -> None:
    disk = LossyDisk(tmp_path)
    file = disk.append_file("wal/1")
    file.write([b"synced" * 1000])
    assert LossyDisk(tmp_path).names() == []
    file.sync()
    file.write([b"lost"])
    disk.append_file("wal/2").write([b"lost"])
    disk.write_atomic("m", [b"whole"])
    assert disk.read("wal/1") == b"synced" * 1000 + b"lost" and file.size() == 6004
    assert disk.names() == ["m", "wal/1", "wal/2"]
    after = LossyDisk(tmp_path)
    assert after.names() == ["m", "wal/1"]
    assert (after.read("wal/1"), after.read("m")) == (b"synced" * 1000, b"whole")
    forgetful = LossyDisk(tmp_path, honest=False)
    file = forgetful.append_file("wal/3")
    file.write([b"lost"])
    file.sync()
    assert LossyDisk(tmp_path).names() == ["m", "wal/1"]


# --- the real one only --------------------------------------------------------------------------


def test_more_parts_than_one_call_takes_arrive_in_order(tmp_path: Path) -> None:
    disk = PosixDisk(tmp_path)
    parts = [b"%d," % n for n in range(5000)]
    file = disk.append_file("f")
    file.write(list(parts))
    file.close()
    assert disk.read("f") == b"".join(parts)


def test_short_writes_of_the_kernel_are_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.writev

    def short(fd: int, buffers: list[memoryview]) -> int:
        return real(fd, [b"".join(buffers)[:7]])

    monkeypatch.setattr(os, "writev", short)
    disk = PosixDisk(tmp_path)
    disk.write_atomic("f", [b"abc", b"defghijk", b"", b"l" * 20])
    assert disk.read("f") == b"abcdefghijk" + b"l" * 20


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    disk = PosixDisk(tmp_path)
    file = disk.append_file("f")
    file.write([b"kept"])
    disk.write_atomic("m", [b"old"])
    real = os.writev
    left = [5]

    def full(fd: int, buffers: list[memoryview]) -> int:
        if not left[0]:
            raise OSError(code, "full")
        written = real(fd, [b"".join(buffers)[: left[0]]])
        left[0] = 0
        return written

    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", full)
        with pytest.raises(DiskFull):
            file.write([b"lost and gone"])
        with pytest.raises(DiskFull):
            disk.write_atomic("m", [b"new"])
    assert (file.size(), disk.read("f"), disk.read("m")) == (4, b"kept", b"old")
    assert disk.names() == ["f", "m"]
    assert sorted(os.listdir(tmp_path)) == ["f", "m"]
    file.write([b"!"])
    file.close()
    assert disk.read("f") == b"kept!"


def test_a_file_size_limit_that_is_hit_in_earnest_cuts_the_file_back(tmp_path: Path) -> None:
    """RLIMIT_FSIZE makes the kernel write a part and then refuse, as a full disk does."""
    program = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from vector_db.common.adapters.posix_disk import PosixDisk\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))\n"
        "file = PosixDisk(Path(sys.argv[1])).append_file('f')\n"
        "file.write([b'a' * 6000])\n"
        "try:\n"
        "    file.write([b'b' * 6000])\n"
        "except OSError:\n"
        "    print(file.size())\n"
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "6000"
    assert (tmp_path / "f").read_bytes() == b"a" * 6000


def test_names_and_directories_are_synced_with_what_they_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []

    def record(real: Callable[[int], None]) -> Callable[[int], None]:
        def sync(fd: int) -> None:
            synced.append(os.path.relpath(os.readlink(f"/proc/self/fd/{fd}"), tmp_path))
            real(fd)

        return sync

    monkeypatch.setattr(os, "fsync", record(os.fsync))
    monkeypatch.setattr(os, "fdatasync", record(os.fdatasync))
    disk = PosixDisk(tmp_path)
    file = disk.append_file("a/b/f")
    assert synced == [".", "a"]
    synced.clear()
    file.write([b"x"])
    file.sync()
    file.sync()
    file.close()
    assert synced == ["a/b/f", "a/b", "a/b/f"]
    synced.clear()
    disk.write_atomic("a/m", [b"x"])
    assert synced == ["a/m.tmp", "a"]
    synced.clear()
    disk.remove("a/m")
    assert synced == ["a"]
    synced.clear()
    disk.truncate("a/b/f", 0)
    assert synced == ["a/b/f", "a/b"]


def test_what_a_crash_left_of_a_replacement_is_not_listed_and_is_replaced(tmp_path: Path) -> None:
    disk = PosixDisk(tmp_path)
    (tmp_path / "m.tmp").write_bytes(b"half of a much longer fi")
    assert disk.names() == []
    disk.write_atomic("m", [b"new"])
    assert (disk.names(), disk.read("m")) == (["m"], b"new")


def test_a_file_cannot_be_cut_to_more_than_it_is(tmp_path: Path) -> None:
    disk = PosixDisk(tmp_path)
    disk.write_atomic("f", [b"ab"])
    with pytest.raises(ValueError, match="shorter"):
        disk.truncate("f", 3)


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a/../../x", "x.tmp"])
def test_a_name_outside_the_root_or_kept_for_replacements_is_refused(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(ValueError, match="not a name"):
        PosixDisk(tmp_path).append_file(name)


def test_a_failed_sync_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "input/output error")

    file = PosixDisk(tmp_path).append_file("f")
    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(OSError, match="input/output"):
        file.sync()
    file.close()
    file.close()


def test_the_clock_tells_durations_and_the_wall() -> None:
    clock = SystemClock()
    assert clock.monotonic_s() <= clock.monotonic_s()
    assert clock.wall_ms() > 1_700_000_000_000
