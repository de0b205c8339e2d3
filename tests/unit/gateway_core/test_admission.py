"""How many transactions may be undecided at once: fewer while answers are slow; in what order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from random import Random

import pytest

from tests.support.memory_bus import MemoryBus
from tests.support.virtual_time import run
from vector_db.common.model.errors import TooManyRequests
from vector_db.gateway.bounds import PAUSE_S_MAX, SLOT_TIMEOUT_S
from vector_db.gateway.core.admission import (
    LIMIT_MAX,
    LIMIT_MIN,
    QUICK_S,
    SLOW_S,
    SMALL_BYTES_MAX,
    Admission,
)
from vector_db.gateway.transactions import Transactions


def ended(admission: Admission, took_s: float, now_s: float, size_bytes: int = 1) -> int:
    """The limit after one more transaction."""
    admission.begin()
    admission.end(took_s, size_bytes, now_s)
    return int(admission.limit)


@contextlib.asynccontextmanager
async def slot(transactions: Transactions) -> AsyncIterator[None]:
    since_s = await transactions.bounds.take_slot()
    yield
    transactions.bounds.give_slot(since_s, 1)


def test_slow_answers_lower_the_limit_and_quick_ones_raise_it_again() -> None:
    admission = Admission()
    falling = [ended(admission, 2 * SLOW_S, float(now_s)) for now_s in range(40)]
    assert falling == sorted(falling, reverse=True)
    assert falling[0] < LIMIT_MAX
    assert falling[-1] == LIMIT_MIN
    assert [ended(admission, QUICK_S, 40.0) for _ in range(3)] == [17, 18, 19]
    assert ended(admission, (QUICK_S + SLOW_S) / 2, 40.0) == 19


def test_what_is_slow_together_counts_once() -> None:
    admission = Admission()
    assert len({ended(admission, 2 * SLOW_S, 1.0) for _ in range(100)}) == 1


def test_large_transactions_say_nothing() -> None:
    admission = Admission()
    assert ended(admission, 100 * SLOW_S, 1.0, SMALL_BYTES_MAX + 1) == LIMIT_MAX


def test_nothing_is_tried_again_sooner_than_decisions_come() -> None:
    async def paused(took_s: float) -> float:
        transactions = Transactions(MemoryBus(), "g", Random(1))
        for _ in range(50):
            transactions.bounds.admission.begin()
            transactions.bounds.admission.end(took_s, 1, 0.0)
        started = asyncio.get_running_loop().time()
        await transactions.bounds.pause(0)
        return asyncio.get_running_loop().time() - started

    assert run(paused(0.001)) < 0.01
    assert 0.15 <= run(paused(0.3)) <= 0.45
    assert run(paused(60.0)) <= 1.5 * PAUSE_S_MAX


def test_transactions_beyond_the_limit_wait_in_their_order() -> None:
    async def load() -> None:
        transactions = Transactions(MemoryBus(), "g", Random(1))
        transactions.bounds.admission.limit = 2.0
        sent: list[int] = []
        decided = [asyncio.Event() for _ in range(5)]

        async def write(n: int) -> None:
            async with slot(transactions):
                sent.append(n)
                await decided[n].wait()

        writes = [asyncio.create_task(write(n)) for n in range(5)]
        await asyncio.sleep(0.01)
        assert sent == [0, 1]
        await asyncio.sleep((QUICK_S + SLOW_S) / 2)
        writes[2].cancel()
        decided[1].set()
        await asyncio.sleep(0.01)
        assert sent == [0, 1, 3], "the third has given up"
        for event in decided:
            event.set()
        await asyncio.gather(*writes, return_exceptions=True)
        assert sent == [0, 1, 3, 4]
        assert transactions.bounds.admission.in_flight == 0

    run(load())


def test_a_place_that_does_not_come_in_time_is_a_clear_error() -> None:
    async def load() -> None:
        transactions = Transactions(MemoryBus(), "g", Random(1))
        transactions.bounds.admission.limit = 1.0
        async with slot(transactions):
            started = asyncio.get_running_loop().time()
            with pytest.raises(TooManyRequests, match="over 1 undecided transactions"):
                async with slot(transactions):
                    pass
            assert asyncio.get_running_loop().time() - started == pytest.approx(SLOT_TIMEOUT_S)
        async with slot(transactions):
            assert transactions.bounds.admission.in_flight == 1

    run(load())
