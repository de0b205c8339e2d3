"""Search replies become hits, and hits of several workers the best of all."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vector_db.common.core.messages.reads import SearchReply
from vector_db.common.model.rows import Blob
from vector_db.gateway.core.hits import hits_of, merge_hits
from vector_db.gateway.core.requests import Hits


def ranked(scores: dict[bytes, float]) -> Hits:
    order = sorted(scores.items(), key=lambda h: (-h[1], h[0]))
    return Hits([i for i, _ in order], [s for _, s in order], None, None)


@given(
    st.dictionaries(st.binary(min_size=1, max_size=2), st.sampled_from([0.0, 0.5, 1.0])),
    st.integers(1, 5),
    st.integers(1, 4),
)
def test_merged_hits_are_the_best_of_all_parts(
    scores: dict[bytes, float], k: int, parts: int
) -> None:
    split = [
        ranked({i: s for n, (i, s) in enumerate(scores.items()) if n % parts == p})
        for p in range(parts)
    ]
    whole = ranked(scores)
    merged = merge_hits(split, k)
    assert (merged.ids, merged.similarities) == (whole.ids[:k], whole.similarities[:k])


def test_each_query_gets_its_own_hits_with_their_payloads() -> None:
    vectors = np.arange(6, dtype="<f4").reshape(3, 2)
    reply = SearchReply(
        counts=np.array([2, 0, 1], dtype="<u4").tobytes(),
        ids=Blob.pack([b"a", b"b", b"c"]),
        similarities=np.array([0.9, 0.8, 0.7], dtype="<f8").tobytes(),
        metadata=Blob.pack([b"{}", b"", b"[]"]),
        vectors=vectors.tobytes(),
    )
    first, second, third = hits_of(reply, dimension=2)
    assert (first.ids, first.similarities, first.metadata) == (
        [b"a", b"b"],
        [0.9, 0.8],
        [b"{}", b""],
    )
    assert second.ids == []
    assert third.ids == [b"c"]
    assert third.vectors is not None
    assert third.vectors.tolist() == [[4.0, 5.0]]


def test_a_reply_without_payloads_has_none() -> None:
    reply = SearchReply(
        counts=np.array([1], dtype="<u4").tobytes(),
        ids=Blob.pack([b"a"]),
        similarities=np.array([0.5], dtype="<f8").tobytes(),
    )
    (hits,) = hits_of(reply, dimension=2)
    assert (hits.metadata, hits.vectors) == (None, None)
