"""A disk that is made slow while a process runs is slow as long as it is told to be."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.slow_process import CONTROL, SlowAppendFile

SLOW_MS = 150


def test_syncs_are_slow_while_the_control_file_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    waited_s: list[float] = []
    wait = time.sleep

    def noted(seconds: float) -> None:
        """The real disk may be slow at any time: only what is waited for on top of it counts."""
        waited_s.append(seconds)
        wait(seconds)

    monkeypatch.setattr(time, "sleep", noted)
    file = SlowAppendFile(tmp_path / "wal")

    def sync() -> list[float]:
        """The waits of one sync."""
        waited_s.clear()
        file.write([b"row"])
        file.sync()
        return list(waited_s)

    assert sync() == []
    CONTROL.write_text(str(SLOW_MS))
    started = time.monotonic()
    assert sync() == [SLOW_MS / 1000]
    assert time.monotonic() - started >= SLOW_MS / 1000
    CONTROL.write_text("")  # being written just now
    assert sync() == []
    CONTROL.unlink()
    assert sync() == []
    file.close()
