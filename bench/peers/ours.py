"""The product on the same rows: as a server over REST, and its engine in process."""

from __future__ import annotations

import time
from functools import partial

import uvloop

from bench.common import (
    BenchError,
    HttpConnection,
    ServerProcess,
    first_of,
    percentile,
)
from bench.engine import inprocess, load, rest
from bench.engine.compare import timed
from bench.generate import RowSet, recall
from bench.memory import bytes_on_disk, memory_below
from bench.peers.measure import CLIENTS, RATE_QUERIES, WRITERS, Questions, Row
from vector_db.common.model.filters import parse_filter
from vector_db.common.model.limits import Limits

COLLECTION = "bench"
AT_ONCE = "at_once"
FILTER = {"percent": 0}
DURABILITY = "fsync per commit (group commit)"


def measure(rowset: RowSet, questions: Questions, budget_s: float) -> list[Row]:
    """Two rows: over REST, and in process on what the stopped server left."""
    served = Row("vector-db, REST", "HTTP", DURABILITY)
    direct = Row("vector-db, engine", "in process", "as above: the rows of the server")
    try:
        with ServerProcess() as server:
            uvloop.run(_over_rest(served, server, rowset, questions, budget_s))
            server.stop()
            with inprocess.Opened(server.data_dir) as opened:
                _in_process(direct, opened.engine(COLLECTION), questions)
    except* BenchError as errors:
        reason = str(first_of(errors))
        for row in (served, direct):
            if row.queries_per_s is None:
                row.failed = reason
    return [served, direct]


async def _over_rest(
    row: Row, server: ServerProcess, rowset: RowSet, questions: Questions, budget_s: float
) -> None:
    rows, dimension = rowset.rows.shape
    connections = [await HttpConnection.open(server.http_port) for _ in range(CLIENTS)]
    first = connections[0]
    idle = memory_below(server.pid)
    await load.create(first, COLLECTION, dimension, [*FILTER])
    # One batch at a time, as the peers' drivers insert.
    loaded = await load.load(connections, COLLECTION, rowset.rows, in_flight=1)
    row.insert_rows_per_s = rows / loaded.sending_s
    settled = await load.settle(server, first, COLLECTION, budget_s)
    row.build_s = settled.seconds
    # The server closes connections that were idle for a minute.
    for connection in connections:
        connection.close()
    connections = [await HttpConnection.open(server.http_port) for _ in range(CLIENTS)]
    first = connections[0]
    row.disk_bytes_a_row = bytes_on_disk(server.data_dir / "shard") / rows
    await rest.singles(first, COLLECTION, questions.tuning)
    seconds, found = await rest.singles(first, COLLECTION, questions.asked)
    row.recall = recall(found, questions.truth)
    row.p50_ms, row.p99_ms = _milliseconds(seconds)
    await rest.singles(first, COLLECTION, questions.tuning[:10], filter=FILTER)
    seconds, found = await rest.singles(first, COLLECTION, questions.asked, filter=FILTER)
    row.filtered_recall = recall(found, questions.filtered_truth)
    row.filtered_p50_ms = _milliseconds(seconds)[0]
    row.curve.append((row.recall, 1000 / row.p50_ms))
    row.queries_per_s = await rest.rate(connections, COLLECTION, questions.many)
    row.resident_bytes_a_row = (memory_below(server.pid) - idle).resident / rows
    await load.create(first, AT_ONCE, dimension, [*FILTER])
    loaded = await load.load(connections, AT_ONCE, rowset.rows, in_flight=WRITERS)
    row.insert_at_once_rows_per_s = rows / loaded.sending_s
    await load.drop(first, AT_ONCE)


def _in_process(row: Row, engine: inprocess.Engine, questions: Questions) -> None:
    wanted = parse_filter(FILTER, Limits())
    row.recall = recall(engine.found(questions.asked), questions.truth)
    row.p50_ms, row.p99_ms = _milliseconds(timed(engine.search, questions.asked))
    row.filtered_recall = recall(engine.found(questions.asked, wanted), questions.filtered_truth)
    seconds = timed(partial(engine.search, filter=wanted), questions.asked)
    row.filtered_p50_ms = _milliseconds(seconds)[0]
    row.curve.append((row.recall, 1000 / row.p50_ms))
    singles = [questions.many[i : i + 1] for i in range(RATE_QUERIES)]
    with inprocess.pool(CLIENTS) as pool:
        started = time.perf_counter()
        inprocess.run_batches(pool, engine.search, singles)
        row.queries_per_s = len(singles) / (time.perf_counter() - started)


def _milliseconds(seconds: list[float]) -> tuple[float, float]:
    return 1000 * percentile(seconds, 50), 1000 * percentile(seconds, 99)
