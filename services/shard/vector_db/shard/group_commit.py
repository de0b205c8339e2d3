"""Group commit: records of many transactions share an fsync, and what rests on them is sent after.

Owns the order append → fsync → send: a message leaves only once every record that was appended
before it was owed is durable, and messages leave in the order in which they were owed. While one
group is synced the next one is made, so neither the disk nor the rows wait for the other.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor

import structlog

from vector_db.common.core.messages.transactions import Durable, Vote, Votes
from vector_db.common.core.subjects import votes
from vector_db.common.ports import Bus, BusUnavailable, DiskFull
from vector_db.shard.storage.wal import Wal

INLINE_SYNC_BYTES_MAX = 64 * 1024
"""Smaller groups are synced on the loop: a hop to a thread costs more than the fsync (0.17 ms)."""
WAITING_BYTES_MAX = 4 * 1024 * 1024
"""More than that is not appended while a group is being synced."""
FULL_RETRY_S = 0.5
VOTES_PER_MESSAGE_MAX = 256
"""Some 100 KiB: a worker that votes anew on everything sends few messages."""


class GroupCommit:
    """Syncs the log of one worker and sends its votes and cursors."""

    def __init__(
        self,
        bus: Bus,
        wal: Wal,
        executor: Executor,
        on_full: Callable[[], None],
        on_unsent: Callable[[], None],
        on_end: Callable[[], None],
    ) -> None:
        """`on_full`: the disk has no room, and the log waits for it. `on_unsent`: the broker is
        away, and a message was dropped. `on_end`: what was left to a task is done, or failed."""
        self._bus = bus
        self._wal = wal
        self._executor = executor
        self._on_full = on_full
        self._on_unsent = on_unsent
        self._on_end = on_end
        self._log = structlog.get_logger("vector_db.shard")
        self._owed: deque[tuple[int, list[Vote | Durable]]] = deque()
        self._task: asyncio.Task[None] | None = None

    def owe(self, messages: list[Vote | Durable]) -> None:
        """Send these once all that was appended so far is durable."""
        if messages:
            self._owed.append((self._wal.next_lsn - 1, messages))

    async def advance(self) -> None:
        """After a group: make it durable and send, at once or while the next one is made.

        :raises OSError: an fsync failed: the worker must end.
        """
        self.check()
        small = self._wal.pending_bytes <= INLINE_SYNC_BYTES_MAX
        if self._task is None and small and self._flush_here():
            await self._send_durable()
            return
        if self._task is None:
            self._task = asyncio.create_task(self._until_durable(), name="shard.group_commit")
            self._task.add_done_callback(lambda _: self._on_end())
        if self._wal.pending_bytes > WAITING_BYTES_MAX:
            await self._finish()

    async def settle(self) -> None:
        """Return once all that was appended is durable and all that was owed is sent.

        :raises OSError: an fsync failed: the worker must end.
        """
        await self._finish()
        while self._wal.pending_bytes or self._owed:
            await self.advance()
            await self._finish()

    def check(self) -> None:
        """Take note of a task that has ended.

        :raises OSError: it ended with a failed fsync: the worker must end.
        """
        if self._task is not None and self._task.done():
            task, self._task = self._task, None
            task.result()

    async def close(self) -> None:
        """Stop; what is not durable by now stays unsent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _finish(self) -> None:
        if self._task is not None:
            try:
                await self._task
            finally:
                self._task = None

    async def _until_durable(self) -> None:
        """Sync and send until nothing waits; a full disk is waited out, any other error ends the
        worker."""
        while self._wal.pending_bytes:
            try:
                if self._wal.pending_bytes <= INLINE_SYNC_BYTES_MAX:
                    self._wal.flush()
                else:
                    loop = asyncio.get_running_loop()
                    await loop.run_in_executor(self._executor, self._wal.flush)
            except DiskFull as full:
                self._on_full()
                self._log.error("disk full, writes wait", error=str(full))
                await asyncio.sleep(FULL_RETRY_S)
            await self._send_durable()

    def _flush_here(self) -> bool:
        try:
            self._wal.flush()
        except DiskFull:
            # The task waits for room.
            return False
        return True

    async def _send_durable(self) -> None:
        while self._owed and self._owed[0][0] <= self._wal.durable_lsn:
            _, messages = self._owed.popleft()
            try:
                for message in _together(messages):
                    await self._bus.publish(votes(), message)
            except BusUnavailable:
                # Beats ask for everything undecided again once the broker is back.
                self._on_unsent()
                self._log.warning("the broker is away, votes wait", messages=len(messages))


def _together(messages: list[Vote | Durable]) -> Iterator[Vote | Votes | Durable]:
    """The messages in their order, votes that follow one another as one."""
    for is_vote, group in itertools.groupby(messages, lambda m: isinstance(m, Vote)):
        if not is_vote:
            yield from group
            continue
        given = [m for m in group if isinstance(m, Vote)]
        for start in range(0, len(given), VOTES_PER_MESSAGE_MAX):
            some = given[start : start + VOTES_PER_MESSAGE_MAX]
            yield some[0] if len(some) == 1 else Votes(tuple(some))
