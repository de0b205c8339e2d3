"""A sequencer that is heard and hears nothing gives its term up: nobody else would take it over."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.memory_bus import MemoryBus
from tests.support.protocol import first_takeover
from tests.support.virtual_time import run
from vector_db.common.core.messages import AnyMessage
from vector_db.common.core.messages.transactions import Beat
from vector_db.common.core.subjects import beats
from vector_db.coordinator.core.sequencer import Sequencer
from vector_db.coordinator.term import ECHO_S_MAX, Term, TermLost


async def _idle() -> None:
    await asyncio.Event().wait()


def test_a_term_whose_beats_do_not_come_back_is_over() -> None:
    async def lead() -> None:
        term = Term(MemoryBus(), "c", Sequencer(1, first_takeover(), 0), lambda: 0)
        with pytest.raises(TermLost, match="beats were not heard"):
            await asyncio.wait_for(term.lead(_idle), 2 * ECHO_S_MAX)

    run(lead())


def test_a_term_that_hears_its_beats_or_has_no_broker_goes_on() -> None:
    async def lead() -> None:
        bus = MemoryBus()
        term = Term(bus, "c", Sequencer(1, first_takeover(), 0), lambda: 0)

        def heard(message: AnyMessage) -> None:
            assert isinstance(message, Beat)
            term.heard_itself()

        await bus.subscribe(beats(), heard)
        leading = asyncio.create_task(term.lead(_idle))
        await asyncio.sleep(2 * ECHO_S_MAX)
        bus.up = False
        await asyncio.sleep(2 * ECHO_S_MAX)
        bus.up = True
        await asyncio.sleep(2 * ECHO_S_MAX)
        assert not leading.done()
        leading.cancel()
        await asyncio.gather(leading, return_exceptions=True)

    run(lead())
