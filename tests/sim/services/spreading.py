"""Collections that are spread over other numbers of shards in a run, while clients use them.

Whoever asks is told little and may be told nothing, so what is checked is the end: once all is
healed, every spreading ends by itself. What clients saw on the way is judged as in any run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any

from tests.sim.services.cluster import Cluster, ConnectionLost, Node, NotServing
from vector_db.common.core.domain import DomainState
from vector_db.common.core.messages import AnyMessage
from vector_db.common.core.messages.catalog import SpreadRequest
from vector_db.common.core.subjects import sequencer
from vector_db.common.model.errors import AlreadyExists, InvalidArgument, Unavailable, VectorDBError
from vector_db.common.ports import BusTimeout, BusUnavailable, NoResponders

REQUEST_TIMEOUT_S = 12.0


class Spreads:
    """An operator who changes the number of shards of `collections` now and then."""

    def __init__(self, cluster: Cluster, random: Random, collections: Sequence[str]) -> None:
        self._cluster = cluster
        self._random = random
        self._collections = collections
        self._pause_s = random.choice([0.3, 1.0, 2.0])
        self.stopping = False

    async def run(self) -> None:
        """Until `stopping`. The number that a collection has gives up what is on its way."""
        while not self.stopping:
            await asyncio.sleep(self._random.random() * 2 * self._pause_s)
            name = self._random.choice(self._collections)
            shards = self._random.randint(1, self._cluster.sizes.shard_count)
            try:
                await self._ask(SpreadRequest(name, shards))
            except AlreadyExists:
                self._cluster.count("spreads: one is on its way")
            except InvalidArgument as error:
                self._cluster.violation(f"{name} over {shards} shards: {error}")
            except (NotServing, ConnectionLost, VectorDBError):
                pass

    async def _ask(self, message: AnyMessage) -> None:
        gateway = self._random.choice(self._cluster.gateways)

        async def ask(_: Any) -> AnyMessage:
            if gateway.life is None or gateway.life.bus is None:
                raise Unavailable("it is away")
            try:
                return await gateway.life.bus.request(sequencer(), message, REQUEST_TIMEOUT_S)
            except (BusTimeout, BusUnavailable, NoResponders) as error:
                raise Unavailable("no coordinator leads") from error

        await gateway.call(ask, REQUEST_TIMEOUT_S)

    async def rest(self) -> bool:
        """Whether nothing is being spread any more."""
        state = self._state()
        return state is not None and not any(c.replaces for c in state.collections.values())

    def _state(self) -> DomainState | None:
        leading = [n for n in self._cluster.coordinators if n.ready and _term_of(n) is not None]
        state: DomainState | None = _term_of(leading[0]).state if len(leading) == 1 else None
        return state


def _term_of(node: Node) -> Any:
    return None if node.life is None else getattr(node.life.service, "_term", None)
