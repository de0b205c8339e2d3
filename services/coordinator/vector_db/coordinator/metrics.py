"""What a coordinator counts. Owns the names of its metrics and the labels of its moves.

All but steps and copied rows are worked out when they are asked for, from what is led just now; a
standby says 0 of everything, so that sums over all coordinators are those of the one that leads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge

from vector_db.coordinator.controller import Controller, Standing
from vector_db.coordinator.core.moves import Change, Kind
from vector_db.coordinator.spreading import Spreader

_STANDING = {
    "replicas_wanted": "Replicas that the placed shards should have",
    "replicas_held": "Replicas of placed shards on workers that are alive",
    "replicas_missing": "Replicas that shards lack of those wanted",
    "joins": "Shards that a worker copies to become a replica",
    "workers_alive": "Shard workers that are heard, draining ones too",
    "workers_draining": "Shard workers that shall hold nothing",
    "workers_gone": "Workers of the placement that were not heard for the grace time",
}


class CoordinatorMetrics:
    """The metrics of one coordinator. `controller` and `spreader`: those of the term it leads, None
    in standby."""

    def __init__(
        self,
        registry: CollectorRegistry,
        controller: Callable[[], Controller | None],
        spreader: Callable[[], Spreader | None],
    ) -> None:
        self._controller = controller
        self.term = Gauge(
            "vector_db_coordinator_term", "Term that is led, 0 in standby", registry=registry
        )
        self.undecided = Gauge(
            "vector_db_coordinator_undecided", "Undecided transactions", registry=registry
        )
        self._moves = Counter(
            "vector_db_coordinator_moves", "Steps of moves decided", ["kind"], registry=registry
        )
        for kind in get_args(Kind):
            self._moves.labels(kind)
        self._rows_copied = Counter(
            "vector_db_coordinator_rows_copied",
            "Rows copied to other shards of their collection",
            registry=registry,
        )
        spreading = Gauge(
            "vector_db_coordinator_spreading",
            "Collections that are being spread over other shards",
            registry=registry,
        )
        spreading.set_function(lambda: 0 if (led := spreader()) is None else led.spreading())
        for name, told in _STANDING.items():
            gauge = Gauge(f"vector_db_coordinator_{name}", told, registry=registry)
            gauge.set_function(self._reading(name))

    def moved(self, changes: Iterable[Change]) -> None:
        """These steps were decided."""
        for change in changes:
            self._moves.labels(change.kind).inc()

    def copied(self, rows: int) -> None:
        """So many rows were copied."""
        self._rows_copied.inc(rows)

    def _reading(self, name: str) -> Callable[[], float]:
        def read() -> float:
            controller = self._controller()
            standing = Standing() if controller is None else controller.standing()
            return float(getattr(standing, name))

        return read
