"""The catalog's entries of one moment, by name, alias, id and generation. Pure.

Owns the invariant that a name means the one generation in force, and that whoever holds an entry
of any generation finds the others of the same collection, and never those of another one that got
its name later.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from vector_db.common.model.collection import Collection
from vector_db.common.model.errors import NotFound, SnapshotTooOld
from vector_db.common.model.ids import HIDDEN_PREFIX
from vector_db.common.model.rows import RowBlock


class Entries:
    """The collections of one state of the catalog."""

    def __init__(
        self, collections: Iterable[Collection] = (), aliases: Mapping[str, int] | None = None
    ) -> None:
        self.by_id = {c.id: c for c in collections}
        in_force = [c for c in self.by_id.values() if c.in_force]
        self.hidden = {c.name: c for c in in_force if c.name.startswith(HIDDEN_PREFIX)}
        self.by_name = {c.name: c for c in in_force if c.name not in self.hidden}
        self.by_alias = {a: self.by_id[i] for a, i in (aliases or {}).items()}
        self._current = {c.origin: c for c in in_force}
        self._successors = {c.replaces: c for c in self.by_id.values() if c.replaces}
        self._generations: dict[int, list[Collection]] = {}
        for collection in self.by_id.values():
            self._generations.setdefault(collection.origin, []).append(collection)

    def current(self, collection: Collection) -> Collection | None:
        """The generation in force of the collection; None: it was dropped."""
        return self._current.get(collection.origin)

    def of_origin(self, origin: int) -> Collection | None:
        """The generation in force of the collection whose first one has this id."""
        return self._current.get(origin)

    def successor(self, collection: Collection) -> Collection | None:
        """The generation that is being filled for the collection."""
        current = self.current(collection)
        return None if current is None else self._successors.get(current.id)

    def at(self, collection: Collection, snapshot_ts: int) -> Collection:
        """The generation of the collection that reads of this snapshot are of.

        :raises NotFound: the collection was dropped, or did not exist at the snapshot.
        :raises SnapshotTooOld: the generation of that time is gone.
        """
        generations = self._generations.get(collection.origin, ())
        for generation in generations:
            if generation.serves(snapshot_ts):
                return generation
        if not generations:
            raise NotFound(f"collection {collection.name!r} does not exist")
        if snapshot_ts < collection.origin:
            raise NotFound(f"collection {collection.name!r} did not exist at {snapshot_ts}")
        raise SnapshotTooOld(
            f"snapshot {snapshot_ts} lies before the retention window: collection "
            f"{collection.name!r} was spread over other shards since"
        )

    def routed(
        self, blocks: Iterable[tuple[RowBlock, Collection]]
    ) -> list[tuple[RowBlock, Collection]]:
        """The blocks as blocks of the generations in force, each followed by its mirror for a
        generation that is being filled.

        :raises NotFound: a collection was dropped.
        """
        routed = []
        for block, collection in blocks:
            current = self.current(collection)
            if current is None:
                raise NotFound(f"collection {collection.name!r} does not exist")
            if block.collection_id != current.id:
                block = msgspec.structs.replace(block, collection_id=current.id)
            routed.append((block, current))
            if (successor := self._successors.get(current.id)) is not None:
                routed.append((mirrored(block, successor), successor))
        return routed


def mirrored(block: RowBlock, successor: Collection) -> RowBlock:
    """The same rows for a generation that is being filled, judged by none of their conditions."""
    return msgspec.structs.replace(
        block, collection_id=successor.id, precondition="mirrored", versions=b""
    )
