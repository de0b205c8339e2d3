"""Opens what a worker left on its disk: manifest, segments, and the WAL above them.

Owns the invariant that the state after `recover` is the state that was acknowledged: the
checkpoint, then every logged record in order, through the same participant that took them the first
time.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random, SystemRandom

from vector_db.common.core.messages.catching_up import EnterReply
from vector_db.common.core.messages.decisions import DecisionRecord
from vector_db.common.model.errors import StorageCorrupt
from vector_db.common.ports import Disk
from vector_db.shard.core.participant import Participant
from vector_db.shard.core.parts import ChainBroken, Checkpoint
from vector_db.shard.storage.identity import worker_identity
from vector_db.shard.storage.manifest import Manifest, load_manifest
from vector_db.shard.storage.records import (
    LostRecord,
    PromiseRecord,
    RecordType,
    WalChunks,
    parse,
)
from vector_db.shard.storage.store import Store, StoreOptions
from vector_db.shard.storage.wal import Wal


@dataclass(frozen=True, slots=True)
class Recovered:
    """`replayed` WAL records above `checkpoint`; `torn_bytes` cut off the WAL's end."""

    worker: str
    wal: Wal
    store: Store
    participant: Participant
    replayed: int
    torn_bytes: int
    checkpoint: Checkpoint | None = None


def recover(
    disk: Disk, options: StoreOptions, random: Random | None = None, retention_s: float = 0.0
) -> Recovered:
    """Everything that was acknowledged, as it was.

    :param random: where the identity of a new worker and the log's markers come from; None: the
        operating system.
    :param retention_s: how far back reads may go, 0: endlessly.
    :raises StorageCorrupt: a file is damaged or missing; names it.
    :raises NewerFormat: a file was written by a newer version.
    """
    source = SystemRandom() if random is None else random
    worker = worker_identity(disk, source)
    manifest = load_manifest(disk)
    wal, found = Wal.open(disk, entropy=source.randbytes)
    try:
        # First, since opening the store removes the files that the manifest does not name.
        _check_reach(manifest, wal)
        store, participant = _checkpointed(disk, options, worker, manifest, wal, retention_s)
        replayed = 0
        for lsn, record_type, payload in wal.replay(_replay_from(manifest)):
            _replay_one(participant, lsn, record_type, payload)
            replayed += 1
    except BaseException:
        wal.close()
        raise
    checkpoint = None if manifest is None else manifest.protocol
    return Recovered(worker, wal, store, participant, replayed, found.torn_bytes, checkpoint)


def _replay_from(manifest: Manifest | None) -> int:
    return 1 if manifest is None else manifest.protocol.replay_lsn


def _check_reach(manifest: Manifest | None, wal: Wal) -> None:
    """The log holds every record that was durable when the manifest was written, and is needed.

    A shorter one lost what was synced: the manifest's positions say that it was taken, so nobody
    would ask for it again.
    """
    start = _replay_from(manifest)
    end = start if manifest is None else max(start, manifest.next_lsn)
    if wal.first_lsn > start or wal.next_lsn < end:
        raise StorageCorrupt(
            f"{wal.end}: records {start} to {end - 1} and later ones are needed, the log has "
            f"{wal.first_lsn} to {wal.next_lsn - 1}"
        )


def _checkpointed(
    disk: Disk,
    options: StoreOptions,
    worker: str,
    manifest: Manifest | None,
    wal: Wal,
    retention_s: float,
) -> tuple[Store, Participant]:
    chunks = WalChunks(wal)
    if manifest is None:
        store = Store.open(disk, options, None, ())
        return store, Participant(worker, store, chunks, retention_s)
    saved = manifest.protocol
    store = Store.open(disk, options, manifest.store, saved.state.collections.values())
    return store, Participant(worker, store, chunks, retention_s, saved)


def _replay_one(participant: Participant, lsn: int, record_type: int, payload: memoryview) -> None:
    if record_type == RecordType.LOG:
        # A copy, since what stays in memory of it would keep the whole file there.
        payload = memoryview(bytes(payload))
    parsed = parse(record_type, payload, lsn)
    if isinstance(parsed, PromiseRecord):
        participant.takeovers.adopt_term(parsed.term, parsed.coordinator)
        return
    if isinstance(parsed, LostRecord):
        participant.lose(parsed.shard)
        return
    if isinstance(parsed, EnterReply):
        participant.enter(parsed, lsn)
        return
    seq, message = parsed
    if isinstance(message, DecisionRecord):
        try:
            participant.apply(message, seq, lsn, replaying=True)
        except ChainBroken as broken:
            raise StorageCorrupt(f"wal: record {lsn}: {broken}") from broken
    else:
        participant.take(message, seq, lsn, replaying=True)
