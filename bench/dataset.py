"""Rows and queries of the query benchmark: real embeddings, and queries that never repeat."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from bench.common import F32, ROOT, BenchError

BESIDE = ROOT.parent / "shared" / "data" / "wordnet"
SAMPLE = ROOT / "examples" / "dictionary"
ROWS_MAX = 30_000
SAMPLE_NOISE = 0.5
"""Length of the noise, against rows of length 1, by which copies of the small sample differ."""

ID_PREFIX = "row-"
"""Ids are this and the row's number."""

QUERY_NOISE = 0.3
"""Length of the noise, against rows of length 1, by which a query differs from its row."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """`rows` float32[n, d] of length 1; `metadata` JSON text a row; `source` says where from."""

    rows: F32
    metadata: list[str]
    source: str


def load(folder: Path | None) -> Dataset:
    """Up to `ROWS_MAX` rows of `folder`, else of the data beside the repository, else the sample.

    The sample of the repository is repeated with noise until there are `ROWS_MAX` rows.

    :raises BenchError: the folder has no ``vectors.f16.npy`` and ``records.jsonl.gz``.
    """
    chosen = folder or (BESIDE if BESIDE.exists() else SAMPLE)
    try:
        stored = np.load(chosen / "vectors.f16.npy").astype(np.float32)
        with gzip.open(chosen / "records.jsonl.gz", "rt", encoding="utf-8") as lines:
            records = [json.loads(line) for line in lines]
    except OSError as error:
        raise BenchError(f"{chosen}: {error}; give --data") from None
    metadata = [json.dumps({"lemma": r["lemma"], "pos": r["pos"]}) for r in records]
    if chosen != SAMPLE:
        rows = unit(stored[:ROWS_MAX])
        return Dataset(rows, metadata[: len(rows)], str(chosen.name))
    times = -(-ROWS_MAX // len(stored))
    rng = np.random.default_rng(0)
    copies = [stored, *(noisy(unit(stored), SAMPLE_NOISE, rng) for _ in range(times - 1))]
    rows = unit(np.concatenate(copies)[:ROWS_MAX])
    source = f"{SAMPLE.name}, repeated with noise"
    return Dataset(rows, (metadata * times)[:ROWS_MAX], source)


def unit(vectors: F32) -> F32:
    """`vectors` at length 1."""
    lengths: F32 = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors / lengths, dtype=np.float32)


def noisy(vectors: F32, length: float, rng: np.random.Generator) -> F32:
    """`vectors` plus Gaussian noise of about that length."""
    noise = rng.standard_normal(vectors.shape, dtype=np.float32)
    return vectors + noise * np.float32(length / np.sqrt(vectors.shape[1]))


class Queries:
    """A seeded stream of queries, each a random row and fresh noise: none comes twice."""

    def __init__(self, rows: F32, seed: int) -> None:
        self._rows = rows
        self._rng = np.random.default_rng(seed)

    def take(self, count: int) -> F32:
        """float32[count, d] of length 1."""
        picked = self._rng.integers(0, len(self._rows), count)
        return unit(noisy(self._rows[picked], QUERY_NOISE, self._rng))


def arrow_stream(first: int, vectors: F32, metadata: list[str] | None = None) -> bytes:
    """Rows as an Arrow IPC stream; ids are ``row-000000000`` and on from `first`."""
    n, dimension = vectors.shape
    columns = {
        "id": pa.array([f"{ID_PREFIX}{first + i:09d}" for i in range(n)]),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), dimension),
    }
    if metadata is not None:
        columns["metadata"] = pa.array(metadata)
    batch = pa.record_batch(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())
