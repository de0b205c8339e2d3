"""A shard's rows on their way in: files that are copied, and slices that catch up with the log.

Owns the invariant that nothing of it is served before it is whole: files get names of their own,
which no checkpoint removes or names until the slices are put into the store, and whatever was
copied is verified by the checksums in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vector_db.common.core.messages.copies import SnapshotReply, SnapshotSegment
from vector_db.common.model.errors import StorageCorrupt
from vector_db.common.model.rows import RowBlock
from vector_db.common.ports import AppendFile, Disk
from vector_db.shard.storage.jobs import SegmentEntry, SliceEntry
from vector_db.shard.storage.leftovers import IMAGES_DIR
from vector_db.shard.storage.outgoing import ROW_FILES
from vector_db.shard.storage.slice import Slice
from vector_db.shard.storage.store import Store


class ArrivingFile:
    """One file of the snapshot: `number` there, `name` here; what is written can be gone on with
    after an error."""

    def __init__(self, disk: Disk, number: int, name: str, size_bytes: int) -> None:
        self.number = number
        self.name = name
        self.size_bytes = size_bytes
        self.written_bytes = 0
        self.unsynced_bytes = 0
        self._disk = disk
        self._file: AppendFile | None = None

    def write(self, data: bytes) -> None:
        """The next bytes.

        :raises DiskFull: they do not count.
        """
        if self._file is None:
            self._file = self._disk.append_file(self.name)
        self._file.write([data])
        self.written_bytes += len(data)
        self.unsynced_bytes += len(data)

    @property
    def whole(self) -> bool:
        return self.written_bytes >= self.size_bytes

    def sync(self) -> None:
        """Make durable what was written so far, before there is much of it: a file system that
        orders its journal makes the next sync of the WAL wait for all that is dirty."""
        if self._file is not None:
            self._file.sync()
        self.unsynced_bytes = 0

    def close(self) -> None:
        """Make durable what was written."""
        if self._file is None and self.size_bytes == 0:
            self._file = self._disk.append_file(self.name)
        file, self._file = self._file, None
        if file is not None:
            file.sync()
            file.close()


class Arrival:
    """One shard, from one snapshot. Used on the loop's thread, `open` in any."""

    def __init__(self, disk: Disk, store: Store, shard: int, snapshot: SnapshotReply) -> None:
        self.shard = shard
        self.snapshot = snapshot
        self.files: list[ArrivingFile] = []
        self._disk = disk
        self._store = store
        self._entries: list[SliceEntry] = []
        self._segments: dict[str, str] = {}
        self._slices: dict[int, Slice] = {}
        self._applied_ts = snapshot.ts
        """Commits up to here are in the slices."""

    @property
    def bytes_done(self) -> int:
        return sum(file.written_bytes for file in self.files)

    @property
    def bytes_all(self) -> int:
        return sum(file.size_bytes for file in self.files)

    def plan(self, before: Arrival | None) -> None:
        """Name the files; rows that an arrival `before` has of the same segments stay.

        Segments of one worker that have one name are the same, whenever they were set aside.
        """
        same = before is not None and before.snapshot.worker == self.snapshot.worker
        there = before.whole_segments() if before is not None and same else {}
        for part in self.snapshot.slices:
            entries = [
                self._segment(part.collection_id, segment, there) for segment in part.segments
            ]
            image = None
            if part.image >= 0:
                image = self._store.new_name(f"{IMAGES_DIR}/{part.collection_id}-{self.shard}")
                self._expect(part.image, image)
            self._entries.append(SliceEntry(part.collection_id, self.shard, image, entries))
        if before is not None:
            before.abandon(but=set(self._segments.values()))

    def _segment(
        self, collection_id: int, segment: SnapshotSegment, there: dict[str, str]
    ) -> SegmentEntry:
        name = there.get(segment.name) or self._store.segment_name(collection_id, self.shard)
        self._segments[segment.name] = name
        self._store.arriving.add(name)
        for file, number in segment.files.items():
            if segment.name not in there or file not in ROW_FILES:
                self._disk.remove(f"{name}/{file}")
                self._expect(number, f"{name}/{file}")
        deaths = None
        if segment.deaths_file >= 0:
            deaths = self._store.new_name(f"{name}/deaths")
            self._expect(segment.deaths_file, deaths)
        return SegmentEntry(name, deaths, segment.deaths)

    def _expect(self, number: int, name: str) -> None:
        self._store.arriving.add(name)
        size = self.snapshot.files[number].size_bytes
        self.files.append(ArrivingFile(self._disk, number, name, size))

    def whole_segments(self) -> dict[str, str]:
        """Names there → here of the segments whose rows have been copied."""
        missing = {f.name.rpartition("/")[0] for f in self.files
                   if not f.whole and f.name.rpartition("/")[2] in ROW_FILES}  # fmt: skip
        return {there: here for there, here in self._segments.items() if here not in missing}

    def abandon(self, but: Iterable[str] = ()) -> None:
        """The files are this arrival's no more, but for these segments: a checkpoint removes what
        the store does not use."""
        for file in self.files:
            file.close()
            self._store.arriving.discard(file.name)
        self._store.arriving.difference_update(set(self._segments.values()).difference(but))

    # --- rows -----------------------------------------------------------------------------------

    def open(self) -> None:
        """Open what was copied, and verify it.

        :raises StorageCorrupt: a copy is damaged.
        """
        for entry in self._entries:
            if self._store.knows(entry.collection):
                part = self._store.opened(entry, self.snapshot.ts)
                for segment in part.sealed:
                    segment.verify()
                self._slices[entry.collection] = part

    @property
    def slices(self) -> list[Slice]:
        return list(self._slices.values())

    @property
    def applied_ts(self) -> int:
        """Commits up to here are in the slices."""
        return self._applied_ts

    def apply(self, blocks: Iterable[RowBlock], ts: int) -> Iterator[int]:
        """Apply one shard's part of the commit at `ts`, the next after what was applied; yields the
        rows of each step.

        :raises StorageCorrupt: they are no rows of the collection.
        """
        for block in blocks:
            if not self._store.knows(block.collection_id):
                continue
            collection = self._store.collection(block.collection_id)
            if (part := self._slices.get(collection.id)) is None:
                part = self._slices[collection.id] = Slice(collection, self.shard)
            if not block.delete and block.dimension != collection.dimension:
                raise StorageCorrupt(f"dimension {block.dimension}, want {collection.dimension}")
            part.apply(block, ts)
            yield len(block)
        self._applied_ts = ts

    def put(self) -> None:
        """Serve the slices from the store; `abandon` once a checkpoint names their files."""
        self._store.put_shard(self.shard, self._slices.values())
