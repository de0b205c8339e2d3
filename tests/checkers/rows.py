"""Rows over time: the state of every snapshot is worked out from the committed history, and every
answer is compared with it.

Owns these checks: a transaction is visible whole or not at all; what was acknowledged is there and
what was aborted is not; reads, counts, scrolls and searches at a snapshot show that snapshot, with
the transaction's own writes over it; preconditions held where the transaction committed, and the
first committer won.

A write of unknown outcome is settled by any read that saw a tag of it (the version it saw is the
commit_ts). One that nobody saw cannot have left a visible row, but may have deleted rows or been
counted: answers that this could explain are accepted, and tallied as "left open".
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.checkers.exact import matches, wrong_hits
from tests.checkers.history import Count, ReadRow, Report, Row, Scroll, Search, Transaction, Write

DIFFERENCES_MAX = 3
"""Differences of one answer that are reported."""


def check_rows(history: Sequence[Transaction]) -> Report:
    """All checks of this module. Tries with one idempotency key count as one transaction.

    :raises ValueError: the workload itself uses a tag twice.
    """
    report = Report()
    commits = _Commits(history, report)
    state = _State()
    observations = sorted(
        (n for n, t in enumerate(history) if t.snapshot_ts and _observes(t)),
        key=lambda n: history[n].snapshot_ts,
    )
    pending = iter([*commits.in_order, None])
    commit = next(pending)
    for number in [*observations, None]:
        until = None if number is None else history[number].snapshot_ts
        while commit is not None and (until is None or commit.commit_ts <= until):
            _Commit.check(commit, history, state, commits, report)
            state.apply(commit)
            commit = next(pending)
        if number is not None:
            _Reader(number, history[number], state, commits, report).check()
    return report


def split_key(key: str) -> tuple[str, str]:
    """``collection/id`` as its two parts."""
    collection, _, row_id = key.partition("/")
    return collection, row_id


def _observes(t: Transaction) -> bool:
    return any(isinstance(o, ReadRow | Count | Scroll | Search) for o in t.operations)


@dataclass(slots=True)
class _Live:
    """A visible row and the transaction that wrote it."""

    row: Row
    version: int
    writer: int


class _State:
    """The rows of one snapshot after the other; `changed`: who touched a key last, deletes too."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, _Live]] = {}
        self.changed: dict[str, tuple[int, int]] = {}

    def get(self, key: str) -> _Live | None:
        collection, row_id = split_key(key)
        return self.rows.get(collection, {}).get(row_id)

    def apply(self, commit: _Commit) -> None:
        for key, row in commit.writes.items():
            collection, row_id = split_key(key)
            rows = self.rows.setdefault(collection, {})
            if row is not None:
                rows[row_id] = _Live(row, commit.commit_ts, commit.number)
            elif rows.pop(row_id, None) is None:
                continue  # deleting what is not there changes nothing
            self.changed[key] = (commit.commit_ts, commit.number)


@dataclass(slots=True)
class _Commit:
    """A committed write: `writes` is what it left behind per key; `told`: the try that was told."""

    number: int
    told: int
    commit_ts: int
    writes: dict[str, Row | None] = field(default_factory=dict)

    def check(
        self, history: Sequence[Transaction], state: _State, commits: _Commits, report: Report
    ) -> None:
        """What must hold of the state right before the commit."""
        t = history[self.told]
        report.tally("commits replayed")
        expected: dict[str, int | None] = {}
        alive_before = 0
        for operation in t.operations:
            if isinstance(operation, Write):
                key = operation.key
                live = state.get(key)
                have = expected.get(key, live.version if live else None)
                if not commits.is_open(key, t):
                    self._precondition(operation, have, report)
                if key not in expected and operation.row is None:
                    alive_before += live is not None
                expected[key] = None if operation.row is None else 0
            elif isinstance(operation, ReadRow) and t.isolation == "serializable":
                changed, by = state.changed.get(operation.key, (0, -1))
                if operation.key not in expected and changed > t.snapshot_ts:
                    detail = f"{operation.key} changed at {changed}, read at {t.snapshot_ts}"
                    report.add("serializable read changed", detail, by, self.number)
            elif isinstance(operation, Count) and t.isolation == "serializable":
                open_keys = commits.open_in(operation.collection, t)
                self._recount(operation, expected, state, open_keys, report)
        if t.snapshot_ts and t.isolation != "blind":
            for key in self.writes:
                changed, by = state.changed.get(key, (0, -1))
                if changed > t.snapshot_ts:
                    detail = f"{key} changed at {changed}, based on {t.snapshot_ts}"
                    report.add("lost update", detail, by, self.number)
        told = sum(row is not None for row in self.writes.values()) + alive_before
        known = not any(commits.is_open(key, t) for key in self.writes)
        if known and t.count is not None and t.count != told:
            report.add("wrong count told", f"{t.count}, expected {told}", self.number)

    def _recount(
        self,
        told: Count,
        own: Mapping[str, object],
        state: _State,
        open_keys: int,
        report: Report,
    ) -> None:
        """A count of a serializable transaction holds where it committed (no phantom came)."""
        collection = told.collection
        if any(split_key(key)[0] == collection for key in own):
            return
        rows = state.rows.get(collection, {})
        now = sum(matches(told.filter, live.row.metadata) for live in rows.values())
        if abs(now - told.count) > open_keys:
            detail = f"{collection} {told.filter}: {told.count} rows, {now} where it committed"
            report.add("serializable read changed", detail, self.number)

    def _precondition(self, write: Write, have: int | None, report: Report) -> None:
        if write.expect is None:
            return
        report.tally("preconditions")
        held = (
            have is None
            if write.expect == "absent"
            else have is not None
            if write.expect == "present"
            else have == write.expect
        )
        if not held:
            detail = f"{write.key} had version {have}, expected {write.expect}"
            report.add("precondition", detail, self.number)


class _Commits:
    """Who wrote which tag, what became of it, and the committed writes in the order of time."""

    def __init__(self, history: Sequence[Transaction], report: Report) -> None:
        self._history = history
        self._first: dict[str, int] = {}
        self.writer: dict[tuple[str, str], tuple[int, Row]] = {}
        self.commit_ts: dict[int, int] = {}
        self._told: dict[int, int] = {}
        self._unknown: set[int] = set()
        for number, t in enumerate(history):
            writes = [o for o in t.operations if isinstance(o, Write)]
            if not writes:
                continue
            one = self._one(number)
            if t.outcome == "committed":
                self.commit_ts.setdefault(one, t.commit_ts)
                self._told.setdefault(one, number)
            elif t.outcome == "unknown":
                self._unknown.add(one)
            for write in writes:
                if write.row is not None:
                    place = (write.key, write.row.tag)
                    if self.writer.setdefault(place, (one, write.row))[0] != one:
                        raise ValueError(f"{place} is written twice, by the workload itself")
        self._settle()
        self.in_order = self._sorted()
        report.tally("unknown outcomes left open", len(self._unknown))
        self._open: dict[str, float] = {}
        """Since when a key may have been changed by a write that nobody knows the outcome of."""
        for number in sorted(self._unknown, key=lambda n: history[n].begin, reverse=True):
            for operation in history[number].operations:
                if isinstance(operation, Write):
                    self._open[operation.key] = history[number].begin
        self._open_in: dict[str, list[float]] = {}
        for key, begin in self._open.items():
            self._open_in.setdefault(split_key(key)[0], []).append(begin)

    def is_open(self, key: str, t: Transaction) -> bool:
        """Whether `t` may have met a write of that key which nobody knows the outcome of."""
        return self._open.get(key, t.end) < t.end

    def open_in(self, collection: str, t: Transaction) -> int:
        """How many keys of a collection are open to `t`."""
        return sum(begin < t.end for begin in self._open_in.get(collection, ()))

    def _one(self, number: int) -> int:
        """The first try of the same transaction."""
        key = self._history[number].idempotency_key
        return self._first.setdefault(key, number) if key else number

    def _settle(self) -> None:
        """Unknown outcomes that a read tells."""
        self._unknown -= self.commit_ts.keys()
        for t in self._history:
            for operation in t.operations:
                seen: list[tuple[str, Row | None, int]] = []
                if isinstance(operation, ReadRow):
                    seen = [(operation.key, operation.row, operation.version)]
                elif isinstance(operation, Scroll):
                    seen = [(f"{operation.collection}/{i}", r, v) for i, r, v in operation.rows]
                for key, row, version in seen:
                    if row is not None and version:
                        number, _ = self.writer.get((key, row.tag), (-1, None))
                        if number in self._unknown:
                            self._unknown.discard(number)
                            self.commit_ts[number] = version
        self._settle_absent()

    def _settle_absent(self) -> None:
        """A row that only one transaction may have written or deleted, and that is absent from the
        last scroll of its collection: that transaction had not committed by then."""
        last: dict[str, set[str]] = {}
        for t in self._history:
            for o in t.operations:
                if t.final and isinstance(o, Scroll) and o.filter is None:
                    last[o.collection] = {row_id for row_id, _, _ in o.rows}
        writers: dict[str, set[int]] = {}
        for number, t in enumerate(self._history):
            one = self._one(number)
            if t.outcome != "aborted" or one in self._unknown:
                for o in t.operations:
                    if isinstance(o, Write):
                        writers.setdefault(o.key, set()).add(one)
        for number in sorted(self._unknown):
            for o in self._history[number].operations:
                if isinstance(o, Write) and o.row is not None and writers[o.key] == {number}:
                    collection, row_id = split_key(o.key)
                    if collection in last and row_id not in last[collection]:
                        self._unknown.discard(number)

    def _sorted(self) -> list[_Commit]:
        commits = []
        for number, commit_ts in self.commit_ts.items():
            commit = _Commit(number, self._told.get(number, number), commit_ts)
            for operation in self._history[number].operations:
                if isinstance(operation, Write):
                    commit.writes[operation.key] = operation.row
            commits.append(commit)
        return sorted(commits, key=lambda commit: commit.commit_ts)


class _Reader:
    """One transaction's answers against its snapshot."""

    def __init__(
        self, number: int, t: Transaction, state: _State, commits: _Commits, report: Report
    ) -> None:
        self._number = number
        self._t = t
        self._state = state
        self._commits = commits
        self._report = report
        self._own: dict[str, Row | None] = {}
        self._seen: dict[str, int] = {}
        """Versions that the whole transaction saw, 0 for absent rows."""
        self._collections: set[str] = set()
        """Collections that were seen whole."""

    def check(self) -> None:
        """Every operation in turn; what was seen is gathered first, to know torn from late."""
        for operation in self._t.operations:
            if isinstance(operation, ReadRow) and (operation.version or operation.row is None):
                self._seen[operation.key] = operation.version
            elif isinstance(operation, Scroll) and operation.filter is None:
                self._seen |= {f"{operation.collection}/{i}": v for i, _, v in operation.rows}
        for operation in self._t.operations:
            match operation:
                case Write():
                    self._own[operation.key] = operation.row
                case ReadRow():
                    self._report.tally("rows read")
                    problem = self._row(operation.key, operation.row, operation.version)
                    if problem:
                        self._report.add(*problem)
                case Count():
                    self._count(operation)
                case Scroll():
                    self._scroll(operation)
                case Search():
                    self._search(operation)

    def _visible(self, collection: str) -> dict[str, tuple[Row, int]]:
        """Rows and versions that the transaction must see now."""
        rows = {
            i: (live.row, live.version) for i, live in self._state.rows.get(collection, {}).items()
        }
        for key, row in self._own.items():
            of, row_id = split_key(key)
            if of == collection:
                rows.pop(row_id, None)
                if row is not None:
                    rows[row_id] = (row, 0)
        return rows

    def _row(self, key: str, row: Row | None, version: int) -> tuple[str, str, int] | None:
        """What is wrong with a row as seen, None if nothing is."""
        me = self._number
        if key in self._own:
            if row != self._own[key] or version:
                return "own write not read", f"{key}: {row}, wrote {self._own[key]}", me
            return None
        live = self._state.get(key)
        snapshot = self._t.snapshot_ts
        place = f"{key} at {snapshot}"
        if row is not None:
            writer, wrote = self._commits.writer.get((key, row.tag), (-1, row))
            commit_ts = self._commits.commit_ts.get(writer)
            if writer < 0:
                return "unwritten value", f"{place}: {row.tag}", me
            if commit_ts is None:
                return "aborted read", f"{place}: {row.tag} of transaction {writer}", me
            if row != wrote:
                return "changed value", f"{place}: {row}, written was {wrote}", me
            if version != commit_ts:
                return "wrong version", f"{place}: {version}, committed at {commit_ts}", me
            if commit_ts > snapshot:
                return "read from the future", f"{place}: committed at {commit_ts}", me
            if live is not None and live.version == version:
                return None
        elif live is None:
            return None
        elif self._commits.is_open(key, self._t):
            self._report.tally("answers left open")
            return None
        changed, by = self._state.changed[key]
        others = [c for c in self._commits.in_order if c.number == by] if by >= 0 else []
        detail = f"{place}: version {version or 'absent'}, transaction {by} changed it at {changed}"
        for other, written in (others[0].writes if others else {}).items():
            if other != key and self._shows(other, written, changed):
                return "torn transaction", f"{detail} and shows in {other}", me
        return "lost write" if self._t.final else "stale read", detail, me

    def _shows(self, key: str, written: Row | None, commit_ts: int) -> bool:
        """Whether this transaction saw that write of `commit_ts`."""
        return written is not None and self._seen.get(key) == commit_ts

    def _count(self, told: Count) -> None:
        self._report.tally("counts")
        visible = self._visible(told.collection)
        expected = sum(matches(told.filter, row.metadata) for row, _ in visible.values())
        open_keys = self._commits.open_in(told.collection, self._t)
        if open_keys:
            self._report.tally("answers left open")
        if abs(expected - told.count) > open_keys:
            detail = f"{told.collection} {told.filter} at {self._t.snapshot_ts}"
            self._report.add(
                "wrong count", f"{detail}: {told.count}, expected {expected}", self._number
            )

    def _scroll(self, told: Scroll) -> None:
        self._report.tally("scrolls")
        ids = [i.encode() for i, _, _ in told.rows]
        if any(a >= b for a, b in itertools.pairwise(ids)):
            detail = f"{told.collection} at {self._t.snapshot_ts}"
            self._report.add("scroll order", detail, self._number)
        visible = self._visible(told.collection)
        seen = {i: (row, version) for i, row, version in told.rows}
        problems = []
        for row_id in sorted(seen.keys() | visible.keys()):
            row, version = seen.get(row_id, (None, 0))
            if row is None and not matches(told.filter, visible[row_id][0].metadata):
                continue
            if row is not None and not matches(told.filter, row.metadata):
                detail = f"{row_id} {row.metadata} for {told.filter}"
                problems.append(("filter not met", detail, self._number))
                continue
            problem = self._row(f"{told.collection}/{row_id}", row, version)
            if problem:
                problems.append(problem)
        for problem in problems[:DIFFERENCES_MAX]:
            self._report.add(*problem)

    def _search(self, told: Search) -> None:
        if self._commits.open_in(told.collection, self._t):
            self._report.tally("answers left open")
            return
        self._report.tally("searches")
        rows: Mapping[str, Row] = {i: row for i, (row, _) in self._visible(told.collection).items()}
        problem = wrong_hits(rows, told)
        if problem:
            detail = f"{told.collection} {told.filter} at {self._t.snapshot_ts}: {problem}"
            self._report.add("wrong search result", detail, self._number)
