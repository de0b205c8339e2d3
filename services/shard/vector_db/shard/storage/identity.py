"""Who a data directory belongs to: the UUID of its worker, in a file with a checksum.

Owns the invariant that a worker never takes part under another name than the one it gave its
promises under: a damaged identity is refused, and so is a missing one beside files that have one.
"""

from __future__ import annotations

import uuid
from random import Random

import google_crc32c
import msgspec

from vector_db.common.model.errors import NewerFormat, StorageCorrupt
from vector_db.common.ports import Disk

IDENTITY_FORMAT = 2
"""Format 1 had no checksum."""
_NAME = "identity.json"


class _Identity(msgspec.Struct, frozen=True, omit_defaults=True):
    """`crc32c` is of the format and the worker, see `_checksum`."""

    format: int
    worker: str
    crc32c: int | None = None


def _checksum(version: int, worker: str) -> int:
    return int(google_crc32c.value(f"{version} {worker}".encode()))


def worker_identity(disk: Disk, random: Random) -> str:
    """The UUID of this data directory, made at the first start.

    :raises StorageCorrupt: damaged, or missing although the directory is not new.
    :raises NewerFormat: written by a newer program.
    """
    path = disk.root / _NAME
    try:
        data = disk.read(_NAME)
    except FileNotFoundError:
        # It is durable before any other file is made.
        if others := disk.names("MANIFEST") + disk.names("wal/"):
            raise StorageCorrupt(
                f"{path}: offset 0: the file is missing, though there is {others[0]}"
            ) from None
        worker = str(uuid.UUID(bytes=random.randbytes(16), version=4))
        identity = _Identity(IDENTITY_FORMAT, worker, _checksum(IDENTITY_FORMAT, worker))
        disk.write_atomic(_NAME, [msgspec.json.encode(identity)])
        return worker
    try:
        found = msgspec.json.decode(data, type=_Identity)
        uuid.UUID(found.worker)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise StorageCorrupt(f"{path}: offset 0: {error}") from error
    if found.format > IDENTITY_FORMAT:
        raise NewerFormat(
            f"{path}: offset 0: format {found.format}, this program knows up to {IDENTITY_FORMAT}"
        )
    want = None if found.format == 1 else _checksum(found.format, found.worker)
    if found.format < 1 or found.crc32c != want:
        raise StorageCorrupt(f"{path}: offset 0: checksum mismatch")
    return found.worker
