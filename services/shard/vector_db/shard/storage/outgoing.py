"""All rows of one shard as of a snapshot, set aside for a worker that copies them.

Owns the invariant that what was set aside stays readable, byte for byte, until it is given back:
its files are held open, so merges and checkpoints may remove their names meanwhile.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

import google_crc32c

from vector_db.common.core.messages.copies import (
    SnapshotBytes,
    SnapshotFile,
    SnapshotSegment,
    SnapshotSlice,
)
from vector_db.common.ports import Disk
from vector_db.shard.index.files import INDEX_FILE, META_FILE
from vector_db.shard.storage.fields import FIELDS_FILE
from vector_db.shard.storage.image import write_deaths, write_image
from vector_db.shard.storage.jobs import SegmentEntry, SliceCapture, capture_slice
from vector_db.shard.storage.segment_files import COLUMNS_FILE, VECTORS_FILE
from vector_db.shard.storage.slice import Slice

OUTGOING_DIR = "outgoing"
ROW_FILES = (VECTORS_FILE, COLUMNS_FILE)
"""They never change; the others of a segment are derived from them, and may not be there."""
DERIVED_FILES = (FIELDS_FILE, INDEX_FILE, META_FILE)


class OutgoingShard:
    """One shard's slices. Captured on the thread that changes them; `run` and `read` in any."""

    def __init__(self, disk: Disk, name: str, slices: Sequence[Slice], ts: int) -> None:
        """`name` is used for none before; `ts` is at most what is stable."""
        self.ts = ts
        self.files: list[SnapshotFile] = []
        self.slices: list[SnapshotSlice] = []
        self._disk = disk
        self._directory = f"{OUTGOING_DIR}/{name}"
        self._made = 0
        self._descriptors: list[int] = []
        self._segments: list[list[SnapshotSegment]] = []
        try:
            self._captures = [capture_slice(part, ts, self._new_name) for part in slices]
            for capture in self._captures:
                self._hold(capture)
        except BaseException:
            self.close()
            raise

    def _new_name(self, base: str) -> str:
        self._made += 1
        return f"{self._directory}-{self._made}"

    def _hold(self, capture: SliceCapture) -> None:
        """Open what is there already, before anybody removes it."""
        new = {name for name, _, _ in capture.new_deaths}
        segments = []
        for entry in capture.segments:
            files = {f: self._open(f"{entry.name}/{f}") for f in ROW_FILES}
            for file in DERIVED_FILES:
                # What is being made anew is not there for a moment, and is made by the copier then.
                with contextlib.suppress(FileNotFoundError):
                    files[file] = self._open(f"{entry.name}/{file}")
            old = entry.deaths_file if entry.deaths_file not in new else None
            deaths = -1 if old is None else self._open(old)
            segments.append(SnapshotSegment(entry.name, files, deaths, entry.deaths))
        self._segments.append(segments)
        kept = capture.kept_image
        image = -1 if kept is None or kept.name is None else self._open(kept.name)
        self.slices.append(SnapshotSlice(capture.owner.collection.id, (), image))

    def _open(self, name: str) -> int:
        descriptor = os.open(self._disk.root / name, os.O_RDONLY | os.O_CLOEXEC)
        self._descriptors.append(descriptor)
        self.files.append(SnapshotFile(name, os.fstat(descriptor).st_size))
        return len(self.files) - 1

    def run(self) -> None:
        """Write what is in memory only, and hold that too.

        :raises DiskFull: nothing can be set aside now.
        """
        for at, capture in enumerate(self._captures):
            image = self.slices[at].image
            if capture.kept_image is None and capture.image is not None:
                dimension = capture.owner.collection.dimension
                write_image(self._disk, capture.image, dimension, capture.parts)
                image = self._open_and_remove(capture.image)
            written = {}
            for name, rows, ts in capture.new_deaths:
                write_deaths(self._disk, name, rows, ts)
                written[name] = self._open_and_remove(name)
            segments = tuple(
                self._with_deaths(segment, entry, written)
                for segment, entry in zip(self._segments[at], capture.segments, strict=True)
            )
            self.slices[at] = SnapshotSlice(capture.owner.collection.id, segments, image)
        self._captures = []

    def _with_deaths(
        self, segment: SnapshotSegment, entry: SegmentEntry, written: dict[str, int]
    ) -> SnapshotSegment:
        deaths = written.get(entry.deaths_file or "", segment.deaths_file)
        return SnapshotSegment(segment.name, segment.files, deaths, segment.deaths)

    def _open_and_remove(self, name: str) -> int:
        number = self._open(name)
        self._disk.remove(name)
        return number

    def read(self, file: int, offset: int, size_bytes: int) -> SnapshotBytes:
        """Bytes [offset, offset + size) of a file, fewer where it ends before.

        :raises IndexError: there is no such file.
        """
        data = os.pread(self._descriptors[file], size_bytes, offset)
        return SnapshotBytes(data, google_crc32c.value(data))

    def close(self) -> None:
        """Give it back; idempotent."""
        descriptors, self._descriptors = self._descriptors, []
        for descriptor in descriptors:
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()


def remove_outgoing(disk: Disk) -> None:
    """Remove what a worker that died had begun to set aside."""
    directory = Path(disk.root) / OUTGOING_DIR
    for path in directory.iterdir() if directory.is_dir() else ():
        path.unlink(missing_ok=True)
