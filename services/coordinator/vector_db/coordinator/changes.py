"""Changes of catalog and placement while a term lasts: one at a time, each decided in its turn.

Owns the rule that what a change is made of is looked at in its turn, under the lock, where no other
change can come between; and that it is answered for once it is durable, and a placement in force.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from vector_db.common.core.domain import DomainState
from vector_db.common.core.messages.catalog import CreateCollectionRequest
from vector_db.common.core.messages.decisions import Moves
from vector_db.common.core.subjects import shard_log
from vector_db.common.model.collection import Collection, Metric
from vector_db.common.model.errors import Unavailable, VectorDBError
from vector_db.common.ports import Bus, BusTimeout, BusUnavailable
from vector_db.coordinator.core.catalog import Spreading
from vector_db.coordinator.core.effects import Effects, Reply
from vector_db.coordinator.core.sequencer import Sequencer

CATALOG_TIMEOUT_S = 10.0

Placed = tuple[dict[int, tuple[str, ...]], Moves]
"""(replicas of all shards, what is on its way)."""
ShardChoice = tuple[tuple[int, ...], dict[int, tuple[str, ...]]]
"""(shards of a new collection, the placement that they need)."""


class Changes:
    """Of one term. `carry_out` takes the effects of what is decided."""

    def __init__(
        self, bus: Bus, sequencer: Sequencer, carry_out: Callable[[Effects], None]
    ) -> None:
        self._bus = bus
        self._sequencer = sequencer
        self._domain = sequencer.changes
        self._carry_out = carry_out
        self._lock = asyncio.Lock()
        self._settled = asyncio.Event()
        self._replies: dict[int, asyncio.Future[Collection | None]] = {}
        self._next_token = 1

    @property
    def _state(self) -> DomainState:
        return self._sequencer.state

    # --- changes ----------------------------------------------------------------------------------

    async def create(
        self, asked: CreateCollectionRequest, choose: Callable[[], ShardChoice]
    ) -> None:
        """Create a collection; `choose` judges what is asked for and picks the shards.

        :raises Unavailable: the term ends before it is decided and durable.
        """
        async with self._lock:
            await self._settle()
            shards, replicas = choose()
            await self._make_logs(replicas)
            await self._answered(
                lambda token: self._domain.create_collection(
                    asked.name,
                    asked.dimension,
                    Metric(asked.metric),
                    shards,
                    replicas,
                    token,
                    asked.index,
                    asked.recall_target,
                    asked.fields,
                )
            )

    async def spread(
        self, plan: Callable[[], Spreading], choose: Callable[[Collection], ShardChoice]
    ) -> int:
        """Begin to spread a collection, or give that up, as `plan` says; `choose` picks the shards.
        What has to be stable for it to be done.

        :raises Unavailable: it is not known to be durable.
        """
        async with self._lock:
            await self._settle()
            planned = plan()
            if (generation := planned.give_up) is not None:
                await self._answered(lambda token: self._domain.drop_generation(generation, token))
            elif (collection := planned.begin) is not None:
                shards, replicas = choose(collection)
                await self._make_logs(replicas)
                await self._answered(
                    lambda token: self._domain.spread_collection(
                        collection, shards, replicas, token
                    )
                )
            return planned.until_ts

    async def switch(self, find: Callable[[], Collection | None], now_ms: int) -> bool:
        """Put the generation that `find` gives in the place of the one in force; false: none.

        :raises Unavailable: it is not known to be durable.
        """
        async with self._lock:
            await self._settle()
            if (generation := find()) is None:
                return False
            await self._answered(
                lambda token: self._domain.switch_collection(generation, now_ms, token)
            )
        return True

    async def end_generation(self, find: Callable[[], Collection | None]) -> bool:
        """Drop the generation, not in force, that `find` gives; false: none.

        :raises Unavailable: it is not known to be durable.
        """
        async with self._lock:
            await self._settle()
            if (generation := find()) is None:
                return False
            await self._answered(lambda token: self._domain.drop_generation(generation, token))
        return True

    async def drop(self, find: Callable[[], tuple[Collection, ...]]) -> None:
        """Drop the collection whose generations `find` gives once it is this change's turn.

        :raises Unavailable: it is not known to be durable.
        """
        await self._change(lambda token: self._domain.drop_collection(find(), token))

    async def alter(self, make: Callable[[], tuple[Collection, ...]]) -> None:
        """Put the catalog entries that `make` gives in the place of those with their ids.

        :raises Unavailable: it is not known to be durable.
        """
        await self._change(lambda token: self._domain.alter_collection(make(), token))

    async def set_aliases(self, make: Callable[[], dict[str, int]]) -> None:
        """Put the aliases that `make` gives in the place of all.

        :raises Unavailable: it is not known to be durable.
        """
        await self._change(lambda token: self._domain.set_aliases(make(), token))

    async def place(self, choose: Callable[[], Placed | None]) -> bool:
        """Decide the placement that `choose` gives in its turn, and wait until it is in force;
        false: it gives none.

        :raises Unavailable: it is not known to be in force.
        """
        async with self._lock:
            await self._settle()
            if (placed := choose()) is None:
                return False
            await self._answered(lambda token: self._domain.set_placement(*placed, token))
        return True

    # --- how they are made ------------------------------------------------------------------------

    async def _change(self, decide: Callable[[int], Effects]) -> None:
        async with self._lock:
            await self._settle()
            await self._answered(decide)

    async def _settle(self) -> None:
        """Until the last placement is in force; the takeover's is one, too.

        :raises Unavailable: it is not in time.
        """
        if self._sequencer.placement_settled:
            return
        self._settled.clear()
        try:
            async with asyncio.timeout(CATALOG_TIMEOUT_S):
                await self._settled.wait()
        except TimeoutError:
            raise Unavailable("the placement is changing, try again") from None

    async def _make_logs(self, replicas: dict[int, tuple[str, ...]]) -> None:
        """The logs of shards that are new in this placement.

        :raises Unavailable: the broker makes none now.
        """
        for shard in replicas.keys() - self._state.replicas.keys():
            try:
                await self._bus.create_log(shard_log(self._sequencer.term, shard))
            except (BusTimeout, BusUnavailable) as error:
                raise Unavailable("the broker does not answer, nothing was created") from error

    async def _answered(self, decide: Callable[[int], Effects]) -> None:
        """Decide, and wait until that is answered for."""
        token = self._next_token
        self._next_token += 1
        future: asyncio.Future[Collection | None] = asyncio.get_running_loop().create_future()
        self._replies[token] = future
        try:
            effects = decide(token)
        except VectorDBError:
            del self._replies[token]
            raise
        self._carry_out(effects)
        try:
            async with asyncio.timeout(CATALOG_TIMEOUT_S):
                await future
        except TimeoutError:
            raise Unavailable(
                "the catalog change is decided, but not every shard worker confirmed it yet"
            ) from None

    # --- what becomes of them ---------------------------------------------------------------------

    def answer(self, replies: Iterable[Reply]) -> None:
        """These are durable; and the placement may be in force."""
        for reply in replies:
            future = self._replies.pop(reply.token, None)
            if future is not None and not future.done():
                future.set_result(reply.collection)
        if self._sequencer.placement_settled:
            self._settled.set()

    def end(self) -> None:
        """The term is over: nobody learns here what becomes of those that wait."""
        for future in self._replies.values():
            if not future.done():
                future.set_exception(Unavailable("the coordinator changed, try again"))
        self._replies.clear()
