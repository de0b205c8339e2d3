"""Load a large set into the real product, measure it beside raw FAISS, print one table.

First over REST, then the stopped worker's rows in process, then over REST again under load.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path

import numpy as np
import uvloop

from bench import generate
from bench.common import BenchError, HttpConnection, ServerProcess, first_of
from bench.engine import compare, load, pressure, raw, rest
from bench.engine.inprocess import Opened
from bench.engine.report import Aim, Findings
from bench.engine.writer import PacedWriter
from bench.memory import Memory, bytes_on_disk, memory_of

LARGE, SMALL, WARM = "large", "small", "warm"
CLIENTS = (16, 64)
SMALL_SHARE = 10
TRUTH_QUERIES = 500
WARM_QUERIES = 200
WARM_ROWS = 20_000
RETENTION_S = 5
"""Of the second start, so that deleted rows may go while it is measured."""


class Run:
    """One run of the benchmark over one set."""

    def __init__(self, args: argparse.Namespace, server: ServerProcess) -> None:
        self._args = args
        self._server = server
        self._set = generate.prepare(args.rows, args.dimension, args.seed, args.data)
        self._small = self._set.rows[: max(1_000, args.rows // SMALL_SHARE // 1_000 * 1_000)]
        self._stream = generate.QueryStream(self._set.spectrum)
        self._found = Findings()
        self._connections: list[HttpConnection] = []
        self._with_ef = False
        self._small_p50_ms = 0.0

    def measure(self) -> None:
        """Everything in turn, then the table; an error ends it, with what was found till then."""
        rows, dimension = self._set.rows.shape
        try:
            self._measure()
        finally:
            title = f"{rows:,} × {dimension} ({self._set.source}), cosine, top {raw.K}"
            self._found.show(title, self._args)

    def _measure(self) -> None:
        index = raw.build(self._set)
        note = "all cores, maybe in an earlier run"
        self._found.add("raw FAISS: build, s", index.build_s, "{:.1f}", note=note)
        uvloop.run(self._first())
        self._stop()
        with Opened(self._server.data_dir) as opened:
            compare.compare(
                self._found,
                opened.engine(LARGE),
                opened.engine(SMALL),
                index,
                self._set,
                self._stream,
                self._with_ef,
                self._args.queries,
            )
        del index
        started = time.perf_counter()
        self._server.start(VECTOR_DB_RETENTION_S=str(RETENTION_S))
        ready_s = time.perf_counter() - started
        note = "the process, its broker and recovery; warm page cache"
        self._found.add("restart until ready, s", ready_s, "{:.2f}", note=note)
        uvloop.run(self._second(started))

    async def _connect(self) -> None:
        """Open the connections anew: the server closes those that were idle for a minute."""
        for connection in self._connections:
            connection.close()
        port = self._server.http_port
        self._connections = [await HttpConnection.open(port) for _ in range(max(CLIENTS))]

    def _stop(self) -> None:
        started = time.perf_counter()
        self._server.stop()
        self._found.add("orderly stop, s", time.perf_counter() - started, "{:.2f}")

    # --- the first server -------------------------------------------------------------------------

    async def _first(self) -> None:
        await self._connect()
        await self._warm_up()
        idle = memory_of(self._server.pid)
        await self._load()
        await self._connect()
        await self._memory(idle)
        probe = self._stream.take(1)[0]
        self._with_ef = await rest.accepts(self._connections[0], LARGE, probe, "ef", 64)
        await self._singles()
        await self._rates()
        await self._recall_targets()
        await self._filtered()
        await self._connect()
        await self._scaling()

    async def _warm_up(self) -> None:
        """What a server needs once, whatever it holds, is no memory of its rows."""
        first = self._connections[0]
        await load.create(first, WARM, self._set.dimension)
        await load.load(self._connections, WARM, self._set.rows[:WARM_ROWS])
        timeout_s = self._args.settle_timeout_s
        await load.settle(self._server, first, WARM, timeout_s)
        await rest.singles(first, WARM, self._stream.take(WARM_QUERIES))
        await load.drop(first, WARM)

    async def _load(self) -> None:
        found = self._found
        rows, dimension = self._set.rows.shape
        await load.create(self._connections[0], LARGE, dimension)
        loaded = await load.load(self._connections, LARGE, self._set.rows)
        note = f"Arrow, {load.IN_FLIGHT} × {load.BATCH_ROWS:,} rows in flight, durable"
        found.add("load, rows/s", rows / loaded.sending_s, "{:,.0f}", note=note)
        settled = await load.settle(
            self._server, self._connections[0], LARGE, self._args.settle_timeout_s
        )
        note = settled.reason or "all rows are indexed"
        found.add("indexed after the load, s", settled.seconds, "{:.0f}", note=note)
        found.figures["stats"] = settled.stats

    async def _memory(self, idle: Memory) -> None:
        found, rows = self._found, len(self._set.rows)
        stats = await load.statistics(self._connections[0], LARGE)
        for key in ("bytes_predicted", "bytes_resident"):
            if key in stats:
                found.add(f"stats: {key} a row", stats[key] / rows, "{:,.0f}")
            else:
                found.skip(f"stats: {key} a row", "not in the statistics of this version")
        grown = memory_of(self._server.pid) - idle
        heap, files = grown.anonymous / rows, grown.file / rows
        note = f"heap {heap:,.0f}, pages of mapped files {files:,.0f}"
        found.add("resident bytes a row, process", grown.resident / rows, "{:,.0f}", note=note)
        on_disk = bytes_on_disk(self._server.data_dir / "shard")
        found.add("bytes a row on disk", on_disk / rows, "{:,.0f}", note="with the log")

    async def _singles(self) -> None:
        first = self._connections[0]
        await rest.singles(first, LARGE, self._stream.take(WARM_QUERIES))
        seconds, _ = await rest.singles(first, LARGE, self._stream.take(self._args.queries * 4))
        latency = rest.Latency.of(seconds)
        self._found.add("REST: p50 ms, one client", latency.p50_ms, "{:.2f}")
        self._found.add("REST: p99 ms, one client", latency.p99_ms, "{:.2f}")
        asked = self._stream.take(TRUTH_QUERIES)
        _, rows = await rest.singles(first, LARGE, asked)
        reached = generate.recall(rows, generate.nearest(self._set.rows, asked, raw.K))
        self._found.add("REST: recall@10", reached, "{:.4f}", Aim(compare.RECALL_MIN))

    async def _rates(self) -> None:
        for clients in CLIENTS:
            connections = self._connections[:clients]
            rates = [
                await rest.rate(connections, LARGE, self._stream.take(self._args.queries * 4))
                for _ in range(4)
            ][1:]
            self._found.add(f"REST: q/s at {clients} clients", float(np.median(rates)), "{:,.0f}")

    async def _recall_targets(self) -> None:
        first = self._connections[0]
        if not await rest.accepts(first, LARGE, self._stream.take(1)[0], "recall", 0.9):
            self._found.skip("REST: recall targets", "queries take no recall in this version")
            return
        asked = self._stream.take(TRUTH_QUERIES)
        truth = generate.nearest(self._set.rows, asked, raw.K)
        for target in (0.8, 0.9, 0.95, 0.99):
            seconds, rows = await rest.singles(first, LARGE, asked, recall=target)
            note = f"p50 {rest.Latency.of(seconds).p50_ms:.2f} ms"
            reached = generate.recall(rows, truth)
            name = f"REST: recall@10 when asked for {target:g}"
            self._found.add(name, reached, "{:.4f}", Aim(target), note)

    async def _filtered(self) -> None:
        for name, step in generate.SELECTIVITIES.items():
            title = f"REST: filter that matches {100 / step:g} %"
            if len(self._set.rows) < raw.K * step:
                self._found.skip(title, f"fewer than {raw.K} rows match")
                continue
            first, wanted = self._connections[0], {name: 0}
            await rest.singles(first, LARGE, self._stream.take(10), filter=wanted)
            asked = self._stream.take(TRUTH_QUERIES // 2)
            seconds, rows = await rest.singles(first, LARGE, asked, filter=wanted)
            truth = generate.nearest(self._set.rows, asked, raw.K, step)
            reached = generate.recall(rows, truth)
            self._found.add(f"{title}: recall@10", reached, "{:.4f}", Aim(compare.RECALL_MIN))
            latency = rest.Latency.of(seconds)
            self._found.add(f"{title}: p50 ms", latency.p50_ms, "{:.2f}")

    async def _scaling(self) -> None:
        first = self._connections[0]
        await load.create(first, SMALL, self._set.dimension)
        await load.load(self._connections, SMALL, self._small)
        timeout_s = self._args.settle_timeout_s
        settled = await load.settle(self._server, first, SMALL, timeout_s)
        await rest.singles(first, SMALL, self._stream.take(WARM_QUERIES))
        pairs = []
        for _ in range(5):
            block = self._stream.take(self._args.queries)
            small, _ = await rest.singles(first, SMALL, block)
            large, _ = await rest.singles(first, LARGE, block)
            pairs.append((rest.Latency.of(small).p50_ms, rest.Latency.of(large).p50_ms))
        table = np.array(pairs)
        self._small_p50_ms = float(np.median(table[:, 0]))
        note = f"p50 {self._small_p50_ms:.2f} ms at {len(self._small):,} rows"
        if settled.reason:
            note += f"; {settled.reason}"
        ratio = float(np.median(table[:, 1] / table[:, 0]))
        name = f"REST: p50 at {len(self._set.rows):,} ÷ at {len(self._small):,} rows"
        self._found.add(name, ratio, "{:.2f}", note=note)

    # --- the second server ------------------------------------------------------------------------

    async def _second(self, started: float) -> None:
        await self._connect()
        first, wanted = self._connections[0], self._found.figures["stats"]["rows_indexed"]
        while (await load.statistics(first, LARGE))["rows_indexed"] < wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        opened_s = time.perf_counter() - started
        self._found.add("restart until every index is open, s", opened_s, "{:.2f}")
        await self._deleted()
        target = pressure.Target(
            self._server,
            first,
            LARGE,
            self._set.dimension,
            len(self._set.rows),
            self._stream,
            self._args.seconds,
            self._args.settle_timeout_s,
        )
        port, dimension = self._server.http_port, self._set.dimension
        async with PacedWriter(port, LARGE, dimension, self._args.data) as writer:
            writer.begin_at(len(self._set.rows))
            await rest.singles(first, LARGE, self._stream.take(WARM_QUERIES))
            await pressure.under_load(self._found, target, writer)
            await pressure.beside_a_rebuild(self._found, target, writer)
            await pressure.beside_background_work(self._found, target, writer)

    async def _deleted(self) -> None:
        first = self._connections[0]
        removed = await rest.delete_percents(first, SMALL, range(1, 100, 2))
        await rest.singles(first, SMALL, self._stream.take(WARM_QUERIES))
        asked = self._stream.take(TRUTH_QUERIES)
        seconds, rows = await rest.singles(first, SMALL, asked)
        truth = generate.nearest(self._small, asked, raw.K, step=2)
        note = f"{removed:,} of {len(self._small):,} rows deleted"
        reached = generate.recall(rows, truth)
        name = "REST: half of the rows deleted"
        self._found.add(f"{name}: recall@10", reached, "{:.4f}", Aim(compare.RECALL_MIN), note)
        note = f"before: {self._small_p50_ms:.2f}"
        self._found.add(f"{name}: p50 ms", rest.Latency.of(seconds).p50_ms, "{:.2f}", note=note)


def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="a multiple of 1,000")
    parser.add_argument("--dimension", type=int, default=128, help="at most 384, or 768")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--queries", type=int, default=500, help="single queries of a round")
    parser.add_argument("--seconds", type=float, default=10.0, help="of a round under load")
    parser.add_argument("--settle-timeout-s", type=float, default=1_800.0)
    parser.add_argument("--data", type=Path, help="folder with vectors.f16.npy, records.jsonl.gz")
    args = parser.parse_args()
    try:
        with ServerProcess(VECTOR_DB_HOT_TIER_SIZE="100GB") as server:
            Run(args, server).measure()
    except* BenchError as errors:
        sys.exit(f"the benchmark cannot go on: {first_of(errors)}")


if __name__ == "__main__":
    main()
