"""``python -m tests.sim``: run seeds of the simulated cluster, replay one, or prove the checks.

Re-executes itself with a fixed `PYTHONHASHSEED`, since sets of strings have an order of their own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor

from tests.sim.planted import PLANTED
from tests.sim.run import Result, run_planted


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seed", type=int, help="run this one and print its trace hash")
    parser.add_argument("--trace", action="store_true", help="print every event of --seed")
    parser.add_argument("--seeds", type=int, default=100, help="how many (100)")
    parser.add_argument("--start", type=int, default=1, help="the first (1)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (2)")
    parser.add_argument("--plant", choices=sorted(PLANTED), help="with this fault planted")
    parser.add_argument("--plants", action="store_true", help="plant each, until it is caught")
    asked = parser.parse_args()
    if asked.plants:
        return _prove(range(asked.start, asked.start + asked.seeds), asked.jobs)
    if asked.seed is not None:
        return _one(asked.seed, asked.plant, asked.trace)
    return _many(range(asked.start, asked.start + asked.seeds), asked.plant, asked.jobs)


def _replay(seed: int, plant: str | None) -> str:
    planted = f" --plant {plant!r}" if plant else ""
    return f"python -m tests.sim --seed {seed}{planted} --trace"


def _one(seed: int, plant: str | None, trace: bool) -> int:
    result = run_planted(seed, plant, print if trace else None)
    _show(result)
    print(f"seed {seed} trace {result.digest} ({result.events} events)")
    return _judge([result], plant)


def _many(seeds: Iterable[int], plant: str | None, jobs: int) -> int:
    started = time.monotonic()
    results = []
    for result in _run(seeds, plant, jobs):
        results.append(result)
        if result.violations:
            _show(result)
            print(f"  replay: {_replay(result.seed, plant)}", flush=True)
    print(summary(results, time.monotonic() - started))
    return _judge(results, plant)


def _prove(seeds: range, jobs: int) -> int:
    """Plant every fault, until a seed catches it."""
    missed = []
    for name in PLANTED:
        caught = None
        for result in _run(seeds, name, jobs):
            # A seed that fails without the plant as well says nothing about it.
            if result.violations and not run_planted(result.seed, None).violations:
                caught = result
                break
        if caught is None:
            missed.append(name)
            print(f"MISSED {name}: {len(seeds)} seeds", flush=True)
        else:
            print(f"caught {name}: seed {caught.seed}: {caught.violations[0][:160]}", flush=True)
    print(f"{len(PLANTED) - len(missed)} of {len(PLANTED)} planted faults were caught")
    return 1 if missed else 0


def _run(seeds: Iterable[int], plant: str | None, jobs: int) -> Iterator[Result]:
    """Results in the order of the seeds."""
    if jobs == 1:
        for seed in seeds:
            yield run_planted(seed, plant)
        return
    wanted = list(seeds)
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        try:
            yield from pool.map(run_planted, wanted, [plant] * len(wanted))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _show(result: Result) -> None:
    for violation in result.violations[:10]:
        print(f"seed {result.seed}: {violation[:1000]}")
    if len(result.violations) > 10:
        print(f"seed {result.seed}: and {len(result.violations) - 10} more")


def _judge(results: list[Result], plant: str | None) -> int:
    bad = any(result.violations for result in results)
    return int(bad) if plant is None else int(not bad)


def summary(results: list[Result], wall_s: float) -> str:
    """A few lines about many runs."""
    outcomes: dict[str, int] = {}
    counts: dict[str, int] = {}
    checked: dict[str, int] = {}
    for result in results:
        for total, part in (
            (outcomes, result.outcomes),
            (counts, result.counts),
            (checked, result.checked),
        ):
            for name, number in part.items():
                total[name] = total.get(name, 0) + number
    bad = [result.seed for result in results if result.violations]
    virtual_s = sum(result.virtual_s for result in results)
    lines = [
        f"{len(results)} seeds, {virtual_s:.0f} virtual seconds in {wall_s:.1f} s",
        "writes: " + ", ".join(f"{number} {name}" for name, number in outcomes.items()),
        "happened: " + ", ".join(f"{counts[name]} {name}" for name in sorted(counts)),
        "checked: " + ", ".join(f"{checked[name]} {name}" for name in sorted(checked)),
        f"seeds with violations: {bad or 'none'}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.sim", *sys.argv[1:]])
    sys.exit(main())
