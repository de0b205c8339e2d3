"""The one small protocol of all drivers: JSON lines in, JSON lines out, vectors in files.

Runs in a peer's environment, so it imports the standard library and NumPy alone. It owns the
measuring: drivers only insert, build and search, and each client thread has a searcher of its own.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

F32: TypeAlias = NDArray[np.float32]
Searcher: TypeAlias = Callable[[F32, int, bool], list[int]]
"""(query float32[d], effort, filtered to `percent = 0`) → numbers of the K best rows."""

Item = TypeVar("Item")
Writer: TypeAlias = Callable[[int, F32], None]
"""(number of the first row, rows float32[n, d]), as `Driver.insert`, for one client thread."""

K = 10
FIELDS = {"half": 2, "tenth": 10, "percent": 100, "mille": 1_000}
"""Metadata field → m; the field of row i is i mod m."""


class OneWriter:
    """A peer that takes inserts one after another."""

    def writers(self, count: int) -> list[Writer]:
        return []

    def end_writers(self) -> None:
        pass


class Driver(Protocol):
    """What one peer has to do."""

    def open(self, directory: Path, dimension: int) -> None:
        """Make an empty collection for cosine similarity in `directory`."""

    def insert(self, first: int, vectors: F32) -> None:
        """Rows `first` and on with their fields, as durable as the peer makes them."""

    def writers(self, count: int) -> list[Writer]:
        """Inserts of so many clients at once, into an empty table beside the other one, of which
        nothing is left after `end_writers`. Empty: the peer has one writer."""

    def end_writers(self) -> None:
        """The table of the writers is not needed any more."""

    def build(self) -> None:
        """Index what was inserted, the field `percent` too; wait until it is done."""

    def searcher(self) -> Searcher:
        """For one client thread."""

    def close(self) -> None:
        """Release everything."""


def fields_of(first: int, count: int) -> Iterator[dict[str, int]]:
    """The metadata of the rows `first` and on."""
    for row in range(first, first + count):
        yield {name: row % step for name, step in FIELDS.items()}


def serve(driver: Driver) -> None:
    """Obey the commands on standard input until `close`; an error ends the process."""
    # Libraries print what they like: it goes to the log, and the answers keep the line.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    commands = _Commands(driver)
    for line in sys.stdin:
        command = json.loads(line)
        answer = getattr(commands, command.pop("do"))(**command)
        print(json.dumps(answer), file=answers, flush=True)


class _Commands:
    """One method a command; each answers what it measured."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def open(self, directory: str, dimension: int) -> dict[str, Any]:
        self._driver.open(Path(directory), dimension)
        return {}

    def load(self, path: str, rows: int, dimension: int, batch: int) -> dict[str, Any]:
        vectors = np.memmap(path, dtype="<f4", mode="r", shape=(rows, dimension))
        seconds = 0.0
        for first in range(0, rows, batch):
            block = np.array(vectors[first : first + batch])
            started = time.perf_counter()
            self._driver.insert(first, block)
            seconds += time.perf_counter() - started
        return {"seconds": seconds}

    def load_at_once(
        self, path: str, rows: int, dimension: int, batch: int, clients: int
    ) -> dict[str, Any]:
        """As `load`, by so many threads; 0 seconds where the peer has one writer."""
        writers = self._driver.writers(clients)
        if not writers:
            return {"seconds": 0.0}
        vectors = np.memmap(path, dtype="<f4", mode="r", shape=(rows, dimension))
        blocks = {
            first: np.array(vectors[first : first + batch]) for first in range(0, rows, batch)
        }
        waiting = iter(blocks.items())

        def write(number: int, item: tuple[int, F32]) -> None:
            writers[number](*item)

        seconds, _ = _at_once(waiting, write, clients, math.inf)
        self._driver.end_writers()
        return {"seconds": seconds}

    def build(self) -> dict[str, Any]:
        started = time.perf_counter()
        self._driver.build()
        return {"seconds": time.perf_counter() - started}

    def search(self, queries: str, found: str, effort: int, filtered: bool) -> dict[str, Any]:
        """One query after another; the rows found go into the file `found`, int64[n, K]."""
        asked: F32 = np.load(queries)
        search = self._driver.searcher()
        table = np.full((len(asked), K), -1, dtype=np.int64)
        seconds = []
        search(asked[0], effort, filtered)  # whatever is made at the first use
        for i, query in enumerate(asked):
            started = time.perf_counter()
            rows = search(query, effort, filtered)
            seconds.append(time.perf_counter() - started)
            table[i, : len(rows)] = rows
        np.save(found, table)
        p50, p99 = np.percentile(seconds, (50, 99))
        return {"p50_ms": 1000 * float(p50), "p99_ms": 1000 * float(p99)}

    def rate(self, queries: str, effort: int, clients: int, seconds: float) -> dict[str, Any]:
        """Queries a second of so many threads, until the time or the queries are over."""
        searchers = [self._driver.searcher() for _ in range(clients)]

        def search(number: int, query: F32) -> None:
            searchers[number](query, effort, False)

        wall_s, done = _at_once(iter(np.load(queries)), search, clients, seconds)
        return {"queries_per_s": done / wall_s}

    def close(self) -> dict[str, Any]:
        self._driver.close()
        return {}


def _at_once(
    items: Iterator[Item], work: Callable[[int, Item], None], clients: int, seconds: float
) -> tuple[float, int]:
    """(seconds, items done) of threads that take items, until the time or the items are over.

    `work` is told the number of its thread.
    """
    lock, counts = threading.Lock(), [0] * clients
    errors: list[BaseException] = []
    ends = time.perf_counter() + seconds

    def client(number: int) -> None:
        try:
            while time.perf_counter() < ends:
                with lock:
                    item = next(items, None)
                if item is None:
                    return
                work(number, item)
                counts[number] += 1
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=client, args=(n,)) for n in range(clients)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall_s = time.perf_counter() - started
    if errors:
        raise errors[0]
    return wall_s, sum(counts)
