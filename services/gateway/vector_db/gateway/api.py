"""The database as both edges see it. REST and gRPC call this and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from vector_db.common.model.collection import RECALL_TARGET, Collection, IndexOptions
from vector_db.gateway.core.requests import (
    CollectionChange,
    CollectionStats,
    Consistency,
    Delete,
    Idempotency,
    Isolation,
    OpenTransaction,
    Page,
    Query,
    QueryResult,
    Rows,
    Upsert,
    WriteResult,
)


class RowsApi(Protocol):
    """Reads and writes of rows: each on its own, or all of one open transaction.

    In a transaction writes are staged (`WriteResult.commit_ts` 0) and visible to its own reads
    only; reads are of its snapshot, so a `Consistency` other than the default is InvalidArgument,
    and so is an idempotency key, which goes with the commit. All calls raise `VectorDBError`
    subclasses only; NotFound for an unknown collection. An alias is taken where a collection's name
    is, and stands for its collection of the moment of the call.
    """

    async def write(
        self, operations: Sequence[Upsert | Delete], idempotency: Idempotency | None = None
    ) -> WriteResult:
        """One atomic write over any collections and shards; validated whole before publishing.

        :raises AlreadyExists: mode ``insert`` and an id exists.
        :raises NotFound: mode ``update`` and an id is absent.
        :raises PreconditionFailed: `if_version` did not hold.
        :raises Conflict: lost against another transaction, retries included.
        :raises OutcomeUnknown: sent, and its outcome is not known.
        :raises IdempotencyMismatch: the key came with another request before.
        """

    async def delete_where(
        self, collection: str, filter: dict[str, Any], idempotency: Idempotency | None = None
    ) -> WriteResult:
        """Delete every row that the filter matches, in one transaction."""

    async def patch_metadata(
        self,
        collection: str,
        row_id: bytes,
        patch: dict[str, Any],
        if_version: int | None = None,
        idempotency: Idempotency | None = None,
    ) -> WriteResult:
        """Merge `patch` into the row's metadata (RFC 7396: null removes); the vector stays.

        :raises PreconditionFailed: the row has another version than `if_version`.
        """

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


class TransactionApi(RowsApi, Protocol):
    """One open transaction, for the length of one request; `token` goes with the next one."""

    @property
    def txn_id(self) -> str: ...

    @property
    def token(self) -> str:
        """The token as of now; it changes with writes, and with reads of a serializable one."""

    async def commit(self, idempotency: Idempotency | None = None) -> WriteResult:
        """Make everything that was staged visible at once; `count` is the number of rows staged.

        Committing again what is committed answers the same. A transaction that wrote nothing has
        its snapshot as `commit_ts`.

        :raises Conflict: lost against another transaction: begin again.
        :raises OutcomeUnknown: sent, and its outcome is not known.
        """

    async def abort(self) -> None:
        """Forget everything that was staged; again is no error.

        :raises AlreadyCommitted: it is committed.
        """


class DatabaseApi(RowsApi, Protocol):
    """All calls raise `VectorDBError` subclasses only; NotFound for an unknown collection."""

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
        """`shards` 0: one per active worker.

        :raises AlreadyExists: the name is taken, perhaps by an alias (unless `if_absent`; then
            the collection that has it).
        :raises InvalidArgument: something of it is out of its bounds.
        """

    async def alter_collection(self, name: str, change: CollectionChange) -> Collection:
        """The collection as it is then; its rows and all transactions on it go on.

        Another number of shards is answered for once its rows begin to be spread over them; an open
        transaction that writes to it then may have to be begun again.

        :raises InvalidArgument: nothing to change, or something is out of its bounds.
        """

    def spreading(self, collection: Collection) -> int | None:
        """Over how many shards a collection that was answered just now is being spread."""

    async def drop_collection(self, name: str) -> int:
        """The commit_ts of the drop, with which its aliases end.

        :raises InvalidArgument: `name` is an alias.
        """

    async def set_aliases(self, changes: Mapping[str, str | None]) -> int:
        """Alias → collection (None removes it), all at once: the commit_ts.

        :raises NotFound: a collection, or an alias to be removed, does not exist.
        :raises AlreadyExists: a collection has the name of an alias.
        :raises InvalidArgument: no changes, an alias of an alias, or no name for one.
        :raises TooLarge: too many aliases.
        """

    async def aliases(self) -> dict[str, str]:
        """Alias → name of its collection, by alias."""

    def aliases_of(self, collection: Collection) -> tuple[str, ...]:
        """The aliases of a collection that was answered just now, sorted."""

    async def collections(self) -> list[Collection]: ...

    async def collection(self, name: str) -> Collection: ...

    async def stats(self, name: str) -> CollectionStats: ...

    async def begin(self, isolation: Isolation, timeout_s: float | None = None) -> OpenTransaction:
        """Begin a transaction at the newest stable snapshot; None: the configured timeout.

        :raises InvalidArgument: a timeout that is not within its limits.
        """

    def resume(self, token: str) -> TransactionApi:
        """The open transaction that `token` stands for, whichever gateway gave it.

        Whether it is over is told by its calls, since a commit may be asked for again: one that
        was open too long raises TransactionExpired, one of an older term Conflict.

        :raises InvalidArgument: not a token of this cluster.
        """

    async def transaction_status(self, txn_id: str) -> dict[str, Any]:
        """``{"state": committed | aborted | pending | unknown, "commit_ts"?, "reason"?}``."""

    async def cluster(self) -> dict[str, Any]:
        """Workers, placement, moves, term, stable_ts: what `/v1/cluster` shows."""

    async def drain(self, worker: str, drain: bool) -> None:
        """Let a shard worker hold nothing any more, or again; replicas move one after another.

        :raises NotFound: no such worker is known.
        """
