"""The process group is killed in the middle of a load: what was acknowledged stays."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.processes import HttpError, Service

DIMENSION = 32
BATCH = 50
ROUNDS = 4
KILL_AFTER_BATCHES = 40


class Load:
    """Writers that remember what was acknowledged, and what was sent without an answer."""

    def __init__(self, server: Service) -> None:
        self._server = server
        self._lock = threading.Lock()
        self.acknowledged: dict[str, bytes] = {}
        self.batches_acknowledged = 0
        self.unknown: list[list[str]] = []
        self.enough = threading.Event()

    def write(self, writer: int, start: int) -> None:
        """Insert batches until the server dies."""
        rng = np.random.default_rng(writer * 1_000_003 + start)
        for batch in range(10_000):
            ids = [f"w{writer}-{start + batch}-{i}" for i in range(BATCH)]
            vectors = rng.normal(size=(BATCH, DIMENSION)).astype(np.float32)
            rows = [{"id": i, "dimensions": v.tolist()} for i, v in zip(ids, vectors, strict=True)]
            try:
                answer = self._server.call(
                    "/v1/collections/c/vectors", {"vectors": rows, "mode": "insert"}
                )
            except (OSError, HttpError):
                with self._lock:
                    self.unknown.append(ids)
                return
            with self._lock:
                if answer["count"] != BATCH:
                    raise AssertionError(answer)
                self.acknowledged |= dict(zip(ids, map(bytes, vectors), strict=True))
                self.batches_acknowledged += 1
                if self.batches_acknowledged >= KILL_AFTER_BATCHES:
                    self.enough.set()


def as_float32(numbers: list[float]) -> bytes:
    """The bits of a vector."""
    return np.array(numbers, dtype=np.float32).tobytes()


def rows_of(server: Service) -> tuple[dict[str, bytes], int]:
    """Every row of the collection, by scrolling, and the snapshot that was read."""
    found: dict[str, bytes] = {}
    cursor: str | None = None
    while True:
        body: dict[str, Any] = {"limit": 5000, "include": ["dimensions"]}
        page = server.call(
            "/v1/collections/c/scroll", body if cursor is None else body | {"cursor": cursor}
        )
        found |= {row["id"]: as_float32(row["dimensions"]) for row in page["vectors"]}
        cursor = page["cursor"]
        if cursor is None:
            return found, int(page["snapshot_ts"])


def test_killed_in_the_middle_of_a_load_nothing_acknowledged_is_lost_and_no_batch_is_torn(
    tmp_path: Path,
) -> None:
    server = Service("all", tmp_path)
    server.start()
    server.call("/v1/collections", {"name": "c", "dimension": DIMENSION, "metric": "euclidean"})
    expected: dict[str, bytes] = {}
    unknown: list[list[str]] = []
    try:
        for round_ in range(ROUNDS):
            load = Load(server)
            with ThreadPoolExecutor(4) as pool:
                writers = [pool.submit(load.write, w, round_ * 100_000) for w in range(4)]
                assert load.enough.wait(60), "the load does not get on"
                server.kill()
                for writer in writers:
                    writer.result()
            expected |= load.acknowledged
            unknown += load.unknown
            server.start()

            found, snapshot_ts = rows_of(server)
            then = {"consistency": {"as_of": snapshot_ts}}
            assert server.call("/v1/collections/c/count", then)["count"] == len(found)
            lost = expected.keys() - found.keys()
            assert not lost, f"{len(lost)} acknowledged rows lost after kill {round_ + 1}"
            assert all(found[i] == v for i, v in expected.items()), "a row came back changed"
            for ids in unknown:
                there = sum(i in found for i in ids)
                assert there in (0, BATCH), f"a batch is torn: {there} of {BATCH} rows"
            others = found.keys() - expected.keys() - {i for ids in unknown for i in ids}
            assert not others, f"{len(others)} rows nobody wrote"
        assert unknown, "every kill hit a quiet moment: the test shows nothing"
    finally:
        server.kill()
