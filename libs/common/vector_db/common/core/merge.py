"""Merging the answers of several replicas: top-k hits, and scroll pages.

Owns the one order of hits, (similarity descending, id ascending bytewise): a merge of parts equals
the answer of one part that holds everything. Parts hold disjoint ids, so nothing is removed.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from vector_db.common.core.messages import RowsReply, SearchReply
from vector_db.common.model.rows import Blob


def merge_hits(replies: Sequence[SearchReply], nq: int, k: int) -> SearchReply:
    """The best `k` hits of each of the `nq` queries over all `replies`.

    Metadata and vectors are carried when every reply that has hits brings them.

    :raises ValueError: a reply answers another number of queries than `nq`.
    """
    for reply in replies:
        if len(reply.counts) != 4 * nq:
            raise ValueError(f"reply for {len(reply.counts) // 4} queries, asked {nq}")
    parts = [r for r in replies if len(r.ids)] or list(replies[:1])
    if len(parts) == 1 and _counts(parts[0]).max(initial=0) <= k:
        return parts[0]
    ids = [r.ids.unpack() for r in parts]
    scores = [np.frombuffer(r.similarities, dtype="<f8").tolist() for r in parts]
    bounds = [[0, *itertools.accumulate(_counts(r).tolist())] for r in parts]
    chosen: list[tuple[int, int]] = []
    counts = np.zeros(nq, dtype="<u4")
    for query in range(nq):
        keyed = [
            (-scores[p][i], ids[p][i], p, i)
            for p in range(len(parts))
            for i in range(bounds[p][query], bounds[p][query + 1])
        ]
        keyed.sort()
        del keyed[k:]
        counts[query] = len(keyed)
        chosen.extend((p, i) for _, _, p, i in keyed)
    return SearchReply(
        counts=counts.tobytes(),
        ids=Blob.pack([ids[p][i] for p, i in chosen]),
        similarities=np.array([scores[p][i] for p, i in chosen], dtype="<f8").tobytes(),
        metadata=_pick_metadata([r.metadata for r in parts], chosen),
        vectors=_pick_vectors([r.vectors for r in parts], [len(i) for i in ids], chosen),
    )


def merge_rows(replies: Sequence[RowsReply], limit: int) -> RowsReply:
    """The first `limit` rows of all `replies` by id, ascending bytewise: one scroll page."""
    parts = [r for r in replies if len(r.ids)]
    ids = [r.ids.unpack() for r in parts]
    keyed = sorted((row_id, p, i) for p, part in enumerate(ids) for i, row_id in enumerate(part))
    chosen = [(p, i) for _, p, i in keyed[:limit]]
    versions = [np.frombuffer(r.versions, dtype="<i8") for r in parts]
    metadata = _pick_metadata([r.metadata for r in parts], chosen)
    return RowsReply(
        ids=Blob.pack([ids[p][i] for p, i in chosen]),
        versions=np.array([versions[p][i] for p, i in chosen], dtype="<i8").tobytes(),
        metadata=Blob.pack([]) if metadata is None else metadata,
        vectors=_pick_vectors([r.vectors for r in parts], [len(i) for i in ids], chosen),
    )


def _counts(reply: SearchReply) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
    return np.frombuffer(reply.counts, dtype="<u4")


def _pick_metadata(blobs: list[Blob | None], chosen: list[tuple[int, int]]) -> Blob | None:
    present = [b.unpack() for b in blobs if b is not None]
    if not blobs or len(present) < len(blobs):
        return None
    return Blob.pack([present[p][i] for p, i in chosen])


def _pick_vectors(
    parts: Sequence[bytes | bytearray | memoryview],
    rows: list[int],
    chosen: list[tuple[int, int]],
) -> bytes:
    if not parts or not all(len(v) for v in parts):
        return b""
    arrays = [
        np.frombuffer(v, dtype="<f4").reshape(n, -1) for v, n in zip(parts, rows, strict=True)
    ]
    return b"".join(arrays[p][i].tobytes() for p, i in chosen)
