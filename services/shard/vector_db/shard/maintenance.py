"""Background work of a worker: sealing, checkpoints, the room that is left; `indexing` has builds.

Owns the invariant that the WAL is cut only below a checkpoint whose manifest is durable, and that
background work never changes an answer: it swaps equal representations on the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import Executor

import structlog

from vector_db.common.model.rows import F32
from vector_db.common.ports import Clock, Disk, DiskFull
from vector_db.shard.core.participant import Participant
from vector_db.shard.core.parts import Checkpoint
from vector_db.shard.heap import give_back_freed, take_pages
from vector_db.shard.indexing import Indexing
from vector_db.shard.storage.manifest import Manifest, save_manifest
from vector_db.shard.storage.slice import Slice
from vector_db.shard.storage.store import CheckpointJob, Idle, Store
from vector_db.shard.storage.wal import Wal
from vector_db.shard.worker import Worker

TURN_S = 0.1
IDLE_S = 1.0
"""A slice without writes for so long is sealed and indexed before it is full."""
LONG_IDLE_S = 5.0
"""And after so long even the few rows that are left, to be merged with the others."""
FREE_BYTES_MIN = 128 * 1024 * 1024
"""Below it rows are refused (507), so that deletes, seals and checkpoints still find room."""
FULL_PAUSE_S = 2.0
CHECKPOINT_S = 60.0
"""After so long with writes a checkpoint is written in any case: the logs are kept up to it."""


class Maintenance:
    """Background work of one worker, one job at a time."""

    def __init__(
        self,
        worker: Worker,
        participant: Participant,
        store: Store,
        wal: Wal,
        disk: Disk,
        clock: Clock,
        executor: Executor,
        wal_bytes_max: int,
        cores: int,
    ) -> None:
        """`cores`: as many threads may a build have."""
        self._worker = worker
        self._participant = participant
        self._store = store
        self._wal = wal
        self._disk = disk
        self._clock = clock
        self._executor = executor
        self._wal_bytes_max = wal_bytes_max
        self._log = structlog.get_logger("vector_db.shard").bind(worker=participant.worker)
        self._written_s = clock.monotonic_s()
        self._seen_cursor = participant.cursor
        self._tidied_s = self._written_s
        self._one_checkpoint = asyncio.Lock()
        self._checkpoint_wanted = False
        self._checkpointed_s = self._written_s
        self._checkpointed_cursor = participant.stable_ts
        self._wal_limit = wal_bytes_max
        self._indexing = Indexing(
            store, participant, disk, clock, executor, cores, self.want_checkpoint
        )

    def noted(self) -> None:
        """A group was applied; cheap."""
        if self._participant.cursor != self._seen_cursor:
            self._seen_cursor = self._participant.cursor
            self._written_s = self._clock.monotonic_s()
            self._indexing.noted_write()
            if rooms := self._store.rooms_ahead():
                self._executor.submit(_take_pages, rooms)

    def noted_read(self) -> None:
        """The worker was asked; cheap."""
        self._indexing.noted_read()

    async def open_indexes(self, slices: Iterable[Slice]) -> None:
        """Open what indexes slices have that are not served yet."""
        await self._indexing.open_indexes(slices)

    def want_checkpoint(self) -> None:
        """Soon: files should come or go."""
        self._checkpoint_wanted = True

    async def run(self) -> None:
        """Until cancelled: seal and checkpoint, with index builds beside them.

        :raises StorageCorrupt: a sealed segment is damaged; names file and offset.
        """
        # A first search would check the columns that it touches; this way none has to wait for it.
        await self._in_pool(self._store.verify)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._seals(), name="seals")
            tasks.create_task(self._indexing.run(), name="indexing")

    async def _seals(self) -> None:
        while True:
            await asyncio.sleep(TURN_S)
            try:
                self._check_room()
                await self._seal()
                if self._checkpoint_due():
                    await self.checkpoint()
                await self._tidy()
            except DiskFull as full:
                self._log.error("disk full, background work waits", error=str(full))
                await asyncio.sleep(FULL_PAUSE_S)

    async def _tidy(self) -> None:
        """Once after each time of writing, and of building: both leave the heap full of holes."""
        now_s, busy_s = self._clock.monotonic_s(), max(self._written_s, self._indexing.ended_s)
        if now_s - busy_s >= LONG_IDLE_S and self._tidied_s < busy_s:
            self._tidied_s = now_s
            await self._in_pool(give_back_freed)

    def _checkpoint_due(self) -> bool:
        if self._checkpoint_wanted or self._wal.size_bytes > self._wal_limit:
            return True
        late = self._clock.monotonic_s() - self._checkpointed_s >= CHECKPOINT_S
        return late and self._participant.cursor != self._checkpointed_cursor

    def _check_room(self) -> None:
        free = self._disk.free_bytes()
        full = ""
        if free < FREE_BYTES_MIN:
            full = f"the disk of the shard worker has {free} bytes left"
        if full and not self._participant.full:
            self._log.error("rows are refused", reason=full)
        self._participant.full = full

    async def _in_pool(self, work: Callable[[], object]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._executor, work)

    async def _seal(self) -> None:
        quiet_s = self._clock.monotonic_s() - self._written_s
        idle = Idle.LONG if quiet_s >= LONG_IDLE_S else Idle.SHORT
        if quiet_s < IDLE_S:
            idle = Idle.NO
        job = self._store.seal_due(self._participant.stable_ts, idle)
        if job is None:
            return
        started = self._clock.monotonic_s()
        while True:
            try:
                await self._in_pool(job.run)
                break
            except DiskFull as full:
                self._log.error("disk full, a segment waits to be sealed", error=str(full))
                await asyncio.sleep(FULL_PAUSE_S)
        self._store.sealed(job)
        self._checkpoint_wanted = True
        seconds = round(self._clock.monotonic_s() - started, 3)
        self._log.info("sealed a segment", segment=job.name, rows=job.rows, seconds=seconds)

    # --- checkpoints ------------------------------------------------------------------------------

    async def checkpoint(self) -> bool:
        """Write a checkpoint at `stable_ts` and cut the WAL; false when none can be taken now."""
        async with self._one_checkpoint:
            return await self._checkpoint()

    async def _checkpoint(self) -> bool:
        captured = await self._worker.between_groups(self._capture)
        if not isinstance(captured, tuple):
            return False
        protocol, job, next_lsn = captured
        await self._in_pool(lambda: self._write(protocol, job, next_lsn))
        self._store.checkpointed(job)
        self._worker.checkpointed(protocol)
        await self._worker.between_groups(lambda: self._wal.truncate_before(protocol.replay_lsn))
        self._checkpoint_wanted = False
        self._checkpointed_s = self._clock.monotonic_s()
        self._checkpointed_cursor = protocol.cursor
        # What could not be cut must grow before it is worth another checkpoint.
        self._wal_limit = max(self._wal_bytes_max, self._wal.size_bytes + self._wal_bytes_max // 2)
        self._log.info("checkpoint", ts=protocol.cursor, replay_lsn=protocol.replay_lsn)
        return True

    def _capture(self) -> tuple[Checkpoint, CheckpointJob, int] | None:
        next_lsn = self._wal.next_lsn
        protocol = self._participant.checkpoint(next_lsn)
        if protocol is None:
            return None
        return protocol, self._store.checkpoint(protocol.cursor), next_lsn

    def _write(self, protocol: Checkpoint, job: CheckpointJob, next_lsn: int) -> None:
        job.run()
        save_manifest(self._disk, Manifest(protocol, job.manifest, next_lsn))


def _take_pages(rooms: list[tuple[F32, int, int]]) -> None:
    for room in rooms:
        take_pages(*room)
