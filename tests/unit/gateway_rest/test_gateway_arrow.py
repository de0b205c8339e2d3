"""Arrow IPC streams as rows: what is taken, and that hostile bytes are refused."""

from __future__ import annotations

import random
import struct
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from vector_db.common.model.errors import InvalidArgument, TooLarge, VectorDBError
from vector_db.common.model.limits import Limits
from vector_db.gateway.arrow import decode_arrow

LIMITS = Limits(rows_per_batch_max=5000, dimension_max=4096, body_bytes_max=8 * 1024 * 1024)
FIXED2 = pa.list_(pa.float32(), 2)


def stream(batches: list[Any], compression: str | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, batches[0].schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return bytes(sink.getvalue())


def batch(ids: Any, vectors: Any, metadata: Any = None) -> Any:
    arrays, names = [ids, vectors], ["id", "vector"]
    if metadata is not None:
        arrays.append(metadata)
        names.append("metadata")
    return pa.record_batch(arrays, names)


def simple(n: int = 2) -> Any:
    vectors = pa.array([[float(i + 1), 0.5] for i in range(n)], FIXED2)
    return batch(pa.array([f"r{i}" for i in range(n)]), vectors)


def refusal(body: bytes) -> str:
    with pytest.raises(InvalidArgument) as caught:
        decode_arrow(body, LIMITS)
    return caught.value.message


@pytest.mark.parametrize(
    "kind",
    [
        FIXED2,
        pa.list_(pa.float32()),
        pa.large_list(pa.float32()),
        pa.list_(pa.float64(), 2),
        pa.list_(pa.float16()),
    ],
)
@pytest.mark.parametrize("text", [pa.string(), pa.large_string()])
@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
def test_every_layout_gives_the_same_rows(kind: Any, text: Any, compression: str | None) -> None:
    vectors = [[np.float16(i), np.float16(0.5)] for i in range(6)]
    whole = batch(
        pa.array([f"id/{i}é" for i in range(6)], text),
        pa.array(vectors, kind),
        pa.array(['{"n": 1}', None, "{}", None, None, '{"x": [1]}'], text),
    )
    # Slices keep their offsets into the whole's buffers until they are written.
    body = stream([whole.slice(0, 2), whole.slice(2, 0), whole.slice(2, 4)], compression)
    rows, versions = decode_arrow(body, LIMITS)
    assert versions is None
    assert rows.ids == [f"id/{i}é".encode() for i in range(6)]
    assert rows.vectors.dtype == np.float32 and rows.vectors.shape == (6, 2)
    assert rows.vectors.tolist() == [[float(i), 0.5] for i in range(6)]
    assert rows.metadata == [b'{"n":1}', b"", b"{}", b"", b"", b'{"x":[1]}']


def test_column_order_is_free_and_metadata_may_be_absent() -> None:
    given = simple().select(["vector", "id"])
    rows, _ = decode_arrow(stream([given]), LIMITS)
    assert rows.ids == [b"r0", b"r1"] and rows.metadata is None


def test_float64_beyond_float32_becomes_infinite_for_validation_to_name() -> None:
    vectors = pa.array([[1e39, 1.0]], pa.list_(pa.float64(), 2))
    rows, _ = decode_arrow(stream([batch(pa.array(["a"]), vectors)]), LIMITS)
    assert np.isinf(rows.vectors[0, 0])


TWO = pa.array([[1.0, 2.0], [3.0, 4.0]], FIXED2)


@pytest.mark.parametrize(
    ("given", "place"),
    [
        (batch(pa.array(["a", None]), TWO), "rows[1].id: must not be null"),
        (batch(pa.array(["a", ""]), TWO), "rows[1].id: an id must not be empty"),
        (batch(pa.array(["a", "x" * 513]), TWO), "rows[1].id: id of 513 bytes"),
        (batch(pa.array(["a", "b\x85"]), TWO), "rows[1].id: an id must not contain control"),
        (batch(pa.array(["a", "a"]), TWO), "rows[1].id: 'a' was given already"),
        (batch(pa.array([1, 2]), TWO), "column 'id' must be a string column"),
        (batch(pa.array(["a", "b"]).dictionary_encode(), TWO), "column 'id' must be a string"),
        (batch(pa.array(["a", "b"]), pa.array([[1.0, 2.0], None], FIXED2)), "rows[1].vector: must"),
        (
            batch(pa.array(["a", "b"]), pa.array([[1.0, 2.0], [None, 1.0]], FIXED2)),
            "rows[1].vector: must not hold nulls",
        ),
        (
            batch(pa.array(["a", "b"]), pa.array([[1.0], [1.0, 2.0]], pa.list_(pa.float32()))),
            "rows[1].vector: 2 numbers, row 0 has 1",
        ),
        (
            batch(pa.array(["a"]), pa.array([[]], pa.list_(pa.float32()))),
            "rows[0].vector: at least one number",
        ),
        (
            batch(pa.array(["a"]), pa.array([[1.0] * 4097], pa.list_(pa.float32()))),
            "dimension_max is 4096",
        ),
        (batch(pa.array(["a", "b"]), pa.array([1.0, 2.0])), "column 'vector' must be a list"),
        (batch(pa.array(["a", "b"]), pa.array([[1], [2]])), "column 'vector' must be a list"),
        (batch(pa.array(["a", "b"]), TWO, pa.array([1, 2])), "column 'metadata' must be a string"),
        (batch(pa.array(["a", "b"]), TWO, pa.array(["{}", "["])), "rows[1].metadata: not valid"),
        (pa.record_batch([TWO], ["vector"]), "column 'id' is missing"),
        (pa.record_batch([pa.array(["a"])], ["id"]), "column 'vector' is missing"),
        (pa.record_batch([TWO, TWO], ["vector", "vec"]), "column 'vec' is unknown"),
        (pa.record_batch([TWO, TWO], ["vector", "vector"]), "column 'vector' is given twice"),
        (simple(2).slice(0, 0), "at least one row"),
    ],
)
def test_a_bad_batch_is_refused_by_place(given: Any, place: str) -> None:
    assert place in refusal(stream([given]))


def test_rows_are_numbered_across_record_batches() -> None:
    second = batch(pa.array(["x", "\n"]), TWO)
    assert "rows[5].id" in refusal(stream([simple(4), second]))


def test_batches_of_different_dimension_are_refused() -> None:
    kind = pa.list_(pa.float32())
    one = batch(pa.array(["a"]), pa.array([[1.0]], kind))
    two = batch(pa.array(["b"]), pa.array([[1.0, 2.0]], kind))
    assert "rows[1].vector: 2 numbers, row 0 has 1" in refusal(stream([one, two]))


def test_ids_that_are_not_utf8_are_refused() -> None:
    body = stream([batch(pa.array(["abc", "def"]), TWO)])
    assert body.count(b"abcdef") == 1
    assert "not a valid Arrow IPC stream" in refusal(body.replace(b"abcdef", b"ab\xffdef"))


def test_offsets_beyond_their_buffer_are_refused() -> None:
    body = stream([batch(pa.array(["abc", "def"]), TWO)])
    offsets = struct.pack("<iii", 0, 3, 6)
    assert body.count(offsets) == 1
    for hostile in ((0, 3, 6_000_000), (0, -3, 6), (3, 0, 6), (-1000, 3, 6)):
        refusal(body.replace(offsets, struct.pack("<iii", *hostile)))


def test_too_many_rows_are_too_large() -> None:
    with pytest.raises(TooLarge, match="rows_per_batch_max"):
        decode_arrow(stream([simple(5001)]), LIMITS)


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_a_buffer_that_expands_beyond_the_body_limit_is_refused_unexpanded(codec: str) -> None:
    wide = pa.list_(pa.float32(), 4096)
    zeros = pa.FixedSizeListArray.from_arrays(
        pa.array(np.zeros(4096 * 1000, np.float32)), type=wide
    )
    body = stream([batch(pa.array([str(i) for i in range(1000)]), zeros)], codec)
    assert len(body) < LIMITS.body_bytes_max / 50
    before = pa.default_memory_pool().max_memory()
    with pytest.raises(TooLarge, match="body_bytes_max"):
        decode_arrow(body, LIMITS)
    assert pa.default_memory_pool().max_memory() == before


@pytest.mark.parametrize("body", [b"", b"\x00", b"ARROW1\x00\x00", b"\xff" * 64, b'{"vectors":[]}'])
def test_bytes_that_are_no_stream_are_refused(body: bytes) -> None:
    refusal(body)


@pytest.mark.parametrize("kind", [FIXED2, pa.list_(pa.float64())])
@pytest.mark.parametrize("text", [pa.string(), pa.large_string()])
@pytest.mark.parametrize("compression", [None, "zstd"])
def test_truncated_and_flipped_streams_never_do_worse_than_a_refusal(
    kind: Any, text: Any, compression: str | None
) -> None:
    metadata = pa.array(['{"n": 1}'] * 8, text)
    vectors = pa.array([[1.0, 2.0]] * 8, kind)
    ids = pa.array([f"i{i}" for i in range(8)], text)
    body = stream([batch(ids, vectors, metadata)], compression)
    chooser = random.Random(7)
    hostile = [body[:cut] for cut in range(0, len(body), 7)]
    for _ in range(1500):
        damaged = bytearray(body)
        for _ in range(chooser.choice((1, 1, 2, 8))):
            damaged[chooser.randrange(len(damaged))] = chooser.choice(
                (0, 1, 0x7F, 0x80, 0xFF, chooser.randrange(256))
            )
        hostile.append(bytes(damaged))
    for one in hostile:
        try:
            rows, _ = decode_arrow(one, LIMITS)
        except VectorDBError as error:
            assert error.http_status in (400, 413)
        else:
            assert rows.vectors.shape[0] == len(rows.ids)
