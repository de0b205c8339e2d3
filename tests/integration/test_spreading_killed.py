"""A collection is spread over other shards under load while those who do it are killed: it ends by
itself, clients that try again see nothing, and every snapshot shows what was acknowledged."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.meshes import Mesh, running_mesh
from tests.support.processes import Service
from tests.support.spread_load import Clients, wait_spread
from vector_db_client import VectorDatabaseClient

STILL = 3000
"""Rows that nobody writes; the last ones that a pass comes to."""
BEGUN = 500
"""A copy that has brought so many rows is in the middle."""
LAST_PAGES = 300
"""So many rows before the end the switch is a page or two away; with all of them it is due."""
COPY_S_MAX = 40.0
"""A page that died with its gateway is asked of another one after 15 s."""


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(
        tmp_path, shards=2, gateways=2, coordinators=2, VECTOR_DB_SHARD_COUNT="8"
    ) as mesh:
        yield mesh


class Spreading:
    """One spreading over `shards`, from the request on."""

    def __init__(
        self, mesh: Mesh, clients: Clients, client: VectorDatabaseClient, shards: int
    ) -> None:
        self._mesh, self._clients = mesh, clients
        self._client, self._shards = client, shards
        self._copied = self._counted()
        asked = client.update_collection("c", shards=shards)
        assert asked.spreading_shards == shards

    def _counted(self) -> dict[Service, float]:
        """Rows that each coordinator has seen copied since it was started."""
        running = [c for c in self._mesh.coordinators if c.process is not None]
        return {c: c.metrics()["vector_db_coordinator_rows_copied_total"] for c in running}

    def wait_copied(self, rows: int) -> Service:
        """Until one coordinator has seen so many rows copied: that one."""
        until = time.monotonic() + COPY_S_MAX
        while True:
            counted = self._counted()
            for coordinator, copied in counted.items():
                if copied >= self._copied[coordinator] + rows:
                    return coordinator
            assert self._clients.errors == []
            assert time.monotonic() < until, (self._copied, counted)

    def check_in_the_middle(self) -> None:
        """It is not over yet."""
        assert self._client.get_collection("c").spreading_shards == self._shards

    def wait_over(self) -> None:
        """Until the collection has these shards, and is written to."""
        wait_spread(self._client, self._shards)
        self._clients.wait_for_more(50)
        assert self._clients.errors == []


def test_whoever_is_killed_while_a_collection_is_spread_it_ends_and_shows_every_row_once(
    mesh: Mesh,
) -> None:
    urls = [gateway.url for gateway in mesh.gateways]
    began = time.monotonic()

    def told(what: str) -> None:
        print(f"{time.monotonic() - began:5.1f} s, {len(clients.acknowledged)} writes: {what}")

    with VectorDatabaseClient(urls) as client:
        client.create_collection("c", 2, "euclidean", shards=2)
        clients = Clients(urls, STILL, patient=True)
        clients.fill(client)
        with clients:
            clients.wait_for_more(50)

            told("a shard worker, and a gateway as soon as that is back")
            spreading = Spreading(mesh, clients, client, 5)
            spreading.wait_copied(BEGUN)
            for victim in (mesh.shards[0], mesh.gateways[0]):
                victim.kill()
                spreading.check_in_the_middle()
                victim.start()
            spreading.wait_over()

            for shards, copied in ((3, BEGUN), (6, STILL - LAST_PAGES), (2, STILL)):
                told(f"the coordinator that has seen {copied} rows copied")
                spreading = Spreading(mesh, clients, client, shards)
                leader = spreading.wait_copied(copied)
                leader.kill()
                if copied == BEGUN:
                    spreading.check_in_the_middle()
                leader.start()
                spreading.wait_over()
            told("spread")
        clients.check(client, commits_max=15)
        told(
            f"checked {len(clients.seen)} snapshots; {clients.refused} refused, "
            f"(applied, not) of those in doubt: {clients.settled}, {clients.committed} "
            f"transactions, {clients.conflicts} conflicts"
        )
