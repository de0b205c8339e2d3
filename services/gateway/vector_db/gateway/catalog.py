"""The catalog's calls of `DatabaseApi`: collections, what they want, their aliases and statistics.

Owns the invariant that a change is answered once it is durable, and seen at once through this
gateway.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Concatenate, ParamSpec, TypeVar

from vector_db.common.core.messages.catalog import (
    AlterCollectionRequest,
    CreateCollectionRequest,
    DropCollectionRequest,
    SetAliasesRequest,
    SpreadRequest,
)
from vector_db.common.model.collection import RECALL_TARGET, Collection, IndexOptions
from vector_db.common.model.errors import InvalidArgument, NotFound
from vector_db.common.model.ids import HIDDEN_PREFIX, validate_collection_name
from vector_db.common.model.options import check_fields, check_index, check_recall_target
from vector_db.gateway.core.requests import (
    CollectionChange,
    CollectionStats,
    Consistency,
)
from vector_db.gateway.row_reads import SnapshotReads

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound=SnapshotReads)


class CatalogCalls(SnapshotReads):
    """Reads of rows, and all that concerns collections as such."""

    async def create_collection(
        self,
        name: str,
        dimension: int,
        metric: str,
        shards: int = 0,
        if_absent: bool = False,
        *,
        index: IndexOptions = IndexOptions(),
        recall_target: float = RECALL_TARGET,
        fields: tuple[str, ...] = (),
    ) -> Collection:
        """See `DatabaseApi.create_collection`."""
        validate_collection_name(name)
        if not 1 <= dimension <= self._limits.dimension_max:
            raise InvalidArgument(
                f"dimension: {dimension}, the limits are 1 and dimension_max = "
                f"{self._limits.dimension_max}"
            )
        check_index(index)
        check_recall_target(recall_target)
        check_fields(fields)
        request = CreateCollectionRequest(
            name, dimension, metric, shards, if_absent, index, recall_target, fields
        )
        self._view.take_catalog(await self._view.ask(request))
        return await self._view.collection(name)

    async def alter_collection(self, name: str, change: CollectionChange) -> Collection:
        """See `DatabaseApi.alter_collection`."""
        if change == CollectionChange():
            raise InvalidArgument("give at least one of index, recall_target, fields and shards")
        if change.index is not None:
            check_index(change.index)
        if change.recall_target is not None:
            check_recall_target(change.recall_target)
        if change.fields is not None:
            check_fields(change.fields)
        if change.shards is not None:
            if change.shards < 1:
                raise InvalidArgument(f"shards: {change.shards}, at least 1 is needed")
            # First, as it is what may be refused.
            self._view.take_catalog(await self._view.ask(SpreadRequest(name, change.shards)))
        if dataclasses.replace(change, shards=None) != CollectionChange():
            request = AlterCollectionRequest(
                name, change.index, change.recall_target, change.fields
            )
            self._view.take_catalog(await self._view.ask(request))
        return await self._view.collection(name)

    async def drop_collection(self, name: str) -> int:
        """See `DatabaseApi.drop_collection`."""
        if name.startswith(HIDDEN_PREFIX):
            raise NotFound(f"collection {name!r} does not exist")
        self._view.take_catalog(await self._view.ask(DropCollectionRequest(name)))
        return self._view.catalog_ts

    async def collections(self) -> list[Collection]:
        """See `DatabaseApi.collections`."""
        await self._view.refresh()
        return self._view.collections()

    async def collection(self, name: str) -> Collection:
        """See `DatabaseApi.collection`."""
        return await self._view.collection(name)

    async def stats(self, name: str) -> CollectionStats:
        """See `DatabaseApi.stats`."""
        collection = await self._view.collection(name)
        reply = await self._reader.stats(collection)
        return CollectionStats(
            rows=reply.rows,
            rows_indexed=reply.rows_indexed,
            rows_dead=reply.rows_dead,
            segments=reply.segments,
            kinds=reply.kinds,
            recall_target=collection.recall_target,
            recall_measured=reply.recall if reply.recall_samples else None,
            recall_samples=reply.recall_samples,
            building=reply.building,
            bytes_memory=reply.bytes_memory,
            bytes_disk=reply.bytes_disk,
            bytes_predicted=reply.bytes_predicted,
            bytes_resident=reply.bytes_resident,
        )

    def spreading(self, collection: Collection) -> int | None:
        """See `DatabaseApi.spreading`."""
        successor = self._view.entries.successor(collection)
        return None if successor is None else len(successor.shards)

    # --- aliases ----------------------------------------------------------------------------------

    async def set_aliases(self, changes: Mapping[str, str | None]) -> int:
        """See `DatabaseApi.set_aliases`."""
        if not changes:
            raise InvalidArgument("changes: at least one is needed")
        self._view.take_catalog(await self._view.ask(SetAliasesRequest(dict(changes))))
        return self._view.catalog_ts

    async def aliases(self) -> dict[str, str]:
        """See `DatabaseApi.aliases`."""
        await self._view.refresh()
        return self._view.aliases()

    def aliases_of(self, collection: Collection) -> tuple[str, ...]:
        """See `DatabaseApi.aliases_of`."""
        return self._view.aliases_of(collection)

    async def _found(self, name: str, consistency: Consistency) -> tuple[Collection, int]:
        if (consistency.strong or consistency.at_least) and self._view.is_alias(name):
            # The reader may know of a switch that is news here: first its snapshot, then the name.
            consistency = Consistency(at_least=await self._view.snapshot(consistency))
        return await super()._found(name, consistency)


def again_if_moved(
    call: Callable[Concatenate[S, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
    """`call`, made once more when it finds nothing and the catalog changed under it.

    After a call has looked up an alias, that may be switched and the collection it stood for
    dropped. Whatever was not found, nothing was applied.
    """

    @functools.wraps(call)
    async def wrapped(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        known_ts = self._view.catalog_ts
        try:
            return await call(self, *args, **kwargs)
        except NotFound:
            if not await self._view.moved_on(known_ts):
                raise
        return await call(self, *args, **kwargs)

    return wrapped
