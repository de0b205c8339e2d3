"""Radii and the options of a query: what is within is what is answered so, and errors name it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vector_db.common.model.collection import Metric
from vector_db.common.model.errors import InvalidArgument, TooLarge
from vector_db.common.model.limits import Limits
from vector_db.gateway.core.distance import distance_of, least_similarity
from vector_db.gateway.core.query_options import (
    check_batch,
    check_cursor,
    check_radius,
    effort_of,
    k_of,
)
from vector_db.gateway.core.requests import Effort

SIMILARITIES = {
    Metric.COSINE: st.floats(-1, 1),
    Metric.DOT: st.floats(allow_nan=False, allow_infinity=False),
    Metric.EUCLIDEAN: st.floats(0, 1),
}


@pytest.mark.parametrize(
    ("metric", "similarity", "distance"),
    [
        (Metric.COSINE, 0.25, 0.75),
        (Metric.DOT, 3.0, -3.0),
        (Metric.EUCLIDEAN, 0.2, 4.0),
        (Metric.EUCLIDEAN, 0.0, math.inf),
    ],
)
def test_distance_follows_from_similarity(
    metric: Metric, similarity: float, distance: float
) -> None:
    assert distance_of(metric, similarity) == pytest.approx(distance)


@given(st.data(), st.sampled_from(list(Metric)))
def test_a_row_is_within_a_radius_exactly_when_its_distance_is(
    data: st.DataObject, metric: Metric
) -> None:
    similarity = data.draw(SIMILARITIES[metric])
    radius = data.draw(
        st.one_of(
            st.floats(0, 3),
            st.floats(0, 1e300),
            SIMILARITIES[metric].map(lambda s: min(distance_of(metric, s), 1e308)),
            st.just(min(distance_of(metric, similarity), 1e308)),
        )
    )
    within = similarity >= least_similarity(metric, radius)
    assert within == (distance_of(metric, similarity) <= radius)


@pytest.mark.parametrize("metric", [Metric.COSINE, Metric.EUCLIDEAN])
def test_a_radius_below_zero_is_for_inner_products_only(metric: Metric) -> None:
    with pytest.raises(InvalidArgument, match=f"radius: must be at least 0 .* {metric}"):
        least_similarity(metric, -0.5)
    assert least_similarity(Metric.DOT, -0.5) == 0.5


@pytest.mark.parametrize(
    ("given", "effort"),
    [
        ((None, None, None, False), Effort()),
        ((0.5, None, None, None), Effort(0.5)),
        ((0.999, 1, 65_536, False), Effort(0.999, 1, 65_536)),
        ((None, 64, None, False), Effort(0.0, 64)),
        ((1, None, None, False), Effort(exact=True)),
        ((1.0, None, None, False), Effort(exact=True)),
        ((None, None, None, True), Effort(exact=True)),
    ],
)
def test_effort_is_what_was_asked(given: tuple[Any, ...], effort: Effort) -> None:
    assert effort_of(*given) == effort


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((0.49, None, None, False), r"recall: must be from 0.5 to 0.999, or 1"),
        ((0.9991, None, None, False), r"recall: must be"),
        ((1.5, None, None, False), r"recall: must be"),
        ((0.0, None, None, False), r"recall: must be"),
        ((math.nan, None, None, False), r"recall: must be"),
        ((None, 0, None, False), r"ef: must be from 1 to 65536, not 0"),
        ((None, 65_537, None, False), r"ef: must be"),
        ((None, None, 0, False), r"nprobe: must be"),
        ((None, None, 1 << 32, False), r"nprobe: must be"),
        ((0.9, None, None, True), r"exact: goes without"),
        ((1.0, None, None, True), r"exact: goes without"),
        ((None, 9, None, True), r"exact: goes without"),
        ((None, None, 9, True), r"exact: goes without"),
        ((1.0, 9, None, False), r"recall: 1 is exact"),
    ],
)
def test_effort_that_makes_no_sense_is_refused(given: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        effort_of(*given)


def test_a_radius_is_finite_and_takes_the_place_of_a_similarity() -> None:
    check_radius(None, 0.5)
    check_radius(-3.0, None)
    with pytest.raises(InvalidArgument, match="only one of radius and min_similarity"):
        check_radius(1.0, 0.5)
    for bad in (math.nan, math.inf):
        with pytest.raises(InvalidArgument, match="radius: must be a finite number"):
            check_radius(bad, None)


def test_k_is_as_given_or_larger_within_a_radius() -> None:
    assert (k_of(7, 1.0, Limits()), k_of(None, None, Limits())) == (7, 10)
    assert k_of(None, 1.0, Limits()) == 1000
    assert k_of(None, 1.0, Limits(k_max=50)) == 50


def test_batches_are_not_paged_and_have_a_bound() -> None:
    check_batch(1_000, 1_000, False, None)
    with pytest.raises(TooLarge, match="hits_per_request_max is 1000000"):
        check_batch(1_000, 1_001, False, None)
    for page, after in ((True, None), (False, "x")):
        with pytest.raises(InvalidArgument, match="not with a batch"):
            check_batch(2, 1, page, after)


def test_a_cursor_has_a_length() -> None:
    check_cursor(None)
    for bad in ("", "x" * 8_193):
        with pytest.raises(InvalidArgument, match="after: must be 1 to 8192"):
            check_cursor(bad)
