"""Every violation over rows, planted: the checker says exactly its name."""

from __future__ import annotations

import pytest

from tests.checkers.history import (
    Count,
    Filter,
    Operation,
    ReadRow,
    Row,
    Scroll,
    Search,
    Transaction,
    Write,
)
from tests.checkers.rows import check_rows

A1 = Row("a1", (1.0, 0.0), {"color": "red"})
A2 = Row("a2", (0.5, 0.5), {"color": "blue"})
B1 = Row("b1", (0.0, 1.0), {"color": "blue"})
B2 = Row("b2", (0.0, 2.0), {"color": "red"})


def wrote(commit_ts: int, *writes: Write, **told: object) -> Transaction:
    """A committed write at that time, acknowledged at once."""
    plain = {"outcome": "committed" if commit_ts else "aborted", "isolation": "blind"} | told
    at = float(commit_ts)
    return Transaction(
        f"w{commit_ts}", at, at + 0.5, operations=writes, commit_ts=commit_ts, **plain  # type: ignore[arg-type]
    )  # fmt: skip


def read(snapshot_ts: int, *operations: Operation, **told: object) -> Transaction:
    at = snapshot_ts + 0.6
    plain = {"outcome": "committed"} | told
    return Transaction(
        "r", at, at + 0.1, operations=operations, snapshot_ts=snapshot_ts, **plain  # type: ignore[arg-type]
    )  # fmt: skip


def both(commit_ts: int = 1, **told: object) -> Transaction:
    """Writes c/a and c/b together."""
    return wrote(commit_ts, Write("c/a", A1), Write("c/b", B1), **told)


def scroll(*rows: tuple[str, Row, int], filter: Filter | None = None) -> Scroll:
    return Scroll("c", filter, rows)


def search(*hits: tuple[str, float], k: int = 2, filter: Filter | None = None) -> Search:
    return Search("c", filter, "dot", (2.0, 1.0), k, hits)


PLANTED: dict[str, tuple[str, list[Transaction]]] = {
    "half of a transaction is read": (
        "torn transaction",
        [both(), read(1, ReadRow("c/a", A1, 1), ReadRow("c/b", None))],
    ),
    "half of a transaction of unknown outcome": (
        "torn transaction",
        [both(0, outcome="unknown"), read(1, ReadRow("c/a", A1, 1), ReadRow("c/b", None))],
    ),
    "half of a transaction over an older one": (
        "torn transaction",
        [
            both(1),
            wrote(2, Write("c/a", A2), Write("c/b", B2)),
            read(2, scroll(("a", A2, 2), ("b", B1, 1))),
        ],
    ),
    "a delete without the write that came with it": (
        "torn transaction",
        [
            both(1),
            wrote(2, Write("c/a", None), Write("d/x", A2)),
            read(2, ReadRow("c/a", A1, 1), ReadRow("d/x", A2, 2)),
        ],
    ),
    "an acknowledged row is gone at the end": (
        "lost write",
        [wrote(1, Write("c/a", A1)), read(9, scroll(), final=True)],
    ),
    "a deleted row is back at the end": (
        "lost write",
        [
            wrote(1, Write("c/a", A1)),
            wrote(2, Write("c/a", None)),
            read(9, scroll(("a", A1, 1)), final=True),
        ],
    ),
    "an older state than that of the snapshot": (
        "stale read",
        [wrote(1, Write("c/a", A1)), wrote(2, Write("c/a", A2)), read(2, ReadRow("c/a", A1, 1))],
    ),
    "a newer state than that of the snapshot": (
        "read from the future",
        [wrote(1, Write("c/a", A1)), wrote(2, Write("c/a", A2)), read(1, ReadRow("c/a", A2, 2))],
    ),
    "a row of an aborted transaction": (
        "aborted read",
        [wrote(0, Write("c/a", A1)), read(1, scroll(("a", A1, 1)))],
    ),
    "a row that nobody wrote": ("unwritten value", [read(1, ReadRow("c/a", A1, 1))]),
    "a row with another's vector": (
        "changed value",
        [wrote(1, Write("c/a", A1)), read(1, ReadRow("c/a", Row("a1", (9.0, 9.0), {}), 1))],
    ),
    "a version that is not its commit_ts": (
        "wrong version",
        [wrote(1, Write("c/a", A1)), read(5, ReadRow("c/a", A1, 4))],
    ),
    "a row is counted that is not there": (
        "wrong count",
        [wrote(1, Write("c/a", A1)), read(1, Count("c", None, 2))],
    ),
    "a filter counts wrongly": ("wrong count", [both(), read(1, Count("c", {"color": "red"}, 2))]),
    "a scroll out of order": (
        "scroll order",
        [both(), read(1, scroll(("b", B1, 1), ("a", A1, 1)))],
    ),
    "a scroll with a row twice": (
        "scroll order",
        [wrote(1, Write("c/a", A1)), read(1, scroll(("a", A1, 1), ("a", A1, 1)))],
    ),
    "a scroll past its filter": (
        "filter not met",
        [both(), read(1, scroll(("a", A1, 1), ("b", B1, 1), filter={"color": "red"}))],
    ),
    "a hit is missing": ("wrong search result", [both(), read(1, search(("a", 2.0)))]),
    "a better row is missing": (
        "wrong search result",
        [both(), read(1, search(("b", 1.0), k=1))],
    ),
    "hits out of order": (
        "wrong search result",
        [both(), read(1, search(("b", 1.0), ("a", 2.0)))],
    ),
    "ties out of order": (
        "wrong search result",
        [
            wrote(1, Write("c/a", A1), Write("c/b", Row("t", (1.0, 0.0)))),
            read(1, search(("b", 2.0), k=1)),
        ],
    ),
    "a wrong similarity": (
        "wrong search result",
        [both(), read(1, search(("a", 2.00001), ("b", 1.0)))],
    ),
    "a hit past the filter": (
        "wrong search result",
        [both(), read(1, search(("b", 1.0), k=1, filter={"color": "red"}))],
    ),
    "a hit of a later snapshot": (
        "wrong search result",
        [
            wrote(1, Write("c/a", A1)),
            wrote(2, Write("c/b", B1)),
            read(1, search(("a", 2.0), ("b", 1.0))),
        ],
    ),
    "an own write is not read": (
        "own write not read",
        [read(1, Write("c/a", A1), ReadRow("c/a", None), outcome="aborted")],
    ),
    "an own delete is counted": (
        "wrong count",
        [
            wrote(1, Write("c/a", A1)),
            read(1, Write("c/a", None), Count("c", None, 1), outcome="aborted"),
        ],
    ),
    "an insert over a row": (
        "precondition",
        [wrote(1, Write("c/a", A1)), wrote(2, Write("c/a", A2, "absent"))],
    ),
    "an update of nothing": ("precondition", [wrote(2, Write("c/a", A2, "present"))]),
    "an update of another version": (
        "precondition",
        [wrote(1, Write("c/a", A1)), wrote(3, Write("c/a", A2, 2))],
    ),
    "the second committer won": (
        "lost update",
        [
            wrote(1, Write("c/a", A1)),
            wrote(2, Write("c/a", A2), isolation="snapshot", snapshot_ts=0),
            wrote(3, Write("c/a", None), isolation="snapshot", snapshot_ts=1),
        ],
    ),
    "a read of a serializable transaction did not hold": (
        "serializable read changed",
        [
            wrote(1, Write("c/a", A1)),
            wrote(2, Write("c/a", A2)),
            wrote(
                3,
                Write("c/b", B1),
                isolation="serializable",
                snapshot_ts=1,
            ),
        ],
    ),
    "a phantom under a serializable count": (
        "serializable read changed",
        [wrote(1, Write("c/a", A1))],
    ),
    "a wrong number of rows was told": (
        "wrong count told",
        [wrote(1, Write("c/a", A1)), wrote(2, Write("c/a", None), Write("c/b", None), count=2)],
    ),
    "a key was applied under two times": (
        "wrong version",
        [
            wrote(0, Write("c/a", A1), outcome="unknown", idempotency_key="k"),
            wrote(2, Write("c/a", A1), idempotency_key="k"),
            read(2, ReadRow("c/a", A1, 1)),
        ],
    ),
}


def serializable(*reads: Operation) -> Transaction:
    """Read at 1, committed at 3."""
    operations = (*reads, Write("c/b", B1))
    return Transaction(
        "t", 1.6, 3.5, "committed", operations, "serializable", snapshot_ts=1, commit_ts=3
    )


PLANTED["a read of a serializable transaction did not hold"][1][-1] = serializable(
    ReadRow("c/a", A1, 1)
)
PLANTED["a phantom under a serializable count"][1].extend(
    [wrote(2, Write("c/z", A2)), serializable(Count("c", None, 1))]
)


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_violation_is_named(planted: str) -> None:
    name, history = PLANTED[planted]
    violations = check_rows(history).violations
    assert [violation.name for violation in violations] == [name], violations


FINE: dict[str, list[Transaction]] = {
    "every kind of answer": [
        both(count=2),
        read(
            1,
            ReadRow("c/a", A1, 1),
            Count("c", {"color": {"$ne": "red"}}, 1),
            scroll(("a", A1, 1), ("b", B1, 1)),
            search(("a", 2.0), ("b", 1.0)),
        ),
        wrote(2, Write("c/a", None), Write("c/z", None), count=1),
        read(1, Count("c", None, 2)),
        read(2, Count("c", None, 1), search(("b", 1.0), k=5)),
    ],
    "an unknown outcome that a read settles": [
        both(0, outcome="unknown"),
        read(7, ReadRow("c/b", B1, 6), Count("c", None, 2), search(("a", 2.0), ("b", 1.0))),
        read(5, Count("c", None, 0), scroll()),
    ],
    "a delete of unknown outcome that took place": [
        wrote(1, Write("c/a", A1)),
        wrote(0, Write("c/a", None), outcome="unknown"),
        read(1, ReadRow("c/a", A1, 1)),
        read(2, ReadRow("c/a", None), Count("c", None, 0)),
    ],
    "own writes over the snapshot": [
        both(),
        read(
            1,
            Write("c/a", A2),
            Write("c/b", None),
            ReadRow("c/a", A2, 0),
            ReadRow("c/b", None),
            Count("c", None, 1),
            scroll(("a", A2, 0)),
            search(("a", 1.5)),
            outcome="aborted",
        ),
    ],
    "a delete of nothing is no update that could be lost": [
        wrote(2, Write("c/a", None)),
        wrote(3, Write("c/a", A1), isolation="snapshot", snapshot_ts=1),
    ],
    "tries with one idempotency key": [
        wrote(0, Write("c/a", A1, "absent"), outcome="unknown", idempotency_key="k"),
        wrote(2, Write("c/a", A1, "absent"), idempotency_key="k", replayed=True, count=1),
        read(2, ReadRow("c/a", A1, 2), Count("c", None, 1)),
    ],
}


@pytest.mark.parametrize("case", FINE)
def test_what_is_right_passes(case: str) -> None:
    assert check_rows(FINE[case]).violations == []


def test_a_delete_of_unknown_outcome_excuses_nothing_that_ended_before_it_began() -> None:
    history = [
        wrote(1, Write("c/a", A1)),
        read(1, ReadRow("c/a", None), Count("c", None, 0)),
        wrote(0, Write("c/a", None), outcome="unknown"),
    ]
    early = history[2].__class__("late", 50.0, 51.0, "unknown", history[2].operations)
    assert check_rows([*history[:2], early]).names == {"stale read", "wrong count"}


def test_an_unknown_outcome_whose_own_row_is_absent_at_the_end_excuses_nothing() -> None:
    history = [
        wrote(1, Write("c/a", A1)),
        wrote(0, Write("c/a", None), Write("m/1", B1), outcome="unknown"),
        read(1, ReadRow("c/a", None)),
        read(9, Scroll("m", None, ()), final=True),
    ]
    assert check_rows(history).names == {"stale read"}
    assert check_rows(history[:-1]).names == set(), "nobody knows"


def test_a_workload_that_uses_a_tag_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        check_rows([wrote(1, Write("c/a", A1)), wrote(2, Write("c/a", A1))])


def test_an_unknown_filter_operator_is_refused() -> None:
    with pytest.raises(ValueError, match="operator"):
        check_rows([both(), read(1, Count("c", {"color": {"$like": "r"}}, 0))])
