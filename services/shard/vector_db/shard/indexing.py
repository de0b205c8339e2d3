"""Background builds of a worker: quick indexes, merges, and the indexes that collections want.

Owns two lanes, each with one build at a time: a quick one that gives fresh segments a first index
within seconds, and a long one for merges and graphs, so that no fresh segment waits behind a large
graph. Builds run in niced processes; they use all cores only while nobody asks the worker anything.
What they made is swapped in on the loop, between groups of commits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Executor
from typing import Any, TypeVar

import structlog

from vector_db.common.model.collection import Metric
from vector_db.common.model.errors import NewerFormat, StorageCorrupt
from vector_db.common.ports import Clock, Disk, DiskFull
from vector_db.shard.building.process import BuildFailed, BuildKilled, BuildProcess
from vector_db.shard.building.task import discard, drop_rows, run_task
from vector_db.shard.core.participant import Participant
from vector_db.shard.index.files import index_size, remove_index
from vector_db.shard.index.opening import SegmentIndex, open_index
from vector_db.shard.storage.sealed import SealedSegment
from vector_db.shard.storage.slice import Slice
from vector_db.shard.storage.store import Store
from vector_db.shard.storage.upkeep import FieldsJob, IndexJob, Job, MergeJob

TURN_S = 0.1
MERGE_IDLE_S = 2.0
"""Without writes for so long, segments are merged for the reads' sake."""
QUIET_S = 1.0
"""Without requests and writes for so long, builds may use all cores."""
BUILD_POLL_S = 0.05
FAILURES_MAX = 3
FULL_PAUSE_S = 2.0

T = TypeVar("T")


class Indexing:
    """The builds of one worker."""

    def __init__(
        self,
        store: Store,
        participant: Participant,
        disk: Disk,
        clock: Clock,
        executor: Executor,
        cores: int,
        on_merged: Callable[[], None],
    ) -> None:
        """`on_merged`: segments were replaced, so their files wait for a checkpoint."""
        self._store = store
        self._upkeep = store.upkeep
        self._participant = participant
        self._disk = disk
        self._clock = clock
        self._executor = executor
        self._cores = cores
        self._on_merged = on_merged
        self._log = structlog.get_logger("vector_db.shard").bind(worker=participant.worker)
        self._written_s = self._asked_s = clock.monotonic_s() - QUIET_S
        self._failures: dict[str, int] = {}
        self.ended_s = self._written_s
        """When the last piece of work ended."""

    def noted_write(self) -> None:
        """Commits were applied; cheap."""
        self._written_s = self._clock.monotonic_s()

    def noted_read(self) -> None:
        """The worker was asked; cheap."""
        self._asked_s = self._clock.monotonic_s()

    async def run(self) -> None:
        """Until cancelled.

        :raises StorageCorrupt: a sealed segment is damaged; names file and offset.
        """
        await self.open_indexes(self._store.all_slices())
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._lane(self._quick_turn), name="quick builds")
            tasks.create_task(self._lane(self._long_turn), name="builds")

    async def open_indexes(self, slices: Iterable[Slice]) -> None:
        """Open what indexes the sealed segments have, as at the start."""
        for owner in slices:
            for segment in list(owner.sealed):
                await self._open_at_start(owner.collection.metric, segment)

    async def _lane(self, turn: Callable[[], Coroutine[Any, Any, None] | None]) -> None:
        while True:
            await asyncio.sleep(TURN_S)
            try:
                if (work := turn()) is not None:
                    await work
                    self.ended_s = self._clock.monotonic_s()
            except DiskFull as full:
                self._log.error("disk full, builds wait", error=str(full))
                await asyncio.sleep(FULL_PAUSE_S)

    def _quick_turn(self) -> Coroutine[Any, Any, None] | None:
        job = self._upkeep.quick_due()
        return None if job is None else self._index(job, threads_max=1)

    def _long_turn(self) -> Coroutine[Any, Any, None] | None:
        if (unwanted := self._upkeep.unwanted_index()) is not None:
            return self._forget_index(unwanted)
        if (moved := self._upkeep.reopen_due()) is not None:
            return self._reopen(*moved)
        if (fields := self._upkeep.fields_due()) is not None:
            return self._declare(fields)
        idle = self._clock.monotonic_s() - self._written_s >= MERGE_IDLE_S
        participant = self._participant
        # Deaths that an undo could take back are no reason to drop a row.
        floor_ts = min(participant.retention_floor_ts, participant.stable_ts)
        merge = self._upkeep.merge_due(floor_ts, idle)
        if merge is not None:
            return self._merge(merge)
        job = self._upkeep.final_due()
        return None if job is None else self._index(job, threads_max=self._cores)

    # --- indexes ----------------------------------------------------------------------------------

    async def _index(self, job: IndexJob, threads_max: int) -> None:
        segment, index = job.segment, None
        started = self._clock.monotonic_s()
        try:
            await self._build(job, threads_max)
            index = await self._open(segment, job.owner.collection.metric)
        except (BuildFailed, NewerFormat, OSError, StorageCorrupt) as error:
            quick = job.task.index is not None and job.task.index.quick
            if quick and not isinstance(error, BuildKilled):
                # Rows that codes cannot hold: the graph takes any.
                self._upkeep.give_up_quick(segment.name)
                self._log.warning("no quick index", segment=segment.name, error=str(error))
            else:
                self._failed(segment.name, error)
        finally:
            self._upkeep.indexed(job, index)
        if index is not None:
            self._log.info(
                "indexed",
                segment=segment.name,
                rows=segment.rows,
                kind=index.kind.value,
                quick=index.meta.quick,
                seconds=round(self._clock.monotonic_s() - started, 3),
            )

    async def _open(self, segment: SealedSegment, metric: Metric) -> SegmentIndex:
        mapped = not self._upkeep.fits(index_size(segment.directory))
        shape = segment.rows, segment.dimension
        return await self._in_pool(
            lambda: open_index(segment.directory, metric, *shape, mapped=mapped)
        )

    async def _open_at_start(self, metric: Metric, segment: SealedSegment) -> None:
        try:
            segment.index = await self._open(segment, metric)
        except FileNotFoundError:
            return
        except StorageCorrupt as error:
            # The vectors have a checksum of their own: the index is made of them again.
            self._log.error("an index is damaged, building it anew", error=str(error))
            await self._in_pool(lambda: remove_index(segment.directory))
        except NewerFormat as error:
            self._log.error("an index is not opened", error=str(error))
            self._upkeep.give_up([segment.name])

    async def _forget_index(self, segment: SealedSegment) -> None:
        segment.index = None
        await self._in_pool(lambda: remove_index(segment.directory))

    async def _reopen(self, owner: Slice, segment: SealedSegment, mapped: bool) -> None:
        metric, shape = owner.collection.metric, (segment.rows, segment.dimension)
        try:
            segment.index = await self._in_pool(
                lambda: open_index(segment.directory, metric, *shape, mapped=mapped)
            )
        except (FileNotFoundError, StorageCorrupt) as error:
            self._log.error("an index is damaged, building it anew", error=str(error))
            await self._forget_index(segment)
            return
        self._log.info("moved an index", segment=segment.name, mapped=mapped)

    # --- declared fields --------------------------------------------------------------------------

    async def _declare(self, job: FieldsJob) -> None:
        segment = job.segment
        try:
            await self._build(job, threads_max=1)
            segment.fields = await self._in_pool(segment.open_fields)
        except (BuildFailed, NewerFormat, OSError, StorageCorrupt) as error:
            self._failed(segment.name, error)
        else:
            self._log.info("declared fields", segment=segment.name, fields=job.task.fields)
        finally:
            self._upkeep.ended(job)

    # --- merges -----------------------------------------------------------------------------------

    async def _merge(self, job: MergeJob) -> None:
        started, name = self._clock.monotonic_s(), job.task.name
        try:
            await self._in_pool(lambda: drop_rows(self._disk, name, job.dropped))
            if job.small:
                await self._in_pool(lambda: run_task(self._disk, job.task, 1, lambda _: None))
            else:
                await self._build(job, self._cores)
            merged = None
            if job.rows:
                merged = await self._opened(job)
            self._upkeep.merged(job, merged)
        except DiskFull:
            await self._in_pool(lambda: discard(self._disk, job.task))
            raise
        except (BuildFailed, NewerFormat, OSError, StorageCorrupt) as error:
            await self._in_pool(lambda: discard(self._disk, job.task))
            self._failed(job.sources[0].name, error)
            return
        finally:
            self._upkeep.ended(job)
        self._on_merged()
        self._log.info(
            "merged segments",
            segment=name,
            sources=len(job.sources),
            rows=job.rows,
            dropped=sum(map(len, job.dropped)),
            seconds=round(self._clock.monotonic_s() - started, 3),
        )

    async def _opened(self, job: MergeJob) -> SealedSegment:
        mapped = False
        if job.task.index is not None:
            replaced = sum(source.memory_bytes for source in job.sources)
            size = index_size(self._disk.root / job.task.name)
            mapped = not self._upkeep.fits(size - replaced)

        def work() -> SealedSegment:
            segment = SealedSegment(self._disk.root, job.task.name)
            segment.verify()
            if job.task.index is not None:
                metric, shape = job.owner.collection.metric, (segment.rows, segment.dimension)
                segment.index = open_index(segment.directory, metric, *shape, mapped=mapped)
            return segment

        return await self._in_pool(work)

    # --- inside -----------------------------------------------------------------------------------

    async def _build(self, job: Job, threads_max: int) -> None:
        build = BuildProcess(self._disk.root, job.task, self._threads(job, threads_max))
        try:
            while not build.poll():
                self._upkeep.note_progress(job, build.rows_done)
                build.use_threads(self._threads(job, threads_max))
                await asyncio.sleep(BUILD_POLL_S)
        finally:
            build.kill()

    def _threads(self, job: Job, threads_max: int) -> int:
        """All that the build may have, one while the worker is written to, none while it is asked.

        A quick index goes on: it is what searches wait for.
        """
        now_s = self._clock.monotonic_s()
        quick = job.task.index is not None and job.task.index.quick
        if now_s - self._asked_s < QUIET_S and not quick:
            return 0
        return 1 if now_s - self._written_s < QUIET_S else threads_max

    def _failed(self, name: str, error: Exception) -> None:
        if isinstance(error, BuildKilled):
            self._log.error("a build was killed, it is begun again", segment=name, error=str(error))
            return
        failures = self._failures[name] = self._failures.get(name, 0) + 1
        self._log.error("a build failed", segment=name, failures=failures, error=str(error))
        if failures >= FAILURES_MAX:
            # It stays as it is, which answers rightly.
            self._upkeep.give_up([name])

    async def _in_pool(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)
