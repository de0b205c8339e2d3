"""Background work of a worker: sealing, indexing, checkpoints, and the room that is left.

Owns the invariant that the WAL is cut only below a checkpoint whose manifest is durable, and that
background work never changes an answer: it swaps equal representations on the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor

import structlog

from vector_db.common.model.errors import NewerFormat, StorageCorrupt
from vector_db.common.ports import Clock, Disk, DiskFull
from vector_db.shard.core.participant import Participant
from vector_db.shard.core.parts import Checkpoint
from vector_db.shard.index.builder import BuildFailed, IndexBuild
from vector_db.shard.index.hnsw import HnswIndex, remove_index
from vector_db.shard.storage.manifest import Manifest, save_manifest
from vector_db.shard.storage.sealed import VECTORS_FILE, SealedSegment
from vector_db.shard.storage.store import CheckpointJob, Store
from vector_db.shard.storage.wal import Wal
from vector_db.shard.worker import Worker

TURN_S = 0.1
IDLE_S = 1.0
"""A slice without writes for so long is sealed and indexed before it is full."""
BUILD_POLL_S = 0.05
BUILDS_FAILED_MAX = 3
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
        hot_bytes_max: int,
    ) -> None:
        self._worker = worker
        self._participant = participant
        self._store = store
        self._wal = wal
        self._disk = disk
        self._clock = clock
        self._executor = executor
        self._wal_bytes_max = wal_bytes_max
        self._hot_bytes_max = hot_bytes_max
        self._log = structlog.get_logger("vector_db.shard").bind(worker=participant.worker)
        self._written_s = clock.monotonic_s()
        self._seen_cursor = participant.cursor
        self._one_checkpoint = asyncio.Lock()
        self._checkpoint_wanted = False
        self._checkpointed_s = self._written_s
        self._checkpointed_cursor = participant.stable_ts
        self._wal_limit = wal_bytes_max
        self._builds_failed: dict[str, int] = {}
        self._build: IndexBuild | None = None

    def noted(self) -> None:
        """A group was applied; cheap."""
        if self._participant.cursor != self._seen_cursor:
            self._seen_cursor = self._participant.cursor
            self._written_s = self._clock.monotonic_s()

    async def run(self) -> None:
        """Until cancelled: seal and checkpoint, with index builds beside them.

        :raises StorageCorrupt: a sealed segment is damaged; names file and offset.
        """
        # A first search would check the columns that it touches; this way none has to wait for it.
        await self._in_pool(self._store.verify)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._seals(), name="seals")
            tasks.create_task(self._builds(), name="builds")

    async def _seals(self) -> None:
        while True:
            await asyncio.sleep(TURN_S)
            try:
                self._check_room()
                await self._seal()
                if self._checkpoint_due():
                    await self.checkpoint()
            except DiskFull as full:
                self._log.error("disk full, background work waits", error=str(full))
                await asyncio.sleep(FULL_PAUSE_S)

    def _checkpoint_due(self) -> bool:
        if self._checkpoint_wanted or self._wal.size_bytes > self._wal_limit:
            return True
        late = self._clock.monotonic_s() - self._checkpointed_s >= CHECKPOINT_S
        return late and self._participant.cursor != self._checkpointed_cursor

    def _check_room(self) -> None:
        free = self._disk.free_bytes()
        held = self._store.bytes_held()
        if free < FREE_BYTES_MIN:
            full = f"the disk of the shard worker has {free} bytes left"
        elif held > self._hot_bytes_max:
            full = f"the shard worker holds {held} bytes, the limit hot_tier_size is "
            full += str(self._hot_bytes_max)
        else:
            full = ""
        if full and not self._participant.full:
            self._log.error("rows are refused", reason=full)
        self._participant.full = full

    async def _in_pool(self, work: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._executor, work)

    async def _seal(self) -> None:
        idle = self._clock.monotonic_s() - self._written_s >= IDLE_S
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

    # --- indexes ----------------------------------------------------------------------------------

    async def _builds(self) -> None:
        try:
            while True:
                await asyncio.sleep(TURN_S)
                segment = self._store.index_due()
                if segment is not None:
                    await self._index(segment)
        finally:
            if self._build is not None:
                self._build.kill()

    async def _index(self, segment: SealedSegment) -> None:
        metric = self._store.metric_of(segment)
        if metric is None or self._builds_failed.get(segment.name, 0) >= BUILDS_FAILED_MAX:
            # Dropped meanwhile, or hopeless: the segment stays exactly scanned, and marked as
            # taken.
            return
        started = self._clock.monotonic_s()

        def open_index() -> HnswIndex | None:
            try:
                return HnswIndex.open(segment.directory, metric, segment.rows, segment.dimension)
            except FileNotFoundError:
                return None
            except StorageCorrupt as error:
                # The vectors have a checksum of their own: the index is made of them again.
                self._log.error("an index is damaged, building it anew", error=str(error))
                remove_index(segment.directory)
                return None

        loop = asyncio.get_running_loop()
        try:
            index = await loop.run_in_executor(self._executor, open_index)
            if index is None:
                self._build = IndexBuild(
                    segment.directory / VECTORS_FILE,
                    segment.rows,
                    segment.dimension,
                    metric,
                    segment.directory,
                )
                while not self._build.poll():  # noqa: ASYNC110 (a process has no event to await)
                    await asyncio.sleep(BUILD_POLL_S)
                self._build = None
                index = await loop.run_in_executor(self._executor, open_index)
        except (BuildFailed, NewerFormat, OSError, StorageCorrupt) as error:
            self._build = None
            self._builds_failed[segment.name] = self._builds_failed.get(segment.name, 0) + 1
            self._log.error("an index is not built", segment=segment.name, error=str(error))
            index = None
        self._store.indexed(segment, index)
        if index is not None:
            seconds = round(self._clock.monotonic_s() - started, 3)
            self._log.info("indexed", segment=segment.name, rows=segment.rows, seconds=seconds)
