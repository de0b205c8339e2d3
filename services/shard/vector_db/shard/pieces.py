"""Files of a snapshot that a replica has set aside, pulled piece by piece over the bus.

Owns the flow control of copies, and the check of each piece: so many are on their way at once, no
faster than the pace allows, and none counts that is not what the replica read.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable

import google_crc32c

from vector_db.common.core.messages import AnyMessage
from vector_db.common.core.messages.copies import SnapshotBytes, SnapshotRead
from vector_db.common.model.errors import Unavailable
from vector_db.common.ports import Clock

REQUEST_TIMEOUT_S = 10.0
PIECE_BYTES = 512 * 1024
PIECES_IN_FLIGHT = 4
"""Asked for at once: what is on the way to who copies is bounded by it."""

Ask = Callable[[AnyMessage], Awaitable[AnyMessage]]
"""One request to the replica that keeps the snapshot."""


class Pace:
    """Spreads bytes evenly over time, for all files that are copied at once."""

    def __init__(self, clock: Clock, bytes_per_s_max: int) -> None:
        """`bytes_per_s_max` 0: as fast as it goes."""
        self._clock = clock
        self._bytes_per_s_max = bytes_per_s_max
        self._due_s = clock.monotonic_s()

    async def wait(self, size_bytes: int) -> None:
        """Until so many bytes more are within the rate."""
        if not self._bytes_per_s_max:
            return
        now_s = self._clock.monotonic_s()
        due_s = max(self._due_s, now_s)
        self._due_s = due_s + size_bytes / self._bytes_per_s_max
        if due_s > now_s:
            await asyncio.sleep(due_s - now_s)


async def pieces(
    ask: Ask, snapshot: str, file: int, size_bytes: int, pace: Pace
) -> AsyncGenerator[bytes, None]:
    """The bytes of a file of a snapshot, in order; close it where they are not all taken.

    :raises Unavailable: the replica gives something else, or damaged bytes.
    """
    flying: deque[asyncio.Task[bytes]] = deque()
    asked = given = 0
    try:
        while given < size_bytes:
            while asked < size_bytes and len(flying) < PIECES_IN_FLIGHT:
                size = min(PIECE_BYTES, size_bytes - asked)
                await pace.wait(size)
                read = SnapshotRead(snapshot, file, asked, size)
                flying.append(asyncio.create_task(_piece(ask, read), name="snapshot.piece"))
                asked += size
            data = await flying.popleft()
            given += len(data)
            yield data
    finally:
        for task in flying:
            task.cancel()
        await asyncio.gather(*flying, return_exceptions=True)


async def _piece(ask: Ask, read: SnapshotRead) -> bytes:
    reply = await ask(read)
    if not isinstance(reply, SnapshotBytes) or len(reply.data) != read.size_bytes:
        raise Unavailable("the replica gave another piece than it was asked for")
    data = bytes(reply.data)
    if google_crc32c.value(data) != reply.crc32c:
        raise Unavailable("a piece of a snapshot was damaged on the way")
    return data
