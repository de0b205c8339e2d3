"""A shard is copied: the joining worker takes what is undecided from a replica, then its files."""

from __future__ import annotations

import msgspec

from vector_db.common.core.messages.base import Message


class FollowRequest(Message, frozen=True):
    """Asks a replica for the records of everything undecided at `shard` that it logged after
    `after_lsn`, so that the shard's log can be followed from the replica's position."""

    shard: int
    term: int
    after_lsn: int = 0


class FollowReply(Message, frozen=True):
    """(sequence, framed record) as the replica logged them. `more`: ask again after `last_lsn`;
    else `position` is where the replica stands in the shard's log."""

    records: tuple[tuple[int, bytes], ...]
    more: bool
    last_lsn: int
    position: int


class SnapshotRequest(Message, frozen=True):
    """Asks a replica to set aside all it has of `shard` as of a stable snapshot, at least
    `min_ts`."""

    shard: int
    min_ts: int


class SnapshotFile(msgspec.Struct, frozen=True):
    """A file of a snapshot, told by its place in `SnapshotReply.files`."""

    name: str
    size_bytes: int


class SnapshotSegment(msgspec.Struct, frozen=True):
    """A sealed segment: its name at the replica, its files as numbers, and the one of its deaths
    (-1: none), `deaths` many."""

    name: str
    files: dict[str, int]
    deaths_file: int
    deaths: int


class SnapshotSlice(msgspec.Struct, frozen=True):
    """One collection's rows: segments oldest first, then the image of rows in memory (-1: none)."""

    collection_id: int
    segments: tuple[SnapshotSegment, ...]
    image: int


class SnapshotReply(Message, frozen=True):
    """What was set aside, as of `ts`. It is kept for as long as it is read now and then.

    `timeline` and `decided` are what the replica remembers (see `Timeline` and `Decided`).
    """

    snapshot: str
    worker: str
    ts: int
    files: tuple[SnapshotFile, ...]
    slices: tuple[SnapshotSlice, ...]
    timeline: bytes
    decided: bytes


class SnapshotRead(Message, frozen=True):
    """Asks for bytes [offset, offset + size_bytes) of a file; `done` instead gives the snapshot
    back."""

    snapshot: str
    file: int
    offset: int
    size_bytes: int
    done: bool = False


class SnapshotBytes(Message, frozen=True):
    """The bytes, and their CRC32C as they were read."""

    data: bytes
    crc32c: int
