"""Thirty thousand real rows, loaded by several writers, killed in the middle, searched at the end.

Every answer is compared with what was sent, and every search with an exact one in NumPy.
"""

from __future__ import annotations

import base64
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support import real_rows
from tests.support.processes import HttpError, Service
from tests.support.real_rows import RealRows

ROWS = 30_000
BATCH = 500
WRITERS = 4
KILL_AFTER_BATCHES = 25
QUERIES = 250
K = 10
RECALL_MIN = 0.95
INDEX_TIMEOUT_S = 60.0
PATH = "/v1/collections/entries"


@pytest.fixture(scope="module")
def rows() -> RealRows:
    return real_rows.load(ROWS)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Service]:
    service = Service("all", tmp_path)
    service.start()
    yield service
    service.kill()


class Load:
    """Batches of the rows, sent by several writers; remembers what was acknowledged."""

    def __init__(self, server: Service, rows: RealRows) -> None:
        self._server = server
        self._rows = rows
        self._lock = threading.Lock()
        self.acknowledged: set[int] = set()
        self.unanswered: set[int] = set()
        self.enough = threading.Event()

    def run(self, batches: Sequence[int], kill_after: int = 0) -> None:
        """Send `batches`; kill the server once `kill_after` of them are acknowledged."""
        todo = iter(batches)
        with ThreadPoolExecutor(WRITERS) as pool:
            writers = [pool.submit(self._write, todo) for _ in range(WRITERS)]
            if kill_after:
                assert self.enough.wait(60), "the load does not get on"
                self._server.kill()
            for writer in writers:
                writer.result()

    def _write(self, todo: Iterator[int]) -> None:
        while True:
            with self._lock:
                batch = next(todo, None)
            if batch is None:
                return
            start = batch * BATCH
            try:
                body = self._rows.arrow(start, start + BATCH)
                answer = self._server.call(f"{PATH}/vectors?mode=insert", body)
            except (OSError, HttpError):
                with self._lock:
                    self.unanswered.add(batch)
                return
            with self._lock:
                assert answer["count"] == BATCH
                self.acknowledged.add(batch)
                if len(self.acknowledged) >= KILL_AFTER_BATCHES:
                    self.enough.set()


def scroll(server: Service, include: Sequence[str], **first: Any) -> Iterator[dict[str, Any]]:
    """Every row, page by page; `first` is asked for with the first page."""
    cursor: str | None = None
    while True:
        more = {"cursor": cursor} if cursor else first
        page = server.call(f"{PATH}/scroll", {"limit": 2000, "include": include} | more)
        yield from page["vectors"]
        cursor = page["cursor"]
        if cursor is None:
            return


def count(server: Service, condition: dict[str, Any] | None = None) -> int:
    answer = server.call(f"{PATH}/count", {"filter": condition} if condition else {})
    return int(answer["count"])


def same_bits(numbers: list[float], vector: NDArray[np.float32]) -> bool:
    return np.array(numbers, dtype=np.float32).tobytes() == vector.tobytes()


def wait_indexed(server: Service) -> None:
    """Until every row is in an index."""
    until = time.monotonic() + INDEX_TIMEOUT_S
    while (stats := server.call(f"{PATH}/stats"))["rows_indexed"] < ROWS:
        assert time.monotonic() < until, f"not indexed: {stats}"
        time.sleep(0.1)
    assert stats["rows"] == ROWS


def about_a_tenth(rows: RealRows) -> tuple[dict[str, Any], NDArray[np.bool_]]:
    """A filter that about a tenth of the rows match, and which ones do."""
    chosen: list[int] = []
    matching = 0
    for lexfile, entries in Counter(m["lexfile"] for m in rows.metadata).most_common():
        if matching + entries <= ROWS // 10:
            chosen.append(lexfile)
            matching += entries
    mask = np.array([m["lexfile"] in chosen for m in rows.metadata])
    assert 0.08 < mask.mean() < 0.12
    return {"lexfile": {"$in": chosen}}, mask


def recall(
    server: Service,
    rows: RealRows,
    condition: dict[str, Any] | None = None,
    mask: NDArray[np.bool_] | None = None,
) -> float:
    """recall@K over queries that are no rows; every hit's place, score and row are checked too."""
    rng = np.random.default_rng(7)
    picked = rng.choice(len(rows), QUERIES, replace=False)
    noise = real_rows.shaped_noise(rows.vectors, QUERIES, 0.4, rng)
    queries = rows.vectors[picked] + noise
    body = {
        "vectors": [base64.b64encode(q.astype("<f4").tobytes()).decode() for q in queries],
        "k": K,
        "include": [],
    }
    results = server.call(f"{PATH}/query", body | ({"filter": condition} if condition else {}))
    units = rows.vectors / np.linalg.norm(rows.vectors, axis=1, keepdims=True)
    exact = (queries / np.linalg.norm(queries, axis=1, keepdims=True)) @ units.T
    if mask is not None:
        exact[:, ~mask] = -np.inf
    place = {row_id: i for i, row_id in enumerate(rows.ids)}
    best = np.argpartition(-exact, K, axis=1)[:, :K]
    found = 0
    assert len(results["results"]) == QUERIES
    for similarities, wanted, result in zip(exact, best, results["results"], strict=True):
        hits = [place[hit["id"]] for hit in result["vectors"]]
        scores = [hit["similarity"] for hit in result["vectors"]]
        assert len(set(hits)) == K
        assert scores == sorted(scores, reverse=True)
        assert np.allclose(scores, similarities[hits], atol=1e-5)
        found += len(set(hits) & set(wanted.tolist()))
    return found / (QUERIES * K)


def test_real_rows_survive_a_kill_in_the_middle_of_their_load_and_are_found(
    server: Service, rows: RealRows
) -> None:
    batches = range(ROWS // BATCH)
    server.call(
        "/v1/collections",
        {"name": "entries", "dimension": rows.vectors.shape[1], "metric": "cosine"},
    )
    load = Load(server, rows)
    load.run(batches, kill_after=KILL_AFTER_BATCHES)
    server.start()

    # At one snapshot: what was under way at the kill may be taken up between two reads.
    counted = server.call(f"{PATH}/count", {})
    then = {"as_of": counted["snapshot_ts"]}
    there = {row["id"] for row in scroll(server, [], consistency=then)}
    assert counted["count"] == len(there)
    arrived = Counter(i // BATCH for i, row_id in enumerate(rows.ids) if row_id in there)
    assert sum(arrived.values()) == len(there), "rows that nobody sent"
    assert set(arrived.values()) == {BATCH}, "a batch is torn"
    assert load.acknowledged <= arrived.keys(), "an acknowledged batch is lost"
    assert arrived.keys() <= load.acknowledged | load.unanswered, "a batch that was not sent"
    assert len(arrived) < len(batches), "the load was over before the kill: it shows nothing"

    rest = Load(server, rows)
    rest.run([batch for batch in batches if batch not in arrived])
    assert not rest.unanswered
    agree(server, rows)
    wait_indexed(server)
    condition, mask = about_a_tenth(rows)
    found, found_filtered = recall(server, rows), recall(server, rows, condition, mask)
    assert found >= RECALL_MIN
    assert found_filtered >= RECALL_MIN

    assert server.stop() == 0
    server.start()
    agree(server, rows)
    wait_indexed(server)
    assert recall(server, rows) == pytest.approx(found, abs=0.01)
    assert recall(server, rows, condition, mask) == pytest.approx(found_filtered, abs=0.01)


def agree(server: Service, rows: RealRows) -> None:
    """Count, scroll and fetch give what was sent: vectors bit by bit, metadata, nothing else."""
    condition, mask = about_a_tenth(rows)
    assert count(server) == ROWS
    assert count(server, condition) == int(mask.sum())
    place = {row_id: i for i, row_id in enumerate(rows.ids)}
    order = []
    for row in scroll(server, ["metadata", "dimensions"]):
        i = place[row["id"]]
        order.append(row["id"])
        assert same_bits(row["dimensions"], rows.vectors[i]), row["id"]
        assert row["metadata"] == rows.metadata[i]
    assert order == sorted(rows.ids)

    picked = np.random.default_rng(3).choice(ROWS, 500, replace=False).tolist()
    asked = [rows.ids[i] for i in picked]
    body = {"ids": [*asked, "nobody"], "include": ["metadata", "dimensions"]}
    fetched = server.call(f"{PATH}/vectors/fetch", body)["vectors"]
    assert [row["id"] for row in fetched] == asked
    for i, row in zip(picked, fetched, strict=True):
        assert same_bits(row["dimensions"], rows.vectors[i])
        assert row["metadata"] == rows.metadata[i]
