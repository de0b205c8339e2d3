"""What others ask of the sequencer: catalog changes, transaction status, strong reads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from vector_db.common.core.domain import majority
from vector_db.common.core.messages import AnyMessage
from vector_db.common.core.messages.catalog import (
    AlterCollectionRequest,
    CatalogReply,
    CatalogRequest,
    CreateCollectionRequest,
    DrainRequest,
    DropCollectionRequest,
    Member,
    SetAliasesRequest,
    SpreadRequest,
)
from vector_db.common.core.messages.reads import (
    ConfirmReply,
    ConfirmRequest,
    StrongReply,
    StrongRequest,
)
from vector_db.common.core.messages.transactions import AbortRequest, TxnStatusRequest
from vector_db.common.core.placement import place_collection
from vector_db.common.core.subjects import worker
from vector_db.common.model.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    Unavailable,
    VectorDBError,
)
from vector_db.common.model.ids import IDEMPOTENCY_COLLECTION, validate_collection_name
from vector_db.common.ports import Bus, BusTimeout, BusUnavailable, NoResponders
from vector_db.coordinator.changes import CATALOG_TIMEOUT_S, Placed, ShardChoice
from vector_db.coordinator.core.catalog import (
    aliases_after,
    altered,
    check_create,
    to_drop,
    to_spread,
)
from vector_db.coordinator.term import Term

CONFIRM_TIMEOUT_S = 2.0


class Requests:
    """Answers for one term. `members` gives the workers that are alive now."""

    def __init__(
        self,
        bus: Bus,
        term: Term,
        shard_count: int,
        replication_factor: int,
        members: Callable[[], list[Member]],
    ) -> None:
        self._bus = bus
        self._term = term
        self._shard_count = shard_count
        self._replication_factor = replication_factor
        self._members = members

    async def handle(self, message: AnyMessage) -> AnyMessage:
        """One request's answer.

        :raises VectorDBError: what the asker should know.
        """
        match message:
            case CatalogRequest():
                return self._catalog()
            case CreateCollectionRequest():
                await self._create(message)
                return self._catalog()
            case DropCollectionRequest():
                await self._term.changes.drop(lambda: to_drop(self._term.state, message.name))
                return self._catalog()
            case AlterCollectionRequest():
                await self._term.changes.alter(lambda: altered(self._term.state, message))
                return self._catalog()
            case SpreadRequest():
                await self._spread(message)
                return self._catalog()
            case SetAliasesRequest():
                await self._term.changes.set_aliases(
                    lambda: aliases_after(self._term.state, message.changes)
                )
                return self._catalog()
            case DrainRequest():
                await self._drain(message)
                return self._catalog()
            case TxnStatusRequest():
                return self._term.status(message)
            case AbortRequest():
                return self._term.abort(message)
            case StrongRequest():
                return await self._strong()
            case _:
                raise InvalidArgument(f"the sequencer does not answer {type(message).__name__}")

    def _catalog(self) -> CatalogReply:
        sequencer = self._term.sequencer
        return CatalogReply(
            term=sequencer.term,
            catalog_ts=sequencer.state.catalog_ts,
            stable_ts=sequencer.stable_ts,
            wall_ms=sequencer.wall_ms,
            collections=tuple(sequencer.state.collections.values()),
            replicas=sequencer.state.replicas,
            workers=tuple(self._members()),
            aliases=sequencer.state.aliases,
            moves=sequencer.state.moves,
            replication_factor=self._replication_factor,
        )

    async def _create(self, asked: CreateCollectionRequest) -> None:
        if asked.name != IDEMPOTENCY_COLLECTION:
            validate_collection_name(asked.name)
        try:
            await self._term.changes.create(asked, lambda: self._choose(asked))
        except AlreadyExists:
            existing = self._term.state.by_name(asked.name)
            if not asked.if_absent or existing is None:
                raise
            await self._term.wait_stable(existing.id, CATALOG_TIMEOUT_S)

    async def _spread(self, asked: SpreadRequest) -> None:
        until_ts = await self._term.changes.spread(
            lambda: to_spread(self._term.state, asked, self._shard_count),
            lambda collection: self._pick(collection.name, asked.shards),
        )
        await self._term.wait_stable(until_ts, CATALOG_TIMEOUT_S)

    def _choose(self, asked: CreateCollectionRequest) -> ShardChoice:
        """The shards of a new collection; runs in its turn among the changes."""
        check_create(self._term.state, asked)
        return self._pick(asked.name, asked.shards)

    def _pick(self, name: str, wanted: int) -> ShardChoice:
        """So many shards (0: as many as workers are alive) for a collection or a generation."""
        state = self._term.state
        draining = state.moves.draining
        ready = {m.worker: m.zone for m in self._members() if m.ready}
        alive = {w: zone for w, zone in ready.items() if w not in draining}
        if not alive:
            raise Unavailable(
                "no shard worker is alive" if not ready else "all workers are drained"
            )
        count = wanted or min(len(alive), self._shard_count)
        if count > self._shard_count:
            raise InvalidArgument(
                f"shards: {count} asked, the limit is VECTOR_DB_SHARD_COUNT = {self._shard_count}"
            )
        try:
            shards, replicas = place_collection(
                name,
                count,
                self._shard_count,
                state.replicas,
                alive,
                self._replication_factor,
            )
        except ValueError as error:
            raise Unavailable(str(error)) from error
        silent = [s for s in state.replicas if not state.has_majority(s, set(ready))]
        if silent and replicas != state.replicas:
            raise Unavailable(
                "a new shard must be placed, which a majority of the replicas of every shard "
                f"confirms; of shards {silent} none is alive"
            )
        return shards, replicas

    async def _drain(self, asked: DrainRequest) -> None:
        """Note that a worker shall hold nothing, or may again; the controller does the rest."""

        def choose() -> Placed | None:
            state = self._term.state
            known = state.workers().union(m.worker for m in self._members())
            if asked.worker not in known:
                raise NotFound(
                    f"shard worker {asked.worker!r} is not known; known are "
                    f"{', '.join(sorted(known)) or 'none'}"
                )
            draining = set(state.moves.draining) - {asked.worker}
            if asked.drain:
                draining.add(asked.worker)
            if draining == set(state.moves.draining):
                return None
            moves = msgspec.structs.replace(state.moves, draining=tuple(sorted(draining)))
            return state.replicas, moves

        await self._term.changes.place(choose)

    async def _strong(self) -> StrongReply:
        """`stable_ts`, once a majority of some shard confirms that this term is still theirs."""
        sequencer = self._term.sequencer
        stable_ts = sequencer.stable_ts
        shards = sorted(sequencer.state.replicas.items())
        for _, workers in shards:
            if await self._majority_confirms(workers):
                return StrongReply(sequencer.term, stable_ts)
        if shards:
            raise Unavailable("no majority of any shard confirms the sequencer's term")
        return StrongReply(sequencer.term, stable_ts)

    async def _majority_confirms(self, workers: Sequence[str]) -> bool:
        """Whether a majority does; the others are not waited for."""
        asked = [asyncio.create_task(self._confirm(w), name="confirm") for w in workers]
        missing = majority(len(workers))
        try:
            for answer in asyncio.as_completed(asked):
                missing -= await answer
                if not missing:
                    return True
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        return False

    async def _confirm(self, worker_id: str) -> bool:
        request = ConfirmRequest(self._term.sequencer.term)
        try:
            reply = await self._bus.request(worker(worker_id), request, CONFIRM_TIMEOUT_S)
        except (BusTimeout, BusUnavailable, NoResponders, VectorDBError):
            # No answer is no confirmation; the majority decides.
            return False
        return isinstance(reply, ConfirmReply) and reply.confirmed
