"""From candidates to an answer: scored one way, ranked, cut to k, with their payloads.

Owns the order of hits, (similarity descending, id ascending), that a tie at the k-th place is
decided by id, and that no hit up to the place `after` is answered. One query with few candidates is
ranked in plain Python, which is faster for it.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vector_db.common.core.messages.reads import SearchReply, SearchRequest
from vector_db.common.model.rows import Blob
from vector_db.shard.search.scan import Rows
from vector_db.shard.search.score import F64, Key, Queries, keys, similarities
from vector_db.shard.views import ByteColumn, SegmentView

Place: TypeAlias = tuple[float, bytes]
"""A place in the order of hits: similarity and id."""

FEW = 256
"""Candidates of one query up to which plain Python ranks faster than NumPy."""


class Pairs:
    """Candidates of one view: row `rows[i]` for query `asked[i]`, each pair once; both int64[n]."""

    __slots__ = ("asked", "rows")

    def __init__(self, asked: Rows, rows: Rows) -> None:
        self.asked = asked
        self.rows = rows

    @classmethod
    def of(cls, per_query: Sequence[Rows]) -> Pairs:
        """From the rows of each query."""
        if len(per_query) == 1:
            return cls.even(per_query[0][None])
        counts = [len(rows) for rows in per_query]
        return cls(np.repeat(np.arange(len(counts)), counts), np.concatenate(per_query))

    @classmethod
    def even(cls, rows: Rows) -> Pairs:
        """From as many rows of each query, int64[nq, n]."""
        nq, width = rows.shape
        asked = np.zeros(width, np.int64) if nq == 1 else np.repeat(np.arange(nq), width)
        return cls(asked, rows.reshape(-1))


def answer_few(
    views: Sequence[SegmentView],
    queries: Queries,
    found: Sequence[Pairs],
    request: SearchRequest,
) -> SearchReply:
    """`answer` for a single query with few candidates."""
    keyed: list[Key] = []
    kept = 0 if request.after is not None else request.k
    for number, (view, pairs) in enumerate(zip(views, found, strict=True)):
        if len(pairs.rows):
            keyed += keys(queries, view.vectors, pairs.rows, kept, view.ids, number)
    if len(views) > 1:
        keyed.sort()
    if request.after is not None:
        similarity, row_id = request.after
        del keyed[: bisect_right(keyed, (-similarity, row_id), key=_place)]
    del keyed[request.k :]
    if (least := request.min_similarity) is not None:
        keyed = [key for key in keyed if -key[0] >= least]
    metadata = None
    if request.include_metadata:
        if len(views) == 1:
            texts = views[0].metadata.take([key[3] for key in keyed])
        else:
            texts = [views[v].metadata.get(row) for _, _, v, row in keyed]
        metadata = Blob.pack(texts)
    vectors = b""
    if request.include_vectors:
        vectors = b"".join([views[v].vectors[row].tobytes() for _, _, v, row in keyed])
    n = len(keyed)
    return SearchReply(
        counts=struct.pack("<I", n),
        ids=Blob.pack([key[1] for key in keyed]),
        similarities=struct.pack(f"<{n}d", *[-key[0] for key in keyed]),
        metadata=metadata,
        vectors=vectors,
    )


def _place(key: Key) -> Place:
    return key[:2]


def answer(
    views: Sequence[SegmentView],
    queries: Queries,
    found: Sequence[Pairs],
    request: SearchRequest,
) -> SearchReply:
    """The best `request.k` candidates of each query; `found` has the candidates of each view."""
    hits = _score(views, queries, found)
    if request.after is not None:
        hits = _behind(views, hits, request.after)
    hits = _cut(hits, len(queries), request.k, request.min_similarity)
    hits, ids = _rank(views, hits, request.k)
    metadata = None
    if request.include_metadata:
        metadata = _blob([view.metadata for view in views], hits)
    return SearchReply(
        counts=np.bincount(hits.asked, minlength=len(queries)).astype("<u4").tobytes(),
        ids=ids,
        similarities=hits.scores.astype("<f8", copy=False).tobytes(),
        metadata=metadata,
        vectors=_take_vectors(views, hits) if request.include_vectors else b"",
    )


class _Hits:
    """Pairs of all views with their scores, and then fewer and fewer of them."""

    __slots__ = ("asked", "rows", "scores", "views")

    def __init__(self, asked: Rows, rows: Rows, scores: F64, views: Rows) -> None:
        self.asked = asked
        self.rows = rows
        self.scores = scores
        self.views = views

    def __getitem__(self, kept: NDArray[np.int64] | NDArray[np.bool_]) -> _Hits:
        return _Hits(self.asked[kept], self.rows[kept], self.scores[kept], self.views[kept])


def _score(views: Sequence[SegmentView], queries: Queries, found: Sequence[Pairs]) -> _Hits:
    scores = [
        similarities(queries, part.asked, view.vectors, part.rows)
        for view, part in zip(views, found, strict=True)
    ]
    if not found:
        none = np.empty(0, dtype=np.int64)
        return _Hits(none, none, np.empty(0), none)
    if len(found) == 1:
        part = found[0]
        return _Hits(part.asked, part.rows, scores[0], np.zeros(len(part.rows), dtype=np.int64))
    return _Hits(
        asked=np.concatenate([p.asked for p in found]),
        rows=np.concatenate([p.rows for p in found]),
        scores=np.concatenate(scores),
        views=np.repeat(np.arange(len(found)), [len(p.rows) for p in found]),
    )


def _behind(views: Sequence[SegmentView], hits: _Hits, place: Place) -> _Hits:
    """The hits of one query that come after a place in the order."""
    return hits[comes_after(hits.scores, place, lambda ties: _take(_ids(views), hits[ties]))]


def comes_after(
    scores: F64, place: Place, ids_of: Callable[[Rows], list[bytes]]
) -> NDArray[np.bool_]:
    """Which hits of one query come after `place`; `ids_of` gives ids by their number."""
    similarity, row_id = place
    after = scores < similarity
    ties = np.flatnonzero(scores == similarity)
    after[ties] = [one > row_id for one in ids_of(ties)]
    return after


def _ids(views: Sequence[SegmentView]) -> list[ByteColumn]:
    return [view.ids for view in views]


def _cut(hits: _Hits, nq: int, k: int, min_similarity: float | None) -> _Hits:
    """Sorted by query, best first; what ties with a query's k-th is still in."""
    if min_similarity is not None:
        hits = hits[hits.scores >= min_similarity]
    order = np.argsort(-hits.scores, kind="stable")
    if nq > 1:
        order = order[np.argsort(hits.asked[order], kind="stable")]
    hits = hits[order]
    ends = np.cumsum(np.bincount(hits.asked, minlength=nq))
    starts = np.concatenate(([0], ends[:-1]))
    last = np.maximum(np.minimum(starts + k, ends) - 1, 0)
    if not len(hits.rows):
        return hits
    return hits[hits.scores >= hits.scores[last][hits.asked]]


def _rank(views: Sequence[SegmentView], hits: _Hits, k: int) -> tuple[_Hits, Blob]:
    """Ties in the order of their ids, at most `k` hits a query; and the ids."""
    scores, asked = hits.scores, hits.asked
    columns = _ids(views)
    if not ((scores[1:] == scores[:-1]) & (asked[1:] == asked[:-1])).any():
        return hits, _blob(columns, hits)
    ids = _take(columns, hits)
    keys = list(zip(asked.tolist(), (-scores).tolist(), ids, strict=True))
    order = np.array(sorted(range(len(ids)), key=keys.__getitem__))
    asked = asked[order]
    place = np.arange(len(order)) - np.searchsorted(asked, asked)
    order = order[place < k]
    return hits[order], Blob.pack([ids[i] for i in order.tolist()])


def _blob(columns: Sequence[ByteColumn], hits: _Hits) -> Blob:
    """The item of each hit, from the column of its view."""
    if len(columns) == 1:
        return columns[0].blob(hits.rows)
    return Blob.pack(_take(columns, hits))


def _take(columns: Sequence[ByteColumn], hits: _Hits) -> list[bytes]:
    """The item of each hit, from the column of its view."""
    if len(columns) == 1:
        return columns[0].take(hits.rows.tolist())
    taken = [b""] * len(hits.rows)
    for number, column in enumerate(columns):
        at = np.flatnonzero(hits.views == number)
        if len(at):
            for i, item in zip(at.tolist(), column.take(hits.rows[at].tolist()), strict=True):
                taken[i] = item
    return taken


def _take_vectors(views: Sequence[SegmentView], hits: _Hits) -> bytes:
    """The raw vectors of the hits, one after another, bit for bit."""
    if len(views) == 1:
        return views[0].vectors.take(hits.rows, axis=0).tobytes()
    pairs = zip(hits.views.tolist(), hits.rows.tolist(), strict=True)
    return b"".join(views[v].vectors[r].tobytes() for v, r in pairs)
