"""HTTP to one or several gateways: which to ask, when to ask again, when to give up.

Owns two invariants. A call is repeated only if that cannot apply it twice: the server said that it
is retryable, nothing was sent yet, or the call is repeatable; and only one that changes nothing is
asked of two gateways at the same time, when the first one is late. And the commit token only rises,
so a read that carries it sees everything that this client has seen, through any gateway.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from yarl import URL

from vector_db_client import wire
from vector_db_client.calls import Answer, Request, json_request
from vector_db_client.errors import (
    Conflict,
    DeadlineExceeded,
    InternalError,
    InvalidArgument,
    OutcomeUnknown,
    Unavailable,
    VectorDatabaseError,
    error_from_answer,
)
from vector_db_client.gateways import Gateways, Patience

RETRY_AFTER_S_MAX = 5.0
"""A server's `Retry-After` is honoured up to this."""

HEADER_BYTES_MAX = 64 * 1024
"""Longest header of an answer: the token of a serializable transaction tells what was read."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a client talks. `timeout_s` bounds a whole call, its retries included.

    Each gateway is asked once, and `retries` times one is asked again. The n-th retry waits a
    random time of up to ``backoff_s * 2**n``, at most `backoff_s_max`.
    """

    urls: tuple[str, ...]
    api_key: str | None = None
    timeout_s: float = 30.0
    connect_timeout_s: float = 5.0
    retries: int = 5
    backoff_s: float = 0.05
    backoff_s_max: float = 2.0
    ssl_context: ssl.SSLContext | None = None


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why a try gave no answer, when another one may; `in_doubt`: a write may be applied."""

    error: VectorDatabaseError
    in_doubt: bool = False


class Transport:
    """Requests to whichever gateway answers. Belongs to the event loop of its first request."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._session: aiohttp.ClientSession | None = None
        self._gateways = Gateways(options.urls)
        self._patience = Patience()
        self._closed = False
        self.token = 0

    def observe(self, ts: object) -> None:
        """Raise the token to `ts`, if that is a timestamp above it."""
        if isinstance(ts, int) and not isinstance(ts, bool):
            self.token = max(self.token, ts)

    async def close(self) -> None:
        """Close all connections; calls after it raise."""
        self._closed = True
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    @property
    def timeout_s(self) -> float:
        """The bound of one call, its retries included."""
        return self._options.timeout_s

    async def json(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        repeatable: bool = True,
    ) -> Any:
        """The body of the answer to a JSON request; see `send`."""
        return (await self.send(json_request(method, path, body, repeatable=repeatable))).body

    async def send(self, request: Request, *, repeat_conflicts: bool = True) -> Answer:
        """The answer, after bounded retries.

        :param repeat_conflicts: False in a transaction, which as a whole has to begin again.
        :raises DeadlineExceeded: `timeout_s` passed.
        :raises OutcomeUnknown: the connection broke under a call that must not be repeated.
        :raises Unavailable: no gateway could be reached.
        :raises VectorDatabaseError: what the server answered.
        """
        if self._closed:
            raise InvalidArgument("the client is closed")
        options = self._options
        pending: set[int] = set()
        try:
            async with asyncio.timeout(options.timeout_s):
                return await self._with_retries(request, repeat_conflicts, pending)
        except TimeoutError as error:
            if isinstance(error, VectorDatabaseError):
                raise
            now_s = asyncio.get_running_loop().time()
            for index in pending:
                self._gateways.failed(index, now_s, reached=True)
            raise DeadlineExceeded(
                f"{request.method} {request.path}: no answer within {options.timeout_s:g} s"
            ) from None

    async def _with_retries(
        self, request: Request, repeat_conflicts: bool, pending: set[int]
    ) -> Answer:
        """See `send`; `pending` holds the indexes of the gateways whose answer is awaited."""
        gateways, now_s = self._gateways, asyncio.get_running_loop().time
        attempts = self._options.retries + len(gateways)
        attempted = self._hedged if request.hedged and len(gateways) > 1 else self._try
        doubt: VectorDatabaseError | None = None
        for attempt in range(attempts):
            index = gateways.choose(now_s())
            outcome = await attempted(index, request, repeat_conflicts, pending)
            if isinstance(outcome, Answer):
                return outcome
            if outcome.in_doubt:
                doubt = outcome.error
            if attempt + 1 == attempts:
                raise doubt or outcome.error
            await asyncio.sleep(self._wait_s(attempt, outcome.error))
        raise InternalError("unreachable: every attempt returns or raises")

    async def _hedged(
        self, index: int, request: Request, repeat_conflicts: bool, pending: set[int]
    ) -> Answer | _Failure:
        """The first answer: of the gateway at `index`, and whenever that is late of one more.

        Gateways that are late when another one answers are asked last for a while.
        """
        gateways, now_s = self._gateways, asyncio.get_running_loop().time
        asked: dict[asyncio.Task[Answer | _Failure], int] = {}
        late: set[asyncio.Task[Answer | _Failure]] = set()
        another: int | None = index
        outcome: Answer | _Failure | None = None
        try:
            while not isinstance(outcome, Answer):
                if another is not None:
                    work = self._try(another, request, repeat_conflicts, pending)
                    asked[asyncio.create_task(work, name="vector_db_client.try")] = another
                    another = None
                is_last = len(asked) == len(gateways)
                done, _ = await asyncio.wait(
                    asked,
                    timeout=None if is_last else self._patience.late_s,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if not done:
                    late |= asked.keys()
                    another = gateways.other(asked.values(), now_s())
                    continue
                task = done.pop()
                del asked[task]
                outcome = task.result()
                if not asked:
                    break
            return outcome
        finally:
            for task, index in asked.items():
                if task in late and not task.done():
                    gateways.failed(index, now_s(), reached=True)
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    async def _try(
        self, index: int, request: Request, repeat_conflicts: bool, pending: set[int]
    ) -> Answer | _Failure:
        """Ask one gateway once, and note how it did; cancelled, it stays in `pending`.

        :raises VectorDatabaseError: what no other try would change.
        """
        gateways, now_s = self._gateways, asyncio.get_running_loop().time
        url, began_s = gateways.url(index), now_s()
        pending.add(index)
        try:
            answer = await self._once(url, request)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            gateways.failed(index, now_s(), reached=False)
            outcome = _Failure(Unavailable(f"cannot reach {url}: {_reason(error)}", retryable=True))
        except (aiohttp.ClientError, ConnectionError) as error:
            gateways.failed(index, now_s(), reached=True)
            if not request.repeatable:
                raise OutcomeUnknown(
                    f"{request.method} {request.path}: the connection broke "
                    f"({_reason(error)}); the write may or may not be applied"
                ) from error
            broken = Unavailable(
                f"{url} broke the connection ({_reason(error)}); a write may or may not be applied",
                retryable=True,
            )
            outcome = _Failure(broken, in_doubt=True)
        except VectorDatabaseError as error:
            if isinstance(error, Unavailable):
                gateways.failed(index, now_s(), reached=True)
            if not error.retryable or (isinstance(error, Conflict) and not repeat_conflicts):
                raise
            outcome = _Failure(error)
        else:
            gateways.answered(index)
            if request.hedged:
                self._patience.took(now_s() - began_s)
            pending.discard(index)
            return answer
        pending.discard(index)
        return outcome

    def _wait_s(self, attempt: int, failure: VectorDatabaseError) -> float:
        """How long before the next try; none if another gateway may do what this one could not."""
        now_s = asyncio.get_running_loop().time()
        unavailable = isinstance(failure, Unavailable)
        if unavailable and self._gateways.is_fresh(self._gateways.choose(now_s), now_s):
            return 0.0
        asked: float | None = failure.details.get("retry_after_s")
        return self.pause_s(attempt) if asked is None else asked

    def pause_s(self, attempt: int) -> float:
        """How long to wait before the retry after `attempt` (0 is the first): random, growing."""
        bound = min(self._options.backoff_s * 2.0**attempt, self._options.backoff_s_max)
        return random.uniform(0.1, 1.0) * bound

    async def _once(self, url: str, request: Request) -> Answer:
        session = self._session or self._open()
        headers = dict(request.headers)
        if request.payload is not None:
            headers["Content-Type"] = request.content_type
        async with session.request(
            request.method,
            URL(url + request.path, encoded=True),
            data=request.payload,
            headers=headers,
            allow_redirects=False,
        ) as response:
            body = await response.read()
            if response.status < 300:
                answer = wire.loads(body) if body else {}
                if isinstance(answer, dict):
                    self.observe(answer.get("commit_ts"))
                    self.observe(answer.get("snapshot_ts"))
                return Answer(
                    answer,
                    response.headers.get("Transaction"),
                    response.headers.get("Idempotency-Replayed") == "true",
                )
            request_id = response.headers.get("X-Request-Id", "")
            try:
                decoded: Any = wire.loads(body)
            except InternalError:
                decoded = body.decode("utf-8", "replace")
            failure = error_from_answer(response.status, decoded, request_id)
            retry_after = response.headers.get("Retry-After", "")
            if retry_after.isdecimal():
                failure.details["retry_after_s"] = min(float(retry_after), RETRY_AFTER_S_MAX)
            raise failure

    def _open(self) -> aiohttp.ClientSession:
        options = self._options
        headers = {"User-Agent": "vector-db-python"}
        if options.api_key:
            headers["Authorization"] = f"Bearer {options.api_key}"
        self._session = aiohttp.ClientSession(
            headers=headers,
            # 0: the calls under way are bounded by the caller, and waiting here would be hidden.
            connector=aiohttp.TCPConnector(limit=0, ssl=options.ssl_context or True),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=options.connect_timeout_s),
            max_field_size=HEADER_BYTES_MAX,
        )
        return self._session


def _reason(error: BaseException) -> str:
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    text = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return text.replace("\n", " ")
