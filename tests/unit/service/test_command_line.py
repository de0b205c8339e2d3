"""The command line: what it prints, its exit codes, and that it stays quick."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest
import typer.testing

from vector_db.common.service import cli


def vector_db(*arguments: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the real command with nothing but `environ` set for the product."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VECTOR_DB_")}
    return subprocess.run(
        [sys.executable, "-m", "vector_db.common.service.cli", *arguments],
        cwd=cwd,
        env=kept | environ,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_an_expected_failure_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    result = vector_db("config", cwd=tmp_path, VECTOR_DB_SHARDCOUNT="4")
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr == (
        "vector-db: unknown variable VECTOR_DB_SHARDCOUNT; did you mean VECTOR_DB_SHARD_COUNT?\n"
    )


def test_a_usage_error_exits_with_2(tmp_path: Path) -> None:
    result = vector_db("run", "everything", cwd=tmp_path)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


def test_config_prints_the_effective_configuration_without_secrets(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("server: {http_port: 1234}")
    result = vector_db("config", "--config", "my.yaml", cwd=tmp_path, VECTOR_DB_API_KEY="hunter2")
    assert result.returncode == 0
    assert "http_port: 1234" in result.stdout
    assert "hunter2" not in result.stdout


def test_version_names_the_product(tmp_path: Path) -> None:
    result = vector_db("version", cwd=tmp_path)
    assert result.returncode == 0
    assert result.stdout.startswith("vector-db ")


def test_starting_the_command_imports_no_service_and_no_server(tmp_path: Path) -> None:
    code = (
        "import sys; from vector_db.common.service import cli; cli.build_app(['run', 'all']);"
        "print(sorted({'aiohttp', 'nats', 'numpy', 'faiss', 'pydantic', 'grpc', 'structlog'}"
        " & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"


@pytest.fixture
def _plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    group = cli.COMMAND_GROUP
    found = EntryPoints(
        [
            EntryPoint("greet", "test_plugin:greet", group),
            EntryPoint("broken", "no_such_module_here:command", group),
        ]
    )
    monkeypatch.setattr(cli, "entry_points", lambda group: found)


@pytest.mark.usefixtures("_plugins")
def test_commands_of_other_distributions_load_only_when_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "test_plugin.py").write_text(
        "def greet(name: str = 'world') -> None:\n    print('hello', name)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    cli.build_app(["version"])
    assert "test_plugin" not in sys.modules
    arguments = ["greet", "--name", "you"]
    result = typer.testing.CliRunner().invoke(cli.build_app(arguments), arguments)
    monkeypatch.delitem(sys.modules, "test_plugin")
    assert result.stdout == "hello you\n"


@pytest.mark.usefixtures("_plugins")
def test_a_command_that_lacks_its_libraries_says_which(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["vector-db", "broken"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1
    assert "'broken' is not available: No module named" in capsys.readouterr().err
