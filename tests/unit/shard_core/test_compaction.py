"""Which segments are merged: few are left, no row is copied often, and nothing busy is touched."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vector_db.shard.core.compaction import (
    CREDIT_ROWS,
    GARBAGE_SHARE,
    SHARE_IDLE,
    Facts,
    Merge,
    merge_due,
)

ROWS_MAX = 8_000_000
BYTES_MAX = 1 << 60
ROW_BYTES = 1000


class Slice:
    """Sealed segments as rows, and what merging them cost."""

    def __init__(self, rows_max: int = ROWS_MAX) -> None:
        self.rows_max = rows_max
        self.segments: list[Facts] = []
        self.sealed = self.copied = self.credit = 0

    def seal(self, rows: int) -> None:
        self.segments.append(Facts(rows, rows * ROW_BYTES, 0))
        self.sealed += rows
        self.credit += CREDIT_ROWS * rows

    def merge_all(self, idle: bool) -> int:
        """Merge while something is due; how many rows were copied."""
        before = self.copied
        while (
            due := merge_due(self.segments, idle, self.credit, self.rows_max, BYTES_MAX)
        ) is not None:
            rows = sum(s.rows for s in self.segments[due.start : due.stop])
            self.segments[due.start : due.stop] = [Facts(rows, rows * ROW_BYTES, 0)]
            self.copied += rows
            self.credit -= rows
        return self.copied - before


def is_littered(segment: Facts) -> bool:
    return segment.droppable > 0 and segment.droppable >= GARBAGE_SHARE * segment.rows


def facts() -> st.SearchStrategy[list[Facts]]:
    one = st.builds(
        lambda rows, share, busy: Facts(rows, rows * ROW_BYTES, int(rows * share), busy),
        st.integers(1, 200_000),
        st.sampled_from([0.0, 0.0, 0.1, 0.3, 1.0]),
        st.booleans(),
    )
    return st.lists(one, max_size=12)


@settings(max_examples=300)
@given(
    segments=facts(),
    idle=st.booleans(),
    credit=st.integers(-10_000, 1_000_000),
    rows_max=st.sampled_from([100_000, ROWS_MAX]),
    bytes_max=st.sampled_from([150_000 * ROW_BYTES, BYTES_MAX]),
)
def test_a_merge_is_a_run_to_the_newest_end_or_one_littered_segment_and_never_busy(
    segments: list[Facts], idle: bool, credit: int, rows_max: int, bytes_max: int
) -> None:
    due = merge_due(segments, idle, credit, rows_max, bytes_max)
    if due is None:
        assert all(s.busy for s in segments if is_littered(s))
        return
    chosen = segments[due.start : due.stop]
    first, *newer = chosen
    assert chosen and not any(s.busy for s in chosen)
    assert due.whole == (not is_littered(first))
    if len(chosen) == 1:
        assert is_littered(first)
        return
    assert due.stop == len(segments)
    assert sum(s.rows for s in chosen) <= rows_max
    assert sum(s.size_bytes for s in chosen) <= bytes_max
    assert sum(s.rows for s in newer) >= SHARE_IDLE * first.rows
    if sum(s.rows for s in newer) < first.rows:
        assert idle and sum(s.rows for s in chosen) <= credit, "for speed only what was earned"


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 65_536), min_size=1, max_size=300),
    idle=st.floats(0, 0.2),
    seed=st.integers(0, 1 << 20),
)
def test_any_load_leaves_few_segments_and_copies_each_row_a_logarithm_of_times(
    sizes: list[int], idle: float, seed: int
) -> None:
    rng, part = random.Random(seed), Slice()
    for rows in sizes:
        part.seal(rows)
        part.merge_all(idle=rng.random() < idle)
        # Each segment is larger than all newer ones together.
        assert len(part.segments) <= math.log2(part.sealed) + 2
        doublings = math.log2(max(2.0, part.sealed / min(sizes)))
        assert part.copied <= part.sealed * (doublings + 1 + CREDIT_ROWS)
    assert sum(s.rows for s in part.segments) == part.sealed


@pytest.mark.parametrize("rows", [1000, 65_536])
def test_a_steady_load_copies_each_row_once_per_doubling(rows: int) -> None:
    part = Slice(rows_max=1 << 40)
    for _ in range(512):
        part.seal(rows)
        part.merge_all(idle=False)
    assert len(part.segments) == 1
    assert part.copied <= part.sealed * 9


def test_a_load_in_batches_of_any_size_is_one_segment_in_the_end() -> None:
    rng = random.Random(3)
    for _ in range(20):
        part = Slice()
        for _ in range(rng.randint(1, 60)):
            part.seal(rng.randint(10_000, 65_536))
            part.merge_all(idle=False)
        part.merge_all(idle=True)
        oldest, *newer = (s.rows for s in part.segments)
        assert sum(newer) < max(oldest * SHARE_IDLE, 1)
        assert part.copied <= 8 * part.sealed


def test_a_trickle_after_a_large_load_copies_no_more_than_it_earned() -> None:
    part = Slice()
    part.seal(1_000_000)
    part.credit = 0
    trickled = 0
    for _ in range(3000):
        part.seal(1000)
        trickled += 1000
        part.merge_all(idle=True)
        # Merges that are due even under load are paid by the rows themselves.
        assert part.copied <= trickled * (CREDIT_ROWS + math.log2(trickled))
    assert part.segments[0].rows >= 1_000_000 and len(part.segments) <= 12


def test_segments_at_their_limit_are_left_alone() -> None:
    full = [Facts(60_000, 1, 0), Facts(50_000, 1, 0), Facts(40_000, 1, 0)]
    assert merge_due(full, True, ROWS_MAX, 100_000, BYTES_MAX) == Merge(1, 3, True)
    assert merge_due(full, True, ROWS_MAX, 80_000, BYTES_MAX) is None
    assert merge_due(full, True, ROWS_MAX, ROWS_MAX, 2) == Merge(1, 3, True)


def test_a_littered_segment_is_written_anew_wherever_it_lies() -> None:
    clean = Facts(100_000, 1, 19_999)
    assert merge_due([clean, Facts(10, 1, 0)], False, 0, ROWS_MAX, BYTES_MAX) is None
    littered = [Facts(100_000, 1, 20_000), Facts(10, 1, 0)]
    assert merge_due(littered, False, 0, ROWS_MAX, BYTES_MAX) == Merge(0, 1, False)
    busy = [littered[0]._replace(busy=True), Facts(10, 1, 0)]
    assert merge_due(busy, False, 0, ROWS_MAX, BYTES_MAX) is None
