"""The event loop of a simulated cluster: virtual time, tasks with stable hashes, nodes as owners.

Owns the invariant that a run depends on its seed alone. Time moves only when nothing is ready,
tasks hash by number (`asyncio.TaskGroup` keeps them in a set), nothing waits for a thread or a
socket, and every task belongs to the node whose context made it, so that a crash finds all of
them.
"""

from __future__ import annotations

import asyncio
import contextvars
import selectors
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Executor, Future
from random import Random
from typing import Any, Protocol, TypeVar, TypeVarTuple, Unpack

import xxhash

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
TURNS_MAX = 200_000
"""Turns of the loop without time passing, after which a run is said to spin."""


class Spins(Exception):
    """Time stands still although the loop goes on turning."""


class Owner(Protocol):
    """Who tasks belong to."""

    tasks: dict[asyncio.Task[Any], None]
    dead: bool


OWNER: contextvars.ContextVar[Owner | None] = contextvars.ContextVar("owner", default=None)


class _Idle(selectors.BaseSelector):
    """A selector of nothing: an idle wait moves the time on."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._still = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Spins("every task waits for something that can never come")
        if timeout > 0:
            self.now_s += timeout
            self._still = 0
        else:
            self._still += 1
            if self._still > TURNS_MAX:
                raise Spins(f"time stands still at {self.now_s:.6f}")
        return []

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, 0, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, 0, 0, None)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return {}

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        raise KeyError(fileobj)

    def close(self) -> None:
        pass


class SimTask(asyncio.Task[T]):
    """A task that hashes by the order in which tasks were made."""

    number = 0
    owner: Owner | None = None

    def __hash__(self) -> int:
        return self.number

    def __eq__(self, other: object) -> bool:
        return self is other


class SimLoop(asyncio.SelectorEventLoop):
    """See the module."""

    def __init__(self) -> None:
        self._idle = _Idle()
        super().__init__(self._idle)
        self._tasks_made = 0
        self.set_task_factory(self._make_task)  # type: ignore[arg-type]

    def time(self) -> float:
        return self._idle.now_s

    def call_soon_threadsafe(
        self,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        # There is one thread: nothing has to be woken.
        return self.call_soon(callback, *args, context=context)

    def _make_task(
        self,
        loop: asyncio.AbstractEventLoop,
        coro: Coroutine[Any, Any, Any],
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[Any]:
        task: SimTask[Any] = SimTask.__new__(SimTask)
        self._tasks_made += 1
        task.number = self._tasks_made
        task.__init__(coro, loop=loop, context=context)  # type: ignore[misc]
        owner = task.owner = OWNER.get() if context is None else context.get(OWNER)
        if owner is not None:
            owner.tasks[task] = None
            task.add_done_callback(lambda done: owner.tasks.pop(done, None))
        return task


class SimExecutor(Executor):
    """Runs work a little later, whole, on the loop; what a dead owner left is never run."""

    def __init__(self, owner: Owner, random: Random, delay_s_max: float) -> None:
        self._owner = owner
        self._random = random
        self._delay_s_max = delay_s_max
        self._closed = False

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future: Future[T] = Future()

        def work() -> None:
            if self._owner.dead or not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        delay_s = self._random.random() ** 3 * self._delay_s_max
        asyncio.get_running_loop().call_later(delay_s, work)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._closed = True


class Trace:
    """Everything that happened, as one hash; the lines go to `write` when it is given."""

    def __init__(self, now_s: Callable[[], float], write: Callable[[str], None] | None) -> None:
        self._now_s = now_s
        self._write = write
        self._hash = xxhash.xxh3_64()
        self.events = 0

    def note(self, line: str) -> None:
        """One event."""
        self.events += 1
        text = f"{self._now_s():.6f} {line}"
        self._hash.update(text.encode())
        if self._write is not None:
            self._write(text)

    def show(self, line: str) -> None:
        """A line beside the events, for whoever looks."""
        if self._write is not None:
            self._write(f"{self._now_s():.6f} {line}")

    def digest(self) -> str:
        """16 hexadecimal digits."""
        return self._hash.hexdigest()
