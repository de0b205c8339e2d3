"""What a query may ask for beside its vector: the checks that both edges make alike. Pure.

Owns the invariant that options which contradict each other are refused by name, not ranked.
"""

from __future__ import annotations

import math

from vector_db.common.model.errors import InvalidArgument, TooLarge
from vector_db.common.model.limits import HITS_PER_REQUEST_MAX, Limits
from vector_db.gateway.core.requests import Effort

K_DEFAULT = 10
K_IN_RADIUS_DEFAULT = 1_000
RECALL_MIN = 0.5
RECALL_MAX = 0.999
"""What an index can be calibrated for; beyond it there is only 1, which is exact."""
EFFORT_MAX = 65_536
CURSOR_CHARS_MAX = 8_192


def effort_of(
    recall: float | None, ef: int | None, nprobe: int | None, exact: bool | None
) -> Effort:
    """How hard to try.

    :raises InvalidArgument: out of bounds, or beside `exact`.
    """
    if exact and not (recall is None and ef is None and nprobe is None):
        raise InvalidArgument("exact: goes without recall, ef and nprobe")
    if recall is not None and recall != 1 and not RECALL_MIN <= recall <= RECALL_MAX:
        raise InvalidArgument(
            f"recall: must be from {RECALL_MIN} to {RECALL_MAX}, or 1 (exact), not {recall}"
        )
    for name, value in (("ef", ef), ("nprobe", nprobe)):
        if value is not None and not 1 <= value <= EFFORT_MAX:
            raise InvalidArgument(f"{name}: must be from 1 to {EFFORT_MAX}, not {value}")
    if exact or recall == 1:
        if ef is not None or nprobe is not None:
            raise InvalidArgument("recall: 1 is exact, which goes without ef and nprobe")
        return Effort(exact=True)
    return Effort(recall or 0.0, ef or 0, nprobe or 0)


def check_radius(radius: float | None, min_similarity: float | None) -> None:
    """:raises InvalidArgument: not finite, or both bounds are given."""
    if radius is None:
        return
    if not math.isfinite(radius):
        raise InvalidArgument("radius: must be a finite number")
    if min_similarity is not None:
        raise InvalidArgument("give only one of radius and min_similarity")


def k_of(k: int | None, radius: float | None, limits: Limits) -> int:
    """The `k` that was given (checked before), or the one in its place."""
    if k is not None:
        return k
    return min(K_DEFAULT if radius is None else K_IN_RADIUS_DEFAULT, limits.k_max)


def check_batch(queries: int, k: int, page: bool, after: str | None) -> None:
    """What must hold of a batch of queries.

    :raises InvalidArgument: it cannot be paged.
    :raises TooLarge: it may have more hits than one answer holds.
    """
    if page or after is not None:
        raise InvalidArgument("page and after: go with one query, not with a batch")
    if queries * k > HITS_PER_REQUEST_MAX:
        raise TooLarge(
            f"vectors: {queries} queries of k {k} may have {queries * k} hits, the limit "
            f"hits_per_request_max is {HITS_PER_REQUEST_MAX}"
        )


def check_cursor(after: str | None) -> None:
    """:raises InvalidArgument: it is too long to be one."""
    if after is not None and not 1 <= len(after) <= CURSOR_CHARS_MAX:
        raise InvalidArgument(f"after: must be 1 to {CURSOR_CHARS_MAX} characters")
