"""What a unit of work costs, from what several kinds of work took: least squares without negatives.

Owns the rule that errors count relative to what was measured, so that a cheap operation weighs as
much as a dear one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.scaling import work
from bench.scaling.observe import METADATA_BYTES, Observation
from bench.scaling.work import PROCESSES, Units

_ROUNDS = 20_000
_SMALL_S = 0.05
"""CPU times are read in steps of 10 ms: shorter ones say little."""


def units_of(seen: Observation) -> Units:
    """What the processes did in an observation, by the model."""
    shape = seen.shape
    idle = work.times(work.idle_second(shape), seen.wall_s)
    records = seen.records / seen.count
    beats = work.beats_per_s(seen.records / seen.wall_s) * seen.wall_s / seen.count
    match seen.kind:
        case "idle" | "build":
            return idle
        case "query" | "queries":
            one = work.query(shape, together=together_in(seen), alone=seen.clients == 1)
        case "write" | "writes":
            # The idle beats are among these.
            idle = _without_beats(idle, seen)
            size = 4.0 * shape.dimension + METADATA_BYTES
            one = work.transaction(
                shape, seen.participants, records, beats, size, seen.clients == 1
            )
        case "bulk":
            parts = work.transaction(shape, shape.spread, records, records)
            one = work.plus(work.bulk_row(shape, METADATA_BYTES), work.times(parts, 1 / BATCH_ROWS))
        case _:
            raise ValueError(seen.kind)
    return work.plus(work.times(one, seen.count), idle)


BATCH_ROWS = 1_000
"""Of the loads."""


def _without_beats(idle: Units, seen: Observation) -> Units:
    shape = seen.shape
    followers = shape.workers + shape.gateways + shape.coordinators
    beats = work.BEATS_PER_S * seen.wall_s
    return work.plus(
        idle,
        {
            "broker.message": -beats * (1 + followers),
        },
    )


def together_in(seen: Observation) -> float:
    """Searches that shared a request, by the messages that passed; 1 for one client."""
    if seen.kind != "queries":
        return 1.0
    quiet = work.messages(work.idle_second(seen.shape)) * seen.wall_s
    asks = (seen.messages - quiet) / seen.count / 4
    fetches = seen.shape.routes * (work.rounds(seen.shape) - 1)
    return max(1.0, seen.shape.routes / max(1e-9, asks - fetches))


def cost_of(units: Units, costs: Mapping[str, float], process: str) -> float:
    """CPU seconds of one kind of process."""
    return sum(n * costs.get(u, 0.0) for u, n in units.items() if u.split(".")[0] == process)


def fit(
    observations: Iterable[Observation], known: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Unit → CPU seconds; `known`: what was measured by itself, since one and two workers do not
    tell it from what comes with it."""
    seen = list(observations)
    costs: dict[str, float] = dict(known or {})
    for process in PROCESSES:
        lines = []
        for one in seen:
            units = {u: n for u, n in units_of(one).items() if u.startswith(f"{process}.")}
            apart = sum(units.pop(unit, 0.0) * cost for unit, cost in (known or {}).items())
            lines.append(Line(units, max(0.0, one.cpu_s[process] - apart)))
        costs |= solve(lines)
    return costs


@dataclass(frozen=True, slots=True)
class Line:
    """So many units together took `seconds`."""

    units: Units
    seconds: float


def solve(lines: Sequence[Line]) -> dict[str, float]:
    """The non-negative costs with the least sum of squared relative errors, by coordinates."""
    names = sorted({name for line in lines for name in line.units})
    weights = [1 / max(line.seconds, _SMALL_S) for line in lines]
    columns = {
        name: [w * line.units.get(name, 0.0) for w, line in zip(weights, lines, strict=True)]
        for name in names
    }
    norms = {name: sum(x * x for x in column) for name, column in columns.items()}
    costs = dict.fromkeys(names, 0.0)
    residual = [w * line.seconds for w, line in zip(weights, lines, strict=True)]
    for _ in range(_ROUNDS):
        moved = 0.0
        for name in names:
            column, norm = columns[name], norms[name]
            if norm == 0:
                continue
            gradient = sum(x * r for x, r in zip(column, residual, strict=True))
            step = max(-costs[name], gradient / norm)
            if step:
                costs[name] += step
                residual = [r - step * x for x, r in zip(column, residual, strict=True)]
                moved = max(moved, step * step * norm)
        if moved < 1e-16:
            break
    return costs
