"""Merging scroll pages gives the page of one part that holds everything."""

from __future__ import annotations

import numpy as np

from vector_db.common.core.merge import merge_rows
from vector_db.common.core.messages.reads import RowsReply
from vector_db.common.model.rows import Blob


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
