"""The broker as a process sees it: connect within a bound, and keep our own child running.

Owns the rule that a broker may end at any moment and is started again at the same address: it is
never the only copy of anything acknowledged, so a restart needs no decision.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from vector_db.common.model.errors import StartupError
from vector_db.common.model.urls import mask_url, split_urls
from vector_db.common.ports import Bus, BusTimeout, BusUnavailable, Clock

BACKOFF_S = (0.1, 5.0)
"""First and longest pause before a broker that ended is started again."""
HEALTHY_S = 10.0
"""A broker that lived this long is restarted after the first pause again."""
CONNECT_RETRY_S = 0.25


class OpenBus(Bus, Protocol):
    """A bus with a connection to close."""

    async def close(self) -> None: ...


class Broker(Protocol):
    """A message broker that is this process's child."""

    @property
    def url(self) -> str: ...

    async def start(self) -> None:
        """Return once it accepts connections; again after it ended, at the same address.

        :raises StartupError: it does not start; one line.
        """

    async def wait(self) -> int:
        """Until it has ended, however: its exit status."""

    async def stop(self) -> None:
        """End it; idempotent."""


async def connect(
    dial: Callable[[str, str], Awaitable[OpenBus]], url: str, name: str, timeout_s: float, log: Any
) -> OpenBus:
    """Connect to a broker of `url` (comma-separated), trying again for `timeout_s`.

    :raises StartupError: it did not answer in time; credentials in `url` are masked.
    """
    reason = "no answer"
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    return await dial(url, name)
                except (BusUnavailable, BusTimeout, OSError) as error:
                    reason = str(error).removeprefix(f"no NATS server at {url}: ")
                    for one in (url, *split_urls(url)):
                        reason = reason.replace(one, mask_url(one))
                    reason = reason or type(error).__name__
                    log.debug("waiting for the broker", url=mask_url(url), reason=reason)
                await asyncio.sleep(CONNECT_RETRY_S)
    except TimeoutError:
        raise StartupError(
            f"no NATS server at {mask_url(url)} within {timeout_s:g} s: {reason}"
        ) from None


async def supervise(broker: Broker, clock: Clock, log: Any) -> None:
    """Start `broker` again whenever it ends, with growing pauses; until cancelled."""
    pause_s = BACKOFF_S[0]
    while True:
        began_s = clock.monotonic_s()
        status = await broker.wait()
        if clock.monotonic_s() - began_s >= HEALTHY_S:
            pause_s = BACKOFF_S[0]
        log.error("the broker ended, starting it again", status=status, pause_s=pause_s)
        started = False
        while not started:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, BACKOFF_S[1])
            try:
                await broker.start()
                started = True
            except (OSError, StartupError) as error:
                log.error("the broker does not start", reason=str(error), pause_s=pause_s)
        log.info("the broker runs again", url=broker.url)
