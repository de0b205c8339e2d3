"""Logs and metrics of a process, set up once when it starts.

Logs go to stderr through structlog, those of libraries (aiohttp, nats, grpc) through the same
renderer, so that a log collector sees one format. stdout is left for the lines that the operator
waits for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from importlib import metadata
from typing import Any, TextIO

import structlog
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    GCCollector,
    Info,
    Metric,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

DISTRIBUTION = "vector-db-common"


def product_version() -> str:
    """The version of the installed product; ``unknown`` from a bare source tree."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "unknown"


def configure_logging(level: str, log_format: str, stream: TextIO) -> None:
    """Send all logs of the process to `stream`.

    :param level: ``debug``, ``info``, ``warning`` or ``error``; libraries log from ``warning``
        (from ``info`` with ``debug``).
    :param log_format: ``console`` for people, ``json`` (one object a line) for collectors.
    """
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderers: list[structlog.typing.Processor]
    if log_format == "json":
        renderers = [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(default=str),
        ]
    else:
        # Plain tracebacks: the pretty ones print local variables, secrets and vectors among them.
        renderers = [
            structlog.dev.ConsoleRenderer(
                colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.INFO if threshold <= logging.DEBUG else logging.WARNING)
    logging.getLogger("vector_db").setLevel(threshold)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def logger(name: str) -> Any:
    """A structlog logger; `name` must begin with ``vector_db`` for its level to apply."""
    return structlog.stdlib.get_logger(name)


def new_registry() -> CollectorRegistry:
    """A registry with the facts of the process (memory, CPU, files, GC, version)."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    Info("vector_db_build", "Version of the product", registry=registry).info(
        {"version": product_version()}
    )
    return registry


class ReadCounter(Collector):
    """A counter whose value something else keeps; `read` gives it when the metrics are asked for.

    The name is without ``_total``.
    """

    def __init__(
        self, name: str, told: str, registry: CollectorRegistry, read: Callable[[], float]
    ) -> None:
        self._name, self._told, self._read = name, told, read
        registry.register(self)

    def describe(self) -> Iterable[Metric]:
        yield CounterMetricFamily(self._name, self._told)

    def collect(self) -> Iterable[Metric]:
        yield CounterMetricFamily(self._name, self._told, value=self._read())


def metrics_response(registry: CollectorRegistry) -> tuple[bytes, str]:
    """Body and content type of ``/metrics``."""
    return generate_latest(registry), CONTENT_TYPE_LATEST
