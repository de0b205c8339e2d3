"""The compiled loops do what FAISS and NumPy do, refuse to read beyond, and can be missing."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.indexes import build
from vector_db.common.model.collection import Encoding, IndexKind, IndexOptions, Metric
from vector_db.common.model.rows import F32, Blob
from vector_db.common.service.simd import LEVEL_VARIABLE
from vector_db.shard.index import walk
from vector_db.shard.index.opening import open_index
from vector_db.shard.native import MISSING, native, native_level
from vector_db.shard.search import score
from vector_db.shard.search.score import Queries, keys, similarities
from vector_db.shard.storage.payloads import GrowingBytes

pytestmark = pytest.mark.skipif(native is None, reason="no C compiler when this was installed")

ROWS = 3000
ENCODINGS = (Encoding.FLOAT32, Encoding.FLOAT16, Encoding.SQ8)
INVALID = (ValueError, IndexError)


def some_rows(rows: int, dimension: int, seed: int = 1) -> F32:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, dimension)).astype(np.float32)


def unit(vectors: F32) -> F32:
    scaled: F32 = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled


@pytest.mark.parametrize("dimension", [3, 16, 37, 200])
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("metric", [Metric.COSINE, Metric.EUCLIDEAN])
def test_a_walk_finds_what_faiss_finds_at_every_beam_and_under_a_mask(
    metric: Metric,
    encoding: Encoding,
    dimension: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vectors = some_rows(ROWS, dimension)
    built = build(vectors, metric, tmp_path, IndexOptions(IndexKind.HNSW, encoding))
    with monkeypatch.context() as patched:
        patched.setattr(walk, "native", None)
        by_faiss = open_index(tmp_path, metric, ROWS, dimension, mapped=False)
    mapped = open_index(tmp_path, metric, ROWS, dimension, mapped=True)
    queries = unit(some_rows(60, dimension, seed=2))
    live = np.random.default_rng(3).random(ROWS) < 0.2
    for k, beam, mask in ((10, 10, None), (12, 64, None), (12, 200, live), (5, 7, live[:1001])):
        want_scores, want = by_faiss.search(queries, k, mask, beam)
        for index in (built, mapped):
            scores, rows = index.search(queries, k, mask, beam)
            # What is equally far by one sum may not be by another: bytes of three components tie.
            assert np.isclose(scores, want_scores, rtol=1e-4, atol=1e-5).mean() >= 0.99
            assert dimension == 3 or (rows == want).mean() >= 0.99
            if mask is not None:
                assert mask[rows[rows >= 0]].all()


@pytest.mark.parametrize("level", ["NONE", "AVX2"])
def test_every_instruction_set_finds_the_same(level: str, tmp_path: Path) -> None:
    program = (
        "import sys, numpy as np\n"
        "from pathlib import Path\n"
        "from vector_db.common.model.collection import Metric\n"
        "from vector_db.shard.index.opening import open_index\n"
        "from vector_db.shard.native import native_level\n"
        "index = open_index(Path(sys.argv[1]), Metric.COSINE, 3000, 37, mapped=False)\n"
        "queries = np.load(sys.argv[2])\n"
        "np.save(sys.argv[3], index.search(queries, 10, None, 100)[1])\n"
        "print(native_level())"
    )
    queries = unit(some_rows(100, 37, seed=2))
    asked, answered = tmp_path / "queries.npy", tmp_path / "rows.npy"
    np.save(asked, queries)
    for encoding in ENCODINGS:
        directory = tmp_path / encoding
        directory.mkdir()
        index = build(
            some_rows(ROWS, 37), Metric.COSINE, directory, IndexOptions(IndexKind.HNSW, encoding)
        )
        done = subprocess.run(
            [sys.executable, "-c", program, str(directory), str(asked), str(answered)],
            env={**os.environ, LEVEL_VARIABLE: level},
            check=True,
            capture_output=True,
            text=True,
        )
        assert done.stdout.strip() in ("generic", level.lower())
        rows = index.search(queries, 10, None, 100)[1]
        assert (np.load(answered) == rows).mean() >= 0.99


def by_lanes(products: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums of float64[n, d] in the order that `score.h` promises."""
    n, dimension = products.shape
    lanes = np.zeros((n, 8))
    for i in range(dimension):
        lanes[:, i % 8] += products[:, i]
    a, b, c, d, e, f, g, h = lanes.T
    joined: NDArray[np.float64] = ((a + e) + (c + g)) + ((b + f) + (d + h))
    return joined


@pytest.mark.parametrize("dimension", [1, 8, 13, 128])
@pytest.mark.parametrize("metric", list(Metric))
def test_a_similarity_has_the_same_bits_on_every_cpu(metric: Metric, dimension: int) -> None:
    vectors, queries = some_rows(50, dimension), some_rows(3, dimension, seed=2)
    asked, rows = np.arange(150) % 3, np.arange(150) // 3
    got = similarities(Queries(queries, metric), asked, vectors, rows)
    x, q = vectors[rows].astype(np.float64), queries[asked].astype(np.float64)
    if metric is Metric.EUCLIDEAN:
        want = 1 / (1 + np.sqrt(by_lanes((x - q) ** 2)))
    else:
        want = by_lanes(x * q)
    if metric is Metric.COSINE:
        want /= np.sqrt(by_lanes(x * x)) * np.sqrt(by_lanes(q * q))
        want = np.clip(want, -1, 1)
    assert np.array_equal(got, want)


@pytest.mark.parametrize("metric", list(Metric))
def test_without_compiled_loops_the_same_is_scored_and_ranked(
    metric: Metric, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = np.round(some_rows(400, 5))  # many ties
    vectors[:, 0] += 10
    ids = GrowingBytes()
    ids.append(Blob.pack([b"%d" % (i * 7919 % 400) for i in range(400)]))
    rows = np.random.default_rng(5).permutation(400)
    for n, kept in ((400, 10), (400, 0), (60, 100), (12, 10), (1, 1), (0, 0)):
        found = []
        for module in (native, None):
            monkeypatch.setattr(score, "native", module)
            queries = Queries(np.round(some_rows(1, 5, seed=n)) + 1, metric)
            found.append(keys(queries, vectors, rows[:n], kept, ids, 3))
        compiled, plain = found
        assert [key[1:] for key in compiled] == [key[1:] for key in plain]
        assert np.allclose([k[0] for k in compiled], [k[0] for k in plain], rtol=1e-14)
        assert len(compiled) >= min(n, kept or n)


def test_queries_are_prepared_alike_without_compiled_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = some_rows(4, 9)
    vectors[2] = 0
    for metric in Metric:
        compiled = Queries(vectors, metric)
        monkeypatch.setattr(score, "native", None)
        plain = Queries(vectors, metric)
        monkeypatch.undo()
        assert np.allclose(compiled.lengths, plain.lengths, rtol=1e-15)
        assert np.allclose(compiled.seeking, plain.seeking, rtol=1e-7)


def test_many_threads_walk_one_graph_at_once(tmp_path: Path) -> None:
    index = build(some_rows(ROWS, 16), Metric.COSINE, tmp_path)
    queries = unit(some_rows(200, 16, seed=2))
    want = index.search(queries, 10, None, 100)[1]
    with ThreadPoolExecutor(8) as pool:
        for rows in pool.map(lambda _: index.search(queries, 10, None, 100)[1], range(40)):
            assert np.array_equal(rows, want)


def small_graph(**changed: Any) -> Any:
    """Three rows in a line, two links each."""
    assert native is not None
    arguments: dict[str, Any] = {
        "codes": np.array([[0, 1], [1, 1], [2, 1]], dtype=np.float32),
        "encoding": 0,
        "dimension": 2,
        "distance": True,
        "links": np.array([1, -1, 0, 2, 1, -1], dtype=np.int32),
        "offsets": np.array([0, 2, 4, 6], dtype=np.uint64),
        "starts": (0, 2),
        "entry": 0,
        "levels": 1,
        "trained": None,
    }
    return native.Graph(**{**arguments, **changed})


def search(graph: Any, k: int = 3, beam: int = 3, **changed: Any) -> list[int]:
    """The rows nearest to (2, 1), from a graph of two dimensions."""
    queries = changed.get("queries", np.array([[2, 1]], dtype=np.float32))
    closeness = changed.get("closeness", np.empty((1, k), dtype=np.float32))
    rows = changed.get("rows", np.empty((1, k), dtype=np.int64))
    graph.search(queries, k, beam, changed.get("live"), closeness, rows)
    found: list[int] = rows.ravel().tolist()
    return found


def test_a_graph_made_by_hand_is_walked_from_end_to_end() -> None:
    assert search(small_graph()) == [2, 1, 0]
    assert search(small_graph(), live=np.array([0b101], dtype=np.uint8)) == [2, 0, -1]
    assert search(small_graph(), live=np.empty(0, dtype=np.uint8)) == [-1, -1, -1]
    assert search(small_graph(entry=-1)) == [-1, -1, -1]


def test_a_link_to_a_row_that_is_not_there_ends_its_list() -> None:
    assert search(small_graph(links=np.array([1, -1, 0, 7, 1, -1], dtype=np.int32))) == [1, 0, -1]


@pytest.mark.parametrize(
    "changed",
    [
        {"codes": np.zeros((2, 2), dtype=np.float32)},
        {"codes": np.zeros(5, dtype=np.float32)},
        {"encoding": 3},
        {"dimension": 0},
        {"offsets": np.array([0, 2, 4, 7], dtype=np.uint64)},
        {"offsets": np.array([0, 2, 1, 6], dtype=np.uint64)},
        {"starts": (0, 3)},
        {"starts": (0,)},
        {"starts": (0, 2, 3), "levels": 2},
        {"levels": 0},
        {"levels": 65},
        {"entry": 3},
        {"entry": -2},
        {"encoding": 2, "trained": np.zeros(3, dtype=np.float32)},
    ],
)
def test_a_graph_that_would_be_read_beyond_its_arrays_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(INVALID):
        small_graph(**changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"k": 0},
        {"k": 4},
        {"beam": 513},
        {"queries": np.zeros(3, dtype=np.float32)},
        {"rows": np.empty((1, 2), dtype=np.int64)},
        {"closeness": np.empty((2, 3), dtype=np.float32)},
    ],
)
def test_a_search_with_arrays_that_do_not_fit_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(INVALID):
        search(small_graph(), **changed)


@pytest.mark.parametrize(
    ("asked", "rows"), [([0, 2], [0, 1]), ([0, 0], [0, 5]), ([0, -1], [0, 1]), ([0, 0], [-1, 1])]
)
def test_a_pair_of_a_row_or_query_that_is_not_there_is_refused(
    asked: list[int], rows: list[int]
) -> None:
    queries = Queries(some_rows(2, 4), Metric.DOT)
    with pytest.raises(IndexError):
        similarities(queries, np.array(asked), some_rows(5, 4), np.array(rows))


def test_a_hit_without_an_id_is_refused() -> None:
    ids = GrowingBytes()
    ids.append(Blob.pack([b"one", b"two"]))
    queries = Queries(some_rows(1, 4), Metric.DOT)
    assert len(keys(queries, some_rows(5, 4), np.array([0, 1]), 0, ids, 0)) == 2
    with pytest.raises(IndexError):
        keys(queries, some_rows(50, 4), np.array([0, 49]), 0, ids, 0)


def test_the_level_is_told() -> None:
    assert native_level() in ("generic", "avx2", "avx512")
    assert native_level() != MISSING
