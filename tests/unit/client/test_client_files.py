"""The commands import and export, and the files that they read and write."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from tests.unit.client.fake_gateway import FakeGateway
from vector_db_client import VectorDatabaseClient
from vector_db_client.commands import export_command, import_command

Cli = Callable[..., Any]
ODD_FLOATS = [-0.0, 1e-45, 3.4028235e38, 0.1]


@pytest.fixture
def cli(gateway: FakeGateway) -> Cli:
    app = typer.Typer()
    app.command("import")(import_command)
    app.command("export")(export_command)

    def run(*arguments: Any, code: int = 0) -> str:
        full = [str(argument) for argument in (*arguments, "--url", gateway.url)]
        result = CliRunner().invoke(app, full)
        assert result.exit_code == code, result.output
        return result.output

    return run


@pytest.fixture
def loaded(gateway: FakeGateway, client: VectorDatabaseClient) -> np.ndarray:
    """2,500 rows of odd floats and metadata in the collection `odd`; their vectors."""
    client.create_collection("odd", 4, "dot")
    vectors = np.random.default_rng(3).standard_normal((2500, 4)).astype("f4")
    vectors[:4] = ODD_FLOATS
    metadata = [{"n": n, "x": {"y": [1.5, "é\n", None]}} if n % 2 else None for n in range(2500)]
    client.insert_vectors([f"id/{n}é" for n in range(2500)], vectors, metadata, collection="odd")
    return vectors


def contents(gateway: FakeGateway, collection: str) -> list[tuple[str, bytes, Any]]:
    return sorted((i, r[0].tobytes(), r[1]) for i, r in gateway.rows[collection].items())


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
@pytest.mark.usefixtures("loaded")
def test_import_of_an_export_gives_the_same_rows_bit_for_bit_and_exports_to_the_same_bytes(
    gateway: FakeGateway, cli: Cli, tmp_path: Path, suffix: str
) -> None:
    first, second = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    assert "2,500 rows" in cli("export", first, "--collection", "odd")
    cli("import", first, "--collection", "copy", "--create")
    assert contents(gateway, "copy") == contents(gateway, "odd")
    assert gateway.collections["copy"]["metric"] == "dot"
    # Batches in flight may land in any order, so the fake's scroll order is put right first.
    gateway.rows["odd"] = {i: gateway.rows["copy"][i] for i in gateway.rows["odd"]}
    gateway.clock = 100
    cli("export", first, "--collection", "odd", "--overwrite")
    cli("export", second, "--collection", "odd")
    assert digest(first) == digest(second)
    assert not list(tmp_path.glob("*.part"))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_exported_npy_is_a_plain_numpy_file_with_a_header_line_beside(
    cli: Cli, tmp_path: Path, loaded: np.ndarray
) -> None:
    cli("export", tmp_path / "o.npy", "-c", "odd", "--filter", '{"n": 3}')
    assert np.load(tmp_path / "o.npy").tobytes() == loaded[3].tobytes()
    header, record = (orjson.loads(x) for x in (tmp_path / "o.jsonl").read_bytes().splitlines())
    assert header == {
        "vector_db_export": {
            "collection": "odd",
            "dimension": 4,
            "metric": "dot",
            "snapshot_ts": header["vector_db_export"]["snapshot_ts"],
            "format_version": 1,
        }
    }
    assert record == {"id": "id/3é", "metadata": {"n": 3, "x": {"y": [1.5, "é\n", None]}}}


def test_an_empty_collection_makes_the_round_trip(
    gateway: FakeGateway, client: VectorDatabaseClient, cli: Cli, tmp_path: Path
) -> None:
    client.create_collection("none", 7)
    for suffix in (".npy", ".parquet"):
        cli("export", tmp_path / f"e{suffix}", "-c", "none")
        cli("import", tmp_path / f"e{suffix}", "-c", "again", "--create")
    assert gateway.collections["again"]["dimension"] == 7


def test_records_of_other_origin_become_metadata(
    gateway: FakeGateway, cli: Cli, tmp_path: Path
) -> None:
    np.save(tmp_path / "v.npy", np.array([[1, 2], [3, 4], [5, 6]], np.float16))
    lines = [
        {"id": "a", "word": "x"},
        {"id": 7},
        {"id": "c", "metadata": {"k": 1}},
    ]
    packed = gzip.compress(b"\n".join(orjson.dumps(line) for line in lines))
    (tmp_path / "r.jsonl.gz").write_bytes(packed)
    cli("import", tmp_path / "v.npy", "--metadata", tmp_path / "r.jsonl.gz", "--batch-size", 2)
    assert {i: r[1] for i, r in gateway.rows["default"].items()} == {
        "a": {"word": "x"},
        "7": None,
        "c": {"k": 1},
    }
    assert gateway.rows["default"]["c"][0].tolist() == [5, 6]
    assert len(gateway.sent("/vectors")) == 2


def test_rows_can_be_numbered(gateway: FakeGateway, cli: Cli, tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.eye(3))
    cli("import", tmp_path / "v.npy", "--number-ids", "--batch-size", 2)
    assert sorted(gateway.rows["default"]) == ["0", "1", "2"]


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float64()), pa.list_(pa.float16(), 2), pa.large_list(pa.float32())]
)
def test_parquet_of_other_origin_is_read_with_its_own_columns(
    gateway: FakeGateway, cli: Cli, tmp_path: Path, kind: Any
) -> None:
    table = pa.table(
        {
            "key": pa.array([1, 2], pa.int64()),
            "emb": pa.array([np.array([1, 2], "f2"), np.array([3, 4], "f2")], kind),
            "lang": ["en", None],
        }
    )
    pq.write_table(table, tmp_path / "o.parquet")
    cli("import", tmp_path / "o.parquet", "--id-column", "key", "--vector-column", "emb")
    rows = gateway.rows["default"]
    assert {i: (r[0].tolist(), r[1]) for i, r in rows.items()} == {
        "1": ([1, 2], {"lang": "en"}),
        "2": ([3, 4], None),
    }


def test_a_newer_format_version_is_refused(cli: Cli, tmp_path: Path) -> None:
    info = {"format_version": 2, "collection": "c", "dimension": 2, "metric": "dot"}
    np.save(tmp_path / "v.npy", np.eye(2))
    header = orjson.dumps({"vector_db_export": {**info, "snapshot_ts": 1}})
    (tmp_path / "v.jsonl").write_bytes(header + b'\n{"id":"a"}\n{"id":"b"}\n')
    assert "format version 2 is newer" in cli("import", tmp_path / "v.npy", code=1)
    table = pa.table({"id": ["a"], "vector": [[1.0]]})
    table = table.replace_schema_metadata({f"vector_db.{k}": str(v) for k, v in info.items()})
    pq.write_table(table, tmp_path / "v.parquet")
    assert "format version 2 is newer" in cli("import", tmp_path / "v.parquet", code=1)


def test_what_cannot_be_imported_is_one_line_and_nothing_is_sent(
    gateway: FakeGateway, cli: Cli, tmp_path: Path
) -> None:
    def refuses(reason: str, *arguments: Any) -> None:
        output = cli("import", *arguments, code=1)
        assert reason in output
        lines = [line for line in output.splitlines() if not line.startswith("inserting")]
        assert len(lines) == 1

    np.save(tmp_path / "v.npy", np.eye(2))
    refuses("--number-ids", tmp_path / "v.npy")
    refuses("no such file", tmp_path / "v.npy", "--records", tmp_path / "absent")
    (tmp_path / "v.jsonl").write_bytes(b'{"id":"a"}\n')
    refuses("1 records, but", tmp_path / "v.npy")
    (tmp_path / "v.jsonl").write_bytes(b'{"id":"a"}\nnonsense\n')
    refuses("record 2: not JSON", tmp_path / "v.npy")
    (tmp_path / "v.jsonl").write_bytes(gzip.compress(b'{"id":"a"}\n{"id":"b"}\n')[:-12])
    refuses("gzip", tmp_path / "v.npy")
    np.save(tmp_path / "w.npy", np.ones(3))
    refuses("shape", tmp_path / "w.npy", "--number-ids")
    (tmp_path / "w.npy").write_bytes(b"no numpy")
    refuses("not a readable .npy", tmp_path / "w.npy", "--number-ids")
    (tmp_path / "w.parquet").write_bytes(b"no parquet")
    refuses("not a readable Parquet", tmp_path / "w.parquet")
    pq.write_table(
        pa.table({"id": ["a", "b"], "vector": [[1.0], [1.0, 2.0]]}), tmp_path / "r.parquet"
    )
    refuses("different dimensions", tmp_path / "r.parquet")
    refuses("--vector-column", tmp_path / "r.parquet", "--vector-column", "emb")
    (tmp_path / "x.csv").write_bytes(b"")
    refuses("suffix", tmp_path / "x.csv")
    assert not [request for request in gateway.requests if request.method == "POST"]


def test_an_absent_collection_or_another_dimension_is_told_before_rows_are_sent(
    client: VectorDatabaseClient, cli: Cli, tmp_path: Path
) -> None:
    np.save(tmp_path / "v.npy", np.eye(2))
    said = cli("import", tmp_path / "v.npy", "--number-ids", "-c", "x", code=1)
    assert "--create makes it" in said
    client.create_collection("x", 3)
    said = cli("import", tmp_path / "v.npy", "--number-ids", "-c", "x", code=1)
    assert "dimension 2" in said
    said = cli("import", tmp_path / "v.npy", "--number-ids", "-c", "x", "--create", code=1)
    assert "exists with dimension 3" in said


@pytest.mark.usefixtures("loaded")
def test_a_failed_export_leaves_no_file_and_no_export_overwrites_unasked(
    gateway: FakeGateway, cli: Cli, tmp_path: Path
) -> None:
    for suffix in (".npy", ".parquet"):
        out = tmp_path / f"o{suffix}"
        gateway.script = [None, None, None, (410, "snapshot_too_old", False)]
        assert "snapshot_too_old" in cli("export", out, "-c", "odd", code=1)
        assert not list(tmp_path.iterdir())
        out.write_bytes(b"mine")
        assert "--overwrite" in cli("export", out, "-c", "odd", code=1)
        assert out.read_bytes() == b"mine"
        out.unlink()
    assert "not_found" in cli("export", tmp_path / "o.npy", "-c", "absent", code=1)


def test_a_server_that_is_not_there_is_one_line(gateway: FakeGateway, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(export_command)
    gateway.script = ["html"]
    result = CliRunner().invoke(app, [str(tmp_path / "o.npy"), "--url", gateway.url])
    assert result.exit_code == 1
    assert result.output.count("\n") == 1


def test_a_failed_import_tells_how_many_rows_are_written(
    gateway: FakeGateway, cli: Cli, tmp_path: Path
) -> None:
    np.save(tmp_path / "v.npy", np.ones((100, 2)))
    gateway.script = [(404, "not_found", False), None, None, (413, "too_large", False)]
    said = cli("import", tmp_path / "v.npy", "--number-ids", "--batch-size", 5, code=1)
    written = len(gateway.rows["default"])
    assert written
    assert f"({written:,} rows were written before)" in said
