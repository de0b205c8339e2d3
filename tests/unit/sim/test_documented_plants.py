"""The list of planted faults in the documentation is the one that is run."""

from __future__ import annotations

from pathlib import Path

from tests.sim.machines.plants import PLANTS
from tests.sim.services.planted import PLANTED

PAGE = Path(__file__).parents[3] / "docs" / "testing.md"


def test_every_planted_fault_is_listed_with_the_seed_that_catches_it() -> None:
    rows = [line.split("|") for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    listed = {(row[1].strip(), row[4].strip()) for row in rows[1:]}
    known = {(plant.name, str(plant.seed)) for plant in PLANTS}
    known |= {(name, str(planted.seed)) for name, planted in PLANTED.items()}
    assert listed == known
