"""An event loop in which time passes only when nothing else is left to do.

A wait of minutes takes none, the order of events does not depend on the machine, and a wait for
something that can never happen is an error at once instead of a test that hangs.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class NothingLeft(Exception):
    """Every task waits for something that no timer and no socket will bring."""


class _JumpingSelector(selectors.BaseSelector):
    """Asks the real selector without waiting; an idle wait moves the time on instead."""

    def __init__(self) -> None:
        self._inner = selectors.DefaultSelector()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = self._inner.select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise NothingLeft
        self.now_s += timeout
        return []

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._inner.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._inner.unregister(fileobj)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._inner.get_map()

    def close(self) -> None:
        self._inner.close()


class VirtualLoop(asyncio.SelectorEventLoop):
    """See the module."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now_s


class LoopClock:
    """`ports.Clock` of a virtual loop; the wall clock starts at `wall_ms`."""

    def __init__(self, wall_ms: int = 1_000_000) -> None:
        self._wall_ms = wall_ms

    def monotonic_s(self) -> float:
        return asyncio.get_running_loop().time()

    def wall_ms(self) -> int:
        return self._wall_ms + int(self.monotonic_s() * 1000)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` to its end in virtual time.

    :raises NothingLeft: it can never end.
    """
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


async def turns(count: int = 20) -> None:
    """Let every task that can go on do so; no time passes."""
    for _ in range(count):
        await asyncio.sleep(0)
