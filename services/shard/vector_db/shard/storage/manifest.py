"""The manifest of a worker: one file that says which files and which WAL records are its state.

Owns the invariant that a checkpoint counts wholly or not at all: the file is replaced atomically
and carries a checksum and a format version.
"""

from __future__ import annotations

from typing import Any

import google_crc32c
import msgspec

from vector_db.common.model.errors import NewerFormat, StorageCorrupt
from vector_db.common.ports import Disk
from vector_db.shard.core.parts import Checkpoint

MANIFEST_VERSION = 1
_NAME = "MANIFEST"
_MAGIC = b"VDBM"
_HEADER_BYTES = 12


class Manifest(msgspec.Struct, frozen=True):
    """`protocol` is the participant's part, `store` the storage's (see `Store.checkpoint`).

    The WAL was durable below `next_lsn` when the checkpoint was captured (0: not known).
    """

    protocol: Checkpoint
    store: dict[str, Any]
    next_lsn: int = 0


def save_manifest(disk: Disk, manifest: Manifest) -> None:
    """Replace the manifest durably.

    :raises DiskFull: the old one stands.
    """
    body = msgspec.msgpack.encode(manifest)
    crc = google_crc32c.value(body)
    header = _MAGIC + MANIFEST_VERSION.to_bytes(4, "little") + crc.to_bytes(4, "little")
    disk.write_atomic(_NAME, [header, body])


def load_manifest(disk: Disk) -> Manifest | None:
    """The newest manifest, or None before the first checkpoint.

    :raises StorageCorrupt: damaged; names file and offset.
    :raises NewerFormat: written by a newer version.
    """
    try:
        data = disk.read(_NAME)
    except FileNotFoundError:
        return None
    path = disk.root / _NAME
    if len(data) < _HEADER_BYTES or data[:4] != _MAGIC:
        raise StorageCorrupt(f"{path}: offset 0: not a manifest")
    version = int.from_bytes(data[4:8], "little")
    if version > MANIFEST_VERSION:
        raise NewerFormat(
            f"{path}: offset 4: format {version}, this program knows up to {MANIFEST_VERSION}"
        )
    if version < 1:
        raise StorageCorrupt(f"{path}: offset 4: format {version}")
    body = data[_HEADER_BYTES:]
    if google_crc32c.value(body) != int.from_bytes(data[8:12], "little"):
        raise StorageCorrupt(f"{path}: offset {_HEADER_BYTES}: checksum mismatch")
    return msgspec.msgpack.decode(body, type=Manifest)
