"""One shard on its way from a replica into a backup.

Owns the invariant that what is written is what the replica set aside: each piece is checked as it
arrives, and each slice is opened and verified before it counts.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import google_crc32c

from vector_db.common.core.messages import AnyMessage
from vector_db.common.core.messages.copies import (
    SnapshotRead,
    SnapshotReply,
    SnapshotRequest,
    SnapshotSlice,
)
from vector_db.common.core.subjects import worker as worker_subject
from vector_db.common.model.collection import Collection
from vector_db.common.model.errors import Unavailable, VectorDBError
from vector_db.common.ports import (
    Bus,
    BusTimeout,
    BusUnavailable,
    Disk,
    NoResponders,
)
from vector_db.shard.backup.errors import BackupError
from vector_db.shard.backup.manifest import FileEntry, SegmentEntry, ShardEntry, SliceEntry
from vector_db.shard.backup.rows import open_segments
from vector_db.shard.core.timeline import Timeline
from vector_db.shard.pieces import REQUEST_TIMEOUT_S, Pace, pieces
from vector_db.shard.storage.outgoing import ROW_FILES

NOT_GIVEN = (BusTimeout, BusUnavailable, NoResponders, VectorDBError)
"""A replica does not give what is asked of it, now."""


@dataclass(frozen=True, slots=True)
class Transferred:
    """A shard in the backup, below `directory`; `timeline` is the replica's, packed."""

    directory: str
    entry: ShardEntry
    files: list[FileEntry]
    timeline: bytes


@dataclass(slots=True)
class Transfer:
    """One attempt to copy `shard` from `replica`, for a backup at `commit_ts`.

    Files go below `directory`. `expect` hears of bytes that will come (or, negative, will not),
    `advance` of those that came.
    """

    bus: Bus
    disk: Disk
    pace: Pace
    shard: int
    replica: str
    commit_ts: int
    collections: Mapping[int, Collection]
    directory: str
    expect: Callable[[int], None]
    advance: Callable[[int], None]
    _files: list[FileEntry] = field(default_factory=list)
    _came: int = 0

    async def run(self) -> Transferred:
        """Copy it whole.

        :raises NOT_GIVEN: another replica may give it.
        :raises StorageCorrupt: the replica's own files are damaged.
        :raises BackupError: no replica can give it any more.
        :raises DiskFull: of the backup.
        """
        reply = await self._ask(SnapshotRequest(self.shard, self.commit_ts))
        if not isinstance(reply, SnapshotReply) or reply.ts < self.commit_ts:
            raise Unavailable("the replica gave no snapshot")
        try:
            return await self._copy(reply)
        finally:
            # It lapses by itself, too; the copy does not depend on it.
            with contextlib.suppress(*NOT_GIVEN):
                await self._ask(SnapshotRead(reply.snapshot, 0, 0, 0, done=True))

    async def _copy(self, reply: SnapshotReply) -> Transferred:
        floor_ts = Timeline(0.0, reply.timeline).floor_ts
        if floor_ts > self.commit_ts:
            raise BackupError(
                f"the retention window has passed the backup's commit {self.commit_ts} before "
                f"shard {self.shard} was set aside (now it begins at {floor_ts}): raise "
                "VECTOR_DB_RETENTION_S, or --bytes-per-s-max"
            )
        parts = [part for part in reply.slices if part.collection_id in self.collections]
        expected = sum(reply.files[number].size_bytes for part in parts for number in _wanted(part))
        self.expect(expected)
        try:
            slices = tuple([await self._slice(reply, part) for part in parts])
        except BaseException:
            self.expect(-expected)
            self.advance(-self._came)
            raise
        entry = ShardEntry(self.shard, reply.worker, reply.ts, floor_ts, slices)
        return Transferred(self.directory, entry, self._files, reply.timeline)

    async def _slice(self, reply: SnapshotReply, part: SnapshotSlice) -> SliceEntry:
        base = f"{self.directory}/{part.collection_id}"
        segments = []
        for at, segment in enumerate(part.segments):
            directory = f"{base}/segment-{at}"
            for file in ROW_FILES:
                await self._file(reply, segment.files[file], f"{directory}/{file}")
            deaths = f"{directory}/deaths" if segment.deaths_file >= 0 else None
            if deaths is not None:
                await self._file(reply, segment.deaths_file, deaths)
            segments.append(SegmentEntry(directory, deaths))
        image = f"{base}/image" if part.image >= 0 else None
        if image is not None:
            await self._file(reply, part.image, image)
        entry = SliceEntry(part.collection_id, tuple(segments), image, 0)
        rows = await asyncio.to_thread(self._count, entry)
        return SliceEntry(part.collection_id, tuple(segments), image, rows)

    def _count(self, part: SliceEntry) -> int:
        """Rows at the backup's commit; verifies all files on the way."""
        segments = open_segments(self.disk, part, self.collections[part.collection_id])
        return sum(segment.count(self.commit_ts) for segment in segments)

    async def _file(self, reply: SnapshotReply, number: int, name: str) -> None:
        size_bytes = reply.files[number].size_bytes
        file = self.disk.append_file(name)
        crc = 0
        try:
            async with contextlib.aclosing(
                pieces(self._ask, reply.snapshot, number, size_bytes, self.pace)
            ) as coming:
                async for data in coming:
                    file.write([data])
                    crc = google_crc32c.extend(crc, data)
                    self._came += len(data)
                    self.advance(len(data))
            await asyncio.to_thread(file.sync)
        finally:
            file.close()
        self._files.append(FileEntry(name, size_bytes, crc))

    async def _ask(self, request: AnyMessage) -> AnyMessage:
        return await self.bus.request(worker_subject(self.replica), request, REQUEST_TIMEOUT_S)


def _wanted(part: SnapshotSlice) -> list[int]:
    """The numbers of the files that a backup takes of a slice: what the others hold is derived."""
    numbers = [segment.files[file] for segment in part.segments for file in ROW_FILES]
    numbers += [segment.deaths_file for segment in part.segments if segment.deaths_file >= 0]
    return numbers if part.image < 0 else [*numbers, part.image]
