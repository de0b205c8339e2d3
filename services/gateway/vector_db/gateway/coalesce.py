"""Adaptive coalescing of searches: while one is under way at a worker, others wait and go as a
batch.

Owns the invariant that coalescing never changes an answer: only searches that differ in nothing but
their vectors share a request, and scores do not depend on batching.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from vector_db.common.core.messages.reads import SearchRequest
from vector_db.common.model.errors import Internal, Unavailable
from vector_db.common.model.rows import Buffer
from vector_db.gateway.core.requests import Effort, Hits

T = TypeVar("T")
Send = Callable[[SearchRequest], Awaitable[list[Hits]]]


class Shape(NamedTuple):
    """What two searches must have in common to travel together."""

    collection_id: int
    shards: tuple[int, ...]
    snapshot_ts: int
    k: int
    filter: bytes
    min_similarity: float | None
    include_metadata: bool
    include_vectors: bool
    effort: Effort = Effort()
    after: tuple[float, bytes] | None = None
    skip: int = 0

    def request(self, queries: Buffer) -> SearchRequest:
        recall, ef, nprobe, exact = self.effort
        return SearchRequest(
            collection_id=self.collection_id,
            shards=self.shards,
            snapshot_ts=self.snapshot_ts,
            queries=queries,
            k=self.k,
            filter=self.filter,
            min_similarity=self.min_similarity,
            include_metadata=self.include_metadata,
            include_vectors=self.include_vectors,
            recall=recall,
            ef=ef,
            nprobe=nprobe,
            exact=exact,
            after=self.after,
            skip=self.skip,
        )


@dataclass(slots=True)
class _Batch:
    """Queries of one shape that wait together; the first to come sends for all."""

    vectors: list[bytes] = field(default_factory=list)
    followers: list[asyncio.Future[Hits]] = field(default_factory=list)


PROBE_EVERY = 16
"""While queries come alone, only every so many of them look for company."""
COMPANY_TURNS = 64
"""After company was found, so many searches look for more."""


class Coalescer:
    """Searches of one worker.

    Looking for company costs one turn of the event loop; who asks alone need not pay it.
    """

    def __init__(self, send: Send, in_flight_max: int, queries_max: int) -> None:
        """`queries_max`: most queries in one request."""
        self._send = send
        self._in_flight_max = in_flight_max
        self._queries_max = queries_max
        self._in_flight = 0
        self._open: dict[Shape, _Batch] = {}
        self._turns: deque[asyncio.Future[None]] = deque()
        self._looks = COMPANY_TURNS
        self._alone = 0
        self._tasks: set[asyncio.Task[Any]] = set()

    async def search(self, shape: Shape, vector: bytes) -> Hits:
        """One query's hits."""
        batch = self._open.get(shape)
        if batch is not None and len(batch.vectors) < self._queries_max:
            batch.vectors.append(vector)
            future: asyncio.Future[Hits] = asyncio.get_running_loop().create_future()
            batch.followers.append(future)
            return await future
        batch = self._open[shape] = _Batch([vector])
        try:
            await self._take_turn()
        except asyncio.CancelledError:
            if batch.followers:
                # This client has gone; the others' queries go on without it.
                self._keep(self._lead(shape, batch))
            else:
                self._close(shape, batch)
            raise
        self._close(shape, batch)
        if batch.followers:
            self._looks = COMPANY_TURNS
            return await asyncio.shield(self._keep(self._send_all(shape, batch)))
        try:
            (hits,) = await self._send(shape.request(vector))
            return hits
        finally:
            self._pass_turn()

    async def _lead(self, shape: Shape, batch: _Batch) -> None:
        await self._take_turn()
        self._close(shape, batch)
        await self._send_all(shape, batch)

    def _keep(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # every waiter has it; an abandoned leader's is nobody's

    async def _take_turn(self) -> None:
        if self._in_flight < self._in_flight_max:
            self._in_flight += 1
            if self._looks_for_company():
                try:
                    # Queries that the loop is about to read in this very turn travel along.
                    await asyncio.sleep(0)
                except BaseException:
                    self._pass_turn()
                    raise
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._turns.append(turn)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self._pass_turn()
            raise

    def _looks_for_company(self) -> bool:
        if self._looks:
            self._looks -= 1
            return True
        self._alone += 1
        return self._alone % PROBE_EVERY == 0

    def _pass_turn(self) -> None:
        while self._turns:
            turn = self._turns.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._in_flight -= 1

    def _close(self, shape: Shape, batch: _Batch) -> None:
        """No more queries join the batch."""
        if self._open.get(shape) is batch:
            del self._open[shape]

    async def _send_all(self, shape: Shape, batch: _Batch) -> Hits:
        """Send a batch that others wait for; the leader's own hits."""
        try:
            mine, *others = await self._send(shape.request(b"".join(batch.vectors)))
            if len(others) != len(batch.followers):
                raise Internal(f"{1 + len(others)} answers to {len(batch.vectors)} queries")
        except BaseException as error:
            told = error if isinstance(error, Exception) else Unavailable("the gateway stops")
            for future in batch.followers:
                if not future.done():
                    future.set_exception(told)
            raise
        finally:
            self._pass_turn()
        for future, one in zip(batch.followers, others, strict=True):
            if not future.done():
                future.set_result(one)
        return mine
