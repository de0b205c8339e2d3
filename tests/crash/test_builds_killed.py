"""Merges and builds killed at any moment, and without room: nothing is lost, and they go on."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.processes import Service
from tests.support.real_rows import RealRows
from tests.support.sealed import write_rows
from tests.support.small_disk import fill, small_disk
from vector_db.common.adapters.posix_disk import PosixDisk
from vector_db.common.model.collection import IndexKind, IndexOptions, Metric
from vector_db.common.model.errors import StorageCorrupt
from vector_db.common.ports import DiskFull
from vector_db.shard.building.process import BuildFailed, BuildProcess
from vector_db.shard.building.task import BuildTask, discard, drop_rows
from vector_db.shard.index.build import IndexSpec
from vector_db.shard.index.files import temporary_path
from vector_db.shard.index.opening import open_index
from vector_db.shard.storage.sealed import SealedSegment

DIMENSION = 16
SOURCES = ("segments/7-0-1", "segments/7-0-2")
PATH = "/v1/collections/entries"
TIMEOUT_S = 60.0


def vectors_of(rows: int, seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).normal(size=(rows, DIMENSION)).astype(np.float32)


def until(reached: Callable[[], bool], what: str, timeout_s: float = TIMEOUT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not reached():
        assert time.monotonic() < deadline, f"not in {timeout_s} s: {what}"
        time.sleep(0.01)


# --- the build process alone --------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> PosixDisk:
    disk = PosixDisk(tmp_path / "data")
    for seed, name in enumerate(SOURCES):
        write_rows(disk, name, vectors_of(6000, seed), prefix=name[-1])
    return disk


def merge_of(disk: PosixDisk, number: int, kind: IndexKind = IndexKind.HNSW) -> BuildTask:
    options = IndexOptions(kind, m=8, ef_construction=40)
    spec = IndexSpec(kind, Metric.COSINE, options)
    task = BuildTask(f"segments/7-0-{number}", SOURCES, index=spec)
    drop_rows(disk, task.name, [np.arange(0, 6000, 3), np.array([], dtype=np.int64)])
    return task


def check_merged(disk: PosixDisk, task: BuildTask) -> None:
    merged = SealedSegment(disk.root, task.name)
    merged.verify()
    assert merged.rows == 10_000
    kept = np.delete(vectors_of(6000, 0), np.arange(0, 6000, 3), axis=0)
    assert np.array_equal(merged.vectors, np.concatenate([kept, vectors_of(6000, 1)]))
    open_index(merged.directory, Metric.COSINE, 10_000, DIMENSION, mapped=False)


def test_a_merge_killed_at_any_moment_leaves_its_sources_and_nothing_or_a_whole_segment(
    disk: PosixDisk,
) -> None:
    chance = random.Random(5)
    before = {name: (disk.root / name).read_bytes() for name in disk.names()}
    ends = set()
    for number in range(3, 13):
        task = merge_of(disk, number)
        build = BuildProcess(disk.root, task)
        try:
            build.wait(chance.uniform(0.15, 0.9))
        except TimeoutError:
            os.kill(build.pid, signal.SIGKILL)
            with contextlib.suppress(BuildFailed):
                build.wait(TIMEOUT_S)
        build.kill()
        assert all((disk.root / name).read_bytes() == data for name, data in before.items())
        try:
            merged = SealedSegment(disk.root, task.name)
        except StorageCorrupt:
            ends.add("no segment")
            continue
        merged.verify()
        assert merged.rows == 10_000
        try:
            open_index(merged.directory, Metric.COSINE, 10_000, DIMENSION, mapped=False)
            ends.add("all of it")
        except FileNotFoundError:
            ends.add("no index")
    assert "no segment" in ends or "no index" in ends
    task = merge_of(disk, 20)
    BuildProcess(disk.root, task).wait(TIMEOUT_S)
    check_merged(disk, task)


def test_a_killed_build_is_told_as_failed(disk: PosixDisk) -> None:
    build = BuildProcess(disk.root, merge_of(disk, 3))
    os.kill(build.pid, signal.SIGKILL)
    with pytest.raises(BuildFailed, match="ended by signal 9"):
        build.wait(TIMEOUT_S)


@pytest.mark.parametrize("kind", [IndexKind.HNSW, IndexKind.IVF_PQ])
def test_a_build_without_room_says_so_leaves_nothing_and_works_once_there_is_some(
    kind: IndexKind, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "small", 8_000_000) as folder:
        disk = PosixDisk(folder)
        for seed, name in enumerate(SOURCES):
            write_rows(disk, name, vectors_of(6000, seed), prefix=name[-1])
        task = merge_of(disk, 3, kind)
        BuildProcess(folder, task).wait(TIMEOUT_S)
        check_merged(disk, task)
        sizes = {path.name: path.stat().st_size for path in (folder / task.name).iterdir()}
        discard(disk, task)
        rows = sizes["vectors.f32"] + sizes["columns.vdb"]
        # Full in the vectors; in the index; and in its last bytes, of which FAISS says nothing.
        for number, room in enumerate((100_000, rows + 50_000, rows + sizes["index.faiss"] - 1000)):
            task = merge_of(disk, 4 + number, kind)
            ballast = fill(folder, room)
            with pytest.raises(DiskFull, match="No space left"):
                BuildProcess(folder, task).wait(TIMEOUT_S)
            ballast.unlink()
            assert not temporary_path(folder / task.name).exists()
            discard(disk, task)
        task = merge_of(disk, 9, kind)
        BuildProcess(folder, task).wait(TIMEOUT_S)
        check_merged(disk, task)


# --- a whole worker -----------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Service]:
    service = Service("all", tmp_path / "server")
    service.start()
    yield service
    service.kill()


def load(server: Service, batch: int, rows: int) -> None:
    ids = [f"{batch}-{n}" for n in range(rows)]
    data = RealRows(ids, vectors_of(rows, batch), [{"n": n} for n in range(rows)])
    for start in range(0, rows, 5000):
        server.call(f"{PATH}/vectors", data.arrow(start, min(start + 5000, rows)), "POST")


def builds(server: Service) -> list[int]:
    """The build processes of the server."""
    assert server.process is not None
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"vector_db.shard.building.process" in command and int(parent) == server.process.pid:
            found.append(int(folder.name))
    return found


def kill_build(server: Service, delay_s: float) -> None:
    """Kill one that is there, or comes, a little after it was seen."""
    until(lambda: bool(builds(server)), "a build")
    time.sleep(delay_s)  # at another moment of its work each time
    for pid in builds(server)[:1]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def stats(server: Service) -> dict[str, Any]:
    return server.call(f"{PATH}/stats")


def is_merging(server: Service) -> bool:
    """Whether a merge is under way. The folders come and go: a walk passes over those gone."""
    return any("dropped.vdb" in files for *_, files in os.walk(server.folder / "data"))


def is_done(server: Service, rows: int, segments: int) -> bool:
    told = stats(server)
    assert told["rows"] == rows, "rows are lost"
    return bool(told["rows_indexed"] == rows and told["segments"] == segments)


def check_rows(server: Service, batches: int, rows: int) -> None:
    """Every row is its own nearest neighbour, and there are as many as were sent."""
    assert server.call(f"{PATH}/count", {})["count"] == batches * rows
    for batch in range(batches):
        vectors = vectors_of(rows, batch)
        for n in (0, 1, rows // 2, rows - 1):
            answer = server.call(f"{PATH}/query", {"vector": vectors[n].tolist(), "k": 1})
            assert answer["vectors"][0]["id"] == f"{batch}-{n}"


def create(server: Service) -> None:
    body = {"name": "entries", "dimension": DIMENSION, "metric": "cosine", "shards": 1}
    server.call("/v1/collections", body)


def test_builds_and_the_worker_are_killed_and_the_work_is_finished(server: Service) -> None:
    rows = 21_000
    create(server)
    load(server, 0, rows)
    for delay_s in (0.0, 0.5):
        kill_build(server, delay_s)
    until(lambda: is_done(server, rows, 1), "the first graph")
    assert "a build was killed" in server.log
    load(server, 1, rows)
    until(lambda: stats(server)["segments"] == 2, "a second segment")
    until(lambda: is_merging(server), "a merge")
    server.kill()
    server.start()
    until(lambda: is_done(server, 2 * rows, 1), "the merge and its graph")
    assert "merged segments" in server.log
    check_rows(server, 2, rows)


def test_a_worker_without_room_waits_loses_nothing_and_goes_on(tmp_path: Path) -> None:
    rows = 21_000
    with small_disk(tmp_path / "small", 160 * 1024 * 1024) as folder:
        server = Service("all", folder)
        try:
            server.start()
            create(server)
            load(server, 0, rows)
            until(lambda: "sealed a segment" in server.log, "a segment")
            ballast = fill(folder, 100_000)
            until(lambda: "disk full" in server.log and "builds wait" in server.log, "a full disk")
            assert stats(server)["rows"] == rows
            check_rows(server, 1, rows)
            ballast.unlink()
            until(lambda: is_done(server, rows, 1), "the graph")
            check_rows(server, 1, rows)
            assert "gave up" not in server.log
        finally:
            server.kill()
