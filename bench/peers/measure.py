"""What every row of the comparison holds, and how it is taken from a peer's driver.

Owns the rule of equal recall: each peer gets the least effort that reaches it on tuning queries,
and is measured on others; where none does, the row says what was reached.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import venvs
from bench.common import F32, OUT, BenchError
from bench.generate import SELECTIVITIES, QueryStream, RowSet, nearest, recall
from bench.memory import Memory, bytes_on_disk
from bench.peers.catalog import EFFORTS, Peer
from bench.peers.process import DriverProcess

K = 10
RECALL_MIN = 0.95
CLIENTS = 16
WRITERS = 8
BATCH_ROWS = 1_000
TUNING_QUERIES = 200
SINGLE_QUERIES = 400
RATE_QUERIES = 20_000
RATE_S = 5.0


@dataclass(slots=True)
class Row:
    """One line of the table; None where it was not measured. `failed` says why."""

    name: str
    served: str
    durability: str
    insert_rows_per_s: float | None = None
    insert_at_once_rows_per_s: float | None = None
    build_s: float | None = None
    effort: int | None = None
    recall: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    queries_per_s: float | None = None
    filtered_recall: float | None = None
    filtered_p50_ms: float | None = None
    disk_bytes_a_row: float | None = None
    resident_bytes_a_row: float | None = None
    curve: list[tuple[float, float]] = field(default_factory=list)
    failed: str = ""

    def figures(self) -> dict[str, Any]:
        """For the JSON file."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Questions:
    """Queries and their true neighbours, the same for every peer, as arrays and as files."""

    tuning: F32
    tuning_truth: NDArray[np.int64]
    asked: F32
    truth: NDArray[np.int64]
    filtered_truth: NDArray[np.int64]
    many: F32

    @classmethod
    def of(cls, rowset: RowSet, seed_stream: QueryStream) -> Questions:
        """Drawn from the stream; filtered ones match 1 % of the rows."""
        tuning, asked = seed_stream.take(TUNING_QUERIES), seed_stream.take(SINGLE_QUERIES)
        return cls(
            tuning,
            nearest(rowset.rows, tuning, K),
            asked,
            nearest(rowset.rows, asked, K),
            nearest(rowset.rows, asked, K, SELECTIVITIES["percent"]),
            seed_stream.take(RATE_QUERIES),
        )


def measure(peer: Peer, rowset: RowSet, questions: Questions, budget_s: float) -> Row:
    """One peer on one set; a failure is a row with its reason and what was found before it."""
    row = Row(peer.name, peer.served, peer.durability)
    OUT.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix=f"peer-{peer.driver}-", dir=OUT))
    try:
        python = Path(sys.executable)
        if peer.requirements:
            python = venvs.python_of(peer.driver, peer.requirements)
        with DriverProcess(python, peer.driver, directory, budget_s) as driver:
            idle = _fill(row, driver, directory, rowset)
            if not peer.stores:
                row.insert_rows_per_s = None
            _query(row, driver, directory, questions)
            # After the queries, which bring in what is mapped.
            row.resident_bytes_a_row = (driver.memory() - idle).resident / len(rowset.rows)
            loaded = driver.call("load_at_once", **_rows(rowset), clients=WRITERS)
            if loaded["seconds"]:
                row.insert_at_once_rows_per_s = len(rowset.rows) / loaded["seconds"]
            driver.call("close")
    except BenchError as error:
        row.failed = str(error)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return row


def _rows(rowset: RowSet) -> dict[str, Any]:
    rows, dimension = rowset.rows.shape
    return {"path": str(rowset.path), "rows": rows, "dimension": dimension, "batch": BATCH_ROWS}


def _fill(row: Row, driver: DriverProcess, directory: Path, rowset: RowSet) -> Memory:
    """Load and build; the memory of the empty peer."""
    rows, dimension = rowset.rows.shape
    data = directory / "data"
    data.mkdir()
    # Other users may run a peer's server: they need to come this far.
    directory.chmod(0o755)
    driver.call("open", directory=str(data), dimension=dimension)
    idle, empty = driver.memory(), bytes_on_disk(data)
    loaded = driver.call("load", **_rows(rowset))
    row.insert_rows_per_s = rows / loaded["seconds"]
    row.build_s = driver.call("build")["seconds"]
    row.disk_bytes_a_row = (bytes_on_disk(data) - empty) / rows
    return idle


def _query(row: Row, driver: DriverProcess, directory: Path, questions: Questions) -> None:
    """Tune, then measure."""
    files = {name: directory / f"{name}.npy" for name in ("tuning", "asked", "many", "found")}
    for name in ("tuning", "asked", "many"):
        np.save(files[name], getattr(questions, name))

    def search(name: str, effort: int, filtered: bool) -> tuple[dict[str, Any], Any]:
        answer = driver.call(
            "search",
            queries=str(files[name]),
            found=str(files["found"]),
            effort=effort,
            filtered=filtered,
        )
        return answer, np.load(files["found"])

    for effort in EFFORTS:
        answer, found = search("tuning", effort, filtered=False)
        reached = recall(found, questions.tuning_truth)
        row.curve.append((reached, 1000 / answer["p50_ms"]))
        row.effort = effort
        if reached >= RECALL_MIN:
            break
    effort = row.effort or EFFORTS[-1]
    answer, found = search("asked", effort, filtered=False)
    row.p50_ms, row.p99_ms = answer["p50_ms"], answer["p99_ms"]
    row.recall = recall(found, questions.truth)
    answer, found = search("asked", effort, filtered=True)
    row.filtered_p50_ms = answer["p50_ms"]
    row.filtered_recall = recall(found, questions.filtered_truth)
    answer = driver.call(
        "rate", queries=str(files["many"]), effort=effort, clients=CLIENTS, seconds=RATE_S
    )
    row.queries_per_s = answer["queries_per_s"]
