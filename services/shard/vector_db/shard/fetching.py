"""What a worker lacks, asked of its peers, and what it answers to them.

Owns the invariant that a worker which waits for rows or decisions that others have gets them: it
asks one after another, beside the group loop, for as long as it lacks them. What no peer can have
ends it instead, with a clear error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from vector_db.common.core.codec import encode
from vector_db.common.core.domain import DomainState
from vector_db.common.core.messages.catalog import CatalogReply, CatalogRequest
from vector_db.common.core.messages.catching_up import (
    EnterReply,
    EnterRequest,
    PartReply,
    PartRequest,
    TailReply,
    TailRequest,
)
from vector_db.common.core.messages.copies import FollowReply, FollowRequest
from vector_db.common.core.messages.decisions import DecisionRecord
from vector_db.common.core.subjects import sequencer
from vector_db.common.core.subjects import worker as worker_subject
from vector_db.common.model.errors import StorageCorrupt, Unavailable, VectorDBError
from vector_db.common.model.limits import PEER_REPLY_BYTES_MAX
from vector_db.common.ports import Bus, BusTimeout, BusUnavailable, NoResponders
from vector_db.shard.core.participant import Participant
from vector_db.shard.core.parts import Missing
from vector_db.shard.storage.records import RecordType, framed, sequence
from vector_db.shard.storage.wal import Wal

ROWS_WAIT_S = 1.0
"""Rows of an ordinary commit are on their way for so long, before a peer is asked."""
RETRY_S = 0.5
REQUEST_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Entered:
    """Where a replica stands. `done`: whether this worker stands there now."""

    reply: EnterReply
    done: asyncio.Future[bool]


@dataclass(frozen=True, slots=True)
class Followed:
    """Records of a replica for a shard that is to be copied; with a `position` they are all, and
    the log is followed from there. `done`: whether they are still wanted."""

    shard: int
    term: int
    records: tuple[tuple[int, bytes], ...]
    position: int | None
    done: asyncio.Future[bool]


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
            placed = missing.state.workers()
            return await self._ask(missing, placed, -1, TailRequest(missing.term, after, up_to))
        txn_id, shard = missing.parts[0]
        skip = self._participant.skippable(txn_id, shard)
        me, cursor = self._participant.worker, self._participant.cursor
        request = PartRequest(txn_id, shard, skip, me, cursor)
        return await self._ask(missing, set(missing.state.holders(shard)), shard, request)

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
            removed = isinstance(reply, PartReply) and reply.removed
            if isinstance(reply, PartReply | TailReply) and (reply.records or removed):
                done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._on_supplied(Supplied(reply, shard, done))
                await done
                return True
        return False


async def ask_to_enter(bus: Bus, worker: str, term: int) -> EnterReply | None:
    """Where a replica stands, of the placement that the sequencer tells; None: none says."""
    try:
        catalog = await bus.request(sequencer(), CatalogRequest(), REQUEST_TIMEOUT_S)
    except (BusUnavailable, BusTimeout, NoResponders, VectorDBError):
        return None
    if not isinstance(catalog, CatalogReply) or catalog.term != term:
        return None
    placed = DomainState(replicas=catalog.replicas, moves=catalog.moves)
    if placed.is_placed(worker):
        return None
    for peer in sorted(placed.workers()):
        try:
            request = EnterRequest(worker, term)
            reply = await bus.request(worker_subject(peer), request, REQUEST_TIMEOUT_S)
        except (BusUnavailable, BusTimeout, NoResponders, VectorDBError):
            # Another one may say; and a takeover helps as well.
            continue
        if isinstance(reply, EnterReply):
            return reply
    return None


def part_reply(participant: Participant, wal: Wal, request: PartRequest) -> PartReply:
    """The records of a part that is whole here, from `skip` on, as many as one answer takes."""
    lsns = participant.part_lsns(request.txn_id, request.shard)
    asker = request.worker
    if not lsns and asker and participant.was_removed(request.shard, asker, request.cursor):
        return PartReply((), False, removed=True)
    records, more = _records_at(wal, lsns[request.skip :])
    return PartReply(tuple(raw for _, raw in records), more)


def follow_reply(participant: Participant, wal: Wal, request: FollowRequest) -> FollowReply:
    """The records of what is undecided at a shard, in the order in which they were taken here, and
    where this replica stands in the shard's log.

    :raises Unavailable: it is no replica of the shard in that term, or not yet.
    """
    if request.term != participant.promised or not participant.votes_on(request.shard):
        raise Unavailable("the shard worker is no replica of the shard in that term")
    lsns = [lsn for lsn in participant.undecided_lsns(request.shard) if lsn > request.after_lsn]
    records, more = _records_at(wal, lsns)
    last_lsn = lsns[len(records) - 1] if records else request.after_lsn
    position = participant.term.positions.get(request.shard, 0)
    return FollowReply(tuple(records), more, last_lsn, position)


def _records_at(wal: Wal, lsns: Sequence[int]) -> tuple[list[tuple[int, bytes]], bool]:
    """(sequence, framed record) of the first of `lsns`, as many as one answer takes; whether there
    are more."""
    records: list[tuple[int, bytes]] = []
    size = 0
    for lsn in lsns:
        record_type, payload = wal.read(lsn)
        if record_type != RecordType.LOG:
            raise StorageCorrupt(f"wal: record {lsn} is no record of a shard log")
        raw = bytes(framed(payload))
        size += len(raw)
        if records and size > PEER_REPLY_BYTES_MAX:
            break
        records.append((sequence(payload), raw))
    return records, len(records) < len(lsns)


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
