"""The manifest of a backup: what it holds, and what every file of it must be.

Owns the invariant that a backup without a whole manifest is none: it is written last and
atomically, with a checksum over all it says, and names the size and checksum of each other file.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import google_crc32c
import msgspec

from vector_db.common.model.collection import Collection
from vector_db.common.model.errors import NewerFormat
from vector_db.common.ports import Disk
from vector_db.shard.backup.errors import Damaged, Unfinished

MANIFEST_FILE = "manifest.json"
TIMELINE_FILE = "timeline"
FORMAT_VERSION = 1
_KIND = "vector-db backup"
_READ_BYTES = 1024 * 1024


class FileEntry(msgspec.Struct, frozen=True):
    """A file, by its name below the backup's directory."""

    name: str
    size_bytes: int
    crc32c: int


class SegmentEntry(msgspec.Struct, frozen=True):
    """A sealed segment: the directory of its files, and the file of its deaths."""

    directory: str
    deaths: str | None


class SliceEntry(msgspec.Struct, frozen=True):
    """One generation's rows in one shard: segments oldest first, then the image of those that were
    in memory. `rows` are visible at the backup's `commit_ts`."""

    collection_id: int
    segments: tuple[SegmentEntry, ...]
    image: str | None
    rows: int


class ShardEntry(msgspec.Struct, frozen=True):
    """A shard as `worker` had it at `ts`; versions that died before `floor_ts` may be missing."""

    shard: int
    worker: str
    ts: int
    floor_ts: int
    slices: tuple[SliceEntry, ...]


class Manifest(msgspec.Struct, frozen=True):
    """A whole backup.

    It can be read at `commit_ts`, which was the newest stable commit at `taken_ms`, and at every
    commit back to `oldest_ts`. Collections, their options and aliases are those of `commit_ts`. Of
    one that was spread over other shards there are several generations, each with its rows: at a
    commit those count of the one that serves it.
    """

    name: str
    cluster_id: str
    program: str
    taken_ms: int
    commit_ts: int
    oldest_ts: int
    collections: tuple[Collection, ...]
    aliases: dict[str, int]
    shards: tuple[ShardEntry, ...]
    files: tuple[FileEntry, ...]

    def collections_at(self, ts: int) -> tuple[Collection, ...]:
        """The collections that existed at a commit, each in the generation that serves it."""
        return tuple(c for c in self.collections if c.id <= ts and c.serves(ts))

    @property
    def rows(self) -> int:
        """Rows visible at `commit_ts`."""
        counted = {c.id for c in self.collections_at(self.commit_ts)}
        parts = (part for shard in self.shards for part in shard.slices)
        return sum(part.rows for part in parts if part.collection_id in counted)

    @property
    def size_bytes(self) -> int:
        """Bytes of all files but the manifest."""
        return sum(file.size_bytes for file in self.files)


class _Envelope(msgspec.Struct, frozen=True):
    """`crc32c` is of the bytes of `backup` as they stand in the file."""

    kind: str
    format: int
    crc32c: int
    backup: msgspec.Raw


def write_manifest(disk: Disk, manifest: Manifest) -> None:
    """Make the backup below `disk`'s root one, durably.

    :raises DiskFull: it is none yet.
    """
    body = msgspec.json.encode(manifest)
    crc = google_crc32c.value(body)
    envelope = _Envelope(_KIND, FORMAT_VERSION, crc, msgspec.Raw(body))
    disk.write_atomic(MANIFEST_FILE, [msgspec.json.encode(envelope)])


def read_manifest(directory: Path) -> Manifest:
    """The manifest of the backup in `directory`.

    :raises Unfinished: there is none.
    :raises Damaged: it is not whole, or no manifest.
    :raises NewerFormat: made by a newer program.
    """
    path = directory / MANIFEST_FILE
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise Unfinished(f"the backup {directory} was not finished: no {MANIFEST_FILE}") from None
    try:
        envelope = msgspec.json.decode(text, type=_Envelope)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Damaged(f"the backup {directory} is damaged: {path}: {error}") from None
    if envelope.kind != _KIND or envelope.format < 1:
        raise Damaged(f"the backup {directory} is damaged: {path} is no manifest of a backup")
    if envelope.format > FORMAT_VERSION:
        raise NewerFormat(
            f"{path}: format {envelope.format}, this program knows up to {FORMAT_VERSION}"
        )
    if google_crc32c.value(bytes(envelope.backup)) != envelope.crc32c:
        raise Damaged(f"the backup {directory} is damaged: {path} does not match its crc32c")
    try:
        manifest = msgspec.json.decode(envelope.backup, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Damaged(f"the backup {directory} is damaged: {path}: {error}") from None
    for file in manifest.files:
        pure = PurePosixPath(file.name)
        if pure.is_absolute() or ".." in pure.parts:
            raise Damaged(f"the backup {directory} is damaged: {path} names {file.name!r}")
    return manifest


def check_sizes(directory: Path, manifest: Manifest) -> None:
    """See that every file is there and as long as it should be; cheap.

    :raises Damaged: names the first that is not.
    """
    for file in manifest.files:
        path = directory / file.name
        try:
            size = os.stat(path).st_size
        except FileNotFoundError:
            raise Damaged(f"the backup {directory} is damaged: {path} is missing") from None
        if size != file.size_bytes:
            raise Damaged(
                f"the backup {directory} is damaged: {path} has {size} bytes, "
                f"want {file.size_bytes}"
            )


def check_bytes(directory: Path, manifest: Manifest) -> None:
    """See that every byte of every file is what was copied.

    :raises Damaged: names the first file that is not.
    """
    check_sizes(directory, manifest)
    for file in manifest.files:
        path = directory / file.name
        crc = 0
        with path.open("rb") as opened:
            while piece := opened.read(_READ_BYTES):
                crc = google_crc32c.extend(crc, piece)
        if crc != file.crc32c:
            raise Damaged(f"the backup {directory} is damaged: {path} does not match its crc32c")
