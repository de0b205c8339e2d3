"""Batches near the limits: what is allowed is taken, in one piece, whatever shape its rows have."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pytest

from tests.support.processes import Service


@pytest.fixture
def path(server: Service) -> Iterator[str]:
    """The path of a collection of dimension 128, dropped afterwards."""
    name = f"large-{uuid.uuid4().hex}"
    server.call("/v1/collections", {"name": name, "dimension": 128, "metric": "dot"})
    yield f"/v1/collections/{name}"
    server.call(f"/v1/collections/{name}", method="DELETE")


def arrow(metadata: Sequence[str | None]) -> bytes:
    """One row for each of `metadata` as an Arrow stream."""
    n = len(metadata)
    vectors = np.random.default_rng(n).normal(size=(n, 128)).astype(np.float32)
    batch = pa.record_batch(
        {
            "id": pa.array([f"row-{i:06d}" for i in range(n)]),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), 128),
            "metadata": pa.array(metadata, type=pa.string()),
        }
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def test_ninety_thousand_rows_in_one_batch_are_written_and_deleted_by_filter(
    server: Service, path: str
) -> None:
    body = arrow([f'{{"n":{i},"half":{i % 2}}}' for i in range(90_000)])
    written = server.call(f"{path}/vectors", body)
    assert written["count"] == 90_000
    token = {"at_least": written["commit_ts"]}
    assert server.call(f"{path}/count", {"consistency": token})["count"] == 90_000
    deleted = server.call(f"{path}/vectors/delete", {"filter": {"half": 1}})
    assert deleted["count"] == 45_000
    assert server.call(f"{path}/count", {})["count"] == 45_000


def test_a_few_heavy_rows_among_many_light_ones_are_written(server: Service, path: str) -> None:
    heavy = '{"text":"' + "x" * 60_000 + '"}'
    body = arrow([heavy] * 200 + [None] * 40_000)
    assert server.call(f"{path}/vectors", body)["count"] == 40_200
    row = server.call(f"{path}/vectors/row-000199?include=metadata")
    assert len(row["metadata"]["text"]) == 60_000
