"""The tables: what a unit costs, predicted beside measured, and what larger meshes would do."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from bench.common import print_table
from bench.scaling import fit, work
from bench.scaling.capacity import Load, bytes_of, most, use_of
from bench.scaling.constants import Constants
from bench.scaling.latency import query_s, write_s
from bench.scaling.observe import Observation
from bench.scaling.queueing import Saturated
from bench.scaling.walls import (
    busy_messages_per_s,
    collections_max,
    idle_cores,
    query_rates,
    record_bytes,
    slowest_s,
    tail_bytes,
    takeover_s,
    trim_part,
    write_rates,
)
from bench.scaling.work import PROCESSES, Shape

SIZES = (10_000_000, 100_000_000, 1_000_000_000)
WORKERS = (1, 10, 100)
SERVICE_S = 0.0005
"""Of a worker, in the table of tails."""
PART = 0.5
"""Latencies are told at half of what the busiest process can do."""
_GIB = 2**30


def costs(found: Constants) -> None:
    """One line a unit."""
    rows = [[unit, f"{1e6 * spent:.2f}"] for unit, spent in sorted(found.costs.items())]
    print_table("What a unit of work costs", ["unit", "CPU µs"], rows)


def builds(observations: Sequence[Observation]) -> None:
    """What graphs took, and what a worker with them has."""
    rows = [
        [f"{one.count:,}", str(one.shape.dimension), f"{1e6 * one.build_s / one.count:,.0f}",
         f"{one.anonymous_bytes / 1e6:,.0f}", f"{one.disk_bytes / one.count:,.0f}"]
        for one in observations
    ]  # fmt: skip
    header = ["rows", "dim", "CPU µs a row", "memory MB, process and all", "disk bytes a row"]
    print_table("Graphs", header, rows, frozenset())


def judged(observations: Sequence[Observation], found: Constants, title: str) -> None:
    """Measured, and the model's error in percent of it: messages, and CPU of each process."""
    header = ["work", "workers", "replicas", "parts", "clients", "msgs/op", "error"]
    for process in PROCESSES:
        header += [f"{process} µs", "error"]
    print_table(title, header, [_line(one, found) for one in observations], frozenset((0,)))


def _line(seen: Observation, found: Constants) -> list[str]:
    units = fit.units_of(seen)
    line = [seen.kind, *(str(n) for n in (
        seen.shape.workers, seen.shape.replicas, seen.participants, seen.clients))]  # fmt: skip
    line += [f"{seen.messages / seen.count:.2f}", error(work.messages(units), seen.messages)]
    for process in PROCESSES:
        spent = seen.cpu_s[process]
        line.append(f"{1e6 * spent / seen.count:.0f}")
        line.append(error(fit.cost_of(units, found.costs, process), spent))
    return line


def waited(observations: Sequence[Observation], found: Constants, title: str) -> None:
    """Quantiles in ms as one client saw them, and the model's error in percent.

    Of one client alone: what several wait for on one machine is each other's processors, of which
    the model gives every process its own. `CPU` is that of all processes for one operation.
    """
    header = [
        "work",
        "workers",
        "replicas",
        "parts",
        "CPU ms",
        "p50 ms",
        "error",
        "p99 ms",
        "error",
    ]
    rows = [_waited(one, found) for one in observations if one.kind in ("query", "write")]
    print_table(title, header, rows, frozenset((0,)))


def _waited(seen: Observation, found: Constants) -> list[str]:
    line = [seen.kind, *map(str, (seen.shape.workers, seen.shape.replicas, seen.participants))]
    line.append(f"{1000 * sum(seen.cpu_s.values()) / seen.count:.2f}")
    predict = query_s if seen.kind == "query" else write_s
    for q, measured_ms in ((0.5, seen.p50_ms), (0.99, seen.p99_ms)):
        predicted_s = predict(seen.shape, Load(participants=seen.participants), found, q)
        line += [f"{measured_ms:.2f}", error(1000 * predicted_s, measured_ms)]
    return line


def error(predicted: float, measured: float) -> str:
    """In percent of what was measured; CPU below 50 ms is read too coarsely to judge."""
    if measured < 0.05:
        return "–"
    return f"{100 * (predicted / measured - 1):+.0f} %"


def _shapes() -> Iterator[tuple[int, int, int, int]]:
    """(dimension, rows, replicas, workers) of every mesh that the model is asked for."""
    for mesh in itertools.product((128, 768), SIZES, (1, 3), WORKERS):
        _, _, replicas, workers = mesh
        if workers >= replicas:
            yield mesh


def memory(constants: Constants) -> None:
    """Bytes of a worker for every size that the model is asked for."""
    rows = []
    for dimension, total, replicas, workers in _shapes():
        one = bytes_of(Shape(workers, replicas, total, dimension), constants)
        rows.append([
            f"{total / 1e6:,.0f} M", str(dimension), str(replicas), str(workers),
            f"{one.memory / _GIB:,.1f}", f"{one.cache / _GIB:,.1f}",
            f"{one.disk / _GIB:,.1f}", f"{one.disk_peak / _GIB:,.1f}",
            f"{workers * one.memory / _GIB:,.0f}", f"{workers * one.disk / _GIB:,.0f}",
        ])  # fmt: skip
    header = ["rows", "dim", "replicas", "workers", "memory", "cache", "disk", "peak",
              "all memory", "all disk"]  # fmt: skip
    print_table("GiB a worker, and of all", header, rows, frozenset())


def speed(constants: Constants) -> None:
    """Rates at which something is full, and latencies at half of the rate."""
    rows = []
    for dimension, total, replicas, workers in _shapes():
        gateways = max(1, workers // 2)
        shape = Shape(workers, replicas, total, dimension, gateways=gateways)
        rows.append(_speed(shape, constants))
    header = ["rows", "dim", "replicas", "workers", "gateways", "q/s max", "full", "q p50 ms",
              "p99", "w/s max", "full", "w p50 ms", "p99"]  # fmt: skip
    print_table("Rates at most, and latencies at half of them", header, rows, frozenset())


def _speed(shape: Shape, constants: Constants) -> list[str]:
    asked, reads = _fullest(query_rates(shape, constants))
    wrote, writes = _fullest(write_rates(shape, constants))
    # The model of latencies knows no coalescing: it is asked at what single queries can reach.
    alone = Load(queries_per_s=1.0)
    part = PART * min(
        most(shape, alone, constants, one, 0.49) for one in ("gateway", "worker", "broker")
    )
    load, stores = Load(queries_per_s=part), Load(writes_per_s=PART * wrote)
    return [
        f"{shape.rows / 1e6:,.0f} M", str(shape.dimension), str(shape.replicas),
        str(shape.workers), str(shape.gateways), f"{asked:,.0f}", reads,
        *(f"{1e3 * query_s(shape, load, constants, q):.1f}" for q in (0.5, 0.99)),
        f"{wrote:,.0f}", writes,
        *(f"{1e3 * write_s(shape, stores, constants, q):.1f}" for q in (0.5, 0.99)),
    ]  # fmt: skip


def _fullest(rates: object) -> tuple[float, str]:
    return min((float(getattr(rates, one)), one) for one in PROCESSES)


def walls(constants: Constants) -> None:
    """Where a single thing is full."""
    rows = []
    for workers, replicas in ((1, 1), (10, 1), (10, 3), (100, 1), (100, 3)):
        shape = Shape(workers, replicas, 100_000_000, gateways=max(1, workers // 2))
        rates = write_rates(shape, constants)
        rows.append([
            str(workers), str(replicas), *(f"{getattr(rates, one):,.0f}" for one in PROCESSES),
            f"{takeover_s(workers, constants):.1f}",
        ])  # fmt: skip
    header = ["workers", "replicas", *(f"{one} full at w/s" for one in PROCESSES), "takeover s"]
    print_table("Small writes a second at which one process takes a core", header, rows)


def tails(constants: Constants) -> None:
    """p99 of the slowest of so many requests, when one in a hundred pauses."""
    rows = [
        [str(n), *(f"{1e3 * slowest_s(n, constants, SERVICE_S, h):.1f}" for h in (False, True))]
        for n in (1, 3, 10, 33, 100)
    ]
    print_table("p99 ms of the slowest answer", ["requests", "one replica", "hedged"], rows)


def plan(constants: Constants) -> None:
    """The worked example: 100 M rows of 768 dimensions, three replicas on 24 workers."""
    rows = []
    for shards in (8, 24):
        shape = Shape(24, 3, 100_000_000, 768, shards=shards, gateways=6)
        reads, writes = query_rates(shape, constants), write_rates(shape, constants)
        asked, full = _fullest(reads)
        rows.append([str(shards), f"{shape.routes:.0f}", f"{asked:,.0f}", full,
                     f"{min(writes.coordinator, writes.gateway, writes.worker):,.0f}"])  # fmt: skip
        for rate in (50, 200, 500):
            load = Load(queries_per_s=rate, writes_per_s=200)
            try:
                p50, p99 = (query_s(shape, load, constants, q) for q in (0.5, 0.99))
                w50, w99 = (write_s(shape, load, constants, q) for q in (0.5, 0.99))
                said = f"{1e3 * p50:.1f} / {1e3 * p99:.1f}, {1e3 * w50:.1f} / {1e3 * w99:.1f}"
            except Saturated:
                said = "saturated"
            cores = use_of(shape, load, constants).cores
            spent = ", ".join(f"{one} {cores[one]:.1f}" for one in PROCESSES)
            rows.append(["", f"{rate} q/s", said, "", spent])
    header = ["shards", "requests", "q/s max", "full", "w/s max; cores at the load"]
    print_table("100 M x 768, 24 workers, 6 gateways", header, rows, frozenset((0, 3, 4)))
    one = bytes_of(Shape(24, 3, 100_000_000, 768), constants)
    built_s = constants.build_row_s * 6 * 3e8
    print(f"a worker: {one.memory / _GIB:.1f} GiB memory, {one.cache / _GIB:.1f} GiB cache, "
          f"{one.disk / _GIB:.0f} GiB disk, {one.disk_peak / _GIB:.0f} at its peak; "
          f"building: {built_s / 3600:.0f} core hours")  # fmt: skip


def ceilings(constants: Constants) -> None:
    """What there is one of, and the size of what it holds."""
    for shards in (100, 1_000, 4_096):
        size = record_bytes(shards, 3, 100, 33, constants)
        many = collections_max(shards, 3, 33, constants)
        print(f"{shards} shards: takeover {takeover_s(shards, constants):.1f} s, broker "
              f"{shards * constants.stream_bytes / _GIB:.2f} GiB for streams, record with 100 "
              f"collections {size / 1e6:.2f} MB, at most {many:,.0f}"
              f" collections; trims take {100 * trim_part(shards, constants):.0f} %")  # fmt: skip
    for workers in (10, 100, 300):
        shape = Shape(workers, 3, 0, gateways=workers // 3)
        units = work.transaction(shape, 1, 1, 1)
        print(f"{workers} workers: idle {idle_cores(shape, constants):.1f} cores, "
              f"{work.messages(work.idle_second(shape)):,.0f} messages/s; beats when written to "
              f"{busy_messages_per_s(shape):,.0f}/s; a lone write {work.messages(units):,.0f}; "
              f"a record {1e3 * fit.cost_of(units, constants.costs, 'coordinator'):.1f} ms of the "
              f"coordinator")  # fmt: skip
    print(f"a worker away for 60 s at 1,000 w/s: {tail_bytes(1_000, 60, constants) / 1e6:.1f} MB")
