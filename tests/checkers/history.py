"""What clients asked and were told, as plain values, and as JSON lines on disk.

Owns the invariant that a history holds observations only: nothing in it was read from inside the
database, so a checker that passes it says something about what users see. Keys are strings; rows of
collections are keyed ``collection/id``. Times are seconds on one monotonic clock.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

Outcome = Literal["committed", "aborted", "unknown"]
Isolation = Literal["snapshot", "serializable", "blind"]
Metric = Literal["cosine", "dot", "euclidean"]
Filter: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """A row as written or seen; `tag` names the write and is never used twice."""

    tag: str
    vector: tuple[float, ...] = ()
    metadata: Filter = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Append:
    """Append `value` to the list `key`; a value goes to one list once."""

    key: str
    value: str


@dataclass(frozen=True, slots=True)
class ReadList:
    """The whole list as it was seen, appends of the same transaction included."""

    key: str
    seen: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Write:
    """Write a row, or delete it (`row` None).

    `expect`: what must hold before: ``"absent"``, ``"present"``, a version, or None for nothing.
    """

    key: str
    row: Row | None
    expect: Literal["absent", "present"] | int | None = None


@dataclass(frozen=True, slots=True)
class ReadRow:
    """One row as it was seen (None: absent); `version` 0 is the transaction's own write."""

    key: str
    row: Row | None
    version: int = 0


@dataclass(frozen=True, slots=True)
class Count:
    """How many rows of a collection were said to match."""

    collection: str
    filter: Filter | None
    count: int


@dataclass(frozen=True, slots=True)
class Scroll:
    """All matching rows of a collection, in the order of the pages, each with its version."""

    collection: str
    filter: Filter | None
    rows: tuple[tuple[str, Row, int], ...]


@dataclass(frozen=True, slots=True)
class Search:
    """A similarity query and its hits (id, similarity), best first."""

    collection: str
    filter: Filter | None
    metric: Metric
    vector: tuple[float, ...]
    k: int
    hits: tuple[tuple[str, float], ...]


Operation: TypeAlias = Append | ReadList | Write | ReadRow | Count | Scroll | Search
_KINDS: dict[str, type[Operation]] = {
    kind.__name__: kind for kind in (Append, ReadList, Write, ReadRow, Count, Scroll, Search)
}


@dataclass(frozen=True, slots=True)
class Transaction:
    """One transaction as its client saw it; a lone read or write is a transaction as well.

    `session`: requests of one session are in order and go through one gateway. `begin` and `end`:
    when the first request went out and the last answer came. `snapshot_ts` and `commit_ts` as told,
    0 = not told. `at_least`, `as_of`, `strong`: what the reads asked for. `count`: rows written as
    told, None = not told. `final`: a read after everything else had ended.
    """

    session: str
    begin: float
    end: float
    outcome: Outcome
    operations: tuple[Operation, ...]
    isolation: Isolation = "snapshot"
    snapshot_ts: int = 0
    commit_ts: int = 0
    at_least: int = 0
    as_of: int = 0
    strong: bool = False
    count: int | None = None
    idempotency_key: str = ""
    replayed: bool = False
    final: bool = False
    note: str = ""

    @property
    def writes(self) -> bool:
        """Whether it tried to change anything."""
        return any(isinstance(o, Append | Write) for o in self.operations)


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise: its name, what was seen, and the transactions (by position) at fault."""

    name: str
    detail: str
    transactions: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}: {self.detail} (transactions {list(self.transactions)})"


@dataclass(slots=True)
class Report:
    """What a checker found, and how much it looked at: a check that never ran proves nothing."""

    violations: list[Violation] = field(default_factory=list)
    checked: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, detail: str, *transactions: int) -> None:
        """Note a violation."""
        self.violations.append(Violation(name, detail, transactions))

    def tally(self, what: str, number: int = 1) -> None:
        """Count something that was looked at."""
        self.checked[what] = self.checked.get(what, 0) + number

    def merge(self, other: Report) -> None:
        """Take over what another checker found."""
        self.violations += other.violations
        for what, number in other.checked.items():
            self.tally(what, number)

    @property
    def names(self) -> set[str]:
        """The names of all violations."""
        return {violation.name for violation in self.violations}


def to_json(transaction: Transaction) -> str:
    """One line."""
    plain = asdict(transaction)
    plain["operations"] = [
        {"op": type(operation).__name__, **asdict(operation)}
        for operation in transaction.operations
    ]
    return json.dumps(plain, ensure_ascii=False, separators=(",", ":"))


def from_json(line: str) -> Transaction:
    """The transaction of one line."""
    plain = json.loads(line)
    plain["operations"] = tuple(_operation(operation) for operation in plain["operations"])
    return Transaction(**plain)


def save(path: Path, history: Iterable[Transaction]) -> None:
    """Write a history, a transaction a line."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(to_json(transaction) + "\n" for transaction in history)


def load(path: Path) -> list[Transaction]:
    """The history in a file."""
    with path.open(encoding="utf-8") as file:
        return [from_json(line) for line in file]


def _operation(plain: dict[str, Any]) -> Operation:
    operation = _KINDS[plain.pop("op")](**plain)
    match operation:
        case ReadList():
            return replace(operation, seen=tuple(operation.seen))
        case Write() | ReadRow() if operation.row is not None:
            return replace(operation, row=_row(operation.row))
        case Scroll():
            rows = tuple((i, _row(row), version) for i, row, version in operation.rows)
            return replace(operation, rows=rows)
        case Search():
            hits = tuple((i, similarity) for i, similarity in operation.hits)
            return replace(operation, vector=tuple(operation.vector), hits=hits)
    return operation


def _row(plain: Any) -> Row:
    return Row(plain["tag"], tuple(plain["vector"]), plain["metadata"])
