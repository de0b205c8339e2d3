"""A writer and a reader of one collection, in threads, beside whatever a test does to the mesh."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Generic, Self, TypeVar

from tests.support.processes import Service

ROWS_OF_A_BATCH = 20
MORE_S_MAX = 120.0


V = TypeVar("V")


class InThreads:
    """Work in threads of its own while it is entered; every error is kept."""

    def __init__(self, work: Iterable[Callable[[], None]]) -> None:
        """Each of `work` goes on until `over` is set."""
        self.over = threading.Event()
        self.errors: list[str] = []
        self._threads = [threading.Thread(target=one) for one in work]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self._threads:
            thread.join()


class Writing(InThreads, Generic[V]):
    """Work that writes rows, which are noted once they are acknowledged."""

    def __init__(self, work: Iterable[Callable[[], None]]) -> None:
        super().__init__(work)
        self.written: dict[str, V] = {}

    def wait_for_more(self, rows: int) -> None:
        """Until so many more rows were written, or something failed."""
        wanted = len(self.written) + rows
        until = time.monotonic() + MORE_S_MAX
        while len(self.written) < wanted and not self.errors:
            assert time.monotonic() < until, f"{len(self.written)} of {wanted} rows were written"
            time.sleep(0.01)


class Load(Writing[list[float]]):
    """A writer and a reader."""

    def __init__(self, gateway: Service) -> None:
        super().__init__((self._write, self._read))
        self._gateway = gateway
        self.token = 0
        self.slowest_read_s = 0.0

    def _write(self) -> None:
        n = 0
        while not self.over.is_set():
            rows = {f"r{n + i}": [1.0, float(n + i), 0.5] for i in range(ROWS_OF_A_BATCH)}
            body = {"vectors": [{"id": i, "dimensions": v} for i, v in rows.items()]}
            try:
                answer = self._gateway.call("/v1/collections/c/vectors", body)
            except Exception as error:
                self.errors.append(f"write: {error}")
                return
            self.written |= rows
            self.token = answer["commit_ts"]
            n += ROWS_OF_A_BATCH

    def _read(self) -> None:
        while not self.over.is_set():
            wanted = len(self.written)
            try:
                found = self._timed("count", {})["count"]
                hits = self._timed("query", {"vector": [1.0, 7.0, 0.5], "k": 5})["vectors"]
            except Exception as error:
                self.errors.append(f"read: {error}")
                return
            if found < wanted or (wanted and not hits):
                self.errors.append(f"read: {found} rows and {len(hits)} hits of {wanted}")
                return

    def _timed(self, what: str, body: dict[str, Any]) -> dict[str, Any]:
        """One read."""
        started = time.monotonic()
        answer = self._gateway.call(f"/v1/collections/c/{what}", body)
        self.slowest_read_s = max(self.slowest_read_s, time.monotonic() - started)
        return answer


def rows_of(gateway: Service) -> dict[str, list[float]]:
    """Every row of the collection, as the gateway finds it."""
    found: dict[str, list[float]] = {}
    page: dict[str, Any] = {"limit": 1000, "include": ["dimensions"]}
    while True:
        answer = gateway.call("/v1/collections/c/scroll", page)
        found |= {row["id"]: row["dimensions"] for row in answer["vectors"]}
        if answer["cursor"] is None:
            return found
        page["cursor"] = answer["cursor"]
