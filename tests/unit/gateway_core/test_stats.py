"""Statistics of a collection, summed over its workers."""

from __future__ import annotations

import pytest

from vector_db.common.core.messages.reads import StatsReply
from vector_db.gateway.core.stats import stats_sum


def test_counts_add_up_and_recall_is_weighted_by_indexed_rows() -> None:
    one = StatsReply(10, 6, 1, 100, 200, 3, {"hnsw": 8, "exact": 2}, 0.75, 50, (6, 2), 1000, 900)
    two = StatsReply(5, 2, 2, 10, 20, 1, {"exact": 5}, 0.5, 25, (4, 4), 100, 90)
    found = stats_sum([one, two])
    assert found == StatsReply(
        15, 8, 3, 110, 220, 4, {"exact": 7, "hnsw": 8}, 0.6875, 75, (10, 6), 1100, 990
    )


def test_workers_that_measured_nothing_have_no_say_in_the_recall() -> None:
    measured = StatsReply(9, 9, 1, 0, 0, recall=0.97, recall_samples=10)
    silent = StatsReply(900, 900, 1, 0, 0)
    emptied = StatsReply(0, 0, 1, 0, 0, recall=0.1, recall_samples=10)
    found = stats_sum([silent, measured, emptied])
    assert found.recall == pytest.approx(0.97)
    assert found.recall_samples == 10
    assert (stats_sum([silent, emptied]).recall_samples, stats_sum([silent]).recall) == (0, 0.0)
