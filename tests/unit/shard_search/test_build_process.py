"""A build in its own process: it finishes, fails aloud, or leaves nothing that opens."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.support.sealed import write_rows
from vector_db.common.adapters.posix_disk import PosixDisk
from vector_db.common.model.collection import IndexKind, IndexOptions, Metric
from vector_db.common.model.errors import StorageCorrupt
from vector_db.common.model.rows import F32
from vector_db.shard.building import process as process_module
from vector_db.shard.building.process import BuildFailed, BuildProcess
from vector_db.shard.building.task import BuildTask, drop_rows
from vector_db.shard.index.build import IndexSpec
from vector_db.shard.index.files import INDEX_FILE, META_FILE, temporary_path
from vector_db.shard.index.opening import open_index
from vector_db.shard.storage.sealed import SealedSegment

DIMENSION = 48
NAME = "segments/7-0-1"
NONE: list[int] = []


@pytest.fixture
def disk(tmp_path: Path) -> PosixDisk:
    return PosixDisk(tmp_path)


def vectors_of(rows: int, seed: int = 1) -> F32:
    return np.random.default_rng(seed).normal(size=(rows, DIMENSION)).astype(np.float32)


def task_of(
    metric: Metric, name: str = NAME, merge: tuple[str, ...] = (), ef_construction: int = 128
) -> BuildTask:
    options = IndexOptions(IndexKind.HNSW, ef_construction=ef_construction)
    return BuildTask(name, merge, index=IndexSpec(IndexKind.HNSW, metric, options))


def field_of(pid: int, number: int) -> str:
    """A field of proc(5)'s stat, from the state on: 0 is it, 16 niceness, 17 threads."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[number]


def has_ended(pid: int) -> bool:
    try:
        return field_of(pid, 0) == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_until_ended(pid: int, timeout_s: float = 10) -> bool:
    deadline = time.monotonic() + timeout_s
    while not has_ended(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return has_ended(pid)


def run_until(build: BuildProcess, reached: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not build.poll() and not reached():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_finished_build_opens(disk: PosixDisk) -> None:
    vectors = vectors_of(700)
    segment = write_rows(disk, NAME, vectors)
    build = BuildProcess(disk.root, task_of(Metric.DOT))
    build.wait(timeout_s=60)
    assert build.poll() is True
    build.kill()
    index = open_index(segment.directory, Metric.DOT, 700, DIMENSION, mapped=False)
    _, rows = index.search(vectors[:1], 700, None, 700)
    assert sorted(rows[0].tolist()) == list(range(700))
    assert 170 <= index.meta.calibration.samples <= 175, "a quarter of the rows"


def test_a_build_tells_how_far_it_is_and_runs_niced_with_the_threads_it_is_told(
    disk: PosixDisk,
) -> None:
    # More than can be built before it is told to hurry, and before this process has its turn again.
    write_rows(disk, NAME, vectors_of(100_000))
    build = BuildProcess(disk.root, task_of(Metric.COSINE, ef_construction=16), threads=1)
    try:
        run_until(build, lambda: build.rows_done > 0)
        assert build.rows_done % 1024 == 0
        assert int(field_of(build.pid, 16)) == process_module.NICENESS
        alone = int(field_of(build.pid, 17))
        build.use_threads(2)
        run_until(build, lambda: int(field_of(build.pid, 17)) > alone)
        assert not build.poll()
    finally:
        build.kill()


def test_a_merge_with_its_index_is_one_build(disk: PosixDisk) -> None:
    first, second = vectors_of(600), vectors_of(500, seed=2)
    write_rows(disk, "segments/7-0-1", first, prefix="a")
    write_rows(disk, "segments/7-0-2", second, prefix="b")
    task = task_of(Metric.COSINE, "segments/7-0-3", ("segments/7-0-1", "segments/7-0-2"))
    drop_rows(disk, task.name, [np.array([0, 599]), np.array(NONE)])
    build = BuildProcess(disk.root, task)
    build.wait(timeout_s=60)
    build.kill()
    merged = SealedSegment(disk.root, task.name)
    merged.verify()
    assert np.array_equal(merged.vectors, np.concatenate([first[1:-1], second]))
    assert merged.ids.take([0, 597, 598, 1097]) == [b"a-1", b"a-598", b"b-0", b"b-499"]
    open_index(merged.directory, Metric.COSINE, 1098, DIMENSION, mapped=False)
    files = sorted(path.name for path in merged.directory.iterdir())
    assert files == ["columns.vdb", "index.faiss", "index.json", "vectors.f32"]


def test_a_build_killed_at_any_moment_leaves_nothing_that_opens(disk: PosixDisk) -> None:
    segment = write_rows(disk, NAME, vectors_of(20_000))
    for delay_s in (0.001, 0.3, 0.6, 0.9):
        build = BuildProcess(disk.root, task_of(Metric.COSINE))
        with pytest.raises(TimeoutError):
            build.wait(delay_s)
        assert build.poll() is False
        build.kill()
        assert has_ended(build.pid)
        assert not (segment.directory / META_FILE).exists()
        with pytest.raises(FileNotFoundError):
            open_index(segment.directory, Metric.COSINE, 20_000, DIMENSION, mapped=False)


def test_a_build_that_fails_leaves_the_index_that_was_there(disk: PosixDisk) -> None:
    segment = write_rows(disk, NAME, vectors_of(300))
    BuildProcess(disk.root, task_of(Metric.COSINE)).wait(timeout_s=60)
    temporary_path(segment.directory).mkdir()
    with pytest.raises(BuildFailed):
        BuildProcess(disk.root, task_of(Metric.COSINE)).wait(timeout_s=60)
    open_index(segment.directory, Metric.COSINE, 300, DIMENSION, mapped=False)


def test_a_new_index_file_is_not_taken_for_the_one_that_was_described(disk: PosixDisk) -> None:
    segment = write_rows(disk, NAME, vectors_of(300))
    BuildProcess(disk.root, task_of(Metric.COSINE)).wait(timeout_s=60)
    described = (segment.directory / META_FILE).read_bytes()
    write_rows(disk, NAME, vectors_of(300, seed=2))
    BuildProcess(disk.root, task_of(Metric.COSINE)).wait(timeout_s=60)
    (segment.directory / META_FILE).write_bytes(described)
    with pytest.raises(StorageCorrupt, match=INDEX_FILE):
        open_index(segment.directory, Metric.COSINE, 300, DIMENSION, mapped=False)


def test_a_failed_build_says_why(disk: PosixDisk) -> None:
    segment = write_rows(disk, NAME, vectors_of(10))
    os.truncate(segment.directory / "vectors.f32", 10)
    build = BuildProcess(disk.root, task_of(Metric.COSINE))
    with pytest.raises(BuildFailed, match=r"ended with 1: .*vectors\.f32"):
        build.wait(timeout_s=60)
    with pytest.raises(BuildFailed):
        build.poll()
    build.kill()


def test_a_build_dies_with_who_asked_for_it(disk: PosixDisk) -> None:
    segment = write_rows(disk, NAME, vectors_of(200_000))
    code = f"""
import time
from collections.abc import Callable
from pathlib import Path
import msgspec
from vector_db.shard.building.process import BuildProcess
from vector_db.shard.building.task import BuildTask
task = msgspec.json.decode({msgspec.json.encode(task_of(Metric.COSINE))!r}, type=BuildTask)
build = BuildProcess(Path({str(disk.root)!r}), task)
print(build.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not has_ended(pid)
        parent.kill()
    assert wait_until_ended(pid)
    assert not (segment.directory / META_FILE).exists()


def test_a_build_beside_a_worker_that_is_asked_rests_most_of_the_time(disk: PosixDisk) -> None:
    assert process_module.rest_s(0.2) == pytest.approx(0.8)
    assert process_module.rest_s(60.0) == 2.0
    write_rows(disk, NAME, vectors_of(30_000))
    build = BuildProcess(disk.root, task_of(Metric.COSINE, ef_construction=16), threads=0)
    try:
        run_until(build, lambda: build.rows_done > 2048)
        ticks, since = int(field_of(build.pid, 11)), time.monotonic()
        run_until(build, lambda: time.monotonic() - since > 2)
        used_s = (int(field_of(build.pid, 11)) - ticks) / os.sysconf("SC_CLK_TCK")
        assert used_s < 0.6 * (time.monotonic() - since)
    finally:
        build.kill()
