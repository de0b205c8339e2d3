"""Opens what a worker left on its disk: manifest, segments, and the WAL above them.

Owns the invariant that the state after `recover` is the state that was acknowledged: the
checkpoint, then every logged record in order, through the same participant that took them the first
time.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

import msgspec

from vector_db.common.core.messages import DecisionRecord
from vector_db.common.model.errors import StorageCorrupt
from vector_db.common.ports import Disk
from vector_db.shard.core.participant import Participant
from vector_db.shard.storage.manifest import load_manifest
from vector_db.shard.storage.records import PromiseRecord, parse
from vector_db.shard.storage.store import Store, StoreOptions
from vector_db.shard.storage.wal import Wal

_IDENTITY = "identity.json"


class _Identity(msgspec.Struct, frozen=True):
    format: int
    worker: str


@dataclass(frozen=True, slots=True)
class Recovered:
    """`replayed` WAL records; `torn_bytes` cut off the WAL's end."""

    worker: str
    wal: Wal
    store: Store
    participant: Participant
    replayed: int
    torn_bytes: int


def worker_identity(disk: Disk) -> str:
    """The UUID of this data directory, made at the first start."""
    try:
        data = disk.read(_IDENTITY)
    except FileNotFoundError:
        identity = _Identity(1, str(uuid.uuid4()))
        disk.write_atomic(_IDENTITY, [msgspec.json.encode(identity)])
        return identity.worker
    try:
        return msgspec.json.decode(data, type=_Identity).worker
    except msgspec.DecodeError as error:
        raise StorageCorrupt(f"{disk.root / _IDENTITY}: offset 0: {error}") from error


def recover(disk: Disk, options: StoreOptions) -> Recovered:
    """Everything that was acknowledged, as it was.

    :raises StorageCorrupt: a file is damaged or missing; names it.
    :raises NewerFormat: a file was written by a newer version.
    """
    worker = worker_identity(disk)
    manifest = load_manifest(disk)
    wal, found = Wal.open(disk)
    if manifest is None:
        store = Store.open(disk, options, None, ())
        participant = Participant(worker, store)
        replay_from = 1
    else:
        saved = manifest.protocol
        store = Store.open(disk, options, manifest.store, saved.state.collections.values())
        participant = Participant.restore(worker, store, saved)
        replay_from = saved.replay_lsn
    if found.first_lsn > replay_from or wal.next_lsn < replay_from:
        raise StorageCorrupt(
            f"{disk.root / 'wal'}: records {replay_from} and on are needed, "
            f"found {found.first_lsn} to {found.last_lsn}"
        )
    replayed = 0
    for lsn, record_type, payload in wal.replay(replay_from):
        _replay_one(participant, lsn, record_type, payload)
        replayed += 1
    return Recovered(worker, wal, store, participant, replayed, found.torn_bytes)


def _replay_one(participant: Participant, lsn: int, record_type: int, payload: memoryview) -> None:
    parsed = parse(record_type, payload, lsn)
    if isinstance(parsed, PromiseRecord):
        participant.adopt_term(parsed.term, parsed.coordinator)
        return
    seq, message = parsed
    if isinstance(message, DecisionRecord):
        participant.apply(message, seq, lsn)
    else:
        participant.take(message, seq, lsn, replaying=True)
