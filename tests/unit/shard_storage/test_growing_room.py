"""The columns of a growing segment have room for every row, however their widths differ."""

from __future__ import annotations

import numpy as np
import pytest

from vector_db.common.model.rows import Blob, hash_ids
from vector_db.shard.storage.growing import GrowingSegment


@pytest.mark.parametrize("dimension", [1, 128, 1024])
def test_every_row_has_room_in_every_column_as_the_segment_grows(dimension: int) -> None:
    segment = GrowingSegment(dimension, cosine=True)
    batch = max(1, 60_000 // dimension)
    rng = np.random.default_rng(dimension)
    for ts in range(1, 60):
        ids = [b"%d-%d" % (ts, i) for i in range(batch)]
        vectors = rng.normal(size=(batch, dimension)).astype(np.float32)
        absent = np.full(batch, -1, dtype=np.int64)
        segment.append(ids, Blob.pack(ids), hash_ids(ids), vectors, None, absent, ts)
        assert np.array_equal(segment.vectors[segment.rows - batch : segment.rows], vectors)
    assert segment.rows == 59 * batch
