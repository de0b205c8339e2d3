"""The lock of a data directory, between real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vector_db.common.model.errors import StartupError
from vector_db.common.service.lock import DataDirLock

HOLD = (
    "import sys, pathlib, vector_db.common.service.lock as l;"
    "lock = l.DataDirLock.acquire(pathlib.Path(sys.argv[1]));"
    "print('held', flush=True); sys.stdin.read()"
)


def test_a_second_process_is_told_who_holds_the_directory(tmp_path: Path) -> None:
    path = tmp_path / "data" / "lock"
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(StartupError, match=rf"in use by process {holder.pid} \("):
            DataDirLock.acquire(path)
        holder.send_signal(signal.SIGKILL)
    DataDirLock.acquire(path).release()


def test_a_released_lock_can_be_taken_again(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first = DataDirLock.acquire(path)
    with pytest.raises(StartupError, match=f"process {os.getpid()}"):
        DataDirLock.acquire(path)
    first.release()
    first.release()
    DataDirLock.acquire(path).release()


def test_a_holder_that_left_no_number_is_still_a_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    held = DataDirLock.acquire(path)
    path.write_text("?")
    with pytest.raises(StartupError, match="another process"):
        DataDirLock.acquire(path)
    held.release()


def test_a_directory_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartupError, match="is not writable: Not a directory"):
        DataDirLock.acquire(tmp_path / "file" / "data" / "lock")
