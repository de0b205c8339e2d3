"""What a collection is: its catalog entry and its metric."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Metric(StrEnum):
    """How similar two vectors are. `similarity` is what the API answers, higher is better."""

    COSINE = "cosine"
    """similarity = cosine; distance = 1 - cosine."""
    DOT = "dot"
    """similarity = inner product; distance = -inner product."""
    EUCLIDEAN = "euclidean"
    """distance = Euclidean, not squared; similarity = 1 / (1 + distance)."""


class Collection(msgspec.Struct, frozen=True):
    """A catalog entry.

    `id` is the commit timestamp of its creation, so a name that is dropped and made again is
    another collection. `shards` are the global shard numbers that hold it; ids hash over that list.
    """

    id: int
    name: str
    dimension: int
    metric: Metric
    shards: tuple[int, ...]
