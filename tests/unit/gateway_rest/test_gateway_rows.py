"""What makes a batch valid: `core/rows.py`, against slow and obvious checks."""

from __future__ import annotations

import json
import unicodedata

import numpy as np
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vector_db.common.model.collection import Collection, Metric
from vector_db.common.model.errors import InvalidArgument, TooLarge
from vector_db.common.model.limits import Limits
from vector_db.gateway.core.requests import RowsIn
from vector_db.gateway.core.rows import (
    check_id_blob,
    compact_metadata,
    squared_norms,
    validate_queries,
    validate_rows,
)

LIMITS = Limits(rows_per_batch_max=4, metadata_bytes_max=32)
COSINE = Collection(1, "c", 2, Metric.COSINE, (0,))
DOT = Collection(1, "c", 2, Metric.DOT, (0,))


def rows(vectors: list[list[float]], metadata: list[bytes] | None = None) -> RowsIn:
    array = np.array(vectors, dtype=np.float32)
    return RowsIn([f"r{i}".encode() for i in range(len(vectors))], array, metadata)


def refusal(batch: RowsIn, collection: Collection = COSINE) -> str:
    with pytest.raises(InvalidArgument) as caught:
        validate_rows(batch, collection, LIMITS, "rows")
    return caught.value.message


def test_a_good_batch_passes_under_every_metric() -> None:
    validate_rows(rows([[1, 0], [1e-37, 0], [3e38, 0]], [b"", b"{}", b""]), COSINE, LIMITS, "rows")
    validate_rows(rows([[0, 0], [1e-45, 3.4e38]]), DOT, LIMITS, "rows")


def test_not_finite_is_refused_under_every_metric() -> None:
    for value in (np.nan, np.inf, -np.inf):
        for collection in (COSINE, DOT):
            message = refusal(rows([[1, 0], [1, value]]), collection)
            assert message == "rows[1].dimensions[1]: not a finite float32 number"


def test_opposite_infinities_do_not_cancel() -> None:
    assert "rows[0]" in refusal(rows([[np.inf, -np.inf], [1, 0]]), DOT)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0])
@pytest.mark.parametrize("row", [0, 3, 7])
def test_the_row_at_fault_is_named_in_a_large_batch(value: float, row: int) -> None:
    vectors = np.ones((8, 2), dtype=np.float32)
    vectors[row] = value
    batch = RowsIn([b"%d" % i for i in range(8)], vectors, None)
    with pytest.raises(InvalidArgument, match=rf"^rows\[{row}\]\.dimensions"):
        validate_rows(batch, COSINE, Limits(), "rows")


@pytest.mark.parametrize("value", [1e-38, 1e-20, 1.0, 1e18, 1e37])
def test_a_large_batch_of_any_magnitude_is_taken(value: float) -> None:
    vectors = np.full((8, 2), value, dtype=np.float32)
    validate_rows(RowsIn([b"%d" % i for i in range(8)], vectors, None), COSINE, Limits(), "rows")


def test_vectors_without_a_direction_are_refused_under_cosine_only() -> None:
    assert "zero vector" in refusal(rows([[1, 0], [0, -0.0]]))
    assert "rows[0].dimensions: a vector of length 1.4e-45" in refusal(rows([[1e-45, 0]]))
    assert "rows[0].dimensions: a vector of length 4.24e+38" in refusal(rows([[3e38, 3e38]]))


def test_dimension_duplicates_metadata_and_counts() -> None:
    assert "collection 'c' has dimension 2" in refusal(rows([[1, 0, 0]]))
    twice = RowsIn([b"a", b"b", b"a"], np.ones((3, 2), np.float32), None)
    assert refusal(twice) == "rows[2].id: 'a' was given already in row 0 of this batch"
    assert "rows[1].metadata: 33 bytes" in refusal(rows([[1, 0]] * 2, [b"", b"x" * 33]))
    assert "at least one row" in refusal(RowsIn([], np.empty((0, 2), np.float32), None))
    with pytest.raises(TooLarge, match="rows_per_batch_max is 4"):
        validate_rows(rows([[1, 0]] * 5), COSINE, LIMITS, "rows")


def test_query_vectors_are_named_alone_or_by_index() -> None:
    with pytest.raises(InvalidArgument, match=r"^vector: 1 numbers"):
        validate_queries(np.ones((1, 1), np.float32), COSINE, "vector")
    with pytest.raises(InvalidArgument, match=r"^vectors\[1\]: a zero vector"):
        validate_queries(np.array([[1, 0], [0, 0]], np.float32), COSINE, "vectors")


def test_squared_norms_agree_across_block_borders() -> None:
    vectors = np.random.default_rng(1).standard_normal((7, 65_536)).astype(np.float32)
    expected = (vectors.astype(np.float64) ** 2).sum(axis=1)
    np.testing.assert_allclose(squared_norms(vectors), expected, rtol=1e-12)


ids_strategy = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
    | st.sampled_from(["a\x80", "é\x9f", "\xa0", "\x7f", "~", "x" * 512, "x" * 513, "ü" * 257]),
    min_size=1,
    max_size=8,
)


def is_valid(row_id: str) -> bool:
    size = len(row_id.encode())
    return 0 < size <= 512 and not any(unicodedata.category(c) == "Cc" for c in row_id)


@given(ids_strategy, st.binary(max_size=3))
def test_ids_of_a_blob_are_checked_as_one_by_one(ids: list[str], before: bytes) -> None:
    encoded = [one.encode() for one in ids]
    offsets = np.cumsum([len(before), *map(len, encoded)])
    data = before + b"".join(encoded) + b"\x00after"
    bad = [i for i, one in enumerate(ids) if not is_valid(one)]
    if not bad:
        check_id_blob(offsets, data, "rows")
        return
    with pytest.raises(InvalidArgument) as caught:
        check_id_blob(offsets, data, "rows", first=10)
    assert caught.value.message.startswith(f"rows[{10 + bad[0]}].id: ")


def test_metadata_texts_become_compact_json() -> None:
    texts = ['{ "a" : [1, 2.5] }', None, b'{"k":1,"k":2}', '{"u":"\\u00e9"}']
    assert compact_metadata(texts, Limits(), "rows") == [
        b'{"a":[1,2.5]}',
        b"",
        b'{"k":2}',
        '{"u":"é"}'.encode(),
    ]
    assert compact_metadata([None, None], Limits(), "rows") is None
    assert compact_metadata([None, "null"], Limits(), "rows") == [b"", b""]


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "1", '"x"', "{", "{} {}", '{"a":NaN}', '{"a":1e400}', "{'a':1}",
        '{"a":18446744073709551616}', '{"a":-9223372036854775809}', '{"a":"\\ud800"}',
        '{"a":' * 300 + "1" + "}" * 300, "[" * 5000,
        '{"a":"' + "x" * 40 + '"}',
    ],
)  # fmt: skip
def test_a_bad_metadata_text_names_its_row(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^rows\[1\]\.metadata: "):
        compact_metadata(["{}", text], LIMITS, "rows")


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.text(max_size=5)
    | st.floats(allow_nan=False, allow_infinity=False)
)


json_like = st.text(alphabet='{}[]",:\\\n 0123456789-+.eEabfnrtu', max_size=12)
values = st.recursive(scalars, lambda v: st.lists(v) | st.dictionaries(st.text(max_size=3), v))


@given(
    st.lists(
        st.none()
        | json_like.map('{{"a":{}}}'.format)
        | st.dictionaries(st.text(max_size=3), values, max_size=3).map(json.dumps),
        min_size=1,
        max_size=4,
    )
)
@example(["{}", '{"a":"b\\n,"}', None, '{"a":9223372036854775808}'])
@example(['{"a":1', '"b":2}', "{},{}"])
@example(['{"a":18446744073709551616}'])
def test_metadata_at_once_is_as_row_by_row(texts: list[str | None]) -> None:
    def alone(text: str | None) -> bytes:
        # Beside a "null" each row is looked at by itself.
        return (compact_metadata(["null", text], Limits(), "x") or [b"", b""])[1]

    try:
        together = compact_metadata(texts, Limits(), "x")
    except InvalidArgument:
        with pytest.raises(InvalidArgument):
            [alone(text) for text in texts]
        return
    assert (together or [b""] * len(texts)) == [alone(text) for text in texts]


@given(st.dictionaries(st.text(max_size=5), scalars, max_size=4))
def test_compact_metadata_means_the_same(value: dict[str, object]) -> None:
    try:
        text = orjson.dumps(value)
    except TypeError:
        return
    compact = compact_metadata([text], Limits(), "rows")
    assert compact is not None and orjson.loads(compact[0]) == value
