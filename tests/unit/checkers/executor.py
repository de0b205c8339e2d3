"""A small multi-version store that runs random transactions and records what clients saw.

It is correct unless it is told to be `broken` in one way: then a checker must find it out. Serial
runs finish each transaction before the next begins; others interleave up to four.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.checkers.history import (
    Append,
    Count,
    Isolation,
    Operation,
    Outcome,
    ReadList,
    ReadRow,
    Row,
    Scroll,
    Search,
    Transaction,
    Write,
)

LISTS = [f"k{i}" for i in range(4)]
IDS = [f"r{i}" for i in range(6)]
COLLECTIONS = ["a", "b"]
BREAKS = [
    "second committer wins",
    "reads are of now",
    "reads are not all of one snapshot",
    "half is applied",
    "acknowledged is not applied",
    "aborted is applied",
    "deletes are forgotten",
    "serializable is snapshot",
    "preconditions are not checked",
    "timestamps are used twice",
    "counts are of another snapshot",
]


@dataclass
class Open:
    """A transaction under way; `staged` its own writes, `read` what it depends on."""

    session: str
    begin: float
    snapshot: int
    isolation: Isolation
    operations: list[Operation] = field(default_factory=list)
    staged: dict[str, Any] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)
    expect: dict[str, bool] = field(default_factory=dict)


class Store:
    """Versions per key: (commit_ts, value); lists are tuples, rows `Row` or None."""

    def __init__(self, seed: int, broken: str = "", unknown: float = 0.1) -> None:
        self._unknown = unknown
        self._rng = random.Random(seed)
        self._broken = broken
        self._versions: dict[str, list[tuple[int, Any]]] = {}
        self._now = 0
        self._clock = 0.0
        self._tags = 0
        self.history: list[Transaction] = []

    def run(self, transactions: int, at_once: int) -> list[Transaction]:
        """The history of that many transactions, `at_once` of them interleaved."""
        open_ones: list[Open] = []
        for number in range(transactions):
            while len(open_ones) >= at_once:
                self._step(open_ones)
            taken = {one.session for one in open_ones}
            session = self._rng.choice(sorted({f"s{i}" for i in range(at_once + 1)} - taken))
            isolation: Isolation = "serializable" if self._rng.random() < 0.4 else "snapshot"
            open_ones.append(Open(session, self._tick(), self._now, isolation))
            if number == transactions - 1:
                while open_ones:
                    self._step(open_ones)
        self._last_read()
        return self.history

    def _tick(self) -> float:
        self._clock += 1.0
        return self._clock

    def _step(self, open_ones: list[Open]) -> None:
        one = self._rng.choice(open_ones)
        if len(one.operations) >= 4 or (one.operations and self._rng.random() < 0.2):
            open_ones.remove(one)
            self._end(one)
        else:
            one.operations.append(self._operate(one))

    # --- one operation ----------------------------------------------------------------------------

    def _operate(self, one: Open) -> Operation:
        rng = self._rng
        key = rng.choice(LISTS)
        row_key = f"{rng.choice(COLLECTIONS)}/{rng.choice(IDS)}"
        collection = rng.choice(COLLECTIONS)
        match rng.randrange(14):
            case 0 | 1 | 11:
                one.read.add(key)
                seen = self._get(one, key) or ()
                value = self._tag()
                one.staged[key] = (*seen, value)
                one.operations.append(ReadList(key, seen))
                return Append(key, value)
            case 2 | 12 | 13:
                one.read.add(key)
                return ReadList(key, self._get(one, key) or ())
            case 3 | 8 | 9 | 10:
                return self._write(one, row_key)
            case 4:
                one.read.add(row_key)
                row = self._get(one, row_key)
                return ReadRow(row_key, row, self._version(one, row_key) if row else 0)
            case 5:
                rows = self._rows(one, collection, self._broken == "counts are of another snapshot")
                color = rng.choice(["red", "blue"])
                count = sum(row.metadata["color"] == color for row in rows.values())
                return Count(collection, {"color": color}, count)
            case 6:
                rows = self._rows(one, collection)
                return Scroll(
                    collection,
                    None,
                    tuple((i, r, self._version(one, f"{collection}/{i}")) for i, r in rows.items()),
                )
            case _:
                return self._search(one, collection)

    def _write(self, one: Open, key: str) -> Operation:
        rng = self._rng
        before = self._get(one, key)
        if rng.random() < 0.3:
            one.staged[key] = None
            return Write(key, None)
        vector = tuple(rng.randrange(-8, 9) / 8 for _ in range(3))
        row = Row(self._tag(), (*vector, 1.0), {"color": rng.choice(["red", "blue"])})
        one.staged[key] = row
        first = not any(isinstance(o, Write) and o.key == key for o in one.operations)
        if first and rng.random() < 0.4:
            lied = self._broken == "preconditions are not checked" and rng.random() < 0.5
            one.expect[key] = (before is None) != lied
            return Write(key, row, "absent" if one.expect[key] else "present")
        return Write(key, row)

    def _search(self, one: Open, collection: str) -> Operation:
        query = tuple(self._rng.randrange(-8, 9) / 8 for _ in range(4))
        rows = self._rows(one, collection)
        scores = {i: float(np.dot(np.array(r.vector), np.array(query))) for i, r in rows.items()}
        best = sorted(scores, key=lambda i: (-scores[i], i))[:3]
        hits = tuple((i, scores[i]) for i in best)
        return Search(collection, None, "dot", query, 3, hits)

    def _tag(self) -> str:
        self._tags += 1
        return f"t{self._tags}"

    # --- versions ---------------------------------------------------------------------------------

    def _at(self, one: Open) -> int:
        if self._broken == "reads are of now":
            return self._now
        if self._broken == "reads are not all of one snapshot" and self._rng.random() < 0.3:
            return max(0, one.snapshot - 1)
        return one.snapshot

    def _latest(self, key: str, at: int) -> tuple[int, Any]:
        for commit_ts, value in reversed(self._versions.get(key, [])):
            if commit_ts <= at:
                return commit_ts, value
        return 0, None

    def _get(self, one: Open, key: str) -> Any:
        return one.staged[key] if key in one.staged else self._latest(key, self._at(one))[1]

    def _version(self, one: Open, key: str) -> int:
        return 0 if key in one.staged else self._latest(key, self._at(one))[0]

    def _rows(self, one: Open, collection: str, late: bool = False) -> dict[str, Row]:
        rows = {}
        for row_id in IDS:
            key = f"{collection}/{row_id}"
            one.read.add(key)
            row = self._latest(key, self._now)[1] if late else self._get(one, key)
            if row is not None:
                rows[row_id] = row
        return rows

    # --- the end ----------------------------------------------------------------------------------

    def _end(self, one: Open) -> None:
        keys = set(one.staged)
        if one.isolation == "serializable" and self._broken != "serializable is snapshot":
            keys |= one.read
        conflict = bool(one.staged) and any(
            self._latest(key, self._now)[0] > one.snapshot for key in keys
        )
        if self._broken == "second committer wins" and one.isolation == "snapshot":
            conflict = False
        outcome: Outcome = "aborted" if conflict or self._rng.random() < 0.1 else "committed"
        applied = outcome == "committed" and bool(one.staged)
        if self._broken == "aborted is applied" and outcome == "aborted":
            applied = bool(one.staged)
        commit_ts = one.snapshot if outcome == "committed" else 0
        if applied:
            if self._broken != "timestamps are used twice" or self._rng.random() < 0.8:
                self._now += 1
            self._apply(one)
            commit_ts = self._now if outcome == "committed" else 0
        if one.staged and self._rng.random() < self._unknown:
            outcome, commit_ts = "unknown", 0
        self.history.append(
            Transaction(
                one.session,
                one.begin,
                self._tick(),
                outcome,
                tuple(one.operations),
                one.isolation,
                one.snapshot,
                commit_ts,
            )
        )

    def _apply(self, one: Open) -> None:
        rare = self._rng.random() < 0.3
        for key, value in one.staged.items():
            if self._broken == "acknowledged is not applied" and rare:
                continue
            if self._broken == "half is applied" and self._rng.random() < 0.5:
                continue
            if self._broken == "deletes are forgotten" and value is None:
                continue
            self._versions.setdefault(key, []).append((self._now, value))

    def _last_read(self) -> None:
        one = Open("last", self._tick(), self._now, "snapshot")
        lists = [ReadList(key, self._latest(key, self._now)[1] or ()) for key in LISTS]
        scrolls = [
            Scroll(
                c,
                None,
                tuple(
                    (i, row, self._latest(f"{c}/{i}", self._now)[0])
                    for i, row in self._rows(one, c).items()
                ),
            )
            for c in COLLECTIONS
        ]
        self.history.append(
            Transaction(
                "last",
                one.begin,
                self._tick(),
                "committed",
                (*lists, *scrolls),
                snapshot_ts=self._now,
                strong=True,
                final=True,
            )
        )
