"""Options and aliases over real processes: kill -9 takes none, and no switch cuts a read in two."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.meshes import Mesh, running_mesh
from tests.support.processes import Service

ROWS = 60
SWITCHES = 200


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with running_mesh(tmp_path_factory.mktemp("mesh"), gateways=2) as mesh:
        yield mesh


def fill(mesh: Mesh, name: str) -> None:
    """A collection of `ROWS` rows over both workers, each of which says where it lies."""
    mesh.gateway.call("/v1/collections", {"name": name, "dimension": 2, "shards": 2})
    rows = [{"id": f"r{i}", "dimensions": [1.0, i], "metadata": {"in": name}} for i in range(ROWS)]
    mesh.gateway.call(f"/v1/collections/{name}/vectors", {"vectors": rows})


class Reader:
    """Queries through the alias ``live`` until it is stopped; `seen` counts whole answers."""

    def __init__(self, gateway: Service) -> None:
        self._gateway = gateway
        self._stopping = threading.Event()
        self.seen: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        body = {"vector": [1.0, 1.0], "k": 2 * ROWS}
        while not self._stopping.is_set():
            try:
                hits = self._gateway.call("/v1/collections/live/query", body)["vectors"]
            except Exception as error:
                self.wrong.append(repr(error))
                return
            places = {hit["metadata"]["in"] for hit in hits}
            if len(hits) != ROWS or len(places) != 1:
                self.wrong.append(f"{len(hits)} rows of {places}")
            self.seen.update(places)

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()


def test_reads_through_an_alias_are_of_one_collection_or_the_other_while_it_is_switched(
    mesh: Mesh,
) -> None:
    for name in ("blue", "green"):
        fill(mesh, name)
    mesh.gateway.call("/v1/aliases/live", {"collection": "blue"}, "PUT")
    readers = [Reader(gateway) for gateway in mesh.gateways]
    try:
        for n in range(SWITCHES):
            target = ("green", "blue")[n % 2]
            switched = mesh.gateway.call("/v1/aliases/live", {"collection": target}, "PUT")
            # Whoever knows of the switch sees it, through the other gateway too.
            known = {"ids": ["r0"], "consistency": {"at_least": switched["commit_ts"]}}
            fetched = mesh.gateways[1].call("/v1/collections/live/vectors/fetch", known)
            assert fetched["vectors"][0]["metadata"] == {"in": target}
        # The one that it stood for goes while it is read.
        fill(mesh, "red")
        mesh.gateway.call("/v1/aliases", {"changes": {"live": "red", "before": "green"}})
        mesh.gateway.call("/v1/collections/blue", method="DELETE")
        mesh.gateway.call("/v1/collections/live/count", {})
    finally:
        for reader in readers:
            reader.stop()
    for reader in readers:
        assert reader.wrong == []
        assert min(reader.seen["blue"], reader.seen["green"]) >= 3, reader.seen
    assert mesh.gateway.call("/v1/aliases")["aliases"] == {"before": "green", "live": "red"}


def test_options_and_aliases_outlive_kill_9_of_the_coordinator_and_of_the_workers(
    mesh: Mesh,
) -> None:
    fill(mesh, "kept")

    def change(**body: Any) -> None:
        mesh.gateway.call("/v1/collections/kept", body, "PATCH")

    def check(gateway: Service, aliases: list[str], **wanted: Any) -> None:
        shown = gateway.call("/v1/collections/kept")
        assert {key: shown[key] for key in wanted} == wanted
        assert shown["aliases"] == aliases
        for name in ("kept", *aliases):
            assert gateway.call(f"/v1/collections/{name}/count", {})["count"] == ROWS

    index = {"kind": "ivf_pq", "encoding": "sq8", "m": 8, "ef_construction": 64, "lists": 9}
    change(index=index, recall_target=0.9)
    mesh.gateway.call("/v1/aliases", {"changes": {"one": "kept", "two": "kept"}})
    mesh.coordinator.kill()
    mesh.coordinator.start()
    # Every worker has a checkpoint with the change, and then a log with more.
    for shard in mesh.shards:
        assert shard.stop() == 0
        shard.start()
    check(mesh.gateways[0], ["one", "two"], index=index, recall_target=0.9, fields=[])
    change(fields=["in"], index={"m": 16})
    mesh.gateway.call("/v1/aliases", {"changes": {"two": None, "three": "kept"}})
    for service in (*mesh.shards, mesh.coordinator):
        service.kill()
    for service in (*mesh.shards, mesh.coordinator):
        service.spawn()
    for service in (*mesh.shards, mesh.coordinator):
        service.wait_ready()
    for gateway in mesh.gateways:
        gateway.wait_ready()
        wanted = {"index": {**index, "m": 16}, "recall_target": 0.9, "fields": ["in"]}
        check(gateway, ["one", "three"], **wanted)
    change(recall_target=0.8)
    check(mesh.gateways[0], ["one", "three"], recall_target=0.8)
