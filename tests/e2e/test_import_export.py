"""`vector-db import` and `export` as commands, against the real server."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.processes import Service
from vector_db_client import VectorDatabaseClient

SAMPLE = Path(__file__).parents[2] / "examples/dictionary"


def command(*arguments: object, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "vector_db.common.service.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def client(server: Service) -> Iterator[VectorDatabaseClient]:
    with VectorDatabaseClient.connect(server.url) as connected:
        yield connected


@pytest.fixture
def names(client: VectorDatabaseClient) -> Iterator[tuple[str, str]]:
    """Two names of collections, dropped afterwards if they exist."""
    chosen = (f"io-{uuid.uuid4().hex}", f"io-{uuid.uuid4().hex}")
    yield chosen
    for one in client.list_collections():
        if one.name in chosen:
            client.delete_collection(one.name)


def rows_of(client: VectorDatabaseClient, collection: str) -> list[tuple[str, bytes, Any]]:
    rows = client.scroll(collection=collection)
    return sorted((r.id, np.asarray(r.vector).tobytes(), r.metadata) for r in rows)


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_the_sample_makes_the_round_trip_bit_for_bit(
    server: Service,
    client: VectorDatabaseClient,
    names: tuple[str, str],
    tmp_path: Path,
    suffix: str,
) -> None:
    first, second = names
    source = (SAMPLE / "vectors.f16.npy", "--records", SAMPLE / "records.jsonl.gz")
    at = ("--url", server.url)
    assert "imported 5,000 rows" in command("import", *source, "-c", first, "--create", *at)
    vectors = np.load(SAMPLE / "vectors.f16.npy").astype("f4")
    loaded = rows_of(client, first)
    assert {row[1] for row in loaded} == {vector.tobytes() for vector in vectors}
    assert all(row[2]["lemma"] and row[2]["gloss"] for row in loaded)
    out, again = tmp_path / f"out{suffix}", tmp_path / f"again{suffix}"
    assert "exported 5,000 rows" in command("export", out, "-c", first, *at)
    command("import", out, "-c", second, "--create", *at)
    assert rows_of(client, second) == loaded
    command("export", again, "-c", second, *at)
    if suffix == ".npy":
        assert out.read_bytes() == again.read_bytes()
        assert np.load(out).shape == (5000, 384)
        records = [
            path.with_suffix(".jsonl").read_bytes().split(b"\n", 1)[1] for path in (out, again)
        ]
        assert records[0] == records[1]


def test_a_filtered_export_and_faults_are_told_in_one_line(
    server: Service, client: VectorDatabaseClient, names: tuple[str, str], tmp_path: Path
) -> None:
    name, at = names[0], ("--url", server.url)
    client.create_collection(name, 2, "euclidean")
    client.insert_vectors(["a", "b"], [[1, 2], [3, 4]], [{"k": 1}, {"k": 2}], collection=name)
    out = tmp_path / "one.npy"
    command("export", out, "-c", name, "--filter", '{"k": {"$gt": 1}}', *at)
    assert np.load(out).tolist() == [[3, 4]]
    for said in (
        command("export", out, "-c", name, *at, code=1),
        command("export", tmp_path / "x.npy", "-c", "no-such-collection", *at, code=1),
        command(
            "export", tmp_path / "x.npy", "-c", name, "--filter", '{"k": {"$no": 1}}', *at, code=1
        ),
        command("import", out, "-c", "no-such-collection", *at, code=1),
        command("import", out, "--url", "http://127.0.0.1:1", code=1),
    ):
        assert said.startswith("vector-db: ")
        assert said.count("\n") == 1
