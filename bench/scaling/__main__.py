"""What a mesh of many workers costs and does, predicted from what few of them were measured to.

Usage: python -m bench.scaling [--predict] [--own]
"""

from __future__ import annotations

import argparse
import dataclasses
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from types import FrameType

import uvloop

from bench.common import OUT, BenchError, first_of, save
from bench.scaling import fit, once, report, runs, work
from bench.scaling.constants import MEASURED, Constants
from bench.scaling.observe import Observation


def _of_kind(seen: Sequence[Observation], kind: str) -> list[Observation]:
    return [one for one in seen if one.kind == kind]


def constants_of(fitted: Sequence[Observation], facts: dict[str, float]) -> Constants:
    """The constants that observations of one and two workers give."""
    # Received, and counted by the machine: three votes a transaction.
    counted_s = facts["sequencer_transaction_s_10_3"] / 3
    known = {"coordinator.message": facts["message_s"] + counted_s}
    costs = fit.fit((one for one in fitted if one.kind != "build"), known)
    single = _of_kind(fitted, "query")[0]
    spent = work.query(single.shape)
    own_s = sum(fit.cost_of(spent, costs, one) for one in ("gateway", "worker"))
    busy = [one for one in _of_kind(fitted, "writes") if one.participants == 1]
    builds = _of_kind(fitted, "build")
    built = sum(one.count * one.shape.dimension / 128 for one in builds)
    asked = _of_kind(fitted, "queries")
    return replace(
        MEASURED,
        costs=costs,
        hop_s=max(1e-4, single.p50_ms / 1e3 - own_s),
        write_s=_of_kind(fitted, "write")[0].p50_ms / 1e3,
        records_per_s=max(one.records / one.wall_s for one in busy),
        build_row_s=sum(one.build_s for one in builds) / built if built else MEASURED.build_row_s,
        together=sum(map(fit.together_in, asked)) / len(asked),
        **{k: v for k, v in facts.items() if k in Constants.__dataclass_fields__},
    )


def measure() -> Constants:
    """Run the meshes, print and save what was found."""
    OUT.mkdir(parents=True, exist_ok=True)
    facts = once.record_sizes()
    for workers, replicas in ((1, 1), (10, 3), (100, 3)):
        alone = once.sequencer_alone(workers, replicas)
        facts |= {f"sequencer_{k}_{workers}_{replicas}": v for k, v in alone.items()}
    facts |= uvloop.run(once.streams()) | uvloop.run(once.takeover())
    facts |= uvloop.run(once.move()) | uvloop.run(once.flood()) | uvloop.run(once.follower())
    fitted = [one for shape in runs.FITTED for one in uvloop.run(runs.protocol(shape))]
    fitted += uvloop.run(runs.graphs()) + uvloop.run(runs.graphs((runs.WIDE_ROWS,), 768))
    other = [one for shape in runs.JUDGED for one in uvloop.run(runs.protocol(shape))]
    found = constants_of(fitted, facts)
    report.costs(found)
    print("\n" + "\n".join(f"{name}: {value:.6g}" for name, value in facts.items()))
    report.builds(_of_kind(fitted, "build"))
    report.judged(
        [one for one in fitted if one.kind != "build"], found, "What the model was fitted to"
    )
    report.judged(other, found, "Predicted: what it did not see")
    report.waited([*fitted, *other], found, "Latency; the first of each kind gave the constants")
    result = {
        "constants": dataclasses.asdict(replace(found, costs=dict(found.costs))),
        "facts": facts,
        "fitted": [dataclasses.asdict(one) for one in fitted],
        "judged": [dataclasses.asdict(one) for one in other],
    }
    print(f"\nwritten: {save('scaling', result)}")
    return found


def _stop(number: int, frame: FrameType | None) -> None:
    sys.exit(f"ended by signal {number}")


def main() -> None:
    """Measure unless told not to, and predict."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--predict", action="store_true", help="measure nothing")
    parser.add_argument("--own", action="store_true", help="predict by what is measured here")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, _stop)  # the meshes end with this process
    try:
        found = MEASURED if args.predict else measure()
    except* BenchError as errors:
        sys.exit(f"the benchmark cannot go on: {first_of(errors)}")
    constants = found if args.own else MEASURED
    report.memory(constants)
    report.speed(constants)
    report.walls(constants)
    report.tails(constants)
    report.ceilings(constants)
    report.plan(constants)


if __name__ == "__main__":
    main()
