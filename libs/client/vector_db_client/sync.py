"""The synchronous client: the asynchronous one on an event loop of its own."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from vector_db_client.aio import DEFAULT_URL, AsyncVectorDatabaseClient
from vector_db_client.errors import VectorDatabaseError
from vector_db_client.loop_thread import LoopThread
from vector_db_client.sync_catalog import SyncCatalog
from vector_db_client.sync_transaction import Transaction
from vector_db_client.transaction_life import restartable
from vector_db_client.values import Cluster, Isolation

T = TypeVar("T")


class VectorDatabaseClient(SyncCatalog):
    """A client of vector-db.

    Reads see at least everything that this client has written or read before, through any gateway:
    the client carries the highest commit timestamp it has met (`token`) and sends it along. All
    calls raise subclasses of `VectorDatabaseError`. Answers that the server calls retryable, and
    broken connections of calls that may be repeated, are retried with growing random pauses.

    Threads may share one client. Use it in a ``with`` statement, or call `close`.
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

        :param url: base URL of a gateway, or of several (a list, or separated by commas): another
            one is used when one fails.
        :param timeout_s: bound of one request with its retries; of each batch for inserts.
        :param backoff_s: upper bound of the first pause between retries; doubles, up to 2 s.
        """
        client = AsyncVectorDatabaseClient(
            url,
            api_key,
            timeout_s=timeout_s,
            connect_timeout_s=connect_timeout_s,
            retries=retries,
            backoff_s=backoff_s,
            ssl_context=ssl_context,
        )
        super().__init__(client, LoopThread("vector-db-client"))

    @classmethod
    def connect(
        cls, url: str | Sequence[str] = DEFAULT_URL, api_key: str | None = None, **options: Any
    ) -> Self:
        """A client whose server has answered once, so that a wrong address or key shows here.

        :param options: as for the constructor.
        :raises Unavailable: no gateway answers.
        :raises Unauthenticated: the key is missing or wrong.
        """
        client = cls(url, api_key, **options)
        try:
            client.list_collections()
        except BaseException:
            client.close()
            raise
        return client

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections and end the thread. May be called again."""
        self._thread.close(self._client.close)

    @property
    def token(self) -> int:
        """The highest commit or snapshot timestamp seen, 0 before the first."""
        return self._client.token

    def observe(self, commit_ts: int) -> None:
        """Let later reads see what was committed at `commit_ts`, say by another process."""
        self._client.observe(commit_ts)

    # -- transactions

    def transaction(
        self, isolation: Isolation = "snapshot", timeout_s: float | None = None
    ) -> Transaction:
        """A transaction for ``with``: commits at the end of the block, aborts on an error.

        :param isolation: ``"snapshot"`` prevents lost updates, ``"serializable"`` write skew too:
            it commits only if nothing that it read was changed meanwhile.
        :param timeout_s: how long it may stay open; None: as the server is configured.
        """
        return Transaction(self._client.transaction(isolation, timeout_s), self._thread)

    def run_transaction(
        self,
        fn: Callable[[Transaction], T],
        *,
        isolation: Isolation = "snapshot",
        retries: int = 10,
        timeout_s: float | None = None,
    ) -> T:
        """What ``fn(t)`` gives, once the transaction `t` is committed.

        When that loses against another transaction, or is cut off before its commit, all of it
        runs again in a new one, after a random pause that grows: `fn` must not do what cannot be
        done twice. Nothing is repeated after an unknown outcome, unless it turns out that nothing
        was applied, nor after other errors of `fn`.

        :param retries: how often it may run again.
        :param timeout_s: how long each try may stay open.
        :raises Conflict: the last try lost, too.
        """
        attempt = 0
        while True:
            try:
                with self.transaction(isolation, timeout_s) as transaction:
                    return fn(transaction)
            except VectorDatabaseError as error:
                if attempt >= retries or not restartable(error):
                    raise
            self._run(self._client._pause(attempt))
            attempt += 1

    # -- cluster

    def cluster(self) -> Cluster:
        """Workers, and where shards lie and move to, as the server shows them to operators."""
        return self._run(self._client.cluster())

    def drain(self, worker: str) -> Cluster:
        """Let a shard worker hold nothing: its replicas move to others, one after another.

        :returns: the cluster as it is then; the moves go on, and `Cluster.held_by` tells what is
            left.
        :raises NotFound: no worker of this id is known.
        """
        return self._run(self._client.drain(worker))

    def undrain(self, worker: str) -> Cluster:
        """Take `drain` back: the worker may hold shards again.

        :raises NotFound: no worker of this id is known.
        """
        return self._run(self._client.undrain(worker))
