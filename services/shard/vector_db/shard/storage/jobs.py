"""The slow parts of storage as jobs: captured on the loop, run in any thread, handed back.

Owns the invariant that a job reads only what no writer changes (prefixes, copies), and writes only
files with new names, so that a job that failed or was abandoned has changed nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from vector_db.common.model.errors import NewerFormat, StorageCorrupt
from vector_db.common.model.rows import I64, U32
from vector_db.common.ports import Disk
from vector_db.shard.storage.growing import GrowingSegment
from vector_db.shard.storage.image import MemoryPart, write_deaths, write_image
from vector_db.shard.storage.leftovers import IMAGES_DIR
from vector_db.shard.storage.sealed import SealedSegment
from vector_db.shard.storage.segment_files import write_sealed
from vector_db.shard.storage.slice import SavedImage, Slice

MANIFEST_FORMAT = 1


class SegmentEntry(msgspec.Struct, frozen=True):
    """A sealed segment: its directory, and the file of its deaths (`deaths` many)."""

    name: str
    deaths_file: str | None
    deaths: int


class SliceEntry(msgspec.Struct, frozen=True):
    """What the files say of one slice; segments oldest first."""

    collection: int
    shard: int
    image: str | None
    segments: list[SegmentEntry]


class StoreManifest(msgspec.Struct, frozen=True):
    """The storage's part of a worker's manifest: the state of all rows at `ts`."""

    format: int
    ts: int
    names_used: int
    slices: list[SliceEntry]

    def files(self) -> set[str]:
        """Images and sidecars that it names."""
        images = (s.image for s in self.slices)
        deaths = (segment.deaths_file for s in self.slices for segment in s.segments)
        return {name for name in (*images, *deaths) if name is not None}

    def segments(self) -> set[str]:
        """Directories that it names."""
        return {segment.name for s in self.slices for segment in s.segments}


NO_MANIFEST = StoreManifest(MANIFEST_FORMAT, 0, 0, [])


def parse_manifest(manifest: dict[str, Any]) -> StoreManifest:
    """The manifest as it was made by a `CheckpointJob`.

    :raises NewerFormat: by a newer program.
    :raises StorageCorrupt: not a manifest of ours.
    """
    version = manifest.get("format")
    if isinstance(version, int) and version > MANIFEST_FORMAT:
        raise NewerFormat(
            f"storage manifest: format {version}, this program knows up to {MANIFEST_FORMAT}"
        )
    try:
        return msgspec.convert(manifest, StoreManifest)
    except msgspec.ValidationError as error:
        raise StorageCorrupt(f"storage manifest: {error}") from error


class SealJob:
    """Writes the frozen rows of one slice as a sealed segment."""

    def __init__(self, disk: Disk, owner: Slice, frozen: GrowingSegment, name: str) -> None:
        self._disk = disk
        self._frozen = frozen
        self.owner = owner
        self.name = name
        self.segment: SealedSegment | None = None

    @property
    def rows(self) -> int:
        return self._frozen.rows

    def run(self) -> None:
        """Write, sync, map and verify the files. In any thread; may be run again after an error.

        :raises DiskFull: the rows stay in memory, and visible.
        """
        write_sealed(self._disk, self.name, self._frozen, self.owner.collection.fields)
        segment = SealedSegment(self._disk.root, self.name)
        segment.verify()
        self.segment = segment


@dataclass(frozen=True, slots=True)
class SliceCapture:
    """What a checkpoint needs of one slice. `parts` is empty when the last image is still right."""

    owner: Slice
    layout: int
    kept_image: SavedImage | None
    image: str | None
    parts: list[MemoryPart]
    segments: list[SegmentEntry]
    new_deaths: list[tuple[str, U32, I64]]


class CheckpointJob:
    """Writes what the last durable checkpoint lacks of the state at `ts`."""

    def __init__(self, disk: Disk, ts: int, names_used: int, captures: list[SliceCapture]) -> None:
        self._disk = disk
        self.ts = ts
        self.captures = captures
        self._names_used = names_used
        self._sizes: dict[str, int] | None = None

    def run(self) -> None:
        """Write and sync the files. In any thread.

        :raises DiskFull: the last checkpoint stands; abandon this job and make another later.
        """
        sizes: dict[str, int] = {}
        for capture in self.captures:
            if capture.image is not None and capture.kept_image is None:
                dimension = capture.owner.collection.dimension
                sizes[capture.image] = write_image(
                    self._disk, capture.image, dimension, capture.parts
                )
            for name, rows, ts in capture.new_deaths:
                write_deaths(self._disk, name, rows, ts)
        self._sizes = sizes

    @property
    def manifest(self) -> dict[str, Any]:
        """The JSON-able state of the storage at `ts`, once `run` has returned.

        :raises RuntimeError: the job did not run.
        """
        entries = self.entries()
        return dict(msgspec.to_builtins(entries))

    def entries(self) -> StoreManifest:
        """The manifest as a value.

        :raises RuntimeError: the job did not run.
        """
        if self._sizes is None:
            raise RuntimeError("the checkpoint's files are not written yet")
        slices = [
            SliceEntry(c.owner.collection.id, c.owner.shard, c.image, c.segments)
            for c in self.captures
        ]
        return StoreManifest(MANIFEST_FORMAT, self.ts, self._names_used, slices)

    def settle(self) -> None:
        """The manifest is durable: the slices remember what need not be written again."""
        sizes = self._sizes or {}
        for c in self.captures:
            c.owner.image = c.kept_image or SavedImage(
                self.ts, c.layout, c.image, sizes.get(c.image or "", 0)
            )
            c.owner.saved_deaths = {
                s.name: (s.deaths, s.deaths_file) for s in c.segments if s.deaths_file is not None
            }


NameMaker = Callable[[str], str]


def capture_slice(owner: Slice, ts: int, new_name: NameMaker) -> SliceCapture:
    """References to the state of `owner` at `ts`.

    :raises ValueError: a sealed row is newer than `ts`.
    """
    segments, new_deaths = [], []
    for segment in owner.sealed:
        newest = int(segment.begin_ts[-1])
        if newest > ts:
            raise ValueError(f"checkpoint at {ts}, but {segment.name} has rows up to {newest}")
        count = segment.deaths.until(ts)
        saved_count, file = owner.saved_deaths.get(segment.name, (0, None))
        if count != saved_count:
            file = new_name(f"{segment.name}/deaths")
            new_deaths.append((file, *segment.deaths.arrays(count)))
        segments.append(SegmentEntry(segment.name, file, count))
    saved = owner.image
    if saved is not None and saved.layout == owner.layout and owner.changed_ts <= saved.ts:
        return SliceCapture(owner, owner.layout, saved, saved.name, [], segments, new_deaths)
    parts = owner.capture(ts)
    image = None
    if parts:
        image = new_name(f"{IMAGES_DIR}/{owner.collection.id}-{owner.shard}")
    return SliceCapture(owner, owner.layout, None, image, parts, segments, new_deaths)
