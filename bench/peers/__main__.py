"""Measure the product and its peers on two sets, print a table for each.

Peers run one after another, each in an environment and a process of its own, bounded in time.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from bench import generate, plot
from bench.common import OUT, BenchError, print_table, save
from bench.peers import ours
from bench.peers.catalog import PEERS
from bench.peers.measure import CLIENTS, RECALL_MIN, WRITERS, K, Questions, Row, measure

SETS = ("40000x384", "400000x128")
BUDGET_S = 480.0
TOTAL_S = 45 * 60.0
"""No peer begins later; the last one has its budget beyond it."""

LEFT = frozenset((0, 1))


def measure_set(
    args: argparse.Namespace, rows: int, dimension: int, deadline: float
) -> tuple[generate.RowSet, list[Row]]:
    """All rows of one table."""
    rowset = generate.prepare(rows, dimension, args.seed, args.data)
    print(f"\n{rows:,} × {dimension} ({rowset.source})", flush=True)
    questions = Questions.of(rowset, generate.QueryStream(rowset.spectrum))
    found: list[Row] = []
    if not args.only or "ours" in args.only:
        for row in ours.measure(rowset, questions, args.budget_s):
            _tell(row)
            found.append(row)
    for peer in PEERS:
        if args.only and peer.driver not in args.only:
            continue
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            row = Row(peer.name, peer.served, peer.durability)
            row.failed = f"skipped: the {TOTAL_S / 60:.0f} minutes of all peers are over"
        else:
            row = measure(peer, rowset, questions, min(args.budget_s, left_s))
        _tell(row)
        found.append(row)
    return rowset, found


def _tell(row: Row) -> None:
    said = row.failed or f"recall {row.recall:.4f}, p50 {row.p50_ms:.2f} ms"
    print(f"  {row.name}: {said}", flush=True)


def show(rowset: generate.RowSet, found: list[Row]) -> None:
    """One table, and below it what the columns do not say."""
    rows, dimension = rowset.rows.shape
    header = [
        "", "reached by", "insert rows/s", f"by {WRITERS}", "build s", f"q/s at {CLIENTS}",
        "p50 ms", "p99 ms",
        f"recall@{K}", "ef", "1 %: p50 ms", "recall", "disk B/row", "resident B/row",
    ]  # fmt: skip
    table = []
    for row in found:
        cells = [
            _text(row.insert_rows_per_s, "{:,.0f}"),
            _text(row.insert_at_once_rows_per_s, "{:,.0f}"),
            _text(row.build_s, "{:.1f}"),
            _text(row.queries_per_s, "{:,.0f}"),
            _text(row.p50_ms, "{:.2f}"),
            _text(row.p99_ms, "{:.2f}"),
            _text(row.recall, "{:.4f}"),
            _text(row.effort, "{}"),
            _text(row.filtered_p50_ms, "{:.2f}"),
            _text(row.filtered_recall, "{:.4f}"),
            _text(row.disk_bytes_a_row, "{:,.0f}"),
            _text(row.resident_bytes_a_row, "{:,.0f}"),
        ]
        table.append([row.name, row.served, *cells])
    print_table(
        f"{rows:,} × {dimension}, cosine, top {K}, aim recall {RECALL_MIN}, HNSW M = 16, "
        "efConstruction = 128",
        header,
        table,
        LEFT,
    )
    print()
    for row in found:
        print(f"{row.name}: {row.durability}{f'; FAILED: {row.failed}' if row.failed else ''}")


def _text(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def main() -> None:
    """Parse the options, measure every set, write `bench/out/peers.json` and the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", nargs="+", default=list(SETS), help="ROWSxDIMENSION")
    parser.add_argument("--only", nargs="+", help="ours, and names of drivers")
    parser.add_argument("--budget-s", type=float, default=BUDGET_S, help="of one peer on one set")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--data", type=Path, help="folder with vectors.f16.npy, records.jsonl.gz")
    args = parser.parse_args()
    deadline = time.monotonic() + TOTAL_S
    result: dict[str, Any] = {}
    try:
        for name in args.sets:
            rows, _, dimension = name.partition("x")
            rowset, found = measure_set(args, int(rows), int(dimension), deadline)
            show(rowset, found)
            result[name] = [row.figures() for row in found]
            lines = {row.name: row.curve for row in found if row.curve}
            if lines:
                figure = {
                    "title": f"{len(rowset.rows):,} × {rowset.dimension}: one client",
                    "x": f"recall@{K}",
                    "y": "queries a second",
                    "log_y": True,
                    "lines": lines,
                }
                print(plot.draw(figure, OUT / f"peers-{name}.png"))
    except BenchError as error:
        sys.exit(f"the benchmark cannot go on: {error}")
    print(f"written: {save('peers', result)}")


if __name__ == "__main__":
    main()
