"""Strong reads: a majority of some shard confirms the term, and nobody else is waited for."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.memory_bus import MemoryBus
from tests.support.protocol import Replicas, takeover
from tests.support.virtual_time import run
from vector_db.common.core.messages import AnyMessage
from vector_db.common.core.messages.reads import (
    ConfirmReply,
    ConfirmRequest,
    StrongReply,
    StrongRequest,
)
from vector_db.common.core.subjects import worker
from vector_db.common.model.errors import Unavailable
from vector_db.common.model.ids import make_ts
from vector_db.coordinator.core.sequencer import Sequencer
from vector_db.coordinator.requests import CONFIRM_TIMEOUT_S, Requests
from vector_db.coordinator.term import Term

PLACED: Replicas = {0: ("w1", "w2", "w3")}


async def asked(confirming: tuple[str, ...], standing_still: tuple[str, ...] = ()) -> StrongReply:
    """The answer of term 2, where these confirm, these do not answer and the others are away."""
    bus = MemoryBus()

    async def confirm(message: AnyMessage) -> AnyMessage:
        assert message == ConfirmRequest(2)
        return ConfirmReply("w", True)

    async def stand_still(message: AnyMessage) -> AnyMessage:
        await asyncio.Event().wait()
        raise AssertionError

    for name in confirming:
        await bus.serve(worker(name), confirm)
    for name in standing_still:
        await bus.serve(worker(name), stand_still)
    sequencer = Sequencer(2, takeover(2, make_ts(1, 9), PLACED), 1_000)
    term = Term(bus, "c", sequencer, lambda: 1_000)
    reply = await Requests(bus, term, 4, 3, list).handle(StrongRequest())
    assert isinstance(reply, StrongReply)
    assert len(asyncio.all_tasks()) == 1
    return reply


@pytest.mark.parametrize("slow", ["w1", "w2", "w3"])
def test_one_that_does_not_answer_is_not_waited_for(slow: str) -> None:
    async def main() -> None:
        others = tuple(w for w in PLACED[0] if w != slow)
        began = asyncio.get_running_loop().time()
        assert (await asked(others, (slow,))).term == 2
        assert asyncio.get_running_loop().time() - began < CONFIRM_TIMEOUT_S / 2

    run(main())


def test_less_than_a_majority_confirms_nothing() -> None:
    async def main() -> None:
        with pytest.raises(Unavailable):
            await asked(("w1",), ("w2",))

    run(main())
