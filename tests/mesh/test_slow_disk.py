"""A disk that is made slow while a process runs is slow as long as it is told to be."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.slow_process import CONTROL, SlowAppendFile

SLOW_MS = 150


def synced_in_ms(file: SlowAppendFile) -> float:
    started = time.monotonic()
    file.write([b"row"])
    file.sync()
    return (time.monotonic() - started) * 1000


def test_syncs_are_slow_while_the_control_file_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = SlowAppendFile(tmp_path / "wal")
    fast_ms = synced_in_ms(file)
    CONTROL.write_text(str(SLOW_MS))
    assert synced_in_ms(file) >= SLOW_MS
    CONTROL.write_text("")  # being written just now
    assert synced_in_ms(file) < SLOW_MS + fast_ms
    CONTROL.unlink()
    assert synced_in_ms(file) < SLOW_MS + fast_ms
    file.close()
