"""Backups of real meshes under a write load, restored into meshes of another size."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from tests.support.churn import IDS, Churn
from tests.support.contents import Contents, contents
from tests.support.meshes import Mesh, running_mesh
from tests.support.processes import clean_environment
from vector_db.shard.backup.manifest import Manifest, read_manifest
from vector_db_client import IndexOptions, VectorDatabaseClient

DIMENSION = 8
NAMES = ("a", "b")
COMMAND = [sys.executable, "-m", "vector_db.common.service.cli", "backup"]
SEALED_S_MAX = 60.0


def backup(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """One run of ``vector-db backup``."""
    return subprocess.run(
        [*COMMAND, *arguments],
        env=clean_environment(**settings),
        capture_output=True,
        text=True,
        timeout=120,
    )


def succeed(*arguments: str, **settings: str) -> str:
    done = backup(*arguments, **settings)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refusal(*arguments: str) -> str:
    """The one line of a run that fails."""
    done = backup(*arguments)
    assert done.returncode == 1, done
    return done.stderr


@contextmanager
def cluster(
    folder: Path, workers: int, replicas: int = 1
) -> Iterator[tuple[Mesh, VectorDatabaseClient]]:
    """A mesh that is ready, and a client of it."""
    with (
        running_mesh(folder, shards=workers, VECTOR_DB_REPLICATION_FACTOR=str(replicas)) as mesh,
        VectorDatabaseClient(mesh.gateway.url) as client,
    ):
        yield mesh, client


def fill(client: VectorDatabaseClient, shards: int) -> None:
    """Two collections, one of them with sealed segments, and an idempotency key."""
    index = IndexOptions("hnsw", m=24)
    client.create_collection("a", DIMENSION, "cosine", shards=shards, index=index,
                             recall_target=0.9, fields=["n"])  # fmt: skip
    client.create_collection("b", DIMENSION, "euclidean", shards=shards)
    client.set_alias("live", "a")
    rows = shards * 10_500
    vectors = np.random.default_rng(1).standard_normal((rows, DIMENSION), dtype=np.float32)
    ids = [f"r{i}" for i in range(rows)]
    client.insert_vectors(ids, vectors, collection="a", idempotency_key="auto")
    until = time.monotonic() + SEALED_S_MAX
    while client.collection_stats("a").segments < shards:
        assert time.monotonic() < until, client.collection_stats("a")
        time.sleep(0.05)


def everything(client: VectorDatabaseClient, commit_ts: int) -> dict[str, Contents]:
    return {name: contents(client, name, commit_ts) for name in NAMES}


def now(client: VectorDatabaseClient) -> dict[str, Contents]:
    return {name: contents(client, name) for name in NAMES}


def create(mesh: Mesh, folder: Path, name: str) -> Manifest:
    succeed("create", str(folder), "--name", name, VECTOR_DB_NATS_URL=mesh.nats_url)
    return read_manifest(folder / name)


def options(client: VectorDatabaseClient, names: Sequence[str] = NAMES) -> list[object]:
    found = [client.get_collection(name) for name in names]
    return [(c.dimension, c.metric, c.index, c.recall_target, c.fields, c.aliases) for c in found]


def test_a_backup_under_load_is_one_commit_and_restores_into_a_mesh_of_another_size(
    tmp_path: Path,
) -> None:
    backups = tmp_path / "backups"
    with cluster(tmp_path / "source", 2) as (mesh, client):
        fill(client, shards=2)
        with Churn(mesh.gateway.url, NAMES, DIMENSION, seed=2) as churn:
            early_ts = churn.wait_for_more(40)
            churn.wait_for_more(20)
            early_time = datetime.now(UTC)
            acknowledged_ts = churn.wait_for_more(20)
            manifest = create(mesh, backups, "one")
            churn.wait_for_more(20)
        expected, early = everything(client, manifest.commit_ts), everything(client, early_ts)
        wanted = options(client)
        assert early_ts < acknowledged_ts <= manifest.commit_ts < churn.commits[-1]
        early_b = contents(client, "b", early_time)
        assert early_b != expected["b"]
        assert expected != early != now(client) != expected
        overwritten = [i for i, row in early["a"].items() if expected["a"].get(i) != row]
        deleted = early["a"].keys() - expected["a"].keys()
        assert deleted and len(overwritten) > len(deleted)
    assert manifest.oldest_ts <= early_ts
    assert manifest.rows == sum(len(rows) for rows in expected.values())
    assert {c.name for c in manifest.collections} == set(NAMES)
    assert any(part.segments for shard in manifest.shards for part in shard.slices)
    assert "complete" in succeed("list", str(backups))
    assert "are whole" in succeed("verify", str(backups), "one")

    with cluster(tmp_path / "target", 3) as (mesh, client):
        url = mesh.gateway.url
        succeed("restore", str(backups), "one", "--url", url, "--shards", "5")
        assert now(client) == expected
        assert options(client) == wanted
        assert client.aliases() == {"live": "a"}
        assert client.get_collection("a").shards == 5

        taken = refusal("restore", str(backups), "one", "--url", url)
        assert "the collection 'a' exists already" in taken
        client.delete(["r1", "r2"], collection="a")
        succeed("restore", str(backups), "one", "--url", url, "--into-existing")
        assert now(client) == expected

        client.delete_collection("a")
        succeed("restore", str(backups), "one", "--url", url, "-c", "a", "--at", str(early_ts))
        assert now(client) == {"a": early["a"], "b": expected["b"]}
        assert client.get_collection("a").shards == 3

        client.delete_collection("b")
        succeed(
            "restore", str(backups), "one", "--url", url, "-c", "b", "--at", early_time.isoformat()
        )
        assert now(client) == {"a": early["a"], "b": early_b}
        assert "taken before that time" in refusal(
            "restore", str(backups), "one", "--url", url, "--at", "2100-01-01T00:00:00Z"
        )


def cut_off_restore(client: VectorDatabaseClient, arguments: list[str]) -> None:
    """Begin a restore, and kill it once it has written rows."""
    with subprocess.Popen(
        [*COMMAND, *arguments], env=clean_environment(), stderr=subprocess.DEVNULL
    ) as process:
        try:
            while process.poll() is None and not written(client):
                time.sleep(0.01)
        finally:
            process.kill()
    assert written(client)


def written(client: VectorDatabaseClient) -> int:
    """Rows that are there."""
    return sum(client.count(collection=c.name).count for c in client.list_collections())


def test_another_of_three_replicas_is_asked_and_a_restore_may_be_cut_off(tmp_path: Path) -> None:
    backups = tmp_path / "backups"
    with cluster(tmp_path / "source", 3, replicas=3) as (mesh, client):
        fill(client, shards=3)
        with Churn(mesh.gateway.url, NAMES, DIMENSION, seed=3) as churn:
            churn.wait_for_more(20)
            mesh.shards[0].kill()
            manifest = create(mesh, backups, "one")
            churn.wait_for_more(20)
        expected = everything(client, manifest.commit_ts)
    assert len({shard.worker for shard in manifest.shards}) == 2
    with cluster(tmp_path / "target", 1) as (mesh, client):
        restore = ["restore", str(backups), "one", "--url", mesh.gateway.url]
        cut_off_restore(client, restore)
        assert "exists already" in refusal(*restore)
        succeed(*restore, "--into-existing")
        assert now(client) == expected
        assert len(expected["a"]) > IDS


def test_what_is_damaged_or_unfinished_is_refused_by_name(tmp_path: Path) -> None:
    backups = tmp_path / "backups"
    with cluster(tmp_path / "source", 1) as (mesh, client):
        url = mesh.gateway.url
        fill(client, shards=1)
        manifest = create(mesh, backups, "one")
        create(mesh, backups, "two")
        victim = next(f for f in manifest.files if f.name.endswith("vectors.f32"))
        with (backups / "one" / victim.name).open("r+b") as file:
            file.seek(1000)
            byte = file.read(1)[0]
            file.seek(1000)
            file.write(bytes([byte ^ 1]))
        os.unlink(backups / "two" / "manifest.json")

        assert f"{victim.name} does not match its crc32c" in refusal(
            "restore", str(backups), "one", "--url", url, "--into-existing"
        )
        assert f"{victim.name} does not" in refusal("verify", str(backups), "one")
        assert f"{victim.name} does not" in refusal("list", str(backups), "--verify")
        assert "two was not finished" in refusal("restore", str(backups), "two", "--url", url)
        assert "unfinished" in succeed("list", str(backups))
        assert "exists already" in refusal(
            "create", str(backups), "--name", "one", "--nats-url", mesh.nats_url
        )
        assert "there is no backup 'three'" in refusal("restore", str(backups), "three")


def test_a_backup_without_a_cluster_is_none(tmp_path: Path) -> None:
    done = backup("create", str(tmp_path), "--name", "one")
    assert done.returncode == 1 and "--nats-url" in done.stderr
    assert list(tmp_path.iterdir()) == []
