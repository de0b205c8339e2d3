"""Less than a minute of what ``make mesh`` does for ten: the mesh under load and a few faults."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

from tests.checkers.everything import check
from tests.checkers.history import Row, Write
from tests.mesh.faults import LEADER, Fault
from tests.mesh.links import Weather
from tests.mesh.run import Run

SEED = 5
SECONDS = 55.0
EVERY_S = 11.0
RATE = 60.0
SHARE_MIN = 0.99
"""Below that of `make mesh`: of so few calls a few are a large share, and the machine is shared."""
PLAN = [
    Fault("kill", "shard1", 2.0),
    Fault("pause", LEADER, 3.0),
    Fault("cut", "gateway0", 4.0, Weather(blocked=("up", "down"))),
    Fault("lose", "shard2", 1.0),
    Fault("kill", "broker0", 0.0),
]


def test_the_mesh_answers_and_keeps_everything_under_faults(tmp_path: Path) -> None:
    run = Run(tmp_path, SEED, SECONDS, rate=RATE, every_s=EVERY_S, plan=PLAN, share_min=SHARE_MIN)
    result = asyncio.run(run.run())
    told = f"{result.summary()}\nlogs and history under {tmp_path}"
    assert not result.violations, told
    assert sum(result.faults.values()) == len(PLAN), told
    assert result.terms[1] > result.terms[0], told
    assert result.acknowledged > 200, told
    assert result.done["spreads"], told
    for what in ("list transactions", "counts", "scrolls", "searches", "as_of reads"):
        assert result.report.checked[what] > 50, told
    # The same history with a write that was acknowledged and never sent.
    write = next(t for t in run.history if t.outcome == "committed" and t.writes)
    row = Row("never sent", (1.0, 1.0), {"tag": "never sent"})
    lie = dataclasses.replace(write, operations=(Write("marks/never sent", row),), count=None)
    assert "lost write" in check([*run.history, lie]).names
