"""Whole services under faults, a block of seeds a test; ``make sim`` runs as many as one likes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.sim.hunt import Result, moving, planted, replicated, services
from tests.sim.services.planted import PLANTED

SEEDS = 100
REPLICATED_SEEDS = 50
MOVING_SEEDS = 50
BLOCK = 10
ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("work", "first"),
    [(services, first) for first in range(1, SEEDS + 1, BLOCK)]
    + [(replicated, first) for first in range(1, REPLICATED_SEEDS + 1, BLOCK)]
    + [(moving, first) for first in range(1, MOVING_SEEDS + 1, BLOCK)],
)
def test_seeds_keep_every_promise(work: Callable[[int], Result], first: int) -> None:
    more = "" if work is services else f" --form {work.__name__}"
    for seed in range(first, first + BLOCK):
        result = work(seed)
        replay = f"python -m tests.sim --seed {seed}{more} --trace"
        assert result.violations == [], replay
        assert result.outcomes["committed"] > 0, f"nothing happened: {replay}"


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_caught_by_its_seed(name: str) -> None:
    seed = PLANTED[name].seed
    assert planted(seed, name).violations, f"seed {seed} shows nothing of it"
    form = PLANTED[name].form
    assert not services(seed, form=form).violations, "it is the fault that is caught"


def test_a_seed_has_one_trace_in_any_process() -> None:
    def trace(hash_seed: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "tests.sim", "--seed", "4"],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        )
        return done.stdout

    first = trace("1")
    assert "trace" in first
    assert trace("2") == first


def test_two_seeds_have_two_traces() -> None:
    assert services(4).digest != services(6).digest
