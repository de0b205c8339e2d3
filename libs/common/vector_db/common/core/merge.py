"""Merging scroll pages of several replicas.

A merge of parts equals the page of one part that holds everything: by id, ascending bytewise. Parts
hold disjoint ids, so nothing is removed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vector_db.common.core.messages.reads import RowsReply
from vector_db.common.model.rows import Blob


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
