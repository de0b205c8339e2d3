"""Every violation over timestamps, planted: the checker says exactly its name."""

from __future__ import annotations

import pytest

from tests.checkers.history import Append, ReadList, ReadRow, Row, Transaction, Write
from tests.checkers.timestamps import check_lists_at_snapshots, check_timestamps


def write(begin: float, commit_ts: int, session: str = "s", **told: object) -> Transaction:
    """Acknowledged half a second after it began."""
    operations = (Write("c/a", Row(f"t{begin}")),)
    plain = {"outcome": "committed"} | told
    return Transaction(
        session, begin, begin + 0.5, operations=operations, commit_ts=commit_ts, **plain  # type: ignore[arg-type]
    )  # fmt: skip


def read(begin: float, snapshot_ts: int, session: str = "s", **told: object) -> Transaction:
    operations = (ReadRow("c/a", None),)
    return Transaction(
        session, begin, begin + 0.5, "committed", operations, snapshot_ts=snapshot_ts, **told  # type: ignore[arg-type]
    )  # fmt: skip


PLANTED: dict[str, tuple[str, list[Transaction]]] = {
    "one commit_ts for two": ("duplicate commit_ts", [write(1, 5), write(1.2, 5, "t")]),
    "a commit without a time": ("no commit_ts", [write(1, 0)]),
    "a commit before its snapshot": ("commit before snapshot", [write(1, 5, snapshot_ts=6)]),
    "a later commit with an earlier time": ("commit_ts went back", [write(1, 5), write(2, 4, "t")]),
    "a snapshot without the session's own write": ("own write not seen", [write(1, 5), read(2, 4)]),
    "a session's snapshot goes back": ("snapshot went back", [read(1, 5), read(2, 4)]),
    "at_least is not obeyed": ("at_least ignored", [read(1, 4, at_least=5)]),
    "as_of is not obeyed": ("as_of ignored", [read(1, 4, as_of=3)]),
    "a strong read that misses another's write": (
        "strong read is stale",
        [write(1, 5, "t"), read(2, 4, strong=True)],
    ),
    "a key is applied twice": (
        "applied twice",
        [write(1, 5, idempotency_key="k"), write(2, 6, idempotency_key="k")],
    ),
    "a replay with another answer": (
        "two answers",
        [
            write(1, 5, idempotency_key="k"),
            write(2, 6, idempotency_key="k", replayed=True),
        ],
    ),
    "a replay with another count": (
        "two answers",
        [
            write(1, 5, idempotency_key="k", count=1),
            write(2, 5, idempotency_key="k", count=2, replayed=True),
        ],
    ),
    "a replay of what was refused": (
        "replay of nothing",
        [
            write(1, 0, idempotency_key="k", outcome="aborted"),
            write(2, 6, idempotency_key="k", replayed=True),
        ],
    ),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_violation_is_named(planted: str) -> None:
    name, history = PLANTED[planted]
    violations = check_timestamps(history).violations
    assert [violation.name for violation in violations] == [name], violations


FINE: dict[str, list[Transaction]] = {
    "commits that overlapped": [write(1, 5), write(1.2, 4, "t")],
    "snapshots of two sessions": [read(1, 5), read(2, 4, "t"), write(3, 7), read(4, 6, "t")],
    "a snapshot of the past on request": [write(1, 5), read(2, 5), read(3, 2, as_of=2), read(4, 5)],
    "a strong read beside a write": [write(1, 5, "t"), read(1.2, 4, strong=True)],
    "a replay": [
        write(1, 0, idempotency_key="k", outcome="unknown"),
        write(2, 5, idempotency_key="k", replayed=True, count=1),
        write(3, 5, idempotency_key="k", replayed=True, count=1),
    ],
    "a refusal, then another try": [
        write(1, 0, idempotency_key="k", outcome="aborted"),
        write(2, 5, idempotency_key="k"),
    ],
}


@pytest.mark.parametrize("case", FINE)
def test_what_is_right_passes(case: str) -> None:
    assert check_timestamps(FINE[case]).violations == []


def appended(value: str, commit_ts: int, outcome: str = "committed") -> Transaction:
    operations = (Append("x", value),)
    return Transaction("s", 0, 0, outcome, operations, commit_ts=commit_ts)  # type: ignore[arg-type]


def saw(snapshot_ts: int, *values: str, final: bool = False) -> Transaction:
    operations = (ReadList("x", values),)
    return Transaction("r", 0, 0, "committed", operations, snapshot_ts=snapshot_ts, final=final)


LISTS: dict[str, tuple[set[str], Transaction]] = {
    "as it was": (set(), saw(5, "1", "2")),
    "one of unknown outcome is there": (set(), saw(5, "1", "u", "2")),
    "as it was before": (set(), saw(4, "1")),
    "an acknowledged append is missing": ({"stale read"}, saw(5, "1")),
    "one from the middle is missing": ({"stale read"}, saw(5, "2")),
    "an acknowledged append is missing at the end": ({"lost write"}, saw(5, "1", final=True)),
    "an append of later": ({"read from the future"}, saw(4, "1", "2")),
    "not in the order of commits": ({"order is not of commit_ts"}, saw(5, "2", "1")),
    "one that was aborted": ({"aborted read"}, saw(5, "1", "2", "a")),
}


@pytest.mark.parametrize("case", LISTS)
def test_lists_at_snapshots(case: str) -> None:
    names, observation = LISTS[case]
    history = [
        appended("1", 1),
        appended("2", 5),
        appended("a", 0, "aborted"),
        appended("u", 0, "unknown"),
        observation,
    ]
    assert check_lists_at_snapshots(history).names == names
