"""Snapshots of shards that this worker has set aside for others, which read them piece by piece.

Owns the bound on what they hold: so many at once, each for as long as it is read now and then.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

import structlog

from vector_db.common.core.messages.copies import (
    SnapshotBytes,
    SnapshotRead,
    SnapshotReply,
    SnapshotRequest,
)
from vector_db.common.model.errors import InvalidArgument, Unavailable
from vector_db.common.ports import Clock, Disk, DiskFull
from vector_db.shard.core.participant import Participant
from vector_db.shard.storage.outgoing import OutgoingShard
from vector_db.shard.storage.store import Store

IDLE_S_MAX = 60.0
SNAPSHOTS_MAX = 4
READ_BYTES_MAX = 1024 * 1024

T = TypeVar("T")


class Snapshots:
    """What one worker has set aside."""

    def __init__(
        self, participant: Participant, store: Store, disk: Disk, clock: Clock, executor: Executor
    ) -> None:
        self._participant = participant
        self._store = store
        self._disk = disk
        self._clock = clock
        self._executor = executor
        self._made = itertools.count(1)
        self._log = structlog.get_logger("vector_db.shard").bind(worker=participant.worker)
        self._kept: dict[str, tuple[OutgoingShard, float]] = {}

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._kept)

    async def take(self, request: SnapshotRequest) -> SnapshotReply:
        """Set a shard aside as of what is stable now, which is past what the request asks for.

        :raises Unavailable: not a replica of the shard, too many are kept, or the disk is full.
        """
        participant = self._participant
        if not participant.votes_on(request.shard):
            raise Unavailable(f"the shard worker is no replica of shard {request.shard}")
        if len(self._kept) >= SNAPSHOTS_MAX:
            raise Unavailable(f"the shard worker keeps {SNAPSHOTS_MAX} snapshots already")
        # A restarted worker has none of the names that it gave before it.
        name = f"{self._clock.wall_ms()}-{next(self._made)}"
        ts = participant.stable_ts
        timeline, decided = participant.memory_at(ts)
        outgoing = OutgoingShard(self._disk, name, self._store.slices_of(request.shard), ts)
        self._kept[name] = (outgoing, self._clock.monotonic_s())
        try:
            await self._in_pool(outgoing.run)
        except DiskFull as full:
            self._give_back(name)
            raise Unavailable("the disk of the shard worker is full") from full
        except OSError as error:
            # Nothing here has to be durable, and who copies verifies it. Where the disk is failing,
            # the next sync of the WAL ends this process.
            self._give_back(name)
            self._log.error("a shard is not set aside", shard=request.shard, error=repr(error))
            raise Unavailable(f"the disk of the shard worker refuses: {error}") from error
        except BaseException:
            self._give_back(name)
            raise
        return SnapshotReply(
            snapshot=name,
            worker=participant.worker,
            ts=ts,
            files=tuple(outgoing.files),
            slices=tuple(outgoing.slices),
            timeline=timeline,
            decided=decided,
        )

    async def read(self, request: SnapshotRead) -> SnapshotBytes:
        """The next piece of a file.

        :raises Unavailable: the snapshot is not kept any more.
        :raises InvalidArgument: there is no such file, or it is too much at once.
        """
        if request.done:
            self._give_back(request.snapshot)
            return SnapshotBytes(b"", 0)
        kept = self._kept.get(request.snapshot)
        if kept is None:
            raise Unavailable("the snapshot is not kept any more")
        outgoing, _ = kept
        if not 0 <= request.file < len(outgoing.files) or request.size_bytes > READ_BYTES_MAX:
            raise InvalidArgument(f"file {request.file}, or more than {READ_BYTES_MAX} bytes")
        self._kept[request.snapshot] = (outgoing, self._clock.monotonic_s())
        return await self._in_pool(
            lambda: outgoing.read(request.file, request.offset, request.size_bytes)
        )

    def sweep(self) -> None:
        """Give back what nobody has read for long; cheap, since few are kept."""
        limit = self._clock.monotonic_s() - IDLE_S_MAX
        for name in [name for name, (_, read_s) in self._kept.items() if read_s < limit]:
            self._give_back(name)

    def close(self) -> None:
        """Give everything back."""
        for name in list(self._kept):
            self._give_back(name)

    def _give_back(self, name: str) -> None:
        if (kept := self._kept.pop(name, None)) is not None:
            kept[0].close()

    async def _in_pool(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)
