"""The generated protobuf modules are those of the .proto in the tree."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PROTO = "vector_db/v1/vector_db.proto"
GENERATED = ("vector_db_pb2.py", "vector_db_pb2.pyi", "vector_db_pb2_grpc.py")


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the .proto was compiled to anew, as `make proto` does it."""
    out = tmp_path_factory.mktemp("proto")
    options = [f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python")]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", "proto", *options, PROTO]
    subprocess.run(command, cwd=ROOT, check=True, timeout=60)
    return out / "vector_db" / "v1"


@pytest.mark.parametrize("name", GENERATED)
def test_generated_files_match_the_proto(fresh: Path, name: str) -> None:
    kept = ROOT / "libs" / "common" / "vector_db" / "v1" / name
    assert kept.read_text() == (fresh / name).read_text(), "run `make proto`"


def test_the_namespace_package_has_no_init() -> None:
    assert not (ROOT / "libs" / "common" / "vector_db" / "__init__.py").exists()
