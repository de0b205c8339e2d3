"""Large inserts: batches cut from a stream, several in flight, and an account of what is durable.

Owns the invariant that when an insert fails, no batch is left under way: every batch sent has an
outcome, and the error names the ranges of input rows that are durable.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable

from vector_db_client import wire
from vector_db_client.errors import VectorDatabaseError
from vector_db_client.values import RowBatch, WriteResult

IN_FLIGHT_MAX = 8
"""Batches under way at once; more only queue up at the server."""

Batches = Iterable[RowBatch] | AsyncIterable[RowBatch]
Send = Callable[[RowBatch, int], Awaitable[WriteResult]]
"""Sends a batch; also told how many rows came before it."""


async def insert_batches(
    batches: Batches, batch_size: int, send: Send, on_rows: Callable[[int], None]
) -> WriteResult:
    """Send the rows of `batches` in requests of at most `batch_size` rows.

    `on_rows` hears of every batch that became durable. Batches become durable in any order.

    :raises VectorDatabaseError: the error of the earliest batch that failed, `committed` set; no
        batch after the first failure seen is started.
    """
    under_way: dict[asyncio.Task[WriteResult], range] = {}
    outcome = _Outcome(on_rows)
    start = 0
    try:
        async for batch in pieces(batches, batch_size):
            if len(under_way) >= IN_FLIGHT_MAX:
                await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                outcome.take(under_way)
                if outcome.failures:
                    break
            rows = range(start, start + len(batch.ids))
            start = rows.stop
            under_way[asyncio.ensure_future(send(batch, rows.start))] = rows
        if under_way:
            await asyncio.wait(under_way)
    except VectorDatabaseError as error:  # a batch that cannot be sent: let the others finish
        if under_way:
            await asyncio.wait(under_way)
        outcome.failures[start] = error
    except BaseException:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        raise
    outcome.take(under_way)
    return outcome.result()


class _Outcome:
    """What became of the batches so far."""

    def __init__(self, on_rows: Callable[[int], None]) -> None:
        self._on_rows = on_rows
        self._committed: list[range] = []
        self._count = 0
        self._commit_ts = 0
        self._replayed = False
        self.failures: dict[int, BaseException] = {}

    def take(self, under_way: dict[asyncio.Task[WriteResult], range]) -> None:
        """Move the tasks that are done out of `under_way`."""
        for task in [task for task in under_way if task.done()]:
            rows = under_way.pop(task)
            error = task.exception()
            if error is not None:
                self.failures[rows.start] = error
                continue
            result = task.result()
            self._committed.append(rows)
            self._count += result.count
            self._commit_ts = max(self._commit_ts, result.commit_ts)
            self._replayed |= result.replayed
            self._on_rows(len(rows))

    def result(self) -> WriteResult:
        if not self.failures:
            return WriteResult(self._count, self._commit_ts, self._replayed)
        error = self.failures[min(self.failures)]
        if isinstance(error, VectorDatabaseError):
            error.committed = _merged(self._committed)
        raise error


def _merged(ranges: list[range]) -> tuple[range, ...]:
    merged: list[range] = []
    for rows in sorted(ranges, key=lambda rows: rows.start):
        if merged and merged[-1].stop == rows.start:
            merged[-1] = range(merged[-1].start, rows.stop)
        else:
            merged.append(rows)
    return tuple(merged)


async def pieces(batches: Batches, batch_size: int) -> AsyncIterator[RowBatch]:
    """The rows of `batches`, checked, in pieces of one request each, as they are asked for."""
    if isinstance(batches, AsyncIterable):
        async for batch in batches:
            for piece in wire.split(wire.checked(batch), batch_size):
                yield piece
    else:
        for batch in batches:
            for piece in wire.split(wire.checked(batch), batch_size):
                yield piece
