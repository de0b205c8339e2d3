"""The demo's show, against the in-memory gateway, and its refusals."""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from tests.unit.client.fake_gateway import FakeGateway
from vector_db_client.demo import demo_command

SAMPLE = Path(__file__).parents[3] / "examples/dictionary"


def demo(*arguments: object, code: int = 0) -> str:
    app = typer.Typer()
    app.command()(demo_command)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_the_demo_shows_neighbours_a_filter_an_atomic_write_and_curl_lines(
    gateway: FakeGateway,
) -> None:
    said = demo("--url", gateway.url, "--data", SAMPLE)
    assert "Loaded 5,000 entries of 384 dimensions" in said
    for expected in ("loaf", "resentment", "flour", "One atomic write"):
        assert expected in said
    assert '-d \'{"vectors":[{"id":"vec1","dimensions":[0.1,0.2,0.3,0.4]},' in said
    assert "/query -H 'Content-Type: application/json' -d" in said
    assert len(gateway.rows["dictionary"]) == 5000
    assert len(gateway.sent("/commit")[0].body["operations"]) == 2


def test_the_sample_is_small_whole_and_carries_its_licence() -> None:
    vectors = np.load(SAMPLE / "vectors.f16.npy", mmap_mode="r")
    assert (vectors.shape, vectors.dtype) == ((5000, 384), np.float16)
    assert sum(path.stat().st_size for path in SAMPLE.iterdir()) < 5_000_000
    notice = (SAMPLE / "LICENSE-WordNet.txt").read_text()
    assert "WordNet 3.0 Copyright 2006 by Princeton University" in notice


def test_missing_data_and_a_port_in_use_are_one_line(tmp_path: Path) -> None:
    said = demo("--data", tmp_path, code=1)
    assert said.startswith("vector-db: ") and said.count("\n") == 1
    assert "--data" in said
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        said = demo("--data", SAMPLE, "--http-port", port, code=1)
    assert f"port {port} on 127.0.0.1 cannot be used" in said
    assert "--http-port" in said


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "nonsense"])
def test_a_server_that_does_not_answer_is_one_line(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VECTOR_DB_API_KEY", "k")
    said = demo("--url", url, "--data", SAMPLE, code=1)
    assert said.startswith("vector-db: ") and said.count("\n") == 1
