"""The catalog's calls of the synchronous client: the asynchronous ones, run by its thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vector_db_client.sync_rows import SyncRows
from vector_db_client.values import (
    Collection,
    CollectionStats,
    IndexOptions,
    IndexSettings,
    Metric,
)


class SyncCatalog(SyncRows):
    """Reads and writes of rows, and all that concerns collections as such.

    Wherever a call takes the name of a collection it takes an alias, but for `delete_collection`.
    """

    def create_collection(
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
        return self._run(
            self._client.create_collection(
                name,
                dimension,
                metric,
                shards=shards,
                exist_ok=exist_ok,
                index=index,
                recall_target=recall_target,
                fields=fields,
            )
        )

    def update_collection(
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
        return self._run(
            self._client.update_collection(
                name, index=index, recall_target=recall_target, fields=fields, shards=shards
            )
        )

    def list_collections(self) -> list[Collection]:
        """All collections, by name."""
        return self._run(self._client.list_collections())

    def get_collection(self, name: str) -> Collection:
        """:raises NotFound: there is none of this name."""
        return self._run(self._client.get_collection(name))

    def delete_collection(self, name: str) -> None:
        """Delete a collection and all its rows; its aliases end with it.

        :raises NotFound: there is none of this name.
        :raises InvalidArgument: it is the name of an alias.
        """
        self._run(self._client.delete_collection(name))

    def collection_stats(self, name: str) -> CollectionStats:
        """Rows, indexes, measured recall and sizes.

        :raises NotFound: there is none of this name.
        """
        return self._run(self._client.collection_stats(name))

    # -- aliases

    def set_alias(self, alias: str, collection: str) -> None:
        """Let `alias` stand for `collection` from now on, whatever it stood for before.

        :raises NotFound: there is no such collection.
        :raises AlreadyExists: a collection has the name of the alias.
        """
        self._run(self._client.set_alias(alias, collection))

    def update_aliases(self, changes: Mapping[str, str | None]) -> None:
        """Alias → collection (None removes it), all at once: nobody sees some of it only.

        :raises NotFound: a collection, or an alias to be removed, does not exist.
        :raises AlreadyExists: a collection has the name of an alias.
        """
        self._run(self._client.update_aliases(changes))

    def delete_alias(self, alias: str) -> None:
        """Remove an alias; its collection stays.

        :raises NotFound: there is no such alias.
        """
        self._run(self._client.delete_alias(alias))

    def aliases(self) -> dict[str, str]:
        """Alias → name of the collection that it stands for, by alias."""
        return self._run(self._client.aliases())
