"""Where two histories of decisions part."""

from __future__ import annotations

import pytest

from vector_db.common.core.history import common_ts, is_part_of
from vector_db.common.model.ids import make_ts

T = make_ts
THEIRS = {2: T(1, 5), 3: T(2, 7), 5: T(3, 8)}


@pytest.mark.parametrize(
    ("cursor", "bases", "common"),
    [
        (0, {}, 0),
        (T(1, 3), {}, T(1, 3)),
        (T(1, 9), {}, T(1, 5)),
        (T(2, 9), {2: T(1, 5)}, T(2, 7)),
        (T(3, 2), {2: T(1, 5), 3: T(2, 7)}, T(3, 2)),
        (T(5, 1), THEIRS, T(5, 1)),
    ],
)
def test_a_worker_behind_shares_all_up_to_where_the_next_term_began(
    cursor: int, bases: dict[int, int], common: int
) -> None:
    assert common_ts(cursor, bases, THEIRS) == common


def test_a_term_that_the_others_never_knew_began_where_the_histories_part() -> None:
    own = {2: T(1, 5), 3: T(2, 7), 4: T(3, 1)}
    assert common_ts(T(4, 0), own, THEIRS) == T(3, 1)
    assert common_ts(T(5, 3), THEIRS, own) == T(3, 1), "it is the same place from both sides"


@pytest.mark.parametrize(
    ("ts", "known"),
    [
        (T(1, 5), True),
        (T(1, 6), False),
        (T(2, 7), True),
        (T(2, 8), False),
        (T(4, 0), False),
        (T(5, 99), True),
    ],
)
def test_a_decision_is_undone_if_a_later_term_began_before_it(ts: int, known: bool) -> None:
    assert is_part_of(ts, THEIRS) == known
