"""Real rows for tests: sentence embeddings of dictionary entries with their records.

The larger data set beside the repository is used where there is one; otherwise the sample that the
repository holds, grown to the same size with noise that is shaped like the embeddings themselves:
an index is as easy or hard to search on them as on the real ones.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

ROOT = Path(__file__).parents[2]
BESIDE = ROOT.parent / "shared" / "data" / "wordnet"
SAMPLE = ROOT / "examples" / "dictionary"


@dataclass(frozen=True, slots=True)
class RealRows:
    """`vectors` float32[n, d]; `metadata` one JSON object a row; ids are distinct."""

    ids: list[str]
    vectors: NDArray[np.float32]
    metadata: list[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.ids)

    def arrow(self, start: int, stop: int) -> bytes:
        """The rows from `start` to `stop` as an Arrow IPC stream."""
        flat = pa.array(self.vectors[start:stop].reshape(-1))
        batch = pa.record_batch(
            {
                "id": pa.array(self.ids[start:stop]),
                "vector": pa.FixedSizeListArray.from_arrays(flat, self.vectors.shape[1]),
                "metadata": pa.array([orjson.dumps(m).decode() for m in self.metadata[start:stop]]),
            }
        )
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        return bytes(sink.getvalue())


def shaped_noise(
    rows: NDArray[np.float32], count: int, length: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """float32[count, d] Gaussian noise with the covariance of `rows`, about `length` long."""
    centred = rows - rows.mean(axis=0)
    covariance = (centred.T @ centred / len(rows)).astype(np.float64)
    factor = np.linalg.cholesky(covariance + 1e-9 * np.eye(len(covariance)))
    noise = rng.standard_normal((count, rows.shape[1])) @ factor.T
    scale = length / np.sqrt(np.square(noise).sum(axis=1).mean())
    scaled: NDArray[np.float32] = (noise * scale).astype(np.float32)
    return scaled


def load(count: int) -> RealRows:
    """The first `count` rows of the best data set there is."""
    folder = BESIDE if BESIDE.exists() else SAMPLE
    vectors = np.load(folder / "vectors.f16.npy")[:count].astype(np.float32)
    with gzip.open(folder / "records.jsonl.gz", "rb") as lines:
        records = [orjson.loads(line) for line, _ in zip(lines, range(count), strict=False)]
    ids = [record.pop("id") for record in records]
    repeat = 0
    known = len(records)
    while len(ids) < count:
        repeat += 1
        more = min(known, count - len(ids))
        rng = np.random.default_rng(repeat)
        noise = shaped_noise(vectors[:known], more, 0.5, rng)
        vectors = np.concatenate([vectors, vectors[:more] + noise])
        ids += [f"{row_id}~{repeat}" for row_id in ids[:more]]
        records += records[:more]
    return RealRows(ids, vectors, records)
