"""What the gateway counts and times. Owns the names and the (bounded) labels of its metrics."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from prometheus_client import CollectorRegistry, Counter, Histogram

from vector_db.common.model.errors import VectorDBError

_BUCKETS_S = (
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0,
)  # fmt: skip


class Timed:
    """Times a block and files it under the error code it ends with (``ok`` without one)."""

    __slots__ = ("_edge", "_histogram", "_started", "code")

    def __init__(self, histogram: Histogram, edge: str) -> None:
        self._histogram = histogram
        self._edge = edge
        self.code = "ok"

    def __enter__(self) -> Self:
        self._started = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, VectorDBError):
            self.code = error.code
        elif error is not None:
            self.code = "internal" if isinstance(error, Exception) else "cancelled"
        seconds = time.perf_counter() - self._started
        self._histogram.labels(self._edge, self.code).observe(seconds)


class TimedInsert(Timed):
    """A timed write that is counted as an insert too; set `rows` once they are written."""

    __slots__ = ("_metrics", "rows")

    def __init__(self, metrics: GatewayMetrics, edge: str) -> None:
        super().__init__(metrics.transaction_seconds, edge)
        self._metrics = metrics
        self.rows = 0

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
        self._metrics.inserts.labels(self._edge, self.code).inc()
        self._metrics.insert_rows.labels(self._edge).inc(self.rows)


class GatewayMetrics:
    """The gateway's metrics, made once per registry.

    Labels: `edge` is ``rest`` or ``grpc``, `code` an error code of `model/errors.py`, ``ok`` or
    ``cancelled``.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("edge", "code")
        self.query_seconds = Histogram(
            "vector_db_query_duration_seconds",
            "Similarity queries (a batch counts once), from decoded body to answer",
            labels,
            buckets=_BUCKETS_S,
            registry=registry,
        )
        self.transaction_seconds = Histogram(
            "vector_db_transaction_duration_seconds",
            "Writes: inserts, deletes, patches and commits, until durable",
            labels,
            buckets=_BUCKETS_S,
            registry=registry,
        )
        self.inserts = Counter(
            "vector_db_insert_total", "Insert requests", labels, registry=registry
        )
        self.insert_rows = Counter(
            "vector_db_insert_rows_total", "Rows written by inserts", ("edge",), registry=registry
        )

    def query(self, edge: str) -> Timed:
        """Times a query."""
        return Timed(self.query_seconds, edge)

    def transaction(self, edge: str) -> Timed:
        """Times a write that is no insert."""
        return Timed(self.transaction_seconds, edge)

    def insert(self, edge: str) -> TimedInsert:
        """Times an insert; set `rows` of what it gives."""
        return TimedInsert(self, edge)
