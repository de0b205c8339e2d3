"""Search replies as hits a query, and the merge of what several workers found.

Owns the order of an answer: similarity descending, ties by id ascending (bytewise).
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence

import numpy as np

from vector_db.common.core.messages.reads import SearchReply
from vector_db.gateway.core.requests import Hits


def hits_of(reply: SearchReply, dimension: int) -> list[Hits]:
    """One `Hits` a query; vectors, where the reply has them, are views into it."""
    ids = reply.ids.unpack()
    similarities = np.frombuffer(reply.similarities, dtype="<f8").tolist()
    metadata = None if reply.metadata is None else reply.metadata.unpack()
    vectors = None
    if len(reply.vectors):
        vectors = np.frombuffer(reply.vectors, dtype="<f4").reshape(-1, dimension)
    if len(reply.counts) == 4:
        return [Hits(ids, similarities, metadata, vectors)]
    counts = np.frombuffer(reply.counts, dtype="<u4").tolist()
    bounds = [0, *itertools.accumulate(counts)]
    return [
        Hits(
            ids[start:end],
            similarities[start:end],
            None if metadata is None else metadata[start:end],
            None if vectors is None else vectors[start:end],
        )
        for start, end in itertools.pairwise(bounds)
    ]


def merge_hits(parts: Sequence[Hits], k: int) -> Hits:
    """The best `k` of one query over workers that hold different rows, without payloads."""
    runs = [[(-s, i) for s, i in zip(part.similarities, part.ids, strict=True)] for part in parts]
    best = list(itertools.islice(heapq.merge(*runs), k))
    return Hits([row_id for _, row_id in best], [-score for score, _ in best], None, None)


def without(hits: Hits, row_id: bytes) -> Hits:
    """The hits but the row itself."""
    keep = [i for i, hit in enumerate(hits.ids) if hit != row_id]
    return Hits(
        [hits.ids[i] for i in keep],
        [hits.similarities[i] for i in keep],
        None if hits.metadata is None else [hits.metadata[i] for i in keep],
        None if hits.vectors is None else hits.vectors[keep],
    )


def first(hits: Hits, k: int) -> Hits:
    """The first `k` hits."""
    if len(hits.ids) <= k:
        return hits
    return Hits(
        hits.ids[:k],
        hits.similarities[:k],
        None if hits.metadata is None else hits.metadata[:k],
        None if hits.vectors is None else hits.vectors[:k],
    )
