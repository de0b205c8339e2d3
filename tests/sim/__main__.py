"""``python -m tests.sim``: run seeds of the simulated cluster, replay one, or prove the checks.

Each seed is run twice over: as whole services, and as the protocol's machines alone. Re-executes
itself with a fixed `PYTHONHASHSEED`, since sets of strings have an order of their own.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterable

from tests.sim import hunt
from tests.sim.hunt import Form, Result
from tests.sim.machines.plants import PLANTS
from tests.sim.services.planted import PLANTED


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seed", type=int, help="run this one and print its trace hash")
    parser.add_argument(
        "--form", choices=[f.value for f in Form], default=Form.SINGLE.value, help="of --seed"
    )
    parser.add_argument("--trace", action="store_true", help="print every event of --seed")
    parser.add_argument("--seeds", type=int, default=100, help="how many (100)")
    parser.add_argument("--start", type=int, default=1, help="the first (1)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (2)")
    parser.add_argument("--plant", choices=sorted(PLANTED), help="with this fault planted")
    parser.add_argument("--plants", action="store_true", help="hunt a seed that catches each plant")
    asked = parser.parse_args()
    seeds = range(asked.start, asked.start + asked.seeds)
    if asked.plants:
        return _hunt(seeds, asked.jobs)
    if asked.seed is not None:
        return _one(asked.seed, asked.plant, asked.trace, Form(asked.form))
    return _many(seeds, asked.plant, asked.jobs)


def _one(seed: int, plant: str | None, trace: bool, form: Form) -> int:
    result = hunt.services(seed, plant, print if trace else None, form)
    _show(result.seed, result.violations)
    print(f"seed {seed} trace {result.digest} ({result.events} events)")
    wrong = bool(result.violations)
    if plant is None:
        alone = hunt.machines(seed)
        _show(seed, [f"machines: {violation}" for violation in alone.violations])
        print(f"seed {seed} machines {alone.digest}")
        return int(wrong or bool(alone.violations))
    return int(not wrong)


def _many(seeds: range, plant: str | None, jobs: int) -> int:
    """Seeds, and (without a plant) every planted fault with the seed that is known to catch it."""
    if plant is not None:
        return int(not _services(hunt.spread(hunt.planted, seeds, jobs, plant), plant))
    wrong = _services(hunt.spread(hunt.services, seeds, jobs), None)
    for form, work in ((Form.REPLICATED, hunt.replicated), (Form.MOVING, hunt.moving)):
        print(f"{form.value}:")
        wrong |= _services(hunt.spread(work, seeds, jobs), None, f" --form {form.value}")
    wrong |= _machines(seeds, jobs)
    return int(wrong | (not _prove()))


def _services(found: Iterable[Result], plant: str | None, more: str = "") -> bool:
    """Whether a seed of whole services shows a violation."""
    started = time.monotonic()
    results = []
    for result in found:
        results.append(result)
        if result.violations:
            _show(result.seed, result.violations)
            print(f"  replay: {_replay(result.seed, plant)}{more}", flush=True)
    print(summary(results, time.monotonic() - started))
    return any(result.violations for result in results)


def _machines(seeds: range, jobs: int) -> bool:
    """Whether a seed of the machines alone shows a violation."""
    started = time.monotonic()
    committed = reads = 0
    bad = []
    for report in hunt.spread(hunt.machines, seeds, jobs):
        committed += report.committed
        reads += report.reads
        if report.violations:
            bad.append(report.seed)
            _show(report.seed, [f"machines: {violation}" for violation in report.violations])
            print(f"  replay: {_replay(report.seed, None)}", flush=True)
    print(
        f"machines alone: {len(seeds)} seeds in {time.monotonic() - started:.1f} s, "
        f"{committed} committed, {reads} reads, seeds with violations: {bad or 'none'}"
    )
    return bool(bad)


def _prove() -> bool:
    """Whether every planted fault is caught by the seed that is known to show it."""
    missed = [name for name, caught in hunt.known_plants() if not caught()]
    total = len(PLANTED) + len(PLANTS)
    print(f"{total - len(missed)} of {total} planted faults caught; missed: {missed or 'none'}")
    return not missed


def _hunt(seeds: range, jobs: int) -> int:
    """Look for a seed that catches each planted fault."""
    missed = 0
    for plant in PLANTS:
        seed = next((seed for seed in seeds if plant.caught_by(seed)), None)
        missed += _tell(f"machines: {plant.name}", seed, plant.seed)
    for name in PLANTED:
        caught = None
        form = PLANTED[name].form
        for result in hunt.spread(hunt.planted, seeds, jobs, name):
            # A seed that fails without the plant as well says nothing about it.
            if result.violations and not hunt.services(result.seed, form=form).violations:
                caught = result.seed
                break
        missed += _tell(name, caught, PLANTED[name].seed)
    return int(bool(missed))


def _tell(name: str, seed: int | None, known: int) -> bool:
    found = "MISSED" if seed is None else f"caught by seed {seed}"
    print(f"{name}: {found} (known: {known})", flush=True)
    return seed is None


def _replay(seed: int, plant: str | None) -> str:
    planted = f" --plant {plant!r}" if plant else ""
    return f"python -m tests.sim --seed {seed}{planted} --trace"


def _show(seed: int, violations: list[str]) -> None:
    for violation in violations[:10]:
        print(f"seed {seed}: {violation[:1000]}")
    if len(violations) > 10:
        print(f"seed {seed}: and {len(violations) - 10} more")


def summary(results: list[Result], wall_s: float) -> str:
    """A few lines about many runs."""
    bad = [result.seed for result in results if result.violations]
    virtual_s = sum(result.virtual_s for result in results)
    lines = [
        f"{len(results)} seeds, {virtual_s:.0f} virtual seconds in {wall_s:.1f} s",
        "writes: " + _listed(results, lambda result: result.outcomes),
        "happened: " + _listed(results, lambda result: result.counts),
        "checked: " + _listed(results, lambda result: result.checked),
        f"seeds with violations: {bad or 'none'}",
    ]
    return "\n".join(lines)


def _listed(results: Iterable[Result], part: Callable[[Result], dict[str, int]]) -> str:
    totals: dict[str, int] = {}
    for result in results:
        for name, number in part(result).items():
            totals[name] = totals.get(name, 0) + number
    return ", ".join(f"{totals[name]} {name}" for name in sorted(totals))


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.sim", *sys.argv[1:]])
    sys.exit(main())
