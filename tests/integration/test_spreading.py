"""A collection is spread over more and over fewer shards by real processes under load: no client
sees it, and every snapshot shows exactly the rows that were acknowledged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.meshes import Mesh, running_mesh
from tests.support.spread_load import Clients, spread
from vector_db_client import VectorDatabaseClient

STILL = 1500
"""Rows that nobody writes while they are copied."""


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path, shards=2, gateways=2, VECTOR_DB_SHARD_COUNT="8") as mesh:
        yield mesh


def test_a_collection_is_spread_over_more_and_fewer_shards_and_no_client_sees_it(
    mesh: Mesh,
) -> None:
    urls = [gateway.url for gateway in mesh.gateways]
    with VectorDatabaseClient(urls) as client:
        client.create_collection("c", 2, "euclidean", shards=2)
        clients = Clients(urls, STILL)
        clients.fill(client)
        with clients:
            clients.wait_for_more(100)
            for shards in (5, 1):
                spread(client, shards)
                clients.wait_for_more(100)
        clients.check(client)
        assert clients.committed > clients.conflicts, clients.conflicts


def test_the_number_that_a_collection_has_gives_up_another_one(mesh: Mesh) -> None:
    with VectorDatabaseClient(mesh.gateway.url) as client:
        client.create_collection("c", 2, shards=2)
        for start in range(0, 6000, 1000):
            ids = [f"r{start + i}" for i in range(1000)]
            client.insert_vectors(ids, [[1.0, 0.5]] * 1000, collection="c")
        client.update_collection("c", shards=4)
        given_up = client.update_collection("c", shards=2)
        assert (given_up.shards, given_up.spreading_shards) == (2, None)
        client.insert_vectors(["x"], [[1.0, 0.5]], collection="c")
        assert client.count(collection="c").count == 6001
        spread(client, 3)
        assert client.count(collection="c").count == 6001
