"""Seeds over several processes, whole services and machines alone, with faults planted or not."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any, TypeVar

from tests.sim.machines import run as machines_run
from tests.sim.machines.checks import Report
from tests.sim.machines.plants import PLANTS
from tests.sim.services.forms import Form
from tests.sim.services.planted import PLANTED
from tests.sim.services.run import Result, run_seed

__all__ = [
    "Form",
    "Report",
    "Result",
    "known_plants",
    "machines",
    "moving",
    "planted",
    "replicated",
    "services",
    "spread",
]

T = TypeVar("T")


def services(
    seed: int,
    plant: str | None = None,
    write: Callable[[str], None] | None = None,
    form: Form = Form.SINGLE,
) -> Result:
    """One seed of whole services, with the product broken on purpose where `plant` names how."""
    if plant is None:
        return run_seed(seed, write, form)
    with PLANTED[plant].apply():
        return run_seed(seed, write, form)


def replicated(seed: int) -> Result:
    """One seed of whole services with replicas."""
    return services(seed, form=Form.REPLICATED)


def moving(seed: int) -> Result:
    """One seed of whole services with shards that move."""
    return services(seed, form=Form.MOVING)


def planted(seed: int, plant: str) -> Result:
    """One seed of whole services, in the form in which the plant shows."""
    return services(seed, plant, form=PLANTED[plant].form)


def machines(seed: int) -> Report:
    """One seed of the machines alone; it chooses how many workers and replicas there are."""
    return machines_run.run(seed)


def spread(work: Callable[..., T], seeds: Iterable[int], jobs: int, *more: Any) -> Iterator[T]:
    """`work` of every seed, in their order."""
    if jobs == 1:
        for seed in seeds:
            yield work(seed, *more)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        try:
            yield from pool.map(_Bound(work, more), list(seeds), chunksize=4)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class _Bound:
    """`work` with its further arguments, as something that a process can be sent."""

    def __init__(self, work: Callable[..., Any], more: tuple[Any, ...]) -> None:
        self._work = work
        self._more = more

    def __call__(self, seed: int) -> Any:
        return self._work(seed, *self._more)


def known_plants() -> Iterator[tuple[str, Callable[[], bool]]]:
    """Every planted fault with a question: does the seed that is known to show it show it?"""
    for plant in PLANTS:
        yield f"machines: {plant.name}", partial(_shows, plant.caught_by, plant.seed)
    for name, planted in PLANTED.items():
        yield name, partial(_services_show, name, planted.seed)


def _shows(caught_by: Callable[[int], str], seed: int) -> bool:
    return bool(caught_by(seed))


def _services_show(name: str, seed: int) -> bool:
    return bool(planted(seed, name).violations)
