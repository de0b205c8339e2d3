"""The database as both edges see it. REST and gRPC call this and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from vector_db.common.model.collection import Collection
from vector_db.gateway.core.requests import (
    CollectionStats,
    Consistency,
    Delete,
    Page,
    Query,
    QueryResult,
    Rows,
    Upsert,
    WriteResult,
)


class DatabaseApi(Protocol):
    """All calls raise `VectorDBError` subclasses only; NotFound for an unknown collection."""

    async def create_collection(
        self, name: str, dimension: int, metric: str, shards: int = 0, if_absent: bool = False
    ) -> Collection:
        """`shards` 0: one per active worker.

        :raises AlreadyExists: the name is taken (unless `if_absent`; then the one that exists).
        """

    async def drop_collection(self, name: str) -> int:
        """The commit_ts of the drop."""

    async def collections(self) -> list[Collection]: ...

    async def collection(self, name: str) -> Collection: ...

    async def stats(self, name: str) -> CollectionStats: ...

    async def write(self, operations: Sequence[Upsert | Delete]) -> WriteResult:
        """One atomic write over any collections and shards; validated whole before publishing.

        :raises AlreadyExists: mode ``insert`` and an id exists.
        :raises NotFound: mode ``update`` and an id is absent.
        :raises PreconditionFailed: `if_version` did not hold.
        :raises Conflict: lost against another transaction, retries included.
        :raises OutcomeUnknown: sent, and its outcome is not known.
        """

    async def delete_where(self, collection: str, filter: dict[str, Any]) -> WriteResult:
        """Delete every row that the filter matches, in one transaction."""

    async def patch_metadata(
        self, collection: str, row_id: bytes, patch: dict[str, Any]
    ) -> WriteResult:
        """Merge `patch` into the row's metadata (RFC 7396: null removes); the vector stays."""

    async def query(self, query: Query) -> QueryResult: ...

    async def fetch(
        self,
        collection: str,
        ids: Sequence[bytes],
        consistency: Consistency,
        include_vectors: bool = True,
    ) -> Rows:
        """Rows in the order of `ids`; absent ones are left out."""

    async def count(
        self, collection: str, filter: dict[str, Any] | None, consistency: Consistency
    ) -> tuple[int, int]:
        """(count, snapshot_ts)."""

    async def scroll(
        self,
        collection: str,
        limit: int,
        filter: dict[str, Any] | None,
        cursor: str | None,
        consistency: Consistency,
        include_vectors: bool = True,
    ) -> Page: ...

    async def transaction_status(self, txn_id: str) -> dict[str, Any]:
        """``{"state": committed | aborted | pending | unknown, "commit_ts"?, "reason"?}``."""

    async def cluster(self) -> dict[str, Any]:
        """Workers, placement, term, stable_ts: what `/v1/cluster` shows."""
