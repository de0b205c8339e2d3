"""A sequencer that is paused under load, until another one leads, and then wakes up."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.crash.mesh import Fault
from tests.crash.rounds import Run

PAUSES = 4


def test_a_sequencer_that_slept_through_a_takeover_tells_nothing_that_was_undone(
    tmp_path: Path,
) -> None:
    plan = [[Fault("pause", f"coordinator{n % 2}", 0.3, 3.0)] for n in range(PAUSES)]
    result = asyncio.run(Run(tmp_path, PAUSES, 1, plan=plan).run())
    told = f"{result.summary()}\nlogs and history under {tmp_path}"
    assert not result.violations, told
    assert result.outcomes["committed"] > 100, told
