"""Copies the shards that the placement wants here from their replicas, while these go on.

Owns the order of steps that makes a copy whole: the log is followed from where a replica stands,
with what is undecided there; then a snapshot is copied that is past that place; then what was
committed since is applied; and only what a checkpoint holds durably is told as joined. Each step
may fail and be done again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Executor
from contextlib import aclosing
from typing import Any

import structlog

from vector_db.common.core.messages import AnyMessage
from vector_db.common.core.messages.copies import (
    FollowReply,
    FollowRequest,
    SnapshotRead,
    SnapshotReply,
    SnapshotRequest,
)
from vector_db.common.core.subjects import worker as worker_subject
from vector_db.common.model.errors import StorageCorrupt, Unavailable, VectorDBError
from vector_db.common.ports import (
    Bus,
    BusTimeout,
    BusUnavailable,
    Clock,
    Disk,
    DiskFull,
    NoResponders,
)
from vector_db.shard.core.participant import Participant
from vector_db.shard.fetching import Followed
from vector_db.shard.pieces import REQUEST_TIMEOUT_S, Pace, pieces
from vector_db.shard.storage.arrival import Arrival, ArrivingFile
from vector_db.shard.storage.records import blocks_at
from vector_db.shard.storage.slice import Slice
from vector_db.shard.storage.store import Store
from vector_db.shard.storage.wal import Wal
from vector_db.shard.worker import ROWS_PER_TURN, Worker

RETRY_S = 0.5
STABLE_POLL_S = 0.05
SYNC_BYTES = 1024 * 1024
"""What is copied is synced in steps of so many bytes."""
LAST_COMMITS_MAX = 64
"""So few are applied in one go, when the shard is put into the store."""


class Copier:
    """The copies of one worker, one at a time."""

    def __init__(
        self,
        bus: Bus,
        worker: Worker,
        participant: Participant,
        store: Store,
        wal: Wal,
        disk: Disk,
        clock: Clock,
        executor: Executor,
        checkpoint: Callable[[], Awaitable[bool]],
        open_indexes: Callable[[Iterable[Slice]], Awaitable[None]],
        bytes_per_s_max: int,
    ) -> None:
        """`checkpoint` writes one, false when it cannot now; `open_indexes` those of slices that
        are not served yet. `bytes_per_s_max` 0: as fast as it goes."""
        self._bus = bus
        self._worker = worker
        self._participant = participant
        self._store = store
        self._wal = wal
        self._disk = disk
        self._clock = clock
        self._executor = executor
        self._checkpoint = checkpoint
        self._open_indexes = open_indexes
        self._bytes_per_s_max = bytes_per_s_max
        self._log = structlog.get_logger("vector_db.shard").bind(worker=participant.worker)
        self._wanted = asyncio.Event()
        self._arrivals: dict[int, Arrival] = {}
        self._turn = 0
        self.copied_bytes = 0

    def noted(self) -> None:
        """A group was applied; cheap."""
        if self._participant.state.moves.joining and not self._wanted.is_set():
            self._wanted.set()

    def progress(self) -> dict[int, tuple[int, int]]:
        """Shard → (bytes here, bytes in all) of the copies under way."""
        return {s: (a.bytes_done, a.bytes_all) for s, a in self._arrivals.items()}

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            for shard in self._to_copy():
                try:
                    await self._copy(shard)
                except (BusUnavailable, BusTimeout, NoResponders, VectorDBError) as error:
                    self._log.warning("a shard is not copied yet", shard=shard, error=str(error))
                except DiskFull as full:
                    self._log.error("disk full, copies wait", error=str(full))
            for shard in self._arrivals.keys() - set(self._to_copy()):
                self._arrivals.pop(shard).abandon()
            if self._to_copy():
                await asyncio.sleep(RETRY_S)
                self._wanted.set()

    def _to_copy(self) -> list[int]:
        participant = self._participant
        joined = self._worker.joined()
        return [s for s in participant.state.joining_of(participant.worker) if s not in joined]

    def _still_wanted(self, shard: int) -> bool:
        participant = self._participant
        return participant.state.moves.joining.get(shard) == participant.worker

    async def _copy(self, shard: int) -> None:
        """One attempt; returns when the shard is joined, or not wanted any more.

        :raises VectorDBError: a replica does not give what is asked for.
        """
        participant = self._participant
        if shard not in participant.holdings.joined:
            started = self._clock.monotonic_s()
            if participant.holdings.followed_from(shard) is None:
                await self._follow(shard)
            arrival = await self._arrive(shard)
            await self._open(arrival)
            await self._open_indexes(arrival.slices)
            await self._catch_up(arrival)
            if not await self._worker.between_groups(lambda: self._put(arrival)):
                return
            self._log.info(
                "copied a shard",
                shard=shard,
                bytes=arrival.bytes_all,
                seconds=round(self._clock.monotonic_s() - started, 3),
            )
        while shard not in self._worker.joined() and self._still_wanted(shard):
            if not await self._checkpoint():
                await asyncio.sleep(STABLE_POLL_S)
        if (done := self._arrivals.pop(shard, None)) is not None:
            done.abandon()

    # --- asking -----------------------------------------------------------------------------------

    async def _ask(self, shard: int, request: AnyMessage, replica: str = "") -> AnyMessage:
        """Ask a replica of the shard, each time another one where none is named.

        :raises Unavailable: there is none to ask.
        """
        if not replica:
            replicas = self._participant.state.replicas.get(shard, ())
            others = [w for w in replicas if w != self._participant.worker]
            if not others:
                raise Unavailable(f"shard {shard} has no replica to copy from")
            self._turn += 1
            replica = others[self._turn % len(others)]
        return await self._bus.request(worker_subject(replica), request, REQUEST_TIMEOUT_S)

    async def _follow(self, shard: int) -> None:
        """Take over what is undecided at a replica, and follow the log from where it stands."""
        term, after = self._participant.promised, 0
        replicas = self._participant.state.replicas.get(shard, ())
        self._turn += 1
        replica = replicas[self._turn % len(replicas)]
        while True:
            reply = await self._ask(shard, FollowRequest(shard, term, after), replica)
            if not isinstance(reply, FollowReply):
                raise Unavailable("the replica does not tell where it stands")
            position = None if reply.more else reply.position
            done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            self._worker.on_followed(Followed(shard, term, reply.records, position, done))
            if not await done:
                raise Unavailable("the term or the placement has changed meanwhile")
            if not reply.more:
                return
            after = reply.last_lsn

    async def _arrive(self, shard: int) -> Arrival:
        """Copy the files of a snapshot that is past the place from which the log is followed."""
        followed = self._participant.holdings.followed_from(shard)
        if followed is None:
            raise Unavailable("the placement has changed meanwhile")
        reply = await self._ask(shard, SnapshotRequest(shard, followed))
        if not isinstance(reply, SnapshotReply) or reply.ts < followed:
            raise Unavailable("the replica gave no snapshot")
        arrival = Arrival(self._disk, self._store, shard, reply)
        arrival.plan(self._arrivals.get(shard))
        self._arrivals[shard] = arrival
        self._log.info(
            "copies a shard",
            shard=shard,
            replica=reply.worker,
            bytes=arrival.bytes_all,
            ts=reply.ts,
        )
        pace = Pace(self._clock, self._bytes_per_s_max)
        for file in arrival.files:
            try:
                await self._copy_file(shard, file, reply, pace)
            finally:
                await self._run(file.close)
        await self._ask(shard, SnapshotRead(reply.snapshot, 0, 0, 0, done=True), reply.worker)
        return arrival

    async def _copy_file(
        self, shard: int, file: ArrivingFile, snapshot: SnapshotReply, pace: Pace
    ) -> None:
        async with aclosing(
            pieces(
                lambda read: self._ask(shard, read, snapshot.worker),
                snapshot.snapshot,
                file.number,
                file.size_bytes,
                pace,
            )
        ) as coming:
            async for data in coming:
                if not self._still_wanted(shard):
                    raise Unavailable("the placement has changed meanwhile")
                file.write(data)
                self.copied_bytes += len(data)
                if file.unsynced_bytes >= SYNC_BYTES:
                    await self._run(file.sync)

    async def _open(self, arrival: Arrival) -> None:
        try:
            await self._run(arrival.open)
        except StorageCorrupt as error:
            # Another replica may have it undamaged.
            del self._arrivals[arrival.shard]
            arrival.abandon()
            raise Unavailable(f"the copy is damaged: {error}") from error

    # --- catching up ------------------------------------------------------------------------------

    async def _catch_up(self, arrival: Arrival) -> None:
        """Apply what was committed since the snapshot, up to what is stable, but for the last few.

        Rows that are not stable yet are not applied: nothing undoes them in these slices.
        """
        participant = self._participant
        while self._still_wanted(arrival.shard):
            stable_ts = participant.stable_ts
            since = participant.committed_since(arrival.shard, arrival.applied_ts)
            due = [entry for entry in since if entry[0] <= stable_ts]
            if stable_ts >= arrival.snapshot.ts and not due and len(since) <= LAST_COMMITS_MAX:
                return
            rows = 0
            for ts, lsns in due:
                for step in arrival.apply(blocks_at(self._wal, lsns), ts):
                    rows += step
                    if rows >= ROWS_PER_TURN:
                        rows = 0
                        await asyncio.sleep(0)
            if not due:
                await asyncio.sleep(STABLE_POLL_S)

    def _put(self, arrival: Arrival) -> bool:
        """The last commits, then the slices are the worker's own; false: it is not wanted now."""
        participant, shard = self._participant, arrival.shard
        followed = participant.holdings.followed_from(shard)
        reached = participant.stable_ts >= arrival.snapshot.ts
        if not self._still_wanted(shard) or followed is None or not reached:
            return False
        for ts, lsns in participant.committed_since(shard, arrival.applied_ts):
            for _ in arrival.apply(blocks_at(self._wal, lsns), ts):
                pass
        arrival.put()
        snapshot = arrival.snapshot
        participant.join(shard, snapshot.ts, snapshot.timeline, snapshot.decided)
        return True

    async def _run(self, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)
