"""What the generations of collections mean for transactions that are not decided yet. Pure.

Owns the sequencer's part of the safety of spreading (docs/adr/0019): between the creation of a
second generation and the switch nothing is committed to the first that was not written to both, and
after the switch nothing at all. Whatever is refused for that can be done again by the catalog that
is now.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from vector_db.common.core.domain import DomainState
from vector_db.common.core.history import is_part_of
from vector_db.common.model.collection import Collection

Refusal = tuple[str, str]
"""(error code, detail)."""


def second_generation(collection: Collection, shards: tuple[int, ...]) -> Collection:
    """The entry, still without an id, of the generation that is to take `collection`'s place."""
    return msgspec.structs.replace(
        collection,
        id=0,
        shards=shards,
        first_id=collection.origin,
        replaces=collection.id,
        since_ts=0,
    )


class Generations:
    """Of one term. `bases` are those of its history."""

    def __init__(self, bases: Mapping[int, int]) -> None:
        self._bases = bases
        self._seen: DomainState | None = None
        self._successors: dict[int, Collection] = {}
        self._over: set[int] = set()

    def drop(self, generation: Collection) -> None:
        """This one ends, and another one of its collection stays: remembered for the term."""
        self._over.add(generation.id)

    def is_over(self, collections: Iterable[int]) -> bool:
        """Whether one of these ended while its collection stayed."""
        return not self._over.isdisjoint(collections)

    def refusal(
        self, state: DomainState, collections: Iterable[int], catalog_ts: int
    ) -> Refusal | None:
        """Why a transaction that touches `collections` must not be committed now; None: it may.

        `catalog_ts`: the catalog by which its rows were given to shards.
        """
        successors = self._successors_in(state)
        refused: Refusal | None = None
        for collection_id in collections:
            if collection_id in self._over:
                refused = ("conflict", "the collection is not spread that way any more, try again")
                continue
            collection = state.collections.get(collection_id)
            if collection is None:
                # No retry mends this, so it is told rather than a conflict.
                return "not_found", "the collection was dropped"
            if collection.until_ts:
                refused = ("conflict", "the collection was spread over other shards, try again")
            successor = successors.get(collection_id)
            if successor is not None and not self._knew(catalog_ts, successor):
                refused = ("conflict", "the collection is being spread, try again")
        return refused

    def _knew(self, catalog_ts: int, successor: Collection) -> bool:
        # A later catalog of a term that was undone may know that it was given up, which it was not.
        return catalog_ts >= successor.id and is_part_of(catalog_ts, self._bases)

    def _successors_in(self, state: DomainState) -> dict[int, Collection]:
        """By what they replace; kept, as the catalog changes seldom and commits are many."""
        if state is not self._seen:
            self._seen = state
            self._successors = {c.replaces: c for c in state.collections.values() if c.replaces}
        return self._successors
