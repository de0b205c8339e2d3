"""A few rounds of what ``make crash`` does for minutes: services are killed and paused at work."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

from tests.crash.mesh import schedule
from tests.crash.rounds import Run

ROUNDS = 5
SEED = 43


def test_services_killed_and_paused_under_load_break_no_promise(tmp_path: Path) -> None:
    result = asyncio.run(Run(tmp_path, ROUNDS, SEED).run())
    told = f"{result.summary()}\nlogs and history under {tmp_path}"
    assert not result.violations, told
    assert result.rounds == ROUNDS
    assert result.outcomes["committed"] > 100, told
    for what in ("list transactions", "counts", "scrolls", "searches", "commits replayed"):
        assert result.report.checked[what] > 5, told


def test_the_faults_of_a_seed_are_the_same_and_over_many_rounds_hit_everything() -> None:
    targets = ["nats", "coordinator0", "shard0", "gateway0"]
    plan = schedule(Random("faults-1"), 200, targets)
    assert plan == schedule(Random("faults-1"), 200, targets)
    assert plan != schedule(Random("faults-2"), 200, targets)
    hit = {(fault.kind, fault.target) for faults in plan for fault in faults}
    assert hit == {(kind, target) for kind in ("kill", "pause") for target in targets}
    assert 20 < sum(len(faults) == 2 for faults in plan) < 80
