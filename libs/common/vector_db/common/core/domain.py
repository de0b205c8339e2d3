"""The catalog and placement of a domain as the decisions make it: one immutable value a change.

Workers, sequencer and gateways all fold the same decisions, so they agree wherever their cursors
do.
"""

from __future__ import annotations

from operator import attrgetter

import msgspec

from vector_db.common.core.messages.decisions import (
    Abort,
    AlterCollection,
    Commit,
    CreateCollection,
    Decision,
    DropCollection,
    Moves,
    SetAliases,
    SetPlacement,
    SwitchCollection,
    Takeover,
)
from vector_db.common.model.collection import Collection


def majority(replicas: int) -> int:
    """The smallest number of `replicas` of which any two sets share one."""
    return replicas // 2 + 1


class DomainState(msgspec.Struct, frozen=True):
    """`catalog_ts` is the newest decision that changed anything here.

    `founders`, while no shard is placed: the workers that the cluster began with. A majority of
    them stands for the majority of every shard. `moves`: see there.
    """

    catalog_ts: int = 0
    collections: dict[int, Collection] = {}
    replicas: dict[int, tuple[str, ...]] = {}
    founders: tuple[str, ...] = ()
    aliases: dict[str, int] = {}
    moves: Moves = Moves()

    def by_name(self, name: str) -> Collection | None:
        """The live collection of that name, or that the alias stands for."""
        if (aliased := self.aliases.get(name)) is not None:
            return self.collections.get(aliased)
        return next((c for c in self.collections.values() if c.name == name and c.in_force), None)

    def generations(self, name: str) -> tuple[Collection, ...]:
        """All generations of the collection of that name, the oldest first."""
        return tuple(
            sorted((c for c in self.collections.values() if c.name == name), key=attrgetter("id"))
        )

    def successor(self, collection_id: int) -> Collection | None:
        """The generation that is being filled to take this one's place."""
        return next((c for c in self.collections.values() if c.replaces == collection_id), None)

    def aliases_of(self, collection_id: int) -> tuple[str, ...]:
        """The aliases that stand for a collection, sorted."""
        return tuple(sorted(a for a, i in self.aliases.items() if i == collection_id))

    def shards_of(self, worker: str) -> tuple[int, ...]:
        """Shards that `worker` holds a replica of, sorted."""
        return tuple(sorted(s for s, workers in self.replicas.items() if worker in workers))

    def joining_of(self, worker: str) -> tuple[int, ...]:
        """Shards that `worker` is to copy, sorted."""
        return tuple(sorted(s for s, w in self.moves.joining.items() if w == worker))

    def is_leaving(self, shard: int, worker: str) -> bool:
        """Whether `worker` was a replica of `shard` and still has to keep what it has."""
        return worker in self.moves.leaving.get(shard, ())

    def holders(self, shard: int) -> tuple[str, ...]:
        """Who may have rows of `shard` that others lack: its replicas, and those that leave."""
        return self.replicas.get(shard, ()) + self.moves.leaving.get(shard, ())

    def is_shared(self, shard: int) -> bool:
        """Whether another worker may ask for what one replica of `shard` has."""
        return len(self.replicas.get(shard, ())) > 1 or shard in self.moves.joining

    def is_placed(self, worker: str) -> bool:
        """Whether `worker` holds a replica, or is to copy one."""
        return worker in self.workers()

    def workers(self) -> set[str]:
        """Every worker that holds a replica, or copies one."""
        placed = {w for workers in self.replicas.values() for w in workers}
        return placed.union(self.moves.joining.values())

    def after(self, decision: Decision) -> DomainState:
        """The state once `decision` is applied; `self` where it changes nothing here."""
        match decision:
            case Commit() | Abort():
                return self
            case CreateCollection(ts, collection) | AlterCollection(ts, collection):
                return msgspec.structs.replace(
                    self, catalog_ts=ts, collections=self.collections | {collection.id: collection}
                )
            case SwitchCollection(ts, collection_id, wall_ms):
                return self._switched(ts, collection_id, wall_ms)
            case DropCollection(ts, collection_id):
                return msgspec.structs.replace(
                    self,
                    catalog_ts=ts,
                    collections={i: c for i, c in self.collections.items() if i != collection_id},
                    aliases={a: i for a, i in self.aliases.items() if i != collection_id},
                )
            case SetAliases(ts, aliases):
                return msgspec.structs.replace(self, catalog_ts=ts, aliases=dict(aliases))
            case SetPlacement(ts, replicas, moves):
                return DomainState(
                    ts,
                    self.collections,
                    dict(replicas),
                    founders=(),
                    aliases=self.aliases,
                    moves=moves,
                )
            case Takeover():
                return DomainState(
                    decision.catalog_ts,
                    {c.id: c for c in decision.collections},
                    dict(decision.replicas),
                    decision.founders,
                    dict(decision.aliases),
                    decision.moves,
                )

    def _switched(self, ts: int, collection_id: int, wall_ms: int) -> DomainState:
        """`collection_id` in the place of the generation that it was filled for."""
        after = self.collections[collection_id]
        before = self.collections[after.replaces]
        replace = msgspec.structs.replace
        switched = {
            before.id: replace(before, until_ts=ts, until_ms=wall_ms),
            after.id: replace(after, replaces=0, since_ts=ts),
        }
        aliases = {a: after.id if i == before.id else i for a, i in self.aliases.items()}
        return replace(
            self, catalog_ts=ts, collections=self.collections | switched, aliases=aliases
        )

    def has_majority(self, shard: int, workers: set[str]) -> bool:
        """Whether `workers` hold a majority of the replicas of `shard`."""
        replicas = self.replicas.get(shard, ())
        return bool(replicas) and len(workers.intersection(replicas)) >= majority(len(replicas))
