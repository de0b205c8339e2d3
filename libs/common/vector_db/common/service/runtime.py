"""What a service is to the process that runs it, and what it is given.

Every service package has ``app.py`` with ``build(runtime, config) -> Service``, found through the
entry point group ``vector_db.services``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from prometheus_client import CollectorRegistry

from vector_db.common.ports import Bus, Clock, Disk


@dataclass(frozen=True, slots=True)
class Runtime:
    """The world as one service sees it.

    `disk` is rooted at the service's own folder under the data directory. `sole` is true when this
    process is the whole cluster (``run all``): nobody else can be sequencing.
    """

    bus: Bus
    clock: Clock
    disk: Disk
    metrics: CollectorRegistry
    sole: bool


class Service(Protocol):
    """One running service."""

    name: str

    async def start(self) -> None:
        """Return once the service is ready to serve.

        :raises StartupError: it cannot; one clear line.
        :raises StorageCorrupt: a file is damaged.
        """

    async def run(self) -> None:
        """Until cancelled; raises what the service cannot survive (the process then exits)."""

    async def stop(self) -> None:
        """Drain: finish what is under way, bounded, and release everything."""

    def health(self) -> dict[str, Any]:
        """``{"ready": bool, ...}`` and a few facts for `/health`."""
