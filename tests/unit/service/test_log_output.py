"""What logs look like on the stream, and what is kept out of them."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from vector_db.common.service.telemetry import configure_logging, logger


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    product_level = logging.getLogger("vector_db").level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("vector_db").setLevel(product_level)
    structlog.reset_defaults()


def test_json_logs_are_one_object_a_line_libraries_included() -> None:
    stream = io.StringIO()
    configure_logging("info", "json", stream)
    logger("vector_db.test").info("started", shards=2)
    logging.getLogger("aiohttp.server").warning("slow %s", "client")
    ours, theirs = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (ours["event"], ours["shards"], ours["level"]) == ("started", 2, "info")
    assert (theirs["event"], theirs["logger"]) == ("slow client", "aiohttp.server")


def test_the_level_holds_for_the_product_and_libraries_only_warn() -> None:
    stream = io.StringIO()
    configure_logging("info", "console", stream)
    logger("vector_db.test").debug("hidden detail")
    logging.getLogger("nats").info("hidden chatter")
    logger("vector_db.test").info("shown")
    assert "hidden" not in stream.getvalue()
    assert "shown" in stream.getvalue()


def test_tracebacks_do_not_print_local_values() -> None:
    stream = io.StringIO()
    configure_logging("info", "console", stream)
    secret = "".join(["hun", "ter2"])
    try:
        raise ValueError(f"length {len(secret)}")
    except ValueError:
        logger("vector_db.test").exception("failed")
    assert "length 7" in stream.getvalue()
    assert "hunter2" not in stream.getvalue()


def test_configuring_again_does_not_log_twice() -> None:
    stream = io.StringIO()
    configure_logging("info", "json", stream)
    configure_logging("info", "json", stream)
    logger("vector_db.test").info("once")
    assert len(stream.getvalue().splitlines()) == 1
