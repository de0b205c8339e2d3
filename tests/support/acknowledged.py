"""Clients under load that remember what was acknowledged, and the check that all of it is there.

Each client writes batches one after another, through whatever happens, and is sure of nothing but
answers: a batch that was acknowledged must be found whole, bit for bit, at its commit timestamp;
one without an answer whole at one timestamp or not at all; the row that every batch of a client
writes holds what the newest batch that is there wrote; and commit timestamps only grow.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np

from tests.support.processes import HttpError, call

DIMENSION = 8
BATCH = 6
COLLECTION = "acknowledged"
_TIMEOUT_S = 3.0
"""A client that waits longer gives the batch up, not knowing what became of it."""
_PAUSE_S = 0.02
"""Between two batches of a client, so that a load leaves the machine to the services."""


class Lost(AssertionError):
    """What was acknowledged is not there, or not as it was written."""


def as_float32(numbers: list[float]) -> bytes:
    """The bits of a vector."""
    return np.array(numbers, dtype=np.float32).tobytes()


class _Client:
    """One writer; its batch `n` is `BATCH` new rows and the client's one hot row."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.sent = 0
        self.acknowledged: dict[int, int] = {}
        """Batch → its commit timestamp."""
        self.newest_ts = 0

    def rows(self, n: int) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
        numbers = np.random.default_rng((self.number, n))
        ids = [f"c{self.number}-{n}-{i}" for i in range(BATCH)]
        vectors = numbers.standard_normal((BATCH, DIMENSION)).astype(np.float32)
        hot = np.full(DIMENSION, n + 1, dtype=np.float32)
        return {**dict(zip(ids, vectors, strict=True)), f"c{self.number}-hot": hot}


class Load:
    """Several clients writing to the REST edge at `url` until `stop`."""

    def __init__(self, url: str, clients: int = 4) -> None:
        self._url = f"{url}/v1/collections"
        self._clients = [_Client(number) for number in range(clients)]
        self._threads: list[threading.Thread] = []
        self._stopping = threading.Event()
        self._changed = threading.Condition()
        self._total = 0
        self._failure: BaseException | None = None
        self.refused = 0
        """Batches without an acknowledgement."""
        self.longest_refusal_s = 0.0
        self.reasons: dict[str, int] = {}

    def create(self) -> None:
        """Make the collection."""
        body = {"name": COLLECTION, "dimension": DIMENSION, "metric": "euclidean"}
        call(self._url, body)

    def start(self) -> None:
        """Begin, or go on after `stop`; while it runs, nothing changes."""
        if self._threads:
            return
        self._stopping.clear()
        self._threads = [
            threading.Thread(target=self._write, args=(client,)) for client in self._clients
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let each client finish the batch that it is at.

        :raises Lost: a client saw something wrong.
        """
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        self._threads = []
        if self._failure is not None:
            raise self._failure

    def abandon(self) -> None:
        """End the clients, whatever they saw."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        self._threads = []

    def wait_for(self, batches: int, timeout_s: float) -> float:
        """Until so many more batches are acknowledged: the seconds that it took.

        :raises TimeoutError: they are not, in that time.
        """
        started = time.monotonic()
        with self._changed:
            goal = self._total + batches
            if not self._changed.wait_for(
                lambda: self._total >= goal or self._failure is not None, timeout_s
            ):
                raise TimeoutError(
                    f"{self._total + batches - goal} of {batches} batches were acknowledged in "
                    f"{timeout_s:g} s; refusals: {self.reasons}"
                )
        return time.monotonic() - started

    @property
    def acknowledged(self) -> int:
        """Batches."""
        return self._total

    def _write(self, client: _Client) -> None:
        try:
            while not self._stopping.wait(_PAUSE_S):
                self._one(client)
        except BaseException as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _one(self, client: _Client) -> None:
        n = client.sent
        client.sent += 1
        rows = [{"id": i, "dimensions": v.tolist()} for i, v in client.rows(n).items()]
        started = time.monotonic()
        try:
            answer = call(
                f"{self._url}/{COLLECTION}/vectors", {"vectors": rows}, timeout_s=_TIMEOUT_S
            )
        except (OSError, HttpError) as error:
            with self._changed:
                self.refused += 1
                waited_s = time.monotonic() - started
                self.longest_refusal_s = max(self.longest_refusal_s, waited_s)
                why = str(error)[:160]
                self.reasons[why] = self.reasons.get(why, 0) + 1
            self._stopping.wait(5 * _PAUSE_S)
            return
        if answer["commit_ts"] <= client.newest_ts:
            raise Lost(f"commit timestamps went back: {answer['commit_ts']}, {client.newest_ts}")
        client.newest_ts = answer["commit_ts"]
        with self._changed:
            client.acknowledged[n] = answer["commit_ts"]
            self._total += 1
            self._changed.notify_all()

    # --- the check ------------------------------------------------------------------------------

    def check(self) -> int:
        """Compare every row; how many there are.

        :raises Lost: names what is missing, torn, changed or of unknown origin.
        """
        try:
            found = self.read_all()
        except HttpError as error:
            if error.status == 404:
                raise Lost("the collection is gone") from error
            raise
        expected: set[str] = set()
        for client in self._clients:
            hot = f"c{client.number}-hot"
            expected.add(hot)
            newest, value = 0, b""
            for n in range(client.sent):
                rows = client.rows(n)
                last = rows.pop(hot).tobytes()
                expected.update(rows)
                ts = self._check_batch(client, n, {i: v.tobytes() for i, v in rows.items()}, found)
                if ts > newest:
                    newest, value = ts, last
            want = (value, newest) if newest else None
            if found.get(hot) != want:
                raise Lost(f"{hot} is {found.get(hot)}, the newest batch there wrote {want}")
        if strangers := found.keys() - expected:
            raise Lost(f"{len(strangers)} rows that nobody wrote: {sorted(strangers)[:5]}")
        return len(found)

    def _check_batch(
        self, client: _Client, n: int, rows: dict[str, bytes], found: dict[str, tuple[bytes, int]]
    ) -> int:
        """The commit timestamp of a batch, 0 when it is not there."""
        what = f"batch {n} of client {client.number}"
        there = [i for i in rows if i in found]
        if not there and n not in client.acknowledged:
            return 0
        if len(there) < BATCH:
            word = "acknowledged" if n in client.acknowledged else "torn"
            raise Lost(f"{what} ({word}): {len(there)} of {BATCH} rows are there")
        if changed := [i for i in there if found[i][0] != rows[i]]:
            raise Lost(f"{what}: rows came back changed: {changed}")
        versions = {found[i][1] for i in there}
        if len(versions) > 1 or client.acknowledged.get(n, *versions) not in versions:
            raise Lost(f"{what}: acknowledged at {client.acknowledged.get(n)}, found {versions}")
        return versions.pop()

    def read_all(self) -> dict[str, tuple[bytes, int]]:
        """Every row as (vector, version), by scrolling one snapshot that includes all that was
        acknowledged."""
        token = max(client.newest_ts for client in self._clients)
        found: dict[str, tuple[bytes, int]] = {}
        body: dict[str, Any] = {
            "limit": 5000, "include": ["dimensions"], "consistency": {"at_least": token}
        }  # fmt: skip
        url = f"{self._url}/{COLLECTION}"
        cursor: str | None = None
        while True:
            page = call(f"{url}/scroll", body if cursor is None else body | {"cursor": cursor})
            found |= {
                row["id"]: (as_float32(row["dimensions"]), row["version"])
                for row in page["vectors"]
            }
            cursor = page["cursor"]
            if cursor is None:
                break
        # At that very snapshot: a batch that its client gave up may be decided meanwhile.
        then = {"consistency": {"as_of": page["snapshot_ts"]}}
        count = call(f"{url}/count", then)["count"]
        if count != len(found):
            raise Lost(f"count says {count}, the scroll found {len(found)}")
        return found
