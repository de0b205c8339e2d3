"""The catalog and placement of a domain as the decisions make it: one immutable value a change.

Workers, sequencer and gateways all fold the same decisions, so they agree wherever their cursors
do.
"""

from __future__ import annotations

import msgspec

from vector_db.common.core.messages import (
    Abort,
    Commit,
    CreateCollection,
    Decision,
    DropCollection,
    SetPlacement,
    Takeover,
)
from vector_db.common.model.collection import Collection


def majority(replicas: int) -> int:
    """The smallest number of `replicas` of which any two sets share one."""
    return replicas // 2 + 1


class DomainState(msgspec.Struct, frozen=True):
    """`catalog_ts` is the newest decision that changed anything here.

    `founders`, while no shard is placed: the workers that the cluster began with. A majority of
    them stands for the majority of every shard.
    """

    catalog_ts: int = 0
    collections: dict[int, Collection] = {}
    replicas: dict[int, tuple[str, ...]] = {}
    founders: tuple[str, ...] = ()

    def by_name(self, name: str) -> Collection | None:
        """The live collection of that name."""
        return next((c for c in self.collections.values() if c.name == name), None)

    def shards_of(self, worker: str) -> tuple[int, ...]:
        """Shards that `worker` holds a replica of, sorted."""
        return tuple(sorted(s for s, workers in self.replicas.items() if worker in workers))

    def workers(self) -> set[str]:
        """Every worker that holds a replica."""
        return {w for workers in self.replicas.values() for w in workers}

    def after(self, decision: Decision) -> DomainState:
        """The state once `decision` is applied; `self` where it changes nothing here."""
        match decision:
            case Commit() | Abort():
                return self
            case CreateCollection(ts, collection):
                return DomainState(
                    ts,
                    self.collections | {collection.id: collection},
                    self.replicas,
                    self.founders,
                )
            case DropCollection(ts, collection_id):
                kept = {i: c for i, c in self.collections.items() if i != collection_id}
                return DomainState(ts, kept, self.replicas, self.founders)
            case SetPlacement(ts, replicas):
                return DomainState(ts, self.collections, dict(replicas))
            case Takeover():
                collections = {c.id: c for c in decision.collections}
                return DomainState(
                    decision.catalog_ts, collections, dict(decision.replicas), decision.founders
                )

    def has_majority(self, shard: int, workers: set[str]) -> bool:
        """Whether `workers` hold a majority of the replicas of `shard`."""
        replicas = self.replicas.get(shard, ())
        return bool(replicas) and len(workers.intersection(replicas)) >= majority(len(replicas))
