"""Every anomaly of list-append histories, planted: the checker says exactly its name."""

from __future__ import annotations

import itertools
import time

import pytest

from tests.checkers.history import Append, Isolation, Outcome, ReadList, Transaction
from tests.checkers.si import check_lists

_clock = itertools.count()
_sessions = itertools.count()


def append(key: str, *values: str) -> list[Append]:
    return [Append(key, value) for value in values]


def saw(key: str, *values: str) -> list[ReadList]:
    return [ReadList(key, values)]


def txn(
    *operations: list[Append] | list[ReadList],
    session: str = "",
    outcome: Outcome = "committed",
    isolation: Isolation = "snapshot",
) -> Transaction:
    """A transaction of a session of its own, unless one is named."""
    flat = tuple(operation for some in operations for operation in some)
    begin, end = float(next(_clock)), float(next(_clock))
    session = session or f"s{next(_sessions)}"
    return Transaction(session, begin, end, outcome, flat, isolation)


PLANTED: dict[str, tuple[str, list[Transaction]]] = {
    "dirty write": (
        "G0",
        [
            txn(append("x", "1"), append("y", "1")),
            txn(append("x", "2"), append("y", "2")),
            txn(saw("x", "1", "2")),
            txn(saw("y", "2", "1")),
        ],
    ),
    "two appends of one transaction with another's between": (
        "G0",
        [txn(append("x", "1", "3")), txn(append("x", "2")), txn(saw("x", "1", "2", "3"))],
    ),
    "dirty write against the session": (
        "G0 in session",
        [
            txn(append("x", "1"), session="s"),
            txn(append("x", "2"), session="s"),
            txn(saw("x", "2", "1")),
        ],
    ),
    "aborted read": (
        "G1a",
        [txn(append("x", "1"), outcome="aborted"), txn(saw("x", "1"))],
    ),
    "aborted read by a transaction that aborts itself": (
        "G1a",
        [txn(append("x", "1"), outcome="aborted"), txn(saw("x", "1"), outcome="aborted")],
    ),
    "intermediate read": (
        "G1b",
        [txn(append("x", "1", "2")), txn(saw("x", "1")), txn(saw("x", "1", "2"))],
    ),
    "circular information flow": (
        "G1c",
        [
            txn(append("x", "1"), saw("y", "1")),
            txn(append("y", "1"), saw("x", "1")),
        ],
    ),
    "lost update": (
        "lost update",
        [
            txn(saw("x"), append("x", "1")),
            txn(saw("x"), append("x", "2")),
            txn(saw("x", "1", "2")),
        ],
    ),
    "lost update that left no trace": (
        "lost update",
        [
            txn(saw("x"), append("x", "1")),
            txn(saw("x"), append("x", "2")),
        ],
    ),
    "read skew": (
        "read skew",
        [
            txn(append("x", "1"), append("y", "1")),
            txn(saw("x"), saw("y", "1")),
            txn(saw("x", "1"), saw("y", "1")),
        ],
    ),
    "a torn transaction of unknown outcome": (
        "read skew",
        [
            txn(append("x", "1"), append("y", "1"), outcome="unknown"),
            txn(saw("x"), saw("y", "1")),
        ],
    ),
    "read skew through a chain": (
        "read skew",
        [
            txn(append("x", "1")),
            txn(saw("x", "1"), append("y", "1")),
            txn(saw("y", "1"), append("z", "1")),
            txn(saw("z", "1"), saw("x")),
            txn(saw("x", "1")),
        ],
    ),
    "read skew seen by a transaction that aborts": (
        "read skew",
        [
            txn(append("x", "1"), append("y", "1")),
            txn(saw("x"), saw("y", "1"), append("x", "2"), outcome="aborted"),
            txn(saw("x", "1")),
        ],
    ),
    "an own write is not seen": (
        "read skew in session",
        [
            txn(append("x", "1"), session="s"),
            txn(saw("x"), session="s"),
            txn(saw("x", "1")),
        ],
    ),
    "an acknowledged append is lost": (
        "read skew in session",
        [txn(append("x", "1"), session="s"), txn(saw("x"), session="s")],
    ),
    "a session's reads go back": (
        "read skew in session",
        [
            txn(append("x", "1")),
            txn(saw("x", "1"), session="s"),
            txn(saw("x"), session="s"),
        ],
    ),
    "long fork": (
        "long fork",
        [
            txn(append("x", "1")),
            txn(append("y", "1")),
            txn(saw("x", "1"), saw("y")),
            txn(saw("x"), saw("y", "1")),
        ],
    ),
    "write skew of serializable transactions": (
        "write skew",
        [
            txn(saw("x"), saw("y"), append("x", "1"), isolation="serializable"),
            txn(saw("x"), saw("y"), append("y", "1"), isolation="serializable"),
            txn(saw("x", "1"), saw("y", "1")),
        ],
    ),
    "write skew that left no trace": (
        "write skew",
        [
            txn(saw("x"), saw("y"), append("x", "1"), isolation="serializable"),
            txn(saw("x"), saw("y"), append("y", "1"), isolation="serializable"),
        ],
    ),
    "orders that do not agree": (
        "incompatible order",
        [
            txn(append("x", "1")),
            txn(append("x", "2")),
            txn(append("x", "3")),
            txn(saw("x", "1", "2", "3")),
            txn(saw("x", "2", "1")),
        ],
    ),
    "a value that is there twice": (
        "duplicate value",
        [txn(append("x", "1")), txn(saw("x", "1", "1")), txn(saw("x", "1"))],
    ),
    "a value that nobody wrote": ("unwritten value", [txn(saw("x", "9"))]),
    "an own append is not seen": (
        "internal",
        [txn(append("x", "1"), saw("x"))],
    ),
    "a read is not repeated": (
        "internal",
        [txn(append("x", "1")), txn(saw("x"), saw("x", "1"))],
    ),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_anomaly_is_named(planted: str) -> None:
    name, history = PLANTED[planted]
    violations = check_lists(history).violations
    assert [violation.name for violation in violations] == [name], violations


@pytest.mark.parametrize("planted", PLANTED)
def test_the_order_in_which_transactions_are_recorded_changes_nothing(planted: str) -> None:
    name, history = PLANTED[planted]
    assert check_lists(history[::-1]).names == {name}


FINE: dict[str, list[Transaction]] = {
    "nothing": [],
    "write skew is allowed under snapshot isolation": [
        txn(saw("x"), saw("y"), append("x", "1")),
        txn(saw("x"), saw("y"), append("y", "1")),
        txn(saw("x", "1"), saw("y", "1")),
    ],
    "write skew with one serializable transaction": [
        txn(saw("x"), saw("y"), append("x", "1")),
        txn(saw("x"), saw("y"), append("y", "1"), isolation="serializable"),
        txn(saw("x", "1"), saw("y", "1")),
    ],
    "write skew of which one aborted": [
        txn(saw("x"), saw("y"), append("x", "1"), isolation="serializable"),
        txn(saw("x"), saw("y"), append("y", "1"), isolation="serializable", outcome="aborted"),
    ],
    "a lost update of which one aborted": [
        txn(saw("x"), append("x", "1")),
        txn(saw("x"), append("x", "2"), outcome="aborted"),
        txn(saw("x", "1")),
    ],
    "an unknown outcome that nobody saw": [
        txn(saw("x"), append("x", "1")),
        txn(saw("x"), append("x", "2"), outcome="unknown"),
        txn(saw("x", "1")),
    ],
    "an unknown outcome that took place later": [
        txn(append("x", "1"), session="s", outcome="unknown"),
        txn(saw("x"), session="s"),
        txn(saw("x", "1"), session="s"),
    ],
    "own appends are read back": [
        txn(append("x", "1"), saw("x", "1"), append("x", "2"), saw("x", "1", "2")),
        txn(saw("x", "1", "2")),
    ],
    "an aborted transaction reads its own appends": [
        txn(append("x", "1")),
        txn(append("x", "2"), saw("x", "1", "2"), outcome="aborted"),
        txn(saw("x", "1")),
    ],
    "another session reads the past": [
        txn(append("x", "1"), session="s"),
        txn(saw("x"), session="t"),
        txn(saw("x", "1"), session="t"),
    ],
}


@pytest.mark.parametrize("case", FINE)
def test_what_is_allowed_passes(case: str) -> None:
    assert check_lists(FINE[case]).violations == []


def test_a_workload_that_appends_a_value_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        check_lists([txn(append("x", "1")), txn(append("x", "1"))])


def test_an_anomaly_in_a_long_history_is_found_and_fast() -> None:
    history = []
    for key in range(200):
        values: tuple[str, ...] = ()
        for i in range(100):
            history.append(txn(saw(f"k{key}", *values), append(f"k{key}", str(i)), session="s"))
            values = (*values, str(i))
    started = time.process_time()
    assert check_lists(history).violations == []
    assert time.process_time() - started < 10, "20,000 transactions take too long"

    history.append(txn(saw("k7", *map(str, range(99))), append("k7", "lost")))
    assert check_lists(history).names == {"lost update"}
