"""What is read off a measured curve: enough effort for the recall, and never less for more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vector_db.shard.core.calibration import Calibration, Point

CURVE = Calibration(
    (
        Point(10, 16, 0.90, 0.0),
        Point(10, 32, 0.96, 0.0),
        Point(10, 64, 0.99, 0.0),
        Point(100, 128, 0.95, 0.0),
        Point(100, 256, 0.99, 0.0),
    ),
    256,
)


@st.composite
def curves(draw: st.DrawFn) -> Calibration:
    """As `calibrate` makes them: efforts ascend, and what can be counted on never falls."""
    points = []
    for k in (10, 100, 1000)[: draw(st.integers(1, 3))]:
        efforts = sorted(draw(st.sets(st.integers(1, 4096), min_size=1, max_size=8)))
        recalls = sorted(draw(st.lists(st.floats(0, 1), min_size=8, max_size=8)))
        points += [Point(k, e, r, 0.01) for e, r in zip(efforts, recalls, strict=False)]
    return Calibration(tuple(points), 64)


targets = st.floats(0.5, 1.0)
ks = st.floats(1, 20_000)


@given(curve=curves(), k=ks, more=ks, recall=targets, higher=targets)
def test_effort_never_falls_as_k_or_the_recall_grows(
    curve: Calibration, k: float, more: float, recall: float, higher: float
) -> None:
    k, more = sorted((k, more))
    recall, higher = sorted((recall, higher))
    assert curve.effort(k, recall) <= curve.effort(more, recall)
    assert curve.effort(k, recall) <= curve.effort(k, higher)
    assert curve.effort(k, recall) >= 1


@given(curve=curves(), recall=targets)
def test_at_a_measured_k_the_effort_holds_the_recall_where_any_does(
    curve: Calibration, recall: float
) -> None:
    for k in {point.k for point in curve.points}:
        effort = curve.effort(k, recall)
        reached = [p for p in curve.points if p.k == k and p.sure >= recall]
        if reached:
            below = [p for p in curve.points if p.k == k and p.effort < reached[0].effort]
            assert effort >= (below[-1].effort if below else reached[0].effort)


def test_between_two_points_it_is_interpolated_and_rounded_up() -> None:
    assert CURVE.effort(10, 0.90) == 16
    assert CURVE.effort(10, 0.92) == 22
    assert CURVE.effort(10, 0.975) == 48
    assert CURVE.effort(10, 0.99) == 64
    assert CURVE.effort(10, 0.5) == 16


def test_between_two_k_it_is_interpolated_and_beyond_the_last_it_grows_with_k() -> None:
    assert CURVE.effort(1, 0.96) == 32
    assert CURVE.effort(100, 0.95) == 128
    assert CURVE.effort(55, 0.99) == 160
    assert CURVE.effort(1000, 0.99) == 2560


def test_a_recall_that_was_never_reached_takes_the_most_that_was_measured() -> None:
    assert CURVE.effort(10, 0.9999) == 64
    assert CURVE.effort(200, 0.9999) == 512


def test_what_chance_may_have_added_is_not_counted_on() -> None:
    unsure = Calibration((Point(10, 16, 0.95, 0.01), Point(10, 32, 0.97, 0.01)), 32)
    assert unsure.effort(10, 0.95) == 30, "0.95 is 1.64 of two standard errors below 0.97"


def test_a_larger_k_whose_curve_lies_lower_by_chance_takes_no_less() -> None:
    odd = Calibration((Point(10, 64, 0.9, 0.0), Point(100, 32, 0.99, 0.0)), 32)
    assert odd.effort(100, 0.9) == 64


def test_where_nothing_was_measured_nothing_is_known() -> None:
    assert Calibration().effort(10, 0.95) == 0
    assert Calibration().recall(10, 64) == 0.0


@pytest.mark.parametrize(
    ("k", "effort", "recall"),
    [
        (10, 16, 0.90),
        (10, 40, 0.9675),
        (10, 1000, 0.99),
        (10, 1, 0.90),
        (90, 200, 0.9725),
        (7, 64, 0.99),
    ],
)
def test_the_recall_of_an_effort_lies_between_those_measured(
    k: int, effort: int, recall: float
) -> None:
    assert CURVE.recall(k, effort) == pytest.approx(recall)
