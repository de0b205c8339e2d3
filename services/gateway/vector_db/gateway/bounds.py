"""What one gateway may have undecided at once: so many transactions, so many bytes to a shard.

Owns the order of what waits (that of arrival), and the promise that a wait ends: with room, or with
an error that says which bound it was.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Mapping
from random import Random

from vector_db.common.model.errors import TooManyRequests
from vector_db.common.model.limits import UNACKED_BYTES_PER_SHARD_MAX
from vector_db.gateway.core.admission import Admission

ROOM_TIMEOUT_S = 5.0
SLOT_TIMEOUT_S = 5.0
PAUSE_S_MAX = 1.0
BACKOFF_S = (0.002, 0.2)
"""Pauses before retries, doubling; and none is shorter than decisions take just now."""


class Bounds:
    """Of one gateway. `random`: where the length of pauses comes from."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self.admission = Admission()
        self._queue: deque[asyncio.Future[None]] = deque()
        self._unacked: dict[int, int] = {}
        self._room = asyncio.Condition()

    # --- transactions -----------------------------------------------------------------------------

    async def take_slot(self) -> float:
        """A place among the undecided transactions, in the order of arrival: the time it was had.
        `give_slot` it once the transaction is decided, or given up.

        :raises TooManyRequests: none within `SLOT_TIMEOUT_S`.
        """
        loop = asyncio.get_running_loop()
        if self._queue or not self.admission.has_room():
            turn: asyncio.Future[None] = loop.create_future()
            self._queue.append(turn)
            try:
                await asyncio.wait_for(turn, SLOT_TIMEOUT_S)
            except TimeoutError:
                raise TooManyRequests(
                    f"over {int(self.admission.limit)} undecided transactions of this gateway"
                ) from None
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self.admission.in_flight -= 1
                    self._next_turns()
                raise
        else:
            self.admission.begin()
        return loop.time()

    def give_slot(self, since_s: float, size_bytes: int) -> None:
        """A transaction of so many bytes is not undecided any more."""
        now_s = asyncio.get_running_loop().time()
        self.admission.end(now_s - since_s, size_bytes, now_s)
        self._next_turns()

    def _next_turns(self) -> None:
        while self._queue and (self._queue[0].done() or self.admission.has_room()):
            turn = self._queue.popleft()
            if not turn.done():
                self.admission.begin()
                turn.set_result(None)

    async def pause(self, retry: int) -> None:
        """Before the next try: whatever stood in the way has to be decided first."""
        backoff_s = min(BACKOFF_S[1], BACKOFF_S[0] * 2**retry)
        pause_s = max(backoff_s, min(self.admission.pace_s, PAUSE_S_MAX))
        await asyncio.sleep(pause_s * (0.5 + self._random.random()))

    # --- bytes ------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def room(self, sizes: Mapping[int, int]) -> AsyncIterator[None]:
        """Room for so many unconfirmed bytes at each shard, while the block runs; a write alone at
        its shard has it.

        :raises TooManyRequests: none within `ROOM_TIMEOUT_S`.
        """
        await self._take_room(sizes)
        try:
            yield
        finally:
            for shard, size_bytes in sizes.items():
                self._unacked[shard] -= size_bytes
            async with self._room:
                self._room.notify_all()

    async def _take_room(self, sizes: Mapping[int, int]) -> None:
        if self._fits(sizes):
            self._reserve(sizes)
            return
        async with self._room:
            try:
                await asyncio.wait_for(
                    self._room.wait_for(lambda: self._fits(sizes)), ROOM_TIMEOUT_S
                )
            except TimeoutError:
                raise TooManyRequests(
                    f"over {UNACKED_BYTES_PER_SHARD_MAX} unacknowledged bytes to a shard"
                ) from None
            self._reserve(sizes)

    def _fits(self, sizes: Mapping[int, int]) -> bool:
        for shard, size_bytes in sizes.items():
            taken = self._unacked.get(shard, 0)
            if taken and taken + size_bytes > UNACKED_BYTES_PER_SHARD_MAX:
                return False
        return True

    def _reserve(self, sizes: Mapping[int, int]) -> None:
        for shard, size_bytes in sizes.items():
            self._unacked[shard] = self._unacked.get(shard, 0) + size_bytes
