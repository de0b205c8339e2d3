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


class IndexKind(StrEnum):
    """How a sealed segment is searched when not all of its rows are scored."""

    AUTO = "auto"
    """Decided per segment from rows, dimension, memory budget and recall target."""
    HNSW = "hnsw"
    """A graph over copies of the vectors in memory: fastest, dearest."""
    IVF_PQ = "ivf_pq"
    """Lists of product-quantised codes, hits scored again: quick to build, small."""
    EXACT = "exact"
    """No index: every visible row is scored."""


class Encoding(StrEnum):
    """How an HNSW graph keeps its copies of the vectors."""

    AUTO = "auto"
    """Half precision where it keeps the neighbours (checked when building), else float32."""
    FLOAT32 = "float32"
    FLOAT16 = "float16"
    SQ8 = "sq8"
    """One byte a component; hits are scored again from the raw rows."""


class IndexOptions(msgspec.Struct, frozen=True):
    """What indexes a collection wants; changed online, segments follow in the background.

    `m` (links a node) and `ef_construction` (beam while building) are HNSW's; `lists` is the number
    of IVF lists of a segment, 0: from its rows.
    """

    kind: IndexKind = IndexKind.AUTO
    encoding: Encoding = Encoding.AUTO
    m: int = 16
    ef_construction: int = 128
    lists: int = 0


class IndexChange(msgspec.Struct, frozen=True):
    """Some of `IndexOptions`; None leaves one as it is."""

    kind: IndexKind | None = None
    encoding: Encoding | None = None
    m: int | None = None
    ef_construction: int | None = None
    lists: int | None = None

    def of(self, options: IndexOptions) -> IndexOptions:
        """`options` with what is given here in their place."""
        given = {name: v for name, v in msgspec.structs.asdict(self).items() if v is not None}
        return msgspec.structs.replace(options, **given)


RECALL_TARGET = 0.95
"""Share of the true best k that an answer holds on average, unless a collection says otherwise."""


class Collection(msgspec.Struct, frozen=True):
    """A catalog entry.

    `id` is the commit timestamp of its creation, so a name that is dropped and made again is
    another collection. `shards` are the global shard numbers that hold it; ids hash over that list.
    `index`, `recall_target` and `fields` (dotted metadata paths with an inverted index) may change.

    A collection that is spread over other shards has several *generations*, each an entry with the
    same name, an id of its own, and the `first_id` of the first. While one is filled it `replaces`
    (an id, else 0) the one in force, and only writes know of it. Reads use it from the
    snapshot `since_ts` on, and the one before it up to there, exclusive: that is its `until_ts` (0:
    in force), at the wall time `until_ms`.
    """

    id: int
    name: str
    dimension: int
    metric: Metric
    shards: tuple[int, ...]
    index: IndexOptions = IndexOptions()
    recall_target: float = RECALL_TARGET
    fields: tuple[str, ...] = ()
    first_id: int = 0
    replaces: int = 0
    since_ts: int = 0
    until_ts: int = 0
    until_ms: int = 0

    @property
    def origin(self) -> int:
        """The id of the first generation: when the collection was created."""
        return self.first_id or self.id

    @property
    def in_force(self) -> bool:
        """Whether the name means this generation now."""
        return not self.replaces and not self.until_ts

    def serves(self, snapshot_ts: int) -> bool:
        """Whether a read at this snapshot is one of this generation."""
        ended = self.until_ts and snapshot_ts >= self.until_ts
        return not self.replaces and not ended and self.since_ts <= snapshot_ts
