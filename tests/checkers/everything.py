"""All checkers over one history."""

from __future__ import annotations

from collections.abc import Sequence

from tests.checkers.history import Report, Transaction
from tests.checkers.rows import check_rows
from tests.checkers.si import check_lists
from tests.checkers.timestamps import check_lists_at_snapshots, check_timestamps


def check(history: Sequence[Transaction]) -> Report:
    """Timestamps, lists, rows."""
    report = check_timestamps(history)
    report.merge(check_lists_at_snapshots(history))
    report.merge(check_lists(history))
    report.merge(check_rows(history))
    return report
