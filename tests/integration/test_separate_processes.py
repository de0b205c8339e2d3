"""Gateway, coordinator and two shard workers as four processes over a real nats-server."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from tests.support.meshes import Mesh, running_mesh


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """Each test has collections of its own in it, and leaves everyone running."""
    with running_mesh(tmp_path_factory.mktemp("mesh")) as mesh:
        yield mesh


def test_quick_start_and_a_collection_over_two_workers(mesh: Mesh) -> None:
    gateway = mesh.gateway
    inserted = gateway.call(
        "/vectors",
        {
            "vectors": [
                {"id": "vec1", "dimensions": [0.1, 0.2, 0.3, 0.4]},
                {"id": "vec2", "dimensions": [0.4, 0.3, 0.2, 0.1]},
            ]
        },
    )
    assert inserted["count"] == 2
    answer = gateway.call("/query", {"vector": [0.1, 0.2, 0.3, 0.4], "k": 10})
    assert [hit["id"] for hit in answer["vectors"]] == ["vec1", "vec2"]
    assert answer["snapshot_ts"] >= inserted["commit_ts"]

    gateway.call("/v1/collections", {"name": "wide", "dimension": 16, "metric": "dot"})
    rng = np.random.default_rng(7)
    vectors = rng.normal(size=(500, 16)).astype(np.float32)
    rows = [{"id": f"r{i}", "dimensions": v.tolist()} for i, v in enumerate(vectors)]
    gateway.call("/v1/collections/wide/vectors", {"vectors": rows})
    cluster = gateway.call("/v1/cluster")
    assert gateway.call("/v1/collections/wide")["shards"] == 2
    placed = {w for replicas in cluster["shards"].values() for w in replicas}
    assert len(placed) == 2, "both workers hold a shard"
    for worker in cluster["workers"]:
        assert worker["ready"]

    query = rng.normal(size=16).astype(np.float32)
    best = np.argsort(-(vectors @ query), kind="stable")[:10]
    answer = gateway.call(
        "/v1/collections/wide/query",
        {"vector": query.tolist(), "k": 10, "include": ["metadata", "dimensions"]},
    )
    assert [hit["id"] for hit in answer["vectors"]] == [f"r{i}" for i in best]
    assert np.array_equal(np.float32(answer["vectors"][0]["dimensions"]), vectors[best[0]])
    assert gateway.call("/v1/collections/wide/count", {})["count"] == 500


def test_a_killed_worker_coordinator_and_gateway_come_back_with_everything(mesh: Mesh) -> None:
    gateway = mesh.gateway
    gateway.call("/v1/collections", {"name": "c", "dimension": 4, "metric": "cosine"})
    rows = [{"id": f"r{i}", "dimensions": [1.0, float(i), 2.0, 3.0]} for i in range(200)]
    token = gateway.call("/v1/collections/c/vectors", {"vectors": rows})["commit_ts"]
    for victim in [mesh.shards[0], mesh.coordinator, gateway, mesh.shards[1]]:
        victim.kill()
        victim.start()
        count = gateway.call("/v1/collections/c/count", {"consistency": {"at_least": token}})
        assert count["count"] == len(rows)
        rows.append({"id": f"after-{len(rows)}", "dimensions": [4.0, 3.0, 2.0, 1.0]})
        written = gateway.call("/v1/collections/c/vectors", {"vectors": rows[-1:]})
        assert written["commit_ts"] > token
        token = written["commit_ts"]
