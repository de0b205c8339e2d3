"""What an explained query tells of its way through the gateway.

Owns the only clock of the query path: it is read for explained queries and for no others.
"""

from __future__ import annotations

from time import perf_counter_ns
from typing import Any

import orjson

from vector_db.common.core.messages.reads import SearchReply


class Stopwatch:
    """Time since the last look."""

    def __init__(self) -> None:
        self._last_ns = perf_counter_ns()

    def lap_us(self) -> float:
        """Microseconds since the last lap, or since it was made."""
        now_ns = perf_counter_ns()
        lap_us = (now_ns - self._last_ns) / 1000
        self._last_ns = now_ns
        return lap_us


class Notes:
    """Filled in while one query is under way; times in microseconds."""

    def __init__(self) -> None:
        self._watch = Stopwatch()
        self._snapshot_wait_us = 0.0
        self._scatter_gather_us = 0.0
        self._payload_us = 0.0
        self._workers: list[dict[str, Any]] = []

    def snapshot_known(self) -> None:
        """The snapshot to search at is there."""
        self._snapshot_wait_us = self._watch.lap_us()

    def scattering(self) -> None:
        """The requests are about to go out."""
        self._watch.lap_us()

    def gathered(self) -> None:
        """The replies are merged."""
        self._scatter_gather_us = self._watch.lap_us()

    def payloads_fetched(self) -> None:
        """Metadata and vectors of the merged hits are there."""
        self._payload_us = self._watch.lap_us()

    def add_worker(
        self, worker: str, shards: tuple[int, ...], round_trip_us: float, reply: SearchReply
    ) -> None:
        """What one shard worker told."""
        told = orjson.loads(reply.explain)
        self._workers.append(
            {"worker": worker, "shards": list(shards), "round_trip_us": round_trip_us} | told
        )

    def plain(self) -> dict[str, Any]:
        """As JSON has it. An explained query travels alone, so that the timings are its own."""
        return {
            "snapshot_wait_us": self._snapshot_wait_us,
            "scatter_gather_us": self._scatter_gather_us,
            "payload_us": self._payload_us,
            "coalesced": False,
            "workers": sorted(self._workers, key=lambda told: str(told["worker"])),
        }
