"""Merging parts gives what one part that holds everything would give."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vector_db.common.core.merge import merge_hits, merge_rows
from vector_db.common.core.messages import RowsReply, SearchReply
from vector_db.common.model.rows import Blob

Hit = tuple[bytes, float]


def reply(queries: list[list[Hit]], payloads: bool = False) -> SearchReply:
    hits = [hit for query in queries for hit in sorted(query, key=lambda h: (-h[1], h[0]))]
    ids = [h[0] for h in hits]
    vectors = np.array([[h[1], len(h[0])] for h in hits], dtype="<f4")
    return SearchReply(
        counts=np.array([len(q) for q in queries], dtype="<u4").tobytes(),
        ids=Blob.pack(ids),
        similarities=np.array([h[1] for h in hits], dtype="<f8").tobytes(),
        metadata=Blob.pack([b"m" + i for i in ids]) if payloads else None,
        vectors=vectors.tobytes() if payloads else b"",
    )


def unpack(reply: SearchReply) -> list[list[Hit]]:
    counts = np.frombuffer(reply.counts, dtype="<u4").tolist()
    hits = iter(
        list(
            zip(
                reply.ids.unpack(),
                np.frombuffer(reply.similarities, dtype="<f8").tolist(),
                strict=True,
            )
        )
    )
    return [[next(hits) for _ in range(n)] for n in counts]


@given(st.data(), st.integers(1, 3), st.integers(1, 5), st.integers(1, 4))
def test_merged_hits_are_the_best_of_all_parts(
    data: st.DataObject, nq: int, k: int, parts: int
) -> None:
    scores = st.dictionaries(
        st.binary(min_size=1, max_size=2), st.sampled_from([0.0, 0.5, 1.0]), max_size=12
    )
    queries = [data.draw(scores) for _ in range(nq)]
    replies = [
        reply([[h for i, h in enumerate(q.items()) if i % parts == p] for q in queries])
        for p in range(parts)
    ]
    expected = [sorted(q.items(), key=lambda h: (-h[1], h[0]))[:k] for q in queries]
    assert unpack(merge_hits(replies, nq, k)) == expected


def test_payloads_travel_with_their_hits() -> None:
    left = reply([[(b"a", 0.9), (b"c", 0.1)], []], payloads=True)
    right = reply([[(b"b", 0.5)], [(b"d", 0.3)]], payloads=True)
    nothing = reply([[], []], payloads=True)
    merged = merge_hits([left, nothing, right], nq=2, k=2)
    assert unpack(merged) == [[(b"a", 0.9), (b"b", 0.5)], [(b"d", 0.3)]]
    assert merged.metadata is not None
    assert merged.metadata.unpack() == [b"ma", b"mb", b"md"]
    vectors = np.frombuffer(merged.vectors, dtype="<f4").reshape(-1, 2)
    assert vectors[:, 0].tolist() == pytest.approx([0.9, 0.5, 0.3])


def test_merging_nothing_gives_no_hits() -> None:
    assert unpack(merge_hits([], nq=2, k=3)) == [[], []]
    assert unpack(merge_hits([reply([[], []])] * 2, nq=2, k=3)) == [[], []]


def test_a_reply_to_other_queries_is_refused() -> None:
    with pytest.raises(ValueError, match="1 queries, asked 2"):
        merge_hits([reply([[]])], nq=2, k=1)


def rows(ids: list[bytes], vectors: bool = True) -> RowsReply:
    return RowsReply(
        ids=Blob.pack(ids),
        versions=np.array([len(i) for i in ids], dtype="<i8").tobytes(),
        metadata=Blob.pack([b"m" + i for i in ids]),
        vectors=np.array([[i[0], 7] for i in ids], dtype="<f4").tobytes() if vectors else b"",
    )


def test_a_page_is_the_first_rows_by_id() -> None:
    page = merge_rows([rows([b"b", b"dd"]), rows([]), rows([b"a", b"c", b"e"])], limit=4)
    assert page.ids.unpack() == [b"a", b"b", b"c", b"dd"]
    assert np.frombuffer(page.versions, dtype="<i8").tolist() == [1, 1, 1, 2]
    assert page.metadata.unpack() == [b"ma", b"mb", b"mc", b"mdd"]
    vectors = np.frombuffer(page.vectors, dtype="<f4").reshape(-1, 2)
    assert vectors.tolist() == [[97, 7], [98, 7], [99, 7], [100, 7]]


def test_an_empty_page_has_no_rows() -> None:
    page = merge_rows([rows([])], limit=4)
    assert (page.ids.unpack(), page.metadata.unpack(), bytes(page.vectors)) == ([], [], b"")
    assert merge_rows([rows([b"a"], vectors=False)], limit=1).vectors == b""
