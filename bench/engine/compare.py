"""Engine and raw FAISS in turn in one process, so that a noisy machine is noisy to both.

Ratios are of neighbouring rounds, and their median is what is told.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.common import F32, percentile
from bench.engine import inprocess
from bench.engine.inprocess import Engine
from bench.engine.raw import EFS, K, Raw, least_ef
from bench.engine.report import Aim, Findings
from bench.engine.rest import Latency
from bench.generate import SELECTIVITIES, QueryStream, RowSet, nearest, recall
from vector_db.common.model.filters import parse_filter
from vector_db.common.model.limits import Limits

RECALL_MIN = 0.95
BATCH_QUERIES = 64
ROUNDS = 7
TRUTH_QUERIES = 500
CURVE_EFS = tuple(ef for ef in EFS if 16 <= ef <= 256)


@dataclass(slots=True)
class Round:
    """Figures of one side, a value or list a round."""

    p50_s: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)


def compare(
    findings: Findings,
    engine: Engine,
    small: Engine,
    raw: Raw,
    rowset: RowSet,
    stream: QueryStream,
    with_ef: bool,
    queries_per_round: int,
) -> None:
    """All figures of the in-process part.

    :param small: a collection of fewer rows of the same set.
    :param with_ef: this version of the product obeys a query's `ef`.
    """
    asked = stream.take(TRUTH_QUERIES)
    truth = nearest(rowset.rows, asked, K)
    reached = recall(engine.found(asked), truth)
    note = f"default effort, {engine.segments()} segments"
    findings.add("in process: recall@10", reached, "{:.4f}", Aim(RECALL_MIN), note)
    search: Callable[[F32], Any] = engine.search
    caveat = ""
    if reached < RECALL_MIN and with_ef:
        ef = least_ef(lambda queries, ef: engine.found(queries, ef=ef), asked, truth, RECALL_MIN)
        search = partial(engine.search, ef=ef)
        reached = recall(engine.found(asked, ef=ef), truth)
        note = "what follows uses it"
        findings.add(f"in process: recall@10 with ef {ef}", reached, "{:.4f}", note=note)
    if reached < RECALL_MIN:
        caveat = f"; NOT at equal recall: the engine's is {reached:.4f}"
    for label, target in (("≥ 0.95", RECALL_MIN), ("the engine's", max(RECALL_MIN, reached))):
        ef = least_ef(raw.search, asked, truth, target)
        note = f"ef {ef}, recall {recall(raw.search(asked, ef), truth):.4f}"
        search_raw = partial(raw.search, ef=ef)
        sides = measured(search, search_raw, stream, queries_per_round)
        tell(findings, sides, label, note, caveat)
    scaling(findings, engine, small, stream, queries_per_round)
    filtered(findings, engine, rowset, stream)
    curves(findings, engine, raw, asked, truth, with_ef)


Sides = tuple[Round, Round]
"""The engine's, and raw FAISS's."""


def measured(
    search: Callable[[F32], Any], search_raw: Callable[[F32], Any], stream: QueryStream, count: int
) -> Sides:
    """Single queries on one thread and batches on all, in turn."""
    ours, theirs = Round(), Round()
    threads = len(os.sched_getaffinity(0))
    with inprocess.pool(threads) as pool:
        for number in range(ROUNDS + 1):
            singles = stream.take(count)
            batches = [stream.take(BATCH_QUERIES) for _ in range(4 * threads)]
            sides = [(ours, search), (theirs, search_raw)]
            for side, one in sides if number % 2 else reversed(sides):
                seconds = timed(one, singles)
                started = time.perf_counter()
                inprocess.run_batches(pool, one, batches)
                wall_s = time.perf_counter() - started
                if number > 0:  # round 0 warms up
                    side.p50_s.append(percentile(seconds, 50))
                    side.seconds += seconds
                    side.rates.append(len(batches) * BATCH_QUERIES / wall_s)
    return ours, theirs


def tell(findings: Findings, sides: Sides, label: str, note: str, caveat: str) -> None:
    """The figures of both sides, and their ratios."""
    ours, theirs = sides
    engine_ms, raw_ms = Latency.of(ours.seconds), Latency.of(theirs.seconds)
    batch = f"batches of {BATCH_QUERIES} on {len(os.sched_getaffinity(0))} threads"
    if label.startswith("≥"):
        findings.add("in process: p50 ms, one thread", engine_ms.p50_ms, "{:.3f}")
        findings.add("in process: p99 ms, one thread", engine_ms.p99_ms, "{:.3f}")
        findings.add(f"in process: q/s, {batch}", float(np.median(ours.rates)), "{:,.0f}")
    with_recall = f"raw FAISS at recall {label}"
    findings.add(f"{with_recall}: p50 ms", raw_ms.p50_ms, "{:.3f}", note=note)
    findings.add(f"{with_recall}: p99 ms", raw_ms.p99_ms, "{:.3f}")
    findings.add(f"{with_recall}: q/s, {batch}", float(np.median(theirs.rates)), "{:,.0f}")
    slower = float(np.median(np.array(ours.p50_s) / np.array(theirs.p50_s)))
    faster = float(np.median(np.array(ours.rates) / np.array(theirs.rates)))
    ratio = f"engine ÷ {with_recall}"
    findings.add(f"{ratio}: p50", slower, "{:.2f}", note=f"lower is better{caveat}")
    findings.add(f"{ratio}: batch q/s", faster, "{:.2f}", note=f"higher is better{caveat}")


def timed(search: Callable[[F32], Any], queries: F32) -> list[float]:
    """Seconds of each single query."""
    seconds = []
    for i in range(len(queries)):
        started = time.perf_counter()
        search(queries[i : i + 1])
        seconds.append(time.perf_counter() - started)
    return seconds


def scaling(
    findings: Findings, engine: Engine, small: Engine, stream: QueryStream, count: int
) -> None:
    """Single queries of the large and of the small collection, in turn."""
    ratios = []
    for _ in range(ROUNDS):
        block = stream.take(count)
        few = percentile(timed(small.search, block), 50)
        ratios.append(percentile(timed(engine.search, block), 50) / few)
    name = "in process: p50, large collection ÷ small"
    findings.add(name, float(np.median(ratios)), "{:.2f}")


def filtered(findings: Findings, engine: Engine, rowset: RowSet, stream: QueryStream) -> None:
    """Single queries under filters that match exactly known shares of the rows."""
    for name, step in SELECTIVITIES.items():
        asked = stream.take(TRUTH_QUERIES // 2)
        wanted = parse_filter({name: 0}, Limits())
        title = f"in process: filter that matches {100 / step:g} %"
        if len(rowset.rows) < K * step:
            findings.skip(title, f"fewer than {K} of {len(rowset.rows):,} rows match")
            continue
        engine.search(asked[:1], wanted)  # the filter's columns are made at the first use
        seconds = timed(partial(engine.search, filter=wanted), asked)
        reached = recall(engine.found(asked, wanted), nearest(rowset.rows, asked, K, step))
        findings.add(f"{title}: recall@10", reached, "{:.4f}", Aim(RECALL_MIN))
        findings.add(f"{title}: p50 ms", Latency.of(seconds).p50_ms, "{:.3f}")


def curves(
    findings: Findings,
    engine: Engine,
    raw: Raw,
    asked: F32,
    truth: NDArray[np.int64],
    with_ef: bool,
) -> None:
    """Recall and rate over the beam, for the picture."""
    lines: dict[str, list[tuple[float, float]]] = {"engine, default": [], "raw FAISS": []}
    if with_ef:
        lines["engine, ef of the query"] = []

    def point(line: str, search: Callable[[F32], Any], found: NDArray[np.int64]) -> None:
        rate = 1 / percentile(timed(search, asked), 50)
        lines[line].append((recall(found, truth), rate))

    point("engine, default", engine.search, engine.found(asked))
    for ef in CURVE_EFS:
        point("raw FAISS", partial(raw.search, ef=ef), raw.search(asked, ef))
        if with_ef:
            search = partial(engine.search, ef=ef)
            point("engine, ef of the query", search, engine.found(asked, ef=ef))
    if not with_ef:
        findings.skip("curve of the engine over ef", "queries take no ef in this version")
    findings.curves = lines
