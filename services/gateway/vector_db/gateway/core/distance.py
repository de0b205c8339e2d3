"""Distances and similarities: what one says as the other, per metric. Pure.

Owns the invariant that a row lies within a radius exactly when the distance it is answered with
does: the bound on similarity is found by the very function that makes distances, rounding included.
"""

from __future__ import annotations

import math
import struct
from functools import lru_cache

from vector_db.common.model.collection import Metric
from vector_db.common.model.errors import InvalidArgument


def distance_of(metric: Metric, similarity: float) -> float:
    """The distance that a similarity stands for; infinite beyond what a float can say."""
    match metric:
        case Metric.COSINE:
            return 1.0 - similarity
        case Metric.DOT:
            return -similarity
        case Metric.EUCLIDEAN:
            return 1.0 / similarity - 1.0 if similarity > 0.0 else math.inf


@lru_cache(maxsize=1024)
def least_similarity(metric: Metric, radius: float) -> float:
    """The least similarity whose distance is at most `radius`.

    :raises InvalidArgument: the metric has no distances below 0, and the radius is.
    """
    if metric is Metric.DOT:
        return -radius
    if radius < 0:
        raise InvalidArgument(f"radius: must be at least 0 for the metric {metric}, not {radius}")
    lowest = -1.0 if metric is Metric.COSINE else 0.0
    if distance_of(metric, lowest) <= radius:
        return lowest
    # Distances never grow with similarity: bisect over all floats from the lowest to 1, the best.
    outside, inside = _place(lowest), _place(1.0)
    while inside - outside > 1:
        middle = (inside + outside) // 2
        if distance_of(metric, _float(middle)) <= radius:
            inside = middle
        else:
            outside = middle
    return _float(inside)


def _place(value: float) -> int:
    """The place of a float among all floats in their order; both zeros have 0."""
    bits: int = struct.unpack("<q", struct.pack("<d", value))[0]
    return bits if bits >= 0 else -(bits & 0x7FFF_FFFF_FFFF_FFFF)


def _float(place: int) -> float:
    value: float = struct.unpack("<d", struct.pack("<q", abs(place)))[0]
    return math.copysign(value, place)
