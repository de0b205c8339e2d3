"""The asynchronous client. Every call of the database as a method; the transport does the rest."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from vector_db_client import wire
from vector_db_client.errors import AlreadyExists, InvalidArgument
from vector_db_client.insert import Batches, insert_batches
from vector_db_client.progress import reporting
from vector_db_client.reads import DEFAULT_COLLECTION, AsyncReads
from vector_db_client.transport import Options, Transport, checked_urls, collection_path
from vector_db_client.values import (
    Collection,
    CollectionStats,
    Delete,
    Filter,
    Metadata,
    Metric,
    Mode,
    Progress,
    RowBatch,
    Upsert,
    VectorLike,
    WriteResult,
)

DEFAULT_URL = "http://127.0.0.1:8080"
_MODES = ("upsert", "insert", "update")


class AsyncVectorDatabaseClient(AsyncReads):
    """A client of vector-db for asyncio; `VectorDatabaseClient` has the same calls without await.

    Reads see at least everything that this client has written or read before, through any gateway:
    the client carries the highest commit timestamp it has met (`token`) and sends it along. All
    calls raise subclasses of `VectorDatabaseError`. Answers that the server calls retryable, and
    broken connections of calls that may be repeated, are retried with growing random pauses.

    Use it from one event loop, as ``async with`` or with `close`.
    """

    def __init__(
        self,
        url: str | Sequence[str] = DEFAULT_URL,
        api_key: str | None = None,
        *,
        timeout_s: float = 30.0,
        connect_timeout_s: float = 5.0,
        retries: int = 5,
        backoff_s: float = 0.05,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """Nothing is sent yet.

        :param url: base URL of a gateway, or of several: the next is used when one fails.
        :param timeout_s: bound of one request with its retries; of each batch for inserts.
        :param backoff_s: upper bound of the first pause between retries; doubles, up to 2 s.
        """
        transport = Transport(
            Options(
                checked_urls(url),
                api_key,
                timeout_s,
                connect_timeout_s,
                retries,
                backoff_s,
                ssl_context=ssl_context,
            )
        )
        super().__init__(transport)

    @classmethod
    async def connect(
        cls, url: str | Sequence[str] = DEFAULT_URL, api_key: str | None = None, **options: Any
    ) -> Self:
        """A client whose server has answered once, so that a wrong address or key shows here.

        :param options: as for the constructor.
        :raises Unavailable: no gateway answers.
        :raises Unauthenticated: the key is missing or wrong.
        """
        client = cls(url, api_key, **options)
        try:
            await client.list_collections()
        except BaseException:
            await client.close()
            raise
        return client

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections. May be called again."""
        await self._transport.close()

    @property
    def token(self) -> int:
        """The highest commit or snapshot timestamp seen, 0 before the first."""
        return self._transport.token

    def observe(self, commit_ts: int) -> None:
        """Let later reads see what was committed at `commit_ts`, say by another process."""
        self._transport.observe(commit_ts)

    # -- collections

    async def create_collection(
        self,
        name: str,
        dimension: int,
        metric: Metric = "cosine",
        *,
        shards: int | None = None,
        exist_ok: bool = False,
    ) -> Collection:
        """Make an empty collection; `shards` None lets the server choose.

        :param exist_ok: give the collection of this name if its dimension and metric are these.
        :raises AlreadyExists: the name is taken.
        """
        body: dict[str, Any] = {"name": name, "dimension": dimension, "metric": metric}
        if shards is not None:
            body["shards"] = shards
        try:
            answer = await self._transport.json("POST", "/v1/collections", body, idempotent=False)
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

    async def list_collections(self) -> list[Collection]:
        """All collections, by name."""
        answer = await self._transport.json("GET", "/v1/collections")
        found = [wire.decode_collection(entry) for entry in answer["collections"]]
        return sorted(found, key=lambda collection: collection.name)

    async def get_collection(self, name: str) -> Collection:
        """:raises NotFound: there is none of this name."""
        return wire.decode_collection(await self._transport.json("GET", collection_path(name)))

    async def delete_collection(self, name: str) -> None:
        """Delete a collection and all its rows.

        :raises NotFound: there is none of this name.
        """
        await self._transport.json("DELETE", collection_path(name), idempotent=False)

    async def collection_stats(self, name: str) -> CollectionStats:
        """Rows, indexed rows and sizes.

        :raises NotFound: there is none of this name.
        """
        return wire.decode_stats(await self._transport.json("GET", collection_path(name, "stats")))

    # -- writes

    async def insert_vectors(
        self,
        ids: Sequence[str],
        vectors: VectorLike,
        metadata: Sequence[Mapping[str, Any] | None] | None = None,
        *,
        collection: str = DEFAULT_COLLECTION,
        mode: Mode = "upsert",
        batch_size: int = 1000,
        progress: Progress = False,
    ) -> WriteResult:
        """Write n rows: n ids, vectors [n, dimension] of any real dtype, n metadata objects.

        Everything is checked before anything is sent. More than `batch_size` rows (or 16 MiB of
        vectors) go as several batches, up to 8 in flight. Each batch is atomic, the whole is not;
        for one atomic write use `commit`.

        :param mode: ``"upsert"``; ``"insert"``: no id may exist; ``"update"``: every id must.
        :param progress: True draws a bar; a function hears (rows done, rows in all).
        :raises InvalidArgument: shapes, values or ids do not fit, or an id comes twice.
        :raises AlreadyExists: mode ``"insert"`` and an id exists.
        :raises NotFound: no such collection, or mode ``"update"`` and an id is absent.
        :raises VectorDatabaseError: of the first batch that failed; its `committed` has the ranges
            of rows that are durable nevertheless.
        """
        batch = wire.checked(RowBatch(ids, vectors, metadata))
        with reporting(progress, "inserting", len(batch.ids)) as advance:
            return await self._insert([batch], collection, mode, batch_size, advance)

    async def insert_stream(
        self,
        batches: Batches,
        *,
        collection: str = DEFAULT_COLLECTION,
        mode: Mode = "upsert",
        batch_size: int = 1000,
        progress: Progress = False,
        rows_total: int | None = None,
    ) -> WriteResult:
        """`insert_vectors` for rows that need not fit into memory: at most 8 batches are held.

        The caller sees to it that no id comes twice in the stream: of two batches in flight,
        either may win. `rows_total` is for the bar only.
        """
        with reporting(progress, "inserting", rows_total) as advance:
            return await self._insert(batches, collection, mode, batch_size, advance)

    async def _insert(
        self, batches: Batches, collection: str, mode: Mode, batch_size: int, advance: Any
    ) -> WriteResult:
        if mode not in _MODES:
            raise InvalidArgument(f"mode: one of {', '.join(_MODES)}, is {mode!r}")
        if batch_size < 1:
            raise InvalidArgument(f"batch_size: at least 1, is {batch_size}")
        # The plain path is the one that makes the default collection on its first insert.
        default = collection == DEFAULT_COLLECTION
        path = "/vectors" if default else collection_path(collection, "vectors")

        async def send(batch: RowBatch) -> WriteResult:
            if wire.use_arrow(batch):
                payload, kind = wire.rows_arrow(batch), wire.ARROW_TYPE
                target = f"{path}?mode={mode}"
            else:
                body = {"vectors": wire.rows_json(batch), "mode": mode}
                payload, kind, target = wire.dumps(body), wire.JSON_TYPE, path
            # Writing the same rows again changes nothing, unless they must not exist.
            answer = await self._transport.send(
                "POST", target, payload, kind, idempotent=mode != "insert"
            )
            return WriteResult(answer["count"], answer["commit_ts"])

        return await insert_batches(batches, batch_size, send, advance)

    async def update_metadata(
        self, id: str, metadata: Metadata, *, collection: str = DEFAULT_COLLECTION
    ) -> WriteResult:
        """Merge `metadata` into a row's; a None removes its key (RFC 7396). The vector stays.

        :raises NotFound: no such collection or row.
        """
        path = collection_path(collection, "vectors", id)
        answer = await self._transport.json("PATCH", path, {"metadata": metadata})
        return WriteResult(int(answer.get("count", 1)), answer["commit_ts"])

    async def delete(
        self,
        ids: Sequence[str] | None = None,
        *,
        filter: Filter | None = None,
        collection: str = DEFAULT_COLLECTION,
    ) -> WriteResult:
        """Delete rows by id, or all that match a filter, in one transaction.

        The count has the rows found alive; when a broken connection made the client repeat the
        call, rows that the first try deleted are not counted.

        :raises InvalidArgument: not exactly one of `ids` and `filter`.
        """
        if (ids is None) == (filter is None):
            raise InvalidArgument("delete: needs either ids or filter")
        body = {"filter": filter} if ids is None else {"ids": wire.id_list(ids)}
        answer = await self._transport.json(
            "POST", collection_path(collection, "vectors", "delete"), body
        )
        return WriteResult(answer["count"], answer["commit_ts"])

    async def commit(self, operations: Sequence[Upsert | Delete]) -> WriteResult:
        """One atomic write over any collections: all of it at one commit timestamp, or nothing.

        :raises InvalidArgument: the operations do not fit together, or not their collections.
        :raises NotFound: no such collection.
        """
        body: list[dict[str, Any]] = []
        for operation in operations:
            if isinstance(operation, Delete):
                body.append(
                    {"collection": operation.collection, "delete": wire.id_list(operation.ids)}
                )
            else:
                rows = wire.checked(RowBatch(operation.ids, operation.vectors, operation.metadata))
                body.append({"collection": operation.collection, "upsert": wire.rows_json(rows)})
        answer = await self._transport.json("POST", "/v1/transactions/commit", {"operations": body})
        return WriteResult(answer["count"], answer["commit_ts"])

    # -- cluster

    async def cluster(self) -> dict[str, Any]:
        """Workers, placement and term, as the server shows them to operators."""
        answer: dict[str, Any] = await self._transport.json("GET", "/v1/cluster")
        return answer
