"""A build in its own process: it finishes, fails aloud, or leaves nothing that opens."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from vector_db.common.model.collection import Metric
from vector_db.shard.index.builder import BuildFailed, IndexBuild
from vector_db.shard.index.hnsw import INDEX_FILE, META_FILE, HnswIndex

DIMENSION = 48


def write_vectors(directory: Path, rows: int) -> Path:
    path = directory / "vectors.f32"
    np.random.default_rng(1).normal(size=(rows, DIMENSION)).astype("<f4").tofile(path)
    return path


def has_ended(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"


def wait_until_ended(pid: int, timeout_s: float = 10) -> bool:
    deadline = time.monotonic() + timeout_s
    while not has_ended(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return has_ended(pid)


def test_a_finished_build_opens(tmp_path: Path) -> None:
    path = write_vectors(tmp_path, 700)
    build = IndexBuild(path, 700, DIMENSION, Metric.DOT, tmp_path)
    build.wait(timeout_s=60)
    assert build.poll() is True
    build.kill()
    index = HnswIndex.open(tmp_path, Metric.DOT, 700, DIMENSION)
    vectors = np.fromfile(path, dtype="<f4").reshape(700, DIMENSION)
    _, rows = index.search(vectors[:1], 700, None, 700)
    assert sorted(rows[0].tolist()) == list(range(700))


def test_a_build_killed_at_any_moment_leaves_nothing_that_opens(tmp_path: Path) -> None:
    path = write_vectors(tmp_path, 20_000)
    for delay_s in (0.001, 0.3, 0.6, 0.9):
        build = IndexBuild(path, 20_000, DIMENSION, Metric.COSINE, tmp_path)
        with pytest.raises(TimeoutError):
            build.wait(delay_s)
        assert build.poll() is False
        build.kill()
        assert has_ended(build.pid)
        assert not (tmp_path / META_FILE).exists()
        with pytest.raises(FileNotFoundError):
            HnswIndex.open(tmp_path, Metric.COSINE, 20_000, DIMENSION)


def test_a_build_in_place_of_an_index_unmakes_it_first(tmp_path: Path) -> None:
    path = write_vectors(tmp_path, 300)
    IndexBuild(path, 300, DIMENSION, Metric.COSINE, tmp_path).wait(timeout_s=60)
    (tmp_path / f".{INDEX_FILE}.tmp").mkdir()
    with pytest.raises(BuildFailed):
        IndexBuild(path, 300, DIMENSION, Metric.COSINE, tmp_path).wait(timeout_s=60)
    with pytest.raises(FileNotFoundError):
        HnswIndex.open(tmp_path, Metric.COSINE, 300, DIMENSION)


def test_a_failed_build_says_why(tmp_path: Path) -> None:
    path = write_vectors(tmp_path, 10)
    build = IndexBuild(path, 1000, DIMENSION, Metric.COSINE, tmp_path)
    with pytest.raises(BuildFailed, match=r"ended with 1: .*mmap"):
        build.wait(timeout_s=60)
    with pytest.raises(BuildFailed):
        build.poll()
    build.kill()


def test_a_build_dies_with_who_asked_for_it(tmp_path: Path) -> None:
    write_vectors(tmp_path, 200_000)
    code = f"""
import time
from pathlib import Path
from vector_db.common.model.collection import Metric
from vector_db.shard.index.builder import IndexBuild
here = Path({str(tmp_path)!r})
build = IndexBuild(here / "vectors.f32", 200_000, {DIMENSION}, Metric.COSINE, here)
print(build.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not has_ended(pid)
        parent.kill()
    assert wait_until_ended(pid)
    assert not (tmp_path / META_FILE).exists()
