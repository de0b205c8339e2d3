"""Whole services under faults, a block of seeds a test; ``make sim`` runs as many as one likes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim.run import run_seed

SEEDS = 20
BLOCK = 5
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("first", range(1, SEEDS + 1, BLOCK))
def test_seeds_keep_every_promise(first: int) -> None:
    for seed in range(first, first + BLOCK):
        result = run_seed(seed)
        replay = f"python -m tests.sim --seed {seed} --trace"
        assert result.violations == [], replay
        assert result.outcomes["committed"] > 0, f"nothing happened: {replay}"


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
    assert run_seed(4).digest != run_seed(6).digest
