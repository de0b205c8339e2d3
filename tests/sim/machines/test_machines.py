"""The protocol's machines under random faults, seed by seed, and mistakes that they must show."""

from __future__ import annotations

import pytest

from tests.sim.machines.plants import PLANTS, Plant
from tests.sim.machines.run import FIVE_WORKERS, ONE_REPLICA, THREE_REPLICAS, run
from tests.sim.machines.world import Shape

BLOCK = 15


@pytest.mark.parametrize("block", range(7))
@pytest.mark.parametrize(
    "shape", [ONE_REPLICA, THREE_REPLICAS, FIVE_WORKERS], ids=["one", "three", "five"]
)
def test_no_seed_loses_tears_or_reorders_anything(shape: Shape, block: int) -> None:
    committed = reads = 0
    for seed in range(block * BLOCK, (block + 1) * BLOCK):
        report = run(seed, shape)
        assert not report.violations, f"seed {seed}: {report.violations[:3]}"
        committed += report.committed
        reads += report.reads
    assert committed > 50, "hardly anything was committed: the runs show nothing"
    assert reads > 50, "hardly anything was read: the runs show nothing"


@pytest.mark.parametrize("plant", PLANTS, ids=[plant.name for plant in PLANTS])
def test_a_planted_mistake_is_caught_by_its_seed(plant: Plant) -> None:
    assert plant.caught_by(plant.seed), f"seed {plant.seed} shows nothing of: {plant.says}"
    assert not run(plant.seed, plant.shape).violations, "it is the mistake that is caught"
