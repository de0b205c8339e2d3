"""What the WAL's records hold: shard-log records and decisions as they came, and promises.

The framed message is logged as it arrived, so nothing is encoded twice on the write path.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum

import msgspec

from vector_db.common.core.codec import decode
from vector_db.common.core.messages.catching_up import EnterReply
from vector_db.common.core.messages.decisions import DecisionRecord
from vector_db.common.core.messages.transactions import Prepare, Stage
from vector_db.common.model.errors import NewerFormat, StorageCorrupt
from vector_db.common.model.rows import Buffer, RowBlock
from vector_db.shard.storage.wal import Wal

_SEQ = struct.Struct("<Q")


class RecordType(IntEnum):
    """The `type` byte of a WAL record. A type that is not listed is of a newer program."""

    LOG = 1
    DECISIONS = 2
    PROMISE = 3
    LOST = 4
    ENTERED = 5


class PromiseRecord(msgspec.Struct, frozen=True):
    """A promised term, and to whom."""

    term: int
    coordinator: str


class LostRecord(msgspec.Struct, frozen=True):
    """Peers keep nothing of the shard for this worker any more (see `Holdings.lose`)."""

    shard: int


def lost(shard: int) -> list[Buffer]:
    """The payload of a LOST record."""
    return [msgspec.msgpack.encode(LostRecord(shard))]


def sequenced(seq: int, raw: Buffer) -> list[Buffer]:
    """The payload of a LOG or DECISIONS record."""
    return [_SEQ.pack(seq), raw]


def sequence(payload: memoryview) -> int:
    """The sequence in the log of a LOG or DECISIONS record; 0: a peer gave it."""
    (seq,) = _SEQ.unpack_from(payload)
    return int(seq)


def framed(payload: memoryview) -> memoryview:
    """The framed message in the payload of a LOG or DECISIONS record."""
    return payload[_SEQ.size :]


def promised(term: int, coordinator: str) -> list[Buffer]:
    """The payload of a PROMISE record."""
    return [msgspec.msgpack.encode(PromiseRecord(term, coordinator))]


def parse(
    record_type: int, payload: memoryview, lsn: int
) -> tuple[int, Prepare | Stage | DecisionRecord] | PromiseRecord | LostRecord | EnterReply:
    """(sequence, message), a promise, a loss, or where a worker that held nothing began.

    :raises StorageCorrupt: a record that passed its checksum holds something else; names the lsn.
    :raises NewerFormat: a type of a newer program; names the lsn.
    """
    if record_type > max(RecordType):
        raise NewerFormat(
            f"wal: record {lsn} is of type {record_type}, this program knows up to "
            f"{max(RecordType)}"
        )
    if record_type == RecordType.PROMISE:
        return msgspec.msgpack.decode(payload, type=PromiseRecord)
    if record_type == RecordType.LOST:
        return msgspec.msgpack.decode(payload, type=LostRecord)
    if record_type == RecordType.ENTERED:
        entered = decode(payload)
        if isinstance(entered, EnterReply):
            return entered
    if record_type in (RecordType.LOG, RecordType.DECISIONS):
        (seq,) = _SEQ.unpack_from(payload)
        message = decode(payload[_SEQ.size :])
        if isinstance(message, Prepare | Stage | DecisionRecord):
            return seq, message
    raise StorageCorrupt(f"wal: record {lsn} of type {record_type} holds no known message")


def blocks_at(wal: Wal, lsns: Sequence[int]) -> Iterator[RowBlock]:
    """The blocks of a part whose records lie there, in order; one record is in memory at a time.

    :raises StorageCorrupt: a record is damaged, or is none of a shard log.
    """
    for lsn in lsns:
        parsed = parse(*wal.read(lsn), lsn)
        if not isinstance(parsed, tuple) or isinstance(parsed[1], DecisionRecord):
            raise StorageCorrupt(f"wal: record {lsn} is no record of a shard log")
        yield from parsed[1].blocks


class WalChunks:
    """`RecordSource` over the WAL."""

    def __init__(self, wal: Wal) -> None:
        self._wal = wal

    def load(self, lsn: int) -> Stage:
        """The chunk that was logged at `lsn`.

        :raises StorageCorrupt: the record is damaged, or no chunk.
        """
        record_type, payload = self._wal.read(lsn)
        parsed = parse(record_type, payload, lsn)
        if isinstance(parsed, tuple) and isinstance(parsed[1], Stage):
            return parsed[1]
        raise StorageCorrupt(f"wal: record {lsn} is no chunk of a transaction")
