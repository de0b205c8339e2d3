"""Processes that tests start get ports that nobody else has or takes."""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.ports import PORTS, free_ports, is_free
from tests.support.processes import Service


def test_no_port_is_handed_out_twice_though_nobody_listens_yet() -> None:
    ports = [port for _ in range(200) for port in free_ports(3)]
    assert len(set(ports)) == len(ports)
    assert set(ports) <= set(PORTS)


def test_a_port_that_is_listened_on_is_not_free() -> None:
    (port,) = free_ports(1)
    with socket.create_server(("127.0.0.1", port)):
        assert not is_free(port)
    assert is_free(port)


def test_linux_gives_none_of_them_to_others() -> None:
    given = Path("/proc/sys/net/ipv4/ip_local_port_range")
    if not given.exists():
        pytest.skip("only Linux tells which ports it gives")
    assert int(given.read_text().split()[0]) >= PORTS.stop


def test_what_answers_for_a_process_that_ended_is_not_taken_for_it(tmp_path: Path) -> None:
    service = Service("gateway", tmp_path, VECTOR_DB_HTTP_PORT="none")
    with ThreadingHTTPServer(("127.0.0.1", service.http_port), AlwaysReady) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        service.spawn()
        assert service.process is not None and service.process.wait(30) != 0
        assert service.is_ready()
        with pytest.raises(RuntimeError, match="gateway ended"):
            service.wait_ready()
        other.shutdown()


class AlwaysReady(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing to say."""
