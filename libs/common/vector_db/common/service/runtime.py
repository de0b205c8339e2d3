"""What a service is to the process that runs it, and what it is given.

Every service package has ``app.py`` with ``build(runtime, config) -> Service``, found through the
entry point group ``vector_db.services``.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from random import Random, SystemRandom
from typing import Any, Protocol

from prometheus_client import CollectorRegistry

from vector_db.common.ports import Bus, Clock, Disk

MakePool = Callable[[int, str, Callable[[], None]], Executor]
"""(threads, name prefix, run first in each thread)."""


def thread_pool(threads: int, name: str, initializer: Callable[[], None]) -> Executor:
    """A pool of operating system threads."""
    return ThreadPoolExecutor(threads, thread_name_prefix=name, initializer=initializer)


@dataclass(frozen=True, slots=True)
class Runtime:
    """The world as one service sees it.

    `disk` is rooted at the service's own folder under the data directory. `sole` is true when this
    process is the whole cluster (``run all``): nobody else can be sequencing. Identities, jitter
    and markers are drawn from `random`, all threads come from `pool`: a simulation replaces both.
    """

    bus: Bus
    clock: Clock
    disk: Disk
    metrics: CollectorRegistry
    sole: bool
    random: Random = field(default_factory=SystemRandom)
    pool: MakePool = thread_pool


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
