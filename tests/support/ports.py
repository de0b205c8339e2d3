"""Ports of 127.0.0.1 for processes that are still to be started.

No two of them get the same one, though neither listens yet, and nobody else takes it meanwhile: a
test would talk to the wrong process and take its answers for the right one's.
"""

from __future__ import annotations

import itertools
import os
import socket

PORTS = range(16_384, 32_768)
"""Below those that Linux gives to whoever connects, or asks for any port."""
_first = os.getpid() * 257 % len(PORTS)
_next_ports = itertools.cycle([*PORTS[_first:], *PORTS[:_first]])
"""Another process that tests at the same time begins elsewhere."""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, each handed out by this process for the first time."""
    return list(itertools.islice(filter(is_free, _next_ports), count))


def is_free(port: int) -> bool:
    """Whether nobody listens on `port` now."""
    try:
        with socket.create_server(("127.0.0.1", port)):
            return True
    except OSError:
        return False
