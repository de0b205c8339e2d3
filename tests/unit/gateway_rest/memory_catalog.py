"""The catalog of the databases in memory: options and aliases by the sequencer's own rules."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from vector_db.common.core.domain import DomainState
from vector_db.common.core.messages.catalog import AlterCollectionRequest, CreateCollectionRequest
from vector_db.common.model.collection import RECALL_TARGET, Collection, IndexOptions, Metric
from vector_db.common.model.errors import AlreadyExists, NotFound
from vector_db.coordinator.core.catalog import aliases_after, altered, check_create, to_drop
from vector_db.gateway.core.requests import CollectionChange


class MemoryCatalog:
    """Entries and aliases. A subclass makes the tables and ticks the clock."""

    state: DomainState

    def tick(self) -> int:
        raise NotImplementedError

    def real_name(self, name: str) -> str:
        """The name of the collection that an alias stands for, else `name`."""
        found = self.state.by_name(name)
        return name if found is None else found.name

    def make(
        self,
        name: str,
        dimension: int,
        metric: str,
        shards: int,
        if_absent: bool,
        index: IndexOptions = IndexOptions(),
        recall_target: float = RECALL_TARGET,
        fields: tuple[str, ...] = (),
    ) -> tuple[Collection, bool]:
        """The collection, and whether it is new."""
        asked = CreateCollectionRequest(
            name, dimension, metric, shards, if_absent, index, recall_target, fields
        )
        try:
            check_create(self.state, asked)
        except AlreadyExists:
            existing = self.state.by_name(name)
            if not if_absent or existing is None:
                raise
            return existing, False
        made = Collection(
            self.tick(), name, dimension, Metric(metric), tuple(range(max(1, shards))), index,
            recall_target, fields,
        )  # fmt: skip
        self._put(made)
        return made, True

    def _put(self, entry: Collection) -> None:
        entries = self.state.collections | {entry.id: entry}
        self.state = DomainState(0, entries, aliases=self.state.aliases)

    def forget(self, name: str) -> None:
        gone = to_drop(self.state, name)[-1].id
        entries = {i: c for i, c in self.state.collections.items() if i != gone}
        aliases = {a: i for a, i in self.state.aliases.items() if i != gone}
        self.state = DomainState(0, entries, aliases=aliases)

    async def alter_collection(self, name: str, change: CollectionChange) -> Collection:
        if change.shards is not None:
            return self._spread(name, change.shards)
        asked = AlterCollectionRequest(name, change.index, change.recall_target, change.fields)
        (entry,) = altered(self.state, asked)
        self.tick()
        self._put(entry)
        return entry

    def _spread(self, name: str, shards: int) -> Collection:
        """A second generation that nobody fills; none where there are so many shards already."""
        current = self.state.by_name(name)
        if current is None:
            raise NotFound(f"collection {name!r} does not exist")
        if (before := self.state.successor(current.id)) is not None:
            entries = {i: c for i, c in self.state.collections.items() if i != before.id}
            self.state = DomainState(0, entries, aliases=self.state.aliases)
        if shards != len(current.shards):
            self._put(
                msgspec.structs.replace(
                    current, id=self.tick(), shards=tuple(range(shards)),
                    first_id=current.origin, replaces=current.id,
                )
            )  # fmt: skip
        return current

    def spreading(self, collection: Collection) -> int | None:
        successor = self.state.successor(collection.id)
        return None if successor is None else len(successor.shards)

    async def set_aliases(self, changes: Mapping[str, str | None]) -> int:
        aliases = aliases_after(self.state, changes)
        self.state = DomainState(0, self.state.collections, aliases=aliases)
        return self.tick()

    async def aliases(self) -> dict[str, str]:
        entries = self.state.collections
        return {alias: entries[i].name for alias, i in sorted(self.state.aliases.items())}

    def aliases_of(self, collection: Collection) -> tuple[str, ...]:
        return self.state.aliases_of(collection.id)
