"""Nothing is sent before what it rests on is durable, whatever is synced and made meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, Future
from typing import Any

import pytest

from tests.support.memory_bus import MemoryBus
from tests.support.virtual_time import run
from tests.unit.shard_wal.memory_disk import MemoryDisk, io_error
from vector_db.common.core.messages import AnyMessage
from vector_db.common.core.messages.transactions import Durable
from vector_db.common.core.subjects import votes
from vector_db.shard import group_commit
from vector_db.shard.group_commit import GroupCommit
from vector_db.shard.storage.wal import Wal

LARGE = bytes(group_commit.INLINE_SYNC_BYTES_MAX + 1)


class Held(Executor):
    """Work that is done when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Callable[..., Any], Future[Any]]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.waiting.append((fn, future))
        return future

    def do(self) -> None:
        fn, future = self.waiting.pop(0)
        try:
            future.set_result(fn())
        except Exception as error:
            future.set_exception(error)


class Rig:
    """A group commit over a log in memory; `sent` are the cursors that left."""

    def __init__(self) -> None:
        self.disk = MemoryDisk()
        self.wal, _ = Wal.open(self.disk)
        self.bus = MemoryBus()
        self.pool = Held()
        self.full = self.ended = 0
        self.sent: list[int] = []
        self.commits = GroupCommit(
            self.bus, self.wal, self.pool, self.on_full, lambda: None, self.on_end
        )

    def on_full(self) -> None:
        self.full += 1

    def on_end(self) -> None:
        self.ended += 1

    def take(self, message: AnyMessage) -> None:
        if isinstance(message, Durable):
            assert self.wal.durable_lsn >= message.cursor, "told before it was synced"
            self.sent.append(message.cursor)

    async def group(self, record: bytes) -> None:
        """One record, and a message that says so."""
        lsn = self.wal.append(1, [record])
        self.commits.owe([Durable("w", 1, lsn, {}, 0)])
        await self.commits.advance()

    async def synced(self) -> None:
        """Let the next sync of the pool be done, and all that follows from it."""
        await settled()
        self.pool.do()
        await settled()


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def drive(scenario: Callable[[Rig], Awaitable[None]]) -> None:
    async def main() -> None:
        rig = Rig()
        await rig.bus.subscribe(votes(), rig.take)
        try:
            await scenario(rig)
        finally:
            await rig.commits.close()

    run(main())


def test_a_small_group_is_synced_and_told_at_once() -> None:
    async def scenario(rig: Rig) -> None:
        await rig.group(b"small")
        assert rig.sent == [1] and not rig.pool.waiting
        rig.commits.owe([Durable("w", 1, 1, {}, 0)])
        await rig.commits.advance()
        assert rig.sent == [1, 1], "what rests on nothing new does not wait"

    drive(scenario)


def test_what_is_made_during_a_sync_waits_for_its_own() -> None:
    async def scenario(rig: Rig) -> None:
        await rig.group(LARGE)
        await settled()
        assert rig.sent == []
        # The sync that is under way took its records before these.
        fn, future = rig.pool.waiting.pop()
        fn()
        await rig.group(b"small")
        await rig.group(LARGE)
        assert rig.sent == []
        future.set_result(None)
        await settled()
        assert rig.sent == [1], "a small group may not jump the queue either"
        await rig.synced()
        assert rig.sent == [1, 2, 3] and rig.ended == 1

    drive(scenario)


def test_settling_waits_for_everything() -> None:
    async def scenario(rig: Rig) -> None:
        await rig.group(LARGE)
        settling = asyncio.create_task(rig.commits.settle())
        await settled()
        fn, future = rig.pool.waiting.pop()
        fn()
        rig.wal.append(1, [LARGE])
        future.set_result(None)
        await settled()
        assert rig.sent == [1] and not settling.done()
        await rig.synced()
        await settling
        assert rig.wal.durable_lsn == 2 and rig.sent == [1]

    drive(scenario)


def test_a_failed_sync_ends_it_and_nothing_is_told() -> None:
    async def scenario(rig: Rig) -> None:
        rig.disk.on_sync = io_error
        await rig.group(LARGE)
        await settled()
        rig.pool.do()
        await settled()
        assert rig.ended == 1, "whoever drives it is woken"
        with pytest.raises(OSError):
            rig.commits.check()
        assert rig.sent == []
        rig.disk.on_sync = io_error
        with pytest.raises(Exception, match="failed"):
            await rig.group(b"small")
        assert rig.sent == []

    drive(scenario)


def test_a_full_disk_is_waited_out() -> None:
    async def scenario(rig: Rig) -> None:
        rig.disk.capacity = 1000
        await rig.group(bytes(2000))
        await asyncio.sleep(10 * group_commit.FULL_RETRY_S)
        assert rig.full > 5 and rig.sent == []
        rig.disk.capacity = 100_000
        await asyncio.sleep(2 * group_commit.FULL_RETRY_S)
        assert rig.sent == [1]

    drive(scenario)


def test_no_more_is_appended_than_may_wait() -> None:
    async def scenario(rig: Rig) -> None:
        record = bytes(group_commit.WAITING_BYTES_MAX // 2 + 1)
        await rig.group(record)
        await settled()
        fn, future = rig.pool.waiting.pop()
        fn()
        await rig.group(record)
        third = asyncio.create_task(rig.group(record))
        await settled()
        assert not third.done()
        future.set_result(None)
        await rig.synced()
        await third
        assert rig.sent == [1, 2, 3]

    drive(scenario)
