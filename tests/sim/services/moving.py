"""Shards that move in a run: workers come late, are drained and taken back, or lose all they have.

Owns the bound on what may be lost: one worker in a run, at a moment at which every shard of it has
two other replicas. And the judgement in the end: moves come to rest, and all replicas of a shard
have the same rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from random import Random
from typing import Any

from tests.sim.services.cluster import Cluster, ConnectionLost, Node, NotServing
from vector_db.common.core.domain import DomainState
from vector_db.common.core.messages.reads import RowsReply, ScrollRequest
from vector_db.common.model.errors import VectorDBError

REQUEST_TIMEOUT_S = 20.0
LOST_SHARE = 0.3
"""Of the runs with three replicas: in these a worker loses its disk."""
ROWS_MAX = 10_000


class Mover:
    """Moves of one run; the last worker comes late."""

    def __init__(self, cluster: Cluster, random: Random) -> None:
        self._cluster = cluster
        self._random = random
        self._late: Node | None = cluster.shards[-1]
        self._to_lose = cluster.sizes.replicas >= 3 and random.random() < LOST_SHARE
        self._pause_s = random.choice([0.5, 1.0, 2.0])
        self.stopping = False

    def late(self, node: Node) -> bool:
        """Whether the node is not to be started yet."""
        return node is self._late

    async def run(self) -> None:
        """Until `stopping`."""
        while not self.stopping:
            await asyncio.sleep(self._random.random() * 2 * self._pause_s)
            if self._late is not None and self._random.random() < 0.4:
                self._start_late()
            elif self._to_lose and self._random.random() < 0.5:
                self._lose()
            else:
                await self._drain(self._random.choice(self._cluster.shards), None)
        if self._late is not None:
            self._start_late()

    def _start_late(self) -> None:
        if self._late is not None:
            self._cluster.count("moves: a worker comes late")
            self._late.start()
            self._late = None

    async def _drain(self, node: Node, drain: bool | None) -> bool:
        """Let a worker hold nothing, or hold something again; None: one of them."""
        worker = _worker_of(node)
        gateway = self._random.choice(self._cluster.gateways)
        wanted = self._random.random() < 0.5 if drain is None else drain
        if worker is None:
            return False
        try:
            await gateway.call(lambda db: db.drain(worker, wanted), REQUEST_TIMEOUT_S)
        except (NotServing, ConnectionLost, VectorDBError):
            return False
        self._cluster.count("moves: drained" if wanted else "moves: undrained")
        return True

    def _lose(self) -> None:
        """A worker loses its disk; a new one starts in its place."""
        state = self._state()
        victim = self._random.choice(self._cluster.shards)
        worker = _worker_of(victim)
        others = [_worker_of(n) for n in self._cluster.shards if n is not victim]
        if state is None or worker is None or any(o is None for o in others if self._late is None):
            return
        held = [r for r in state.replicas.values() if worker in r]
        if all(len(set(r) - {worker}) >= 2 for r in held):
            self._to_lose = False
            self._cluster.count("moves: a disk is lost")
            victim.lose_disk()

    # --- the judgement ----------------------------------------------------------------------------

    def _leader(self) -> Any:
        """The service of the coordinator that leads, or None."""
        leading = [
            node.life.service
            for node in self._cluster.coordinators
            if node.ready and node.life is not None
        ]
        found = [s for s in leading if getattr(s, "_term", None) is not None]
        return found[0] if len(found) == 1 else None

    def _state(self) -> DomainState | None:
        """The placement, where it is in force."""
        leader = self._leader()
        if leader is None or not leader._term.sequencer.placement_settled:
            return None
        state: DomainState = leader._term.state
        return state

    async def rest(self) -> bool:
        """Whether nothing moves any more: every shard has its replicas, alive, and no more."""
        state = self._state()
        if state is None or state.moves.joining or state.moves.leaving:
            return False
        alive = set()
        for node in self._cluster.shards:
            if (worker := _worker_of(node)) is None:
                return False
            alive.add(worker)
            if worker in state.moves.draining and self.stopping:
                await self._drain(node, False)
                return False
        wanted = self._cluster.sizes.replicas
        return all(len(r) == wanted and alive.issuperset(r) for r in state.replicas.values())

    def differences(self) -> Iterator[str]:
        """Replicas of one shard that do not have the same rows."""
        state = self._state()
        if state is None:
            yield "no placement is in force"
            return
        services = {_worker_of(n): n.life.service for n in self._cluster.shards if n.life}
        for shard, replicas in state.replicas.items():
            there = [services.get(worker) for worker in replicas]
            if any(one is None for one in there):
                yield f"shard {shard}: a replica is away"
                continue
            ts = min(one._participant.stable_ts for one in there)  # type: ignore[union-attr]
            for collection in state.collections.values():
                if shard not in collection.shards or collection.id > ts:
                    continue
                request = ScrollRequest(collection.id, (shard,), ts, ROWS_MAX)
                answers = [_rows(one, request) for one in there]
                if any(answer != answers[0] for answer in answers):
                    yield f"shard {shard}: {collection.name} differs between {replicas} at {ts}"
                self._cluster.count("moves: replicas compared")


def _rows(service: Any, request: ScrollRequest) -> tuple[Any, ...]:
    reply: RowsReply = service._store.scroll(request, None)
    return (
        reply.ids.unpack(), bytes(reply.versions), reply.metadata.unpack(), bytes(reply.vectors)
    )  # fmt: skip


def _worker_of(node: Node) -> str | None:
    """The identity of a worker that runs, else None."""
    if not node.ready or node.life is None or node.life.service is None:
        return None
    worker: str | None = node.life.service.health().get("worker")
    return worker
