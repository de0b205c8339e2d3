"""Leaves a NATS server that has stopped answering, where there are others to go to.

nats-py finds that out by pings that are not answered, after some seconds; reads would be late by
then. Owns the caution that goes with haste: a process that itself stood still, and a connection
with much on its way, are given more time.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Protocol

import structlog

from vector_db.common.ports import BusTimeout, BusUnavailable

PROBE_EVERY_S = 0.2
SILENT_S = 0.6
STILL_SILENT_S = 0.3
"""An answer that was here all the time is seen by then, if it was this process that was slow."""
BUSY_BYTES = 1024 * 1024
"""So much on its way in the time of a probe may hold the answer up."""

logger = structlog.get_logger(__name__)


class Watched(Protocol):
    """What is asked of a connection."""

    url: str

    async def wait_connected(self) -> None: ...

    async def barrier(self, timeout_s: float) -> None: ...

    def bytes_moved(self) -> int:
        """Bytes sent and received since the beginning."""

    def abort(self) -> None:
        """Drop the connection as it is; another one is made."""


async def watch(link: Watched) -> None:
    """Until cancelled: drop the connection whenever its server has been silent for too long."""
    while True:
        # Before each probe: one that fails at once, while a loss is not told yet, must not be made
        # again at once.
        await asyncio.sleep(PROBE_EVERY_S)
        await link.wait_connected()
        with contextlib.suppress(BusUnavailable):  # lost meanwhile, and found out by nats-py
            if await _is_silent(link):
                logger.warning("the NATS server does not answer, another one is used", url=link.url)
                link.abort()


async def _is_silent(link: Watched) -> bool:
    moved = link.bytes_moved()
    for timeout_s in (SILENT_S, STILL_SILENT_S):
        try:
            await link.barrier(timeout_s)
        except BusTimeout:
            continue
        return False
    return link.bytes_moved() - moved < BUSY_BYTES
