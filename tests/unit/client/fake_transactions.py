"""The transactions and idempotency keys of the gateway in memory.

A token names its transaction, the statements staged and the reads made so far. The first copy of a
statement counts, as it does at the server; a commit whose token does not tell the number of
statements that are staged is refused, so a client that loses track of its token is found out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from aiohttp import web

if TYPE_CHECKING:
    from tests.unit.client.fake_gateway import FakeGateway

Stored = tuple[np.ndarray, Any, int]
Tables = dict[str, dict[str, Stored]]
Chunk = dict[tuple[str, str], Stored | None]


class Refused(Exception):
    """Status, code, whether to retry, message."""


@dataclass
class Open:
    """One transaction."""

    snapshot: Tables
    snapshot_ts: int
    term: int
    serializable: bool
    chunks: dict[int, Chunk] = field(default_factory=dict)
    count: int = 0
    state: str = "pending"
    commit_ts: int = 0
    expired: bool = False
    unknown: bool = False
    """Whether the status of it cannot be told."""


class Transactions:
    """Begun and ended ones, by id. A new `term` voids what is open; `lags` are of begins to come:
    how far each one's snapshot lies behind; `unknown_first`: how many statuses cannot be told."""

    def __init__(self, gateway: FakeGateway) -> None:
        self._gateway = gateway
        self.by_id: dict[str, Open] = {}
        self.view: Tables | None = None
        self.term = 1
        self.lags: list[int] = []
        self.unknown_first = 0
        self._keys: dict[str, tuple[Any, Any]] = {}

    def begin(self, request: web.Request, body: Any) -> Any:
        gateway = self._gateway
        if body["isolation"] not in ("snapshot", "serializable"):
            raise Refused(400, "invalid_argument", False, "isolation")
        lag = self.lags.pop(0) if self.lags else 0
        snapshot = {name: dict(rows) for name, rows in gateway.rows.items()}
        txn_id = f"t{len(self.by_id)}"
        made = Open(snapshot, gateway.clock - lag, self.term, body["isolation"] == "serializable")
        self.by_id[txn_id] = made
        return {
            "transaction": txn_id,
            "token": f"{txn_id}.0.0",
            "isolation": body["isolation"],
            "snapshot_ts": made.snapshot_ts,
            "expires_at": "2030-01-01T00:00:00Z",
        }

    def statement(self, token: str, handle: Callable[[], Any]) -> tuple[Any, dict[str, str]]:
        """`handle` over the snapshot and what is staged up to `token`; keeps what it changes."""
        txn_id, staged, reads = self._parsed(token)
        txn = self._resumed(txn_id)
        before = _overlaid(txn.snapshot, txn.chunks, staged)
        after = {name: dict(rows) for name, rows in before.items()}
        clock, self.view = self._gateway.clock, after
        try:
            answer = handle()
        finally:
            self.view, self._gateway.clock = None, clock
        if "commit_ts" not in answer:
            reads += txn.serializable
            body = answer | {"snapshot_ts": txn.snapshot_ts} if "snapshot_ts" in answer else answer
        else:
            if staged not in txn.chunks:
                txn.chunks[staged] = _changes(before, after)
                txn.count += answer["count"]
            staged += 1
            body = {"count": answer["count"]}
        return body, {"Transaction": f"{txn_id}.{staged}.{reads}"}

    def commit(self, request: web.Request, body: Any) -> Any:
        txn_id, staged, _ = self._parsed(request.headers["Transaction"])
        assert txn_id == request.match_info["t"]
        txn = self.by_id[txn_id]
        if txn.state == "committed":
            return {"count": txn.count, "commit_ts": txn.commit_ts}
        self._resumed(txn_id)
        written = {key: row for n in sorted(txn.chunks) for key, row in txn.chunks[n].items()}
        stored = self._gateway.rows
        late = [
            key
            for key in written
            if (row := stored.get(key[0], {}).get(key[1])) and row[2] > txn.snapshot_ts
        ]
        if late or staged != len(txn.chunks):
            txn.state = "aborted"
            raise Refused(409, "conflict", True, f"{late} {staged} {len(txn.chunks)}")
        if written:
            self._gateway.clock += 1
        txn.state = "committed"
        txn.commit_ts = self._gateway.clock if written else txn.snapshot_ts
        for (name, row_id), row in written.items():
            rows = stored.setdefault(name, {})
            if row is None:
                rows.pop(row_id, None)
            else:
                rows[row_id] = (row[0], row[1], txn.commit_ts)
        return {"count": txn.count, "commit_ts": txn.commit_ts}

    def abort(self, request: web.Request, body: Any) -> Any:
        txn_id, _, _ = self._parsed(request.headers["Transaction"])
        assert txn_id == request.match_info["t"]
        txn = self.by_id[txn_id]
        if txn.state == "committed":
            raise Refused(409, "already_committed", False, txn_id)
        if txn.state != "aborted":
            self._resumed(txn_id)
        txn.state = "aborted"
        return {"state": "aborted"}

    def status(self, request: web.Request, body: Any) -> Any:
        txn = self.by_id[request.match_info["t"]]
        if txn.unknown or self.unknown_first > 0:
            self.unknown_first -= 1
            return {"state": "unknown"}
        return {"state": txn.state} | ({"commit_ts": txn.commit_ts} if txn.commit_ts else {})

    def once(self, key: str, body: Any, handle: Callable[[], Any]) -> tuple[Any, dict[str, str]]:
        """`handle`, unless it was done under this key before."""
        if key in self._keys:
            request, answer = self._keys[key]
            if request != body:
                raise Refused(422, "idempotency_mismatch", False, key)
            return answer, {"Idempotency-Replayed": "true"}
        answer = handle()
        self._keys[key] = (body, answer)
        return answer, {}

    @staticmethod
    def _parsed(token: str) -> tuple[str, int, int]:
        txn_id, staged, reads = token.split(".")
        return txn_id, int(staged), int(reads)

    def _resumed(self, txn_id: str) -> Open:
        txn = self.by_id[txn_id]
        if txn.expired:
            raise Refused(409, "transaction_expired", False, txn_id)
        if txn.state == "aborted":
            raise Refused(409, "aborted", False, txn_id)
        if txn.term != self.term:
            raise Refused(409, "conflict", True, "a new term")
        return txn


def _overlaid(snapshot: Tables, chunks: dict[int, Chunk], staged: int) -> Tables:
    tables = {name: dict(rows) for name, rows in snapshot.items()}
    for n in range(staged):
        for (name, row_id), row in chunks[n].items():
            rows = tables.setdefault(name, {})
            if row is None:
                rows.pop(row_id, None)
            else:
                rows[row_id] = (row[0], row[1], 0)
    return tables


def _changes(before: Tables, after: Tables) -> Chunk:
    changes: Chunk = {}
    for name, rows in after.items():
        old = before.get(name, {})
        changes |= {(name, i): row for i, row in rows.items() if old.get(i) is not row}
        changes |= {(name, i): None for i in old if i not in rows}
    return changes
