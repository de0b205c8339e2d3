"""`vector-db demo` as a newcomer runs it: a server of its own, the show, a clean end."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.ports import free_ports
from tests.support.processes import clean_environment

ROOT = Path(__file__).parents[2]


@contextmanager
def started(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A demo and its HTTP port; whatever a test finds, it is ended."""
    http_port, grpc_port = free_ports(2)
    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "vector_db.common.service.cli",
            "demo",
            "--http-port",
            str(http_port),
            "--grpc-port",
            str(grpc_port),
            *arguments,
        ],
        cwd=ROOT,
        # A width that folds no line, and lines as they are printed.
        env=clean_environment(COLUMNS="120", PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as child:
        try:
            yield child, http_port
        finally:
            child.kill()


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_without_serving_the_demo_shows_everything_and_ends_its_server() -> None:
    with started("--no-serve") as (child, port):
        said, _ = child.communicate(timeout=120)
    assert child.returncode == 0, said
    assert "Loaded 5,000 entries" in said
    assert "loaf" in said
    assert "One atomic write" in said
    assert f"curl -X POST localhost:{port}/vectors" in said
    assert port_is_free(port)


def test_sigterm_ends_a_serving_demo_and_its_server_in_good_order() -> None:
    with started() as (child, port):
        assert child.stdout is not None
        said = ""
        for line in child.stdout:
            said += line
            if line.startswith("Serving until"):
                break
        assert "Serving until" in said, said
        assert not port_is_free(port)
        child.send_signal(signal.SIGTERM)
        rest, _ = child.communicate(timeout=60)
    assert child.returncode == 0, said + rest
    assert port_is_free(port)
