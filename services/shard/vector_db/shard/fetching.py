"""What a worker lacks, asked of its peers, and what it answers to them.

Owns the invariant that a worker which waits for rows or decisions that others have gets them: it
asks one after another, beside the group loop, for as long as it lacks them. What no peer can have
ends it instead, with a clear error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from vector_db.common.core.codec import encode
from vector_db.common.core.messages import (
    DecisionRecord,
    PartReply,
    PartRequest,
    TailReply,
    TailRequest,
)
from vector_db.common.core.subjects import worker as worker_subject
from vector_db.common.model.errors import StorageCorrupt, VectorDBError
from vector_db.common.model.limits import PEER_REPLY_BYTES_MAX
from vector_db.common.ports import Bus, BusTimeout, BusUnavailable, NoResponders
from vector_db.shard.core.participant import Participant
from vector_db.shard.core.parts import Missing
from vector_db.shard.storage.records import RecordType, framed
from vector_db.shard.storage.wal import Wal

ROWS_WAIT_S = 1.0
"""Rows of an ordinary commit are on their way for so long, before a peer is asked."""
RETRY_S = 0.5
REQUEST_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Supplied:
    """A peer's answer (`shard` of a part's records); `done` once it is taken."""

    reply: PartReply | TailReply
    shard: int
    done: asyncio.Future[None]


class Fetcher:
    """Asks the peers of one worker."""

    def __init__(
        self, bus: Bus, participant: Participant, on_supplied: Callable[[Supplied], None]
    ) -> None:
        self._bus = bus
        self._participant = participant
        self._on_supplied = on_supplied
        self._log = structlog.get_logger("vector_db.shard").bind(worker=participant.worker)
        self._look = asyncio.Event()
        self._turn = 0

    def look(self) -> None:
        """A group is through; cheap when nothing waits."""
        if self._participant.counts()["held"]:
            self._look.set()

    async def run(self) -> None:
        """Until cancelled.

        :raises StorageCorrupt: a takeover needs what this worker lost, and nobody else has it.
        """
        while True:
            await self._look.wait()
            self._look.clear()
            missing = self._participant.missing()
            if missing is None:
                continue
            if not missing.takeover:
                await asyncio.sleep(ROWS_WAIT_S)
            now = self._participant.missing()
            if now is None or (now.term, now.tail) != (missing.term, missing.tail):
                self._look.set()
            elif now.takeover or set(now.parts).intersection(missing.parts):
                if not await self._fetch(now):
                    await asyncio.sleep(RETRY_S)
                self._look.set()
            else:
                self._look.set()

    async def _fetch(self, missing: Missing) -> bool:
        """Ask for the first thing that is missing; whether anybody gave of it."""
        if missing.tail is not None:
            after, up_to = missing.tail
            placed = {w for workers in missing.replicas.values() for w in workers}
            return await self._ask(missing, placed, -1, TailRequest(missing.term, after, up_to))
        txn_id, shard = missing.parts[0]
        skip = self._participant.skippable(txn_id, shard)
        replicas = set(missing.replicas.get(shard, ()))
        return await self._ask(missing, replicas, shard, PartRequest(txn_id, shard, skip))

    async def _ask(
        self,
        missing: Missing,
        workers: set[str],
        shard: int,
        request: PartRequest | TailRequest,
    ) -> bool:
        peers = sorted(workers - {self._participant.worker})
        if not peers and missing.takeover:
            raise StorageCorrupt(
                "this worker is behind its cluster (restored from an old copy?): it lacks "
                f"{request}, and no other worker has that"
            )
        self._log.warning("asking other workers for what is missing here", what=str(request))
        for _ in peers:
            self._turn += 1
            peer = peers[self._turn % len(peers)]
            try:
                reply = await self._bus.request(worker_subject(peer), request, REQUEST_TIMEOUT_S)
            except (BusUnavailable, BusTimeout, NoResponders, VectorDBError) as error:
                self._log.warning("a worker did not answer", peer=peer, error=str(error))
                continue
            if isinstance(reply, PartReply | TailReply) and reply.records:
                done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._on_supplied(Supplied(reply, shard, done))
                await done
                return True
        return False


def part_reply(participant: Participant, wal: Wal, request: PartRequest) -> PartReply:
    """The records of a part that is whole here, from `skip` on, as many as one answer takes."""
    lsns = participant.part_lsns(request.txn_id, request.shard)[request.skip :]
    records: list[bytes] = []
    size = 0
    for lsn in lsns:
        record_type, payload = wal.read(lsn)
        if record_type != RecordType.LOG:
            raise StorageCorrupt(f"wal: record {lsn} is no record of a shard log")
        raw = bytes(framed(payload))
        size += len(raw)
        if records and size > PEER_REPLY_BYTES_MAX:
            break
        records.append(raw)
    return PartReply(tuple(records), len(records) < len(lsns))


def tail_reply(participant: Participant, request: TailRequest) -> TailReply:
    """The decisions in (after, up to], as many as one answer takes."""
    records: list[DecisionRecord] = []
    size = 0
    for record in participant.tail_after(request.term, request.after_ts, request.up_to_ts):
        size += len(encode(record))
        if records and size > PEER_REPLY_BYTES_MAX:
            break
        records.append(record)
    return TailReply(tuple(records))
