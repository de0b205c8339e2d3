"""The catalog's calls of the asynchronous client: collections, what they want, and aliases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from vector_db_client import wire
from vector_db_client.calls import collection_path
from vector_db_client.errors import AlreadyExists, InvalidArgument
from vector_db_client.values import (
    Collection,
    CollectionStats,
    IndexOptions,
    IndexSettings,
    Metric,
)
from vector_db_client.writes import AsyncWrites

ALIASES_PATH = "/v1/aliases"


class AsyncCatalog(AsyncWrites):
    """Reads and writes of rows, and all that concerns collections as such.

    Wherever a call takes the name of a collection it takes an alias, but for `delete_collection`.
    """

    async def create_collection(
        self,
        name: str,
        dimension: int,
        metric: Metric = "cosine",
        *,
        shards: int | None = None,
        exist_ok: bool = False,
        index: IndexSettings | IndexOptions | None = None,
        recall_target: float | None = None,
        fields: Sequence[str] | None = None,
    ) -> Collection:
        """Make an empty collection; `shards` None lets the server choose.

        :param exist_ok: give the collection of this name if its dimension and metric are these;
            what it wants of its indexes stays as it is.
        :param index: how sealed segments are indexed, for example ``{"kind": "hnsw", "m": 32}``.
        :param recall_target: the share of the true best k that answers hold on average.
        :param fields: metadata paths with an inverted index, dotted as in filters.
        :raises AlreadyExists: the name is taken, perhaps by an alias.
        :raises InvalidArgument: an option is out of its bounds.
        """
        body: dict[str, Any] = {"name": name, "dimension": dimension, "metric": metric}
        if shards is not None:
            body["shards"] = shards
        body |= _options(index, recall_target, fields)
        try:
            answer = await self._transport.json("POST", "/v1/collections", body, repeatable=False)
        except AlreadyExists:
            if not exist_ok:
                raise
            existing = await self.get_collection(name)
            if (existing.dimension, existing.metric) != (dimension, metric):
                raise AlreadyExists(
                    f"collection {name!r} exists with dimension {existing.dimension} and metric "
                    f"{existing.metric}, not {dimension} and {metric}",
                    status=409,
                ) from None
            return existing
        return wire.decode_collection(answer)

    async def update_collection(
        self,
        name: str,
        *,
        index: IndexSettings | IndexOptions | None = None,
        recall_target: float | None = None,
        fields: Sequence[str] | None = None,
        shards: int | None = None,
    ) -> Collection:
        """Change what a collection wants of its indexes, online: the collection as it is then.

        None leaves something as it is, and so does `index` with what it leaves out; `fields` are
        all that shall have an inverted index. Segments follow in the background. Over another
        number of `shards` its rows are spread while reads and writes go on: `spreading_shards` of
        `get_collection` says until when. As many as it has give up what is under way.

        :raises NotFound: there is none of this name.
        :raises InvalidArgument: nothing to change, or an option is out of its bounds.
        """
        body = _options(index, recall_target, fields)
        if shards is not None:
            body["shards"] = shards
        answer = await self._transport.json("PATCH", collection_path(name), body)
        return wire.decode_collection(answer)

    async def list_collections(self) -> list[Collection]:
        """All collections, by name."""
        answer = await self._transport.json("GET", "/v1/collections")
        found = [wire.decode_collection(entry) for entry in answer["collections"]]
        return sorted(found, key=lambda collection: collection.name)

    async def get_collection(self, name: str) -> Collection:
        """:raises NotFound: there is none of this name."""
        return wire.decode_collection(await self._transport.json("GET", collection_path(name)))

    async def delete_collection(self, name: str) -> None:
        """Delete a collection and all its rows; its aliases end with it.

        :raises NotFound: there is none of this name.
        :raises InvalidArgument: it is the name of an alias.
        """
        await self._transport.json("DELETE", collection_path(name), repeatable=False)

    async def collection_stats(self, name: str) -> CollectionStats:
        """Rows, indexes, measured recall and sizes.

        :raises NotFound: there is none of this name.
        """
        return wire.decode_stats(await self._transport.json("GET", collection_path(name, "stats")))

    # -- aliases

    async def set_alias(self, alias: str, collection: str) -> None:
        """Let `alias` stand for `collection` from now on, whatever it stood for before.

        :raises NotFound: there is no such collection.
        :raises AlreadyExists: a collection has the name of the alias.
        """
        await self.update_aliases({alias: collection})

    async def update_aliases(self, changes: Mapping[str, str | None]) -> None:
        """Alias → collection (None removes it), all at once: nobody sees some of it only.

        :raises NotFound: a collection, or an alias to be removed, does not exist.
        :raises AlreadyExists: a collection has the name of an alias.
        """
        if not changes:
            raise InvalidArgument("update_aliases: needs one change or more")
        # Removed twice, an alias does not exist.
        repeatable = None not in changes.values()
        body = {"changes": dict(changes)}
        await self._transport.json("POST", ALIASES_PATH, body, repeatable=repeatable)

    async def delete_alias(self, alias: str) -> None:
        """Remove an alias; its collection stays.

        :raises NotFound: there is no such alias.
        """
        # Not by DELETE, which aiohttp by itself repeats when a kept connection broke.
        await self.update_aliases({alias: None})

    async def aliases(self) -> dict[str, str]:
        """Alias → name of the collection that it stands for, by alias."""
        answer = await self._transport.json("GET", ALIASES_PATH)
        found: dict[str, str] = answer["aliases"]
        return found


def _options(
    index: IndexSettings | IndexOptions | None,
    recall_target: float | None,
    fields: Sequence[str] | None,
) -> dict[str, Any]:
    """What is given of a collection's options, as the fields of a body."""
    body: dict[str, Any] = {}
    if index is not None:
        body["index"] = asdict(index) if isinstance(index, IndexOptions) else dict(index)
    if recall_target is not None:
        body["recall_target"] = recall_target
    if fields is not None:
        if isinstance(fields, str):
            raise InvalidArgument("fields: a list of paths, is one string")
        body["fields"] = list(fields)
    return body
