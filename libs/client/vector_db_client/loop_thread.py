"""An event loop in a thread of its own, for callers that have none.

Owns the invariant that no coroutine outlives the call that started it: a call that is interrupted
(Ctrl-C) cancels its coroutine, and `close` cancels the rest, stops the loop and joins the thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from vector_db_client.errors import InvalidArgument

T = TypeVar("T")
CLOSE_TIMEOUT_S = 5.0


class LoopThread:
    """Runs coroutines for other threads."""

    def __init__(self, name: str) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = asyncio.new_event_loop()
        self._thread = threading.Thread(
            # A daemon, so that a client nobody closed does not keep the interpreter from exiting.
            target=self._loop.run_forever,
            name=name,
            daemon=True,
        )
        self._thread.start()

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        """What `call` gives or raises.

        :raises InvalidArgument: after `close`, or within what the client itself is calling.
        """
        if threading.current_thread() is self._thread:
            call.close()
            raise InvalidArgument(
                "an iterator or a progress function that a client calls must not call that client"
            )
        with self._lock:
            if self._loop is None:
                call.close()
                raise InvalidArgument("the client is closed")
            future = asyncio.run_coroutine_threadsafe(call, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self, finish: Callable[[], Awaitable[None]]) -> None:
        """Cancel what other threads still wait for, await `finish`, end the thread.

        The second call does nothing.
        """
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is None:
            return
        closing = asyncio.run_coroutine_threadsafe(_cancel_others(finish), loop)
        try:
            closing.result(CLOSE_TIMEOUT_S)
        finally:
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join(CLOSE_TIMEOUT_S)
            if not self._thread.is_alive():
                loop.close()


async def _cancel_others(finish: Callable[[], Awaitable[None]]) -> None:
    current = asyncio.current_task()
    others = [task for task in asyncio.all_tasks() if task is not current]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await finish()
