"""What of a read goes to which shards, and answers of several workers as one. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vector_db.common.core.messages.reads import Overlay, RowsReply
from vector_db.common.model.rows import Blob


def part_of(overlay: Overlay | None, shards: tuple[int, ...]) -> Overlay | None:
    """The overlay as far as it concerns these shards; None where nothing is staged there."""
    if overlay is None:
        return None
    chunks = {shard: overlay.chunks[shard] for shard in shards if shard in overlay.chunks}
    return Overlay(overlay.txn_id, overlay.term, chunks) if chunks else None


def in_order(
    replies: Sequence[RowsReply], ids: Sequence[bytes], dimension: int, with_vectors: bool
) -> RowsReply:
    """Rows of several workers in the order of `ids`."""
    found = [row_id for reply in replies for row_id in reply.ids.unpack()]
    metadata = [text for reply in replies for text in reply.metadata.unpack()]
    versions = np.concatenate([np.frombuffer(r.versions, dtype="<i8") for r in replies])
    place = {row_id: i for i, row_id in enumerate(found)}
    order = [place[row_id] for row_id in ids if row_id in place]
    vectors = b""
    if with_vectors:
        parts = [np.frombuffer(r.vectors, dtype="<f4").reshape(-1, dimension) for r in replies]
        vectors = np.concatenate(parts)[order].tobytes()
    return RowsReply(
        ids=Blob.pack([found[i] for i in order]),
        versions=versions[order].tobytes(),
        metadata=Blob.pack([metadata[i] for i in order]),
        vectors=vectors,
    )
