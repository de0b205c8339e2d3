"""One client's way to one gateway: requests over REST, and what their answers mean.

Owns the reading of answers: 2xx is applied; an error that is no `outcome_unknown` and no failure
inside is not applied; a refused connection was never sent; all else is unknown.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

from tests.checkers.history import Outcome

ANSWER_WITHIN_S = 30.0
"""A gateway knows or says that it does not know: ten seconds to decide, as much to find out."""

SLOW_S = 12.0
"""Longer than a transaction may be undecided."""

_UNKNOWN_CODES = ("outcome_unknown", "internal")


class NeverSent(Exception):
    """Nobody listens: the request left no trace."""


@dataclass(slots=True)
class Answer:
    """One answer, or its absence (`status` 0)."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)
    doubtful: bool = False
    """An earlier try of the same request got no answer and may be applied, whatever this says."""

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    @property
    def code(self) -> str:
        """The error's code, "no answer" without one."""
        if not self.status:
            return "no answer"
        return str(self.body.get("error", {}).get("code", self.status))

    @property
    def retryable(self) -> bool:
        """Whether the edge says that nothing was applied and that another try may succeed."""
        return bool(self.body.get("error", {}).get("retryable"))

    @property
    def outcome(self) -> Outcome:
        """What it says of a write."""
        if self.ok:
            return "committed"
        if self.doubtful or not self.status or self.code in _UNKNOWN_CODES:
            return "unknown"
        return "aborted"

    @property
    def transaction(self) -> str:
        """The id of a transaction whose outcome is not known, "" if it was not told."""
        return str(self.body.get("error", {}).get("details", {}).get("transaction", ""))


class Edge:
    """Requests to one gateway."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http = http
        self._url = url
        self.slow: list[str] = []
        """Requests that took longer than `SLOW_S`, with what came of them."""
        self.no_answer = 0

    async def ask(
        self,
        path: str,
        body: Any = None,
        method: str = "POST",
        headers: dict[str, str] | None = None,
        within_s: float = ANSWER_WITHIN_S,
    ) -> Answer:
        """One request; a lost connection is an answer without a status.

        :raises NeverSent: nobody listens.
        """
        data = None if body is None else orjson.dumps(body)
        plain = {"Content-Type": "application/json"} if data is not None else {}
        started = time.monotonic()
        told = "no answer"
        try:
            async with self._http.request(
                method,
                self._url + path,
                data=data,
                headers=plain | (headers or {}),
                timeout=aiohttp.ClientTimeout(total=within_s),
            ) as response:
                raw = await response.read()
                told = f"{response.status} {raw[:200].decode(errors='replace')}"
                return Answer(response.status, orjson.loads(raw or b"{}"), dict(response.headers))
        except aiohttp.ClientConnectorError as error:
            raise NeverSent(str(error)) from error
        except TimeoutError:
            self.no_answer += 1
            return Answer(0, {})
        except (aiohttp.ClientError, OSError) as error:
            told = repr(error)
            return Answer(0, {})
        finally:
            took_s = time.monotonic() - started
            if took_s > SLOW_S:
                self.slow.append(f"{took_s:.1f} s at {started:.1f}: {method} {path}: {told}")
