"""What the simulated disk keeps and what it may lose: the model that durability is judged by."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from tests.sim.services.disk import LiveDisk, PowerCut, SimDisk
from vector_db.common.ports import DiskFull

MADE: list[SimDisk] = []


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    while MADE:
        MADE.pop().crash(power=False)


def make(tmp_path: Path, seed: int = 0) -> SimDisk:
    MADE.append(SimDisk(tmp_path / f"d{seed}", Random(seed), lambda line: None))
    return MADE[-1]


def outcomes(tmp_path: Path, prepare: Callable[[LiveDisk], None], name: str) -> set[bytes | None]:
    """What a file may hold after a power cut, over many seeds."""
    found: set[bytes | None] = set()
    for seed in range(60):
        disk = make(tmp_path, seed)
        prepare(disk.open())
        disk.crash(power=True)
        after = disk.open()
        found.add(after.read(name) if name in after.names() else None)
    return found


def test_synced_bytes_stay_and_later_ones_may_be_torn_anywhere(tmp_path: Path) -> None:
    def prepare(disk: LiveDisk) -> None:
        file = disk.append_file("wal/1")
        file.write([b"kept"])
        file.sync()
        file.write([b"xyz"])

    seen = outcomes(tmp_path, prepare, "wal/1")
    assert all(data is not None and data.startswith(b"kept") for data in seen)
    assert {b"kept", b"keptx", b"keptxy", b"keptxyz"} <= seen


def test_a_new_file_that_was_not_synced_may_be_gone(tmp_path: Path) -> None:
    def prepare(disk: LiveDisk) -> None:
        disk.append_file("new").write([b"a"])

    assert {None, b"", b"a"} <= outcomes(tmp_path, prepare, "new")


def test_a_kill_alone_loses_nothing_but_a_power_cut_after_it_may(tmp_path: Path) -> None:
    disk = make(tmp_path)
    disk.open().append_file("f").write([b"abc"])
    disk.crash(power=False)
    assert disk.open().read("f") == b"abc"
    lost = False
    for seed in range(40):
        other = make(tmp_path, seed + 1)
        other.open().append_file("f").write([b"abc"])
        other.crash(power=False)
        other.crash(power=True)
        lost |= other.open().names() == []
    assert lost


def test_replaced_and_removed_files_are_durable_at_once(tmp_path: Path) -> None:
    def prepare(disk: LiveDisk) -> None:
        disk.write_atomic("m", [b"old"])
        disk.write_atomic("m", [b"new"])
        disk.write_atomic("gone", [b"x"])
        disk.remove("gone")

    assert outcomes(tmp_path, prepare, "m") == {b"new"}
    assert outcomes(tmp_path / "again", prepare, "gone") == {None}


def test_a_cut_in_a_replacement_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    seen = set()
    for seed in range(40):
        disk = make(tmp_path, seed)
        live = disk.open()
        live.write_atomic("m", [b"old"])
        disk.faults.cut_after = 0
        with pytest.raises(PowerCut):
            live.write_atomic("m", [b"new"])
        with pytest.raises(PowerCut):
            live.names()
        seen.add(disk.open().read("m"))
    assert seen == {b"old", b"new"}


def test_an_unlink_behind_the_disk_s_back_may_be_undone(tmp_path: Path) -> None:
    def prepare(disk: LiveDisk) -> None:
        disk.write_atomic("images/1", [b"x"])
        (disk.root / "images/1").unlink()

    assert outcomes(tmp_path, prepare, "images/1") == {None, b"x"}


def test_a_failed_sync_raises_once_and_what_it_should_have_kept_may_be_lost(
    tmp_path: Path,
) -> None:
    lost = False
    for seed in range(20):
        disk = make(tmp_path, seed)
        file = disk.open().append_file("f")
        file.write([b"a"])
        file.sync()
        file.write([b"b"])
        disk.faults.sync_error_after = 0
        with pytest.raises(OSError, match="input/output") as caught:
            file.sync()
        assert caught.value.errno == errno.EIO
        file.sync()  # says yes, and proves nothing
        disk.crash(power=True)
        lost |= disk.open().read("f") == b"a"
    assert lost


def test_a_full_disk_refuses_and_leaves_the_files_as_they_were(tmp_path: Path) -> None:
    disk = make(tmp_path)
    live = disk.open()
    file = live.append_file("f")
    file.write([b"a"])
    live.write_atomic("m", [b"old"])
    disk.faults.full = True
    for refused in (
        lambda: file.write([b"b"]),
        lambda: live.write_atomic("m", [b"new"]),
        lambda: live.append_file("other"),
    ):
        with pytest.raises(DiskFull):
            refused()
    assert (live.free_bytes(), live.read("f"), live.read("m")) == (0, b"a", b"old")
    disk.faults.full = False
    file.write([b"b"])
    assert live.read("f") == b"ab"


def test_a_flipped_bit_changes_one_bit(tmp_path: Path) -> None:
    disk = make(tmp_path)
    disk.open().write_atomic("f", [bytes(4)])
    disk.flip_bit("f", 2)
    data = disk.open().read("f")
    assert sum(byte.bit_count() for byte in data) == 1
    assert data[2]
