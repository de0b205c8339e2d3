"""The cluster as the client and its commands show it, and draining, against a scripted gateway."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner, Result

from tests.unit.client.fake_gateway import FakeGateway
from vector_db_client import (
    AsyncVectorDatabaseClient,
    NotFound,
    ShardCopy,
    VectorDatabaseClient,
    cluster_commands,
    cluster_tables,
)

A, B, C = "aaaa1111-a", "aaaa2222-b", "bbbb3333-c"


def worker(id: str, **told: Any) -> dict[str, Any]:
    facts = {"zone": "z", "ready": True, "draining": False, "cursor": 90, "shards": []}
    return {"id": id, "copying": {}, "simd": "AVX2", "native": "avx2", **facts, **told}


def cluster(**told: Any) -> dict[str, Any]:
    """Three workers and two shards, the second of which moves from A to C."""
    return {
        "term": 3,
        "stable_ts": 100,
        "replication_factor": 2,
        "workers": [
            worker(A, shards=[0, 1], draining=True),
            worker(B, shards=[0, 1], zone="y"),
            worker(C, copying={"1": {"bytes_done": 1_500_000, "bytes_all": 6_000_000}}),
        ],
        "shards": {"0": [A, B], "1": [A, B]},
        "joining": {"1": C},
        "leaving": {},
        "draining": [A],
        **told,
    }


DRAINED = cluster(
    workers=[worker(A, draining=True), worker(B, shards=[0, 1]), worker(C, shards=[0, 1])],
    shards={"0": [B, C], "1": [B, C]},
    joining={},
)


def command(gateway: FakeGateway, *arguments: str) -> Result:
    return CliRunner().invoke(cluster_commands.app, [*arguments, "--url", gateway.url])


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_commands, "POLL_S", 0.001)


# --- the client -----------------------------------------------------------------------------------


def test_the_cluster_is_told_in_values(gateway: FakeGateway, client: VectorDatabaseClient) -> None:
    gateway.clusters = [cluster(leaving={"0": ["gone"]})]
    found = client.cluster()
    assert (found.term, found.stable_ts, found.replication_factor) == (3, 100, 2)
    assert found.worker_ids == (A, B, C, "gone")
    assert found.worker("gone") is None
    copying = found.worker(C)
    assert copying is not None
    assert copying.copying == {1: ShardCopy(1_500_000, 6_000_000)}
    assert [found.held_by(id) for id in found.worker_ids] == [(0, 1), (0, 1), (1,), (0,)]
    assert found.answer == gateway.clusters[0]


async def test_drain_and_undrain(gateway: FakeGateway, aclient: AsyncVectorDatabaseClient) -> None:
    gateway.clusters = [cluster()]
    assert (await aclient.drain(A)).draining == (A,)
    assert gateway.draining == {A}
    await aclient.undrain(A)
    assert gateway.draining == set()
    with pytest.raises(NotFound, match="x/y"):
        await aclient.drain("x/y")


# --- status ---------------------------------------------------------------------------------------


def test_status_shows_workers_and_the_shards_that_move(gateway: FakeGateway) -> None:
    gateway.clusters = [
        cluster(shards={"0": [A], "1": [A, B], "2": [B, C], "3": [B, "cccc0000-d"]})
    ]
    result = command(gateway, "status")
    assert result.exit_code == 0, result.output
    lines = [" ".join(line.replace("\u2502", " ").split()) for line in result.output.splitlines()]
    assert "aaaa1111 z ready, draining 2 10" in lines
    assert "bbbb3333 z ready 1 10 shard 1: 1.5 of 6.0 MB, 25 %" in lines
    assert "cccc0000 not heard 1" in lines
    assert "0 1 of 2 aaaa1111" in lines
    assert "1 2 of 2 aaaa1111, aaaa2222 bbbb3333 joins (25 %)" in lines
    assert not [line for line in lines if line.startswith(("2 2 of", "3 2 of"))]
    assert lines[-1] == "4 shards of 2 replicas: 1 with too few, 1 on the move"


def test_status_of_a_quiet_cluster_has_no_table_of_shards(gateway: FakeGateway) -> None:
    gateway.clusters = [DRAINED]
    output = command(gateway, "status").output
    assert "2 shards of 2 replicas: all whole, nothing moves" in output
    assert "joins" not in output
    assert "Shards" not in output


def test_status_as_json_is_what_the_api_says(gateway: FakeGateway) -> None:
    gateway.clusters = [cluster(more={"later": 1})]
    result = command(gateway, "status", "--json")
    assert orjson.loads(result.stdout) == gateway.clusters[0]
    assert command(gateway, "status", "--json", "--watch").exit_code == 2


def test_ids_are_shortened_to_what_is_unique() -> None:
    assert cluster_tables.short_ids(["12345678-a", "12345678-b"]) == {
        "12345678-a": "12345678-a",
        "12345678-b": "12345678-b",
    }


def test_a_cursor_of_an_older_term_is_a_term_behind() -> None:
    assert cluster_tables.lag_text(-5) == "0"
    assert cluster_tables.lag_text(1234) == "1,234"
    assert cluster_tables.lag_text(2**36 + 1) == "a term"


# --- drain and undrain ----------------------------------------------------------------------------


def test_drain_waits_until_the_worker_holds_nothing(gateway: FakeGateway) -> None:
    leaving = DRAINED | {"leaving": {"1": [A]}}
    gateway.clusters = [cluster(), cluster(), cluster(), leaving, DRAINED]
    result = command(gateway, "drain", "aaaa1")
    assert result.exit_code == 0, result.output
    assert result.stderr.splitlines() == [
        f"draining {A}: 2 shards of 2 left, 1.5 of 6.0 MB copied",
        f"draining {A}: 1 shard of 2 left",
    ]
    assert result.stdout.startswith(f"{A} holds nothing (after ")
    assert gateway.draining == {A}


def test_drain_goes_on_over_a_coordinator_that_is_away(gateway: FakeGateway) -> None:
    away = (503, "unavailable", True, "no coordinator leads now")
    gateway.clusters = [cluster(), cluster(), DRAINED]
    gateway.at = {"/v1/cluster": [None, *[away] * 6]}
    result = command(gateway, "drain", A)
    assert result.exit_code == 0, result.output
    assert "no answer, asking again: no coordinator leads now" in result.stderr


def test_drain_says_that_there_is_nowhere_to_go(gateway: FakeGateway) -> None:
    alone = [worker(A, draining=True), worker(B)]
    gateway.clusters = [*[cluster(workers=alone, joining={})] * 3, DRAINED]
    stderr = command(gateway, "drain", A).stderr
    assert "nowhere to go: 1 other workers, 2 replicas wanted" in stderr


def test_drain_without_waiting(gateway: FakeGateway) -> None:
    gateway.clusters = [cluster()]
    result = command(gateway, "drain", A, "--no-wait")
    assert result.stdout == f"{A} is draining, it holds 2 shards\n"
    assert len(gateway.requests) == 2


def test_a_drain_that_somebody_takes_back_ends_the_wait(gateway: FakeGateway) -> None:
    gateway.clusters = [cluster(), cluster(), cluster(draining=[])]
    result = command(gateway, "drain", A)
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (
        1,
        f"vector-db: {A} is not draining any more, it holds 2 shards",
    )


def test_undrain(gateway: FakeGateway) -> None:
    gateway.clusters = [cluster()]
    gateway.draining = {A}
    assert command(gateway, "undrain", "aaaa1").stdout == f"{A} may hold shards again\n"
    assert gateway.draining == set()
    assert command(gateway, "undrain", "bbbb").stdout == f"{C} is not draining\n"


@pytest.mark.parametrize("name", ["drain", "undrain"])
@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("aaaa", f"several shard workers begin with 'aaaa': {A}, {B}"),
        ("nobody", f"no shard worker 'nobody'; known are {A}, {B}, {C}"),
        ("", f"several shard workers begin with '': {A}, {B}, {C}"),
    ],
)
def test_a_worker_must_be_known_and_unambiguous(
    gateway: FakeGateway, name: str, given: str, told: str
) -> None:
    gateway.clusters = [cluster()]
    result = command(gateway, name, given)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"vector-db: {told}\n")
    assert gateway.draining == set()


def test_an_id_that_another_one_begins_with_is_that_one(client: VectorDatabaseClient) -> None:
    found = cluster_commands.find_worker
    seen = client.cluster()
    assert found(replace(seen, draining=("ab", "abc")), "ab") == "ab"


@pytest.mark.parametrize("arguments", [["status"], ["status", "--watch"], ["drain", "a"]])
def test_without_a_gateway_it_is_one_line(arguments: list[str]) -> None:
    result = CliRunner().invoke(cluster_commands.app, [*arguments, "--url", "http://127.0.0.1:1"])
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("vector-db: unavailable: cannot reach http://127.0.0.1:1")
