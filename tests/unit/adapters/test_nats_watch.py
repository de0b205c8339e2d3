"""When a NATS server is left: silent for too long, and neither busy nor lost already."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.virtual_time import run
from vector_db.common.adapters.nats_watch import BUSY_BYTES, PROBE_EVERY_S, watch
from vector_db.common.ports import BusTimeout, BusUnavailable


class Link:
    """A connection that stands, whose server answers probes as the test says."""

    url = "nats://here"

    def __init__(self, answers: BaseException | None = None, bytes_a_probe: int = 0) -> None:
        self.answers = answers
        self.bytes_a_probe = bytes_a_probe
        self.probes = self.aborted = self.moved = 0

    async def wait_connected(self) -> None:
        """At once, as when the loss of the connection is not told yet."""

    async def barrier(self, timeout_s: float) -> None:
        self.probes += 1
        self.moved += self.bytes_a_probe
        if self.probes > 1_000:
            pytest.fail("it probes without a pause")
        if isinstance(self.answers, BusTimeout):
            await asyncio.sleep(timeout_s)
        if self.answers is not None:
            raise self.answers

    def bytes_moved(self) -> int:
        return self.moved

    def abort(self) -> None:
        self.aborted += 1
        self.answers = None


def watched(link: Link, for_s: float = 10.0) -> Link:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(watch(link), for_s)

    run(main())
    return link


def test_a_server_that_answers_is_kept() -> None:
    assert watched(Link()).aborted == 0


def test_one_that_is_silent_is_left_once() -> None:
    assert watched(Link(BusTimeout("no answer"))).aborted == 1


def test_one_with_much_on_its_way_is_kept() -> None:
    assert watched(Link(BusTimeout("no answer"), BUSY_BYTES)).aborted == 0


def test_a_connection_that_is_lost_already_is_left_to_nats_py() -> None:
    """Its probes fail at once: others have to get on meanwhile, or the loss is never told."""
    link = watched(Link(BusUnavailable("not connected")))
    assert link.aborted == 0
    assert link.probes <= 10.0 / PROBE_EVERY_S
