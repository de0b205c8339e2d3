"""The protocol machines under random faults, seed by seed. A failure names its seed."""

from __future__ import annotations

import pytest

from tests.sim.checks import check
from tests.sim.world import Flags, World

STEPS = 1500


def run(seed: int, workers: int, shards: int, replication: int, flags: Flags) -> World:
    """One run to its end."""
    world = World(seed, workers, shards, replication, flags)
    for _ in range(STEPS):
        world.step()
    world.settle()
    return world


@pytest.mark.parametrize("block", range(8))
def test_one_replica_survives_crashes_takeovers_and_a_wiped_broker(block: int) -> None:
    committed = 0
    for seed in range(block * 25, block * 25 + 25):
        world = run(seed, workers=2, shards=3, replication=1, flags=Flags())
        report = check(world)
        assert not report.violations, f"seed {seed}: {report.violations[:3]}"
        committed += report.committed
    assert committed > 100, "hardly anything was committed: the runs show nothing"


@pytest.mark.parametrize("block", range(4))
def test_three_replicas_count_majorities_through_crashes_and_lost_messages(block: int) -> None:
    committed = 0
    flags = Flags(takeovers=False, wipes=False)
    for seed in range(10_000 + block * 25, 10_000 + block * 25 + 25):
        world = run(seed, workers=3, shards=2, replication=3, flags=flags)
        report = check(world)
        assert not report.violations, f"seed {seed}: {report.violations[:3]}"
        committed += report.committed
    assert committed > 50, "hardly anything was committed: the runs show nothing"
