"""An open transaction of the synchronous client: the asynchronous one, run by its thread."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from types import TracebackType
from typing import Any, Self, Unpack, overload

from vector_db_client.aio_transaction import AsyncTransaction
from vector_db_client.calls import DEFAULT_COLLECTION
from vector_db_client.errors import VectorDatabaseError
from vector_db_client.loop_thread import LoopThread
from vector_db_client.values import (
    CountResult,
    Filter,
    IdempotencyKey,
    IfVersion,
    IncludeInRows,
    Isolation,
    Match,
    Metadata,
    Mode,
    Page,
    Progress,
    QueryPage,
    Row,
    RowBatch,
    SearchOptions,
    VectorLike,
    WriteResult,
)


class Transaction:
    """One transaction, made by `VectorDatabaseClient.transaction`, for ``with``.

    Its reads are of the snapshot at which it began, with what it has staged itself over it; its
    writes are staged at the server, seen by nobody else, and answer `commit_ts` 0. Leaving the
    block commits, an exception aborts. Calls from several threads wait for each other.

    A statement that the server refuses (`NotFound`, `AlreadyExists`, `PreconditionFailed`, …)
    stages nothing, and the transaction goes on; after any other failure of a write, and of an
    insert of several batches of which some are staged, it can only be aborted.

    All calls raise `Conflict` when the transaction has lost against another one or against a new
    sequencer (begin again, as `run_transaction` does), `TransactionExpired` when it was open for
    too long, and another `TransactionEnded` after its end.
    """

    def __init__(self, transaction: AsyncTransaction, thread: LoopThread) -> None:
        self._transaction = transaction
        self._run = thread.run

    @property
    def id(self) -> str:
        """What the server knows it by, ``""`` before it began."""
        return self._transaction.id

    @property
    def isolation(self) -> Isolation:
        """``"snapshot"`` or ``"serializable"``."""
        return self._transaction.isolation

    @property
    def snapshot_ts(self) -> int:
        """What its reads see was committed at this timestamp or before; 0 before it began."""
        return self._transaction.snapshot_ts

    @property
    def commit_ts(self) -> int:
        """When its writes became visible; 0 before it is committed."""
        return self._transaction.commit_ts

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._run(self._transaction.__aexit__(kind, error, trace))
        except (VectorDatabaseError, CancelledError) as failure:  # also: the client was closed
            if error is None:
                raise
            error.add_note(f"the server could not be told to abort the transaction: {failure}")

    # -- begin and end

    def begin(self) -> None:
        """Begin, at a snapshot that has everything that this client has seen. ``with`` does it.

        :raises InvalidArgument: no such isolation, or a timeout out of its limits.
        """
        self._run(self._transaction.begin())

    def commit(self, *, idempotency_key: IdempotencyKey | None = None) -> WriteResult:
        """Make everything that was staged visible at once; `count` has the rows staged.

        When the connection breaks or the server does not know the outcome, it is asked for it, and
        the commit is sent again, for up to the client's `timeout_s`.

        :param idempotency_key: when a transaction was committed under it before, nothing of this
            one is applied, and the answer is the earlier one's, `replayed`.
        :raises Conflict: another transaction was first; nothing was applied.
        :raises OutcomeUnknown: what became of it could not be found out.
        """
        return self._run(self._transaction.commit(idempotency_key=idempotency_key))

    def abort(self) -> None:
        """Forget everything that was staged. Again is no error, nor is it after an expiry.

        :raises AlreadyCommitted: it is committed.
        """
        self._run(self._transaction.abort())

    # -- writes

    def insert_vectors(
        self,
        ids: Sequence[str],
        vectors: VectorLike,
        metadata: Sequence[Mapping[str, Any] | None] | None = None,
        *,
        collection: str = DEFAULT_COLLECTION,
        mode: Mode = "upsert",
        if_version: IfVersion | None = None,
        batch_size: int = 1000,
        progress: Progress = False,
    ) -> WriteResult:
        """Stage n rows; see the client's. They go batch by batch and become visible together.

        :raises AlreadyExists: mode ``"insert"`` and an id exists, or is staged already.
        """
        return self._run(
            self._transaction.insert_vectors(
                ids,
                vectors,
                metadata,
                collection=collection,
                mode=mode,
                if_version=if_version,
                batch_size=batch_size,
                progress=progress,
            )
        )

    def insert_stream(
        self,
        batches: Iterable[RowBatch],
        *,
        collection: str = DEFAULT_COLLECTION,
        mode: Mode = "upsert",
        batch_size: int = 1000,
        progress: Progress = False,
        rows_total: int | None = None,
    ) -> WriteResult:
        """`insert_vectors` for rows that need not fit into memory: one batch is held.

        Where an id comes twice, the later row counts. `batches` is iterated in the client's thread
        and must not call the client.
        """
        return self._run(
            self._transaction.insert_stream(
                batches,
                collection=collection,
                mode=mode,
                batch_size=batch_size,
                progress=progress,
                rows_total=rows_total,
            )
        )

    def update_metadata(
        self,
        id: str,
        metadata: Metadata,
        *,
        collection: str = DEFAULT_COLLECTION,
        if_version: int | None = None,
    ) -> WriteResult:
        """Merge `metadata` into a row's, staged or stored; a None removes its key (RFC 7396).

        :raises NotFound: no such collection or row.
        :raises PreconditionFailed: the row has another version than `if_version`.
        """
        return self._run(
            self._transaction.update_metadata(
                id, metadata, collection=collection, if_version=if_version
            )
        )

    def delete(
        self,
        ids: Sequence[str] | None = None,
        *,
        filter: Filter | None = None,
        collection: str = DEFAULT_COLLECTION,
        if_version: IfVersion | None = None,
    ) -> WriteResult:
        """Delete rows by id, or all that match a filter; the count has those found alive.

        :param if_version: with `ids`: the versions that the rows must still have.
        :raises InvalidArgument: not exactly one of `ids` and `filter`.
        :raises PreconditionFailed: a row has another version, or is gone.
        """
        return self._run(
            self._transaction.delete(
                ids, filter=filter, collection=collection, if_version=if_version
            )
        )

    # -- reads

    @overload
    def query_similar(
        self,
        vector: VectorLike | None = ...,
        *,
        id: str | None = ...,
        vectors: None = ...,
        **options: Unpack[SearchOptions],
    ) -> list[Match]: ...
    @overload
    def query_similar(
        self, *, vectors: VectorLike, **options: Unpack[SearchOptions]
    ) -> list[list[Match]]: ...
    def query_similar(self, vector: VectorLike | None = None, **options: Any) -> Any:
        """The `k` most similar rows of the snapshot and of those staged; see the client's."""
        return self._run(self._transaction.query_similar(vector, **options))

    def query_page(
        self,
        vector: VectorLike | None = None,
        *,
        id: str | None = None,
        after: str | None = None,
        **options: Unpack[SearchOptions],
    ) -> QueryPage:
        """Up to `k` hits and, when more follow, a cursor to them; see the client's.

        A cursor goes on in this transaction only, and shows what was staged at the first page.
        """
        return self._run(self._transaction.query_page(vector, id=id, after=after, **options))

    def query_pages(
        self,
        vector: VectorLike | None = None,
        *,
        id: str | None = None,
        **options: Unpack[SearchOptions],
    ) -> Iterator[QueryPage]:
        """All hits, best first, in pages of `k`, of the rows staged before the first page too."""
        pages = self._transaction.query_pages(vector, id=id, **options)

        async def following() -> QueryPage | None:
            return await anext(pages, None)

        while (page := self._run(following())) is not None:
            yield page

    def explain_query(
        self,
        vector: VectorLike | None = None,
        *,
        vectors: VectorLike | None = None,
        id: str | None = None,
        **options: Unpack[SearchOptions],
    ) -> dict[str, Any]:
        """How `query_similar` is carried out: plans, estimates and timings of every segment."""
        return self._run(self._transaction.explain_query(vector, vectors=vectors, id=id, **options))

    def fetch(
        self,
        ids: Sequence[str],
        *,
        collection: str = DEFAULT_COLLECTION,
        include: Sequence[IncludeInRows] = ("metadata", "dimensions"),
    ) -> list[Row]:
        """The rows of `ids` in their order, bit-exact; `version` is 0 for those staged."""
        return self._run(self._transaction.fetch(ids, collection=collection, include=include))

    def count(
        self, filter: Filter | None = None, *, collection: str = DEFAULT_COLLECTION
    ) -> CountResult:
        """How many rows there are, or match a filter, those staged included."""
        return self._run(self._transaction.count(filter, collection=collection))

    def scroll(
        self,
        *,
        collection: str = DEFAULT_COLLECTION,
        filter: Filter | None = None,
        page_size: int = 1000,
        include: Sequence[IncludeInRows] = ("metadata", "dimensions"),
    ) -> Iterator[Row]:
        """Every row, or every one that matches, those staged before each page included."""
        pages = self.scroll_pages(
            collection=collection, filter=filter, page_size=page_size, include=include
        )
        for page in pages:
            yield from page.rows

    def scroll_pages(
        self,
        *,
        collection: str = DEFAULT_COLLECTION,
        filter: Filter | None = None,
        page_size: int = 1000,
        include: Sequence[IncludeInRows] = ("metadata", "dimensions"),
    ) -> Iterator[Page]:
        """`scroll` by pages of up to `page_size` rows."""
        pages = self._transaction.scroll_pages(
            collection=collection, filter=filter, page_size=page_size, include=include
        )

        async def following() -> Page | None:
            return await anext(pages, None)

        while (page := self._run(following())) is not None:
            yield page
