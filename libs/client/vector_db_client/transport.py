"""HTTP to one or several gateways: which to ask, when to ask again, when to give up.

Owns two invariants. A call is repeated only if that cannot apply it twice: the server said that it
is retryable, nothing was sent yet, or the call is repeatable. And the commit token only rises, so
a read that carries it sees everything that this client has seen, through any gateway.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

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

RETRY_AFTER_S_MAX = 5.0
"""A server's `Retry-After` is honoured up to this."""

HEADER_BYTES_MAX = 64 * 1024
"""Longest header of an answer: the token of a serializable transaction tells what was read."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a client talks. `timeout_s` bounds a whole call, its retries included.

    The n-th retry waits a random time of up to ``backoff_s * 2**n``, at most `backoff_s_max`.
    """

    urls: tuple[str, ...]
    api_key: str | None = None
    timeout_s: float = 30.0
    connect_timeout_s: float = 5.0
    retries: int = 5
    backoff_s: float = 0.05
    backoff_s_max: float = 2.0
    ssl_context: ssl.SSLContext | None = None


def checked_urls(urls: str | Sequence[str]) -> tuple[str, ...]:
    """Base URLs without a trailing slash.

    :raises InvalidArgument: none given, or one that is not http(s) with a host.
    """
    several = (urls,) if isinstance(urls, str) else tuple(urls)
    if not several:
        raise InvalidArgument("url: at least one is needed")
    for url in several:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidArgument(f"url: needs the form http://host:port, is {url!r}")
    return tuple(url.rstrip("/") for url in several)


class Transport:
    """Requests to whichever gateway answers. Belongs to the event loop of its first request."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._session: aiohttp.ClientSession | None = None
        self._current = 0
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
        try:
            async with asyncio.timeout(options.timeout_s):
                return await self._with_retries(request, repeat_conflicts)
        except TimeoutError as error:
            if isinstance(error, VectorDatabaseError):
                raise
            raise DeadlineExceeded(
                f"{request.method} {request.path}: no answer within {options.timeout_s:g} s"
            ) from None

    async def _with_retries(self, request: Request, repeat_conflicts: bool) -> Answer:
        options = self._options
        attempts = max(options.retries + 1, len(options.urls))
        doubt: VectorDatabaseError | None = None
        for attempt in range(attempts):
            index = self._current
            wait_s: float | None = None
            try:
                return await self._once(options.urls[index], request)
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
                failure: VectorDatabaseError = Unavailable(
                    f"cannot reach {options.urls[index]}: {_reason(error)}", retryable=True
                )
                if attempt + 1 < len(options.urls):
                    wait_s = 0.0  # another gateway may be up: ask each once before waiting
            except (aiohttp.ClientError, ConnectionError) as error:
                if not request.repeatable:
                    self._leave(index)
                    raise OutcomeUnknown(
                        f"{request.method} {request.path}: the connection broke "
                        f"({_reason(error)}); the write may or may not be applied"
                    ) from error
                failure = doubt = Unavailable(
                    f"{options.urls[index]} broke the connection ({_reason(error)}); "
                    "a write may or may not be applied",
                    retryable=True,
                )
            except VectorDatabaseError as error:
                if not error.retryable or (isinstance(error, Conflict) and not repeat_conflicts):
                    raise
                failure = error
                wait_s = error.details.get("retry_after_s")
            if isinstance(failure, Unavailable):
                self._leave(index)
            if attempt + 1 == attempts:
                raise doubt or failure
            await asyncio.sleep(self.pause_s(attempt) if wait_s is None else wait_s)
        raise InternalError("unreachable: every attempt returns or raises")

    def _leave(self, index: int) -> None:
        """Ask the next gateway, unless another call has moved on from this one already."""
        if index == self._current:
            self._current = (index + 1) % len(self._options.urls)

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
