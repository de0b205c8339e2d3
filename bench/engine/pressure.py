"""Queries over REST while rows are written, and while indexes are built and segments merged.

Idle and loaded rounds alternate; what is told is the median of the ratios of neighbours.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from bench.common import BenchError, HttpConnection, ServerProcess, percentile
from bench.engine import load, rest
from bench.engine.report import Aim, Findings
from bench.engine.writer import PacedWriter
from bench.generate import QueryStream

ROWS_PER_S = 2_000
ROUNDS = 3
SHARE_MIN = 0.8
SLICE_S = 0.25
REBUILT_M = 17
BUSY_SLICES_MIN = 8
QUIET_SLICES_MAX = 40
_TAKE = 256
DELETED = [percent for percent in range(100) if percent % 10 in (1, 3, 5)]
"""Three rows of ten, which leaves something to merge."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where the queries go; `rows` are there at first."""

    server: ServerProcess
    connection: HttpConnection
    collection: str
    dimension: int
    rows: int
    stream: QueryStream
    seconds: float
    settle_timeout_s: float


async def under_load(findings: Findings, target: Target, writer: PacedWriter) -> None:
    """A closed-loop client alone and beside the paced writer."""
    ratios, idle_p99, load_p99, kept = [], [], [], []
    written: list[dict[str, float]] = []
    for _ in range(ROUNDS):
        await writer.prepare(ROWS_PER_S, target.seconds)
        alone = await closed_loop(target, target.seconds)
        await writer.go()
        beside = await closed_loop(target, target.seconds)
        written.append(await writer.finish())
        idle, loaded = rest.Latency.of(alone), rest.Latency.of(beside)
        ratios.append(loaded.p99_ms / idle.p99_ms)
        idle_p99.append(idle.p99_ms)
        load_p99.append(loaded.p99_ms)
        kept.append(len(beside) / len(alone))
    rate = float(np.median([one["rows_per_s"] for one in written]))
    batch_ms = float(np.median([one["p99_ms"] for one in written]))
    note = f"{rate:,.0f} rows/s written, batch p99 {batch_ms:.1f} ms"
    findings.add("REST: p99 ms, idle", float(np.median(idle_p99)), "{:.2f}")
    findings.add("REST: p99 ms, under load", float(np.median(load_p99)), "{:.2f}", note=note)
    findings.add("REST: p99 under load ÷ idle", float(np.median(ratios)), "{:.2f}")
    findings.add("REST: query rate under load ÷ idle", float(np.median(kept)), "{:.2f}")


async def closed_loop(target: Target, seconds: float) -> list[float]:
    """One client for so long: the seconds of each query."""
    found: list[float] = []
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends:
        requests = [rest.request(target.collection, q) for q in target.stream.take(_TAKE)]
        for encoded in requests:
            started = time.perf_counter()
            status, body = await target.connection.request(encoded)
            if status != 200:
                raise BenchError(f"a query: {status} {body[:300]!r}")
            found.append(time.perf_counter() - started)
            if time.perf_counter() >= ends:
                break
    return found


async def beside_a_rebuild(findings: Findings, target: Target, writer: PacedWriter) -> None:
    """Queries and the writer while all indexes are built anew, over rows as they were before."""
    name = "REST: query rate beside a rebuild ÷ without"
    quiet_rate, quiet_ms = await _quiet(target, writer)
    await writer.prepare(ROWS_PER_S, 2 * target.seconds)
    await load.rebuild(target.connection, target.collection, REBUILT_M)
    await writer.go()
    rates, p99 = await _busy_slices(target, 2 * target.seconds)
    written = await writer.finish()
    if len(rates) < BUSY_SLICES_MIN:
        findings.skip(name, f"{len(rates) * SLICE_S:.1f} s of building: too little to measure")
        return
    note = f"{len(rates) * SLICE_S:.1f} s of building; p99 {p99:.2f} ms"
    findings.add(name, float(np.median(rates)) / quiet_rate, "{:.2f}", Aim(SHARE_MIN), note)
    note = f"batch p99 {written['p99_ms']:.1f} ms, without {quiet_ms:.1f}"
    share = written["rows_per_s"] / ROWS_PER_S
    findings.add(
        "REST: write rate beside a rebuild ÷ the pace", share, "{:.2f}", Aim(SHARE_MIN), note
    )


async def beside_background_work(findings: Findings, target: Target, writer: PacedWriter) -> None:
    """Queries and the writer beside index builds and compaction, against both without them."""
    name = "REST: query rate beside background work ÷ without"
    quiet_rate, quiet_ms = await _quiet(target, writer)
    await writer.prepare(ROWS_PER_S, 4 * target.seconds)
    deleted = await rest.delete_percents(target.connection, target.collection, DELETED)
    burst = await _burst(target)
    await writer.go()
    rates, p99 = await _busy_slices(target, 4 * target.seconds)
    busy_writer = await writer.finish()
    after = f"after {deleted:,} deletes and {burst:,} new rows"
    # Deletes and new rows changed the collection: what is quiet before and after counts alike.
    await load.settle(target.server, target.connection, target.collection, target.settle_timeout_s)
    after_rate, after_ms = await _quiet(target, writer)
    quiet_rate, quiet_ms = (quiet_rate + after_rate) / 2, (quiet_ms + after_ms) / 2
    busy_s = len(rates) * SLICE_S
    if len(rates) < BUSY_SLICES_MIN:
        findings.skip(name, f"{busy_s:.1f} s of background work {after}: too little to measure")
        return
    kept = float(np.median(rates)) / quiet_rate
    note = f"{busy_s:.1f} s of background work {after}; p99 {p99:.2f} ms"
    findings.add(name, kept, "{:.2f}", Aim(SHARE_MIN), note)
    note = f"batch p99 {busy_writer['p99_ms']:.1f} ms, without {quiet_ms:.1f}"
    share = busy_writer["rows_per_s"] / ROWS_PER_S
    title = "REST: write rate beside background work ÷ the pace"
    findings.add(title, share, "{:.2f}", Aim(SHARE_MIN), note)


async def _quiet(target: Target, writer: PacedWriter) -> tuple[float, float]:
    """Queries a second beside the writer alone, and the p99 of its batches in ms."""
    await writer.prepare(ROWS_PER_S, target.seconds)
    await writer.go()
    found = await closed_loop(target, target.seconds)
    written = await writer.finish()
    return len(found) / target.seconds, written["p99_ms"]


async def _burst(target: Target) -> int:
    """New rows at full speed, enough for builds to follow."""
    count = min(max(target.rows // 4, 20_000), 131_072)
    rows = np.concatenate([target.stream.take(_TAKE) for _ in range(-(-count // _TAKE))])[:count]
    first = 10 * target.rows + 1_000_000
    port = target.server.http_port
    connections = [await HttpConnection.open(port) for _ in range(load.IN_FLIGHT)]
    await load.load(connections, target.collection, rows, first)
    for connection in connections:
        connection.close()
    return count


async def _busy_slices(target: Target, seconds: float) -> tuple[list[float], float]:
    """Queries a second in each slice in which background work ran from end to end, and the p99
    of their milliseconds."""
    watching = await HttpConnection.open(target.server.http_port)
    rates: list[float] = []
    latencies: list[float] = [0.0]
    quiet = 0
    ends = time.monotonic() + seconds

    async def busy() -> bool:
        stats = await load.statistics(watching, target.collection)
        return load.is_building(target.server, stats)

    before = await busy()
    while time.monotonic() < ends and quiet < QUIET_SLICES_MAX:
        found = await closed_loop(target, SLICE_S)
        after = await busy()
        if before and after:
            rates.append(len(found) / SLICE_S)
            latencies += found
        quiet = 0 if after else quiet + 1
        before = after
    watching.close()
    return rates, 1000 * percentile(latencies, 99)
