"""Histories of a correct executor pass, hundreds of them; whatever it breaks is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checkers.everything import check
from tests.checkers.history import load, save
from tests.unit.checkers.executor import BREAKS, Store

EXPECTED = {
    "second committer wins": {"lost update"},
    "reads are of now": {"read from the future", "read skew", "stale read"},
    "reads are not all of one snapshot": {"stale read", "read skew in session", "torn transaction"},
    "half is applied": {"torn transaction", "lost write", "stale read"},
    "acknowledged is not applied": {"lost write", "stale read"},
    "aborted is applied": {"aborted read", "G1a"},
    "deletes are forgotten": {"stale read", "lost write", "torn transaction"},
    "serializable is snapshot": {"write skew", "serializable read changed"},
    "preconditions are not checked": {"precondition"},
    "timestamps are used twice": {"duplicate commit_ts"},
    "counts are of another snapshot": {"wrong count"},
}


@pytest.mark.parametrize("at_once", [1, 4])
def test_hundreds_of_correct_histories_pass(at_once: int) -> None:
    unknown = aborted = 0
    for seed in range(250):
        history = Store(seed).run(60, at_once)
        report = check(history)
        assert report.violations == [], (seed, report.violations)
        unknown += sum(t.outcome == "unknown" for t in history)
        aborted += sum(t.outcome == "aborted" for t in history)
    assert unknown > 100, "unknown outcomes are what makes checking hard"
    assert aborted > 100, "nothing ever conflicted"


@pytest.mark.parametrize("broken", BREAKS)
def test_a_broken_executor_is_found_out(broken: str) -> None:
    names: set[str] = set()
    found = 0
    for seed in range(30):
        violations = check(Store(seed, broken, unknown=0.01).run(150, 4)).names
        found += bool(violations)
        names |= violations
    assert names >= EXPECTED[broken], names
    assert found >= 15, f"in {found} of 30 histories only"


def test_a_history_comes_back_from_disk_as_it_was(tmp_path: Path) -> None:
    history = Store(1).run(150, 4)
    save(tmp_path / "history.jsonl", history)
    assert load(tmp_path / "history.jsonl") == history
