"""Changes of a domain's catalog and placement, as the sequencer decides them among transactions.

Pure. The shell makes one change at a time, of what it has checked (`coordinator/changes`). Owns
these invariants:

- a change is answered for once it is durable where every survey asks: at some shard of the
  placement before it (or at the founders); what needs another placement, once that is in force;
- what is undecided and not to be committed after a change is aborted with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from vector_db.common.core.messages.decisions import (
    AlterCollection,
    CreateCollection,
    Decision,
    DropCollection,
    Moves,
    SetAliases,
    SwitchCollection,
)
from vector_db.common.model.collection import RECALL_TARGET, Collection, IndexOptions, Metric
from vector_db.coordinator.core.effects import Effects, Reply
from vector_db.coordinator.core.generations import Generations, second_generation
from vector_db.coordinator.core.order import Order
from vector_db.coordinator.core.placements import Placements
from vector_db.coordinator.core.releases import Releases, Unreleased
from vector_db.coordinator.core.two_phase_commit import TwoPhaseCommit


class DomainChanges:
    """Of one term. A `token` stands for the request that is answered."""

    def __init__(
        self,
        order: Order,
        placements: Placements,
        releases: Releases,
        generations: Generations,
        transactions: TwoPhaseCommit,
    ) -> None:
        self._order = order
        self._placements = placements
        self._releases = releases
        self._generations = generations
        self._transactions = transactions

    # --- collections ----------------------------------------------------------------------------

    def create_collection(
        self,
        name: str,
        dimension: int,
        metric: Metric,
        shards: tuple[int, ...],
        replicas: dict[int, tuple[str, ...]],
        token: int,
        index: IndexOptions = IndexOptions(),
        recall_target: float = RECALL_TARGET,
        fields: tuple[str, ...] = (),
    ) -> Effects:
        """Decide a new collection on `shards`; `replicas` is the placement that it needs.

        The shell has checked name and options and chosen the shards; a placement that differs from
        today's is decided first, and the collection is answered for once it is in force.
        """
        effects = Effects()
        entry = Collection(0, name, dimension, metric, shards, index, recall_target, fields)
        self._create(entry, replicas, token)
        self._releases.release(effects)
        return effects

    def alter_collection(self, entries: Sequence[Collection], token: int) -> Effects:
        """Decide other catalog entries for generations of a collection; transactions go on.

        The shell has made them of those that are there: what rows depend on is as it was.
        """
        effects = Effects()
        for entry in entries:
            token_ = token if entry is entries[-1] else None
            self._change(AlterCollection(self._order.take_ts(), entry), entry, token_)
        self._releases.release(effects)
        return effects

    def drop_collection(self, generations: Sequence[Collection], token: int) -> Effects:
        """Decide the end of a collection, of all its generations; undecided transactions on it are
        aborted. The one in force comes last: what is there in between is a catalog, too."""
        effects = Effects()
        for generation in generations:
            token_ = token if generation is generations[-1] else None
            self._change(DropCollection(self._order.take_ts(), generation.id), generation, token_)
        detail = f"collection {generations[-1].name} was dropped"
        self._transactions.abort_all([g.id for g in generations], "not_found", detail, effects)
        self._releases.release(effects)
        return effects

    # --- their generations ----------------------------------------------------------------------

    def spread_collection(
        self,
        collection: Collection,
        shards: tuple[int, ...],
        replicas: dict[int, tuple[str, ...]],
        token: int,
    ) -> Effects:
        """Decide a second generation, on `shards`, of a collection in force that has no other one
        on its way. Whatever is undecided there was not written to both.

        `replicas` as in `create_collection`.
        """
        effects = Effects()
        self._create(second_generation(collection, shards), replicas, token)
        detail = f"collection {collection.name} is being spread, try again"
        self._transactions.abort_all((collection.id,), "conflict", detail, effects)
        self._releases.release(effects)
        return effects

    def switch_collection(self, generation: Collection, now_ms: int, token: int) -> Effects:
        """Decide that a generation that was filled takes the place of the one in force."""
        effects, order = Effects(), self._order
        order.advance_wall(now_ms)
        self._change(
            SwitchCollection(order.take_ts(), generation.id, order.wall_ms), generation, token
        )
        detail = f"collection {generation.name} was spread over other shards, try again"
        self._transactions.abort_all((generation.replaces,), "conflict", detail, effects)
        self._releases.release(effects)
        return effects

    def drop_generation(self, generation: Collection, token: int) -> Effects:
        """Decide the end of a generation that is not in force: it was given up, or its time is
        over."""
        effects = Effects()
        self._change(DropCollection(self._order.take_ts(), generation.id), generation, token)
        self._generations.drop(generation)
        detail = f"collection {generation.name} is not spread that way any more, try again"
        self._transactions.abort_all((generation.id,), "conflict", detail, effects)
        self._releases.release(effects)
        return effects

    # --- aliases and placement ------------------------------------------------------------------

    def set_aliases(self, aliases: dict[str, int], token: int) -> Effects:
        """Decide all aliases anew, at once; the shell has checked them."""
        effects = Effects()
        self._change(SetAliases(self._order.take_ts(), aliases), None, token)
        self._releases.release(effects)
        return effects

    def set_placement(
        self, replicas: dict[int, tuple[str, ...]], moves: Moves, token: int
    ) -> Effects:
        """Decide another placement; answered for once it is in force.

        :raises ValueError: the last one is not in force, or a shard changes by more than a worker.
        """
        effects = Effects()
        self._place(replicas, moves, Reply(token, 0, None))
        self._releases.release(effects)
        return effects

    # --- how they are decided -------------------------------------------------------------------

    def _change(self, decision: Decision, collection: Collection | None, token: int | None) -> None:
        """Decide a change of the catalog, answered for once it is durable; without a token: with
        what follows."""
        self._order.decide(decision)
        reply = None if token is None else Reply(token, decision.ts, collection)
        known = tuple(self._order.state.replicas)
        self._releases.add(Unreleased(decision.ts, known, reply=reply))

    def _create(self, entry: Collection, replicas: dict[int, tuple[str, ...]], token: int) -> None:
        """Decide a catalog entry, still without an id, and before it the placement it needs."""
        # Until a change is in force only the old shards (or the founders) are sure to be surveyed.
        before = self._order.state
        if replicas != before.replicas:
            self._place(replicas, before.moves)
        ts = self._order.take_ts()
        collection = msgspec.structs.replace(entry, id=ts)
        self._order.decide(CreateCollection(ts, collection))
        self._releases.add(
            Unreleased(
                ts,
                tuple(before.replicas),
                reply=Reply(token, ts, collection),
                founders=before.founders,
            )
        )

    def _place(
        self, replicas: dict[int, tuple[str, ...]], moves: Moves, reply: Reply | None = None
    ) -> None:
        before = self._order.state
        ts = self._placements.change(replicas, moves)
        self._releases.add(
            Unreleased(ts, tuple(before.replicas), reply=reply, founders=before.founders)
        )
