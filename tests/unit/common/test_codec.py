"""The wire format: what is written is read, what is newer or no message of ours is refused."""

from __future__ import annotations

import typing

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import protocol
from vector_db.common.core.codec import MESSAGE_VERSION, BadMessage, decode, encode
from vector_db.common.core.domain import DomainState
from vector_db.common.core.messages import AnyMessage
from vector_db.common.core.messages.base import ErrorReply, Message
from vector_db.common.core.messages.catalog import CatalogReply, CatalogRequest, Member
from vector_db.common.core.messages.decisions import (
    AlterCollection,
    Commit,
    CreateCollection,
    DecisionRecord,
    SetAliases,
    SetPlacement,
)
from vector_db.common.core.messages.reads import RowsReply, SearchReply, SearchRequest
from vector_db.common.core.messages.transactions import Beat, Outcome, Prepare
from vector_db.common.model.collection import (
    Collection,
    Encoding,
    IndexKind,
    IndexOptions,
    Metric,
)
from vector_db.common.model.errors import NewerFormat
from vector_db.common.model.ids import TS_NEVER, make_ts
from vector_db.common.model.rows import Blob, RowBlock

VECTORS = np.arange(12, dtype="<f4").reshape(3, 4)


def rows() -> RowBlock:
    ids = [b"a", b"b", "ü".encode()]
    block = protocol.block("a", "b", "ü", dimension=4)
    return msgspec.structs.replace(
        block,
        ids=Blob.pack(ids),
        vectors=VECTORS.tobytes(),
        metadata=Blob.pack([b"{}", b"", b"{}"]),
    )


def prepare() -> Prepare:
    return protocol.prepare("t", rows(), participants=(0, 5))


SAMPLES: list[AnyMessage] = [
    prepare(),
    protocol.stage("t", 3, rows()),
    protocol.vote("t", no="conflict", detail="é"),
    protocol.durable("w1", make_ts(131_071, 2**36 - 1), flushed={0: 1, 15: 2**40}),
    DecisionRecord(
        2,
        5,
        6,
        (
            protocol.takeover(
                2,
                9,
                {0: ("w1", "w2")},
                decisions=(DecisionRecord(1, 0, 1, (Commit(1, b"t", (0,)),)),),
            ),
            SetPlacement(8, {0: ("w1",)}),
            CreateCollection(9, protocol.collection((0, 3))),
            AlterCollection(
                10,
                Collection(
                    9,
                    "c",
                    1,
                    Metric.DOT,
                    (0, 3),
                    IndexOptions(IndexKind.IVF_PQ, Encoding.SQ8, 8, 32, 5),
                    0.9,
                    ("a.b", "c"),
                ),
            ),
            SetAliases(11, {"now": 9}),
        ),
    ),
    Beat(
        1, "c", "cluster", 2, 3, 4, 5, (Outcome(b"t", 7, 8), Outcome(b"u", 0, 0, "conflict", "x"))
    ),
    protocol.promise("w1", 2, replicas={0: ("w1",)}, bases={1: 5}),
    CatalogReply(
        1, 2, 3, 4, (protocol.collection(),), {0: ("w1",)}, (Member("w1", 1, True, "z", (0,), 9),)
    ),
    SearchRequest(1, (0, 1), TS_NEVER, VECTORS.tobytes(), 10, b'{"a":1}', -0.5, True, True),
    SearchReply(
        b"\x01\x00\x00\x00", Blob.pack([b"a"]), np.float64(0.25).tobytes(), Blob.pack([b"{}"])
    ),
    RowsReply(Blob.pack([]), b"", Blob.pack([])),
    ErrorReply("too_large", "m", {"limit": 3, "nested": {"a": [1, None, "x"]}}),
]


@pytest.mark.parametrize("message", SAMPLES, ids=lambda m: type(m).__name__)
def test_what_was_encoded_is_decoded(message: AnyMessage) -> None:
    assert encode(decode(encode(message))) == encode(message)
    assert type(decode(encode(message))) is type(message)


def test_what_was_written_before_there_were_options_and_aliases_is_read_with_defaults() -> None:
    old = {"id": 9, "name": "c", "dimension": 1, "metric": "dot", "shards": [0, 3]}
    entry = Collection(9, "c", 1, Metric.DOT, (0, 3))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(old), type=Collection) == entry
    state = {"catalog_ts": 9, "collections": {9: old}, "replicas": {0: ["w1"]}, "founders": []}
    decoded = msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=DomainState)
    assert decoded == DomainState(9, {9: entry}, {0: ("w1",)})
    for sample in (protocol.takeover(2, 9, {}), protocol.promise("w1", 2)):
        plain = msgspec.msgpack.decode(msgspec.msgpack.encode(sample))
        del plain["aliases"]
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(plain), type=type(sample)) == sample


def test_every_message_can_travel() -> None:
    declared = set(Message.__subclasses__())
    assert declared == set(typing.get_args(AnyMessage))


def test_the_header_names_the_format() -> None:
    assert encode(CatalogRequest())[:4] == bytes((0x56, 0x44, MESSAGE_VERSION, 0))
    assert encode(prepare())[:4] == bytes((0x56, 0x44, MESSAGE_VERSION, 1))


def test_no_bit_of_a_log_record_changes_unnoticed() -> None:
    data = encode(prepare())
    for place in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[place // 8] ^= 1 << place % 8
        with pytest.raises((BadMessage, NewerFormat)):
            decode(bytes(damaged))


def test_a_kind_that_nobody_knows_is_refused() -> None:
    data = bytearray(encode(CatalogRequest()))
    data[3] = 2
    with pytest.raises(BadMessage, match="kind 2"):
        decode(bytes(data))


@pytest.mark.parametrize("version", [MESSAGE_VERSION + 1, 255])
def test_a_newer_version_is_refused_by_its_number(version: int) -> None:
    data = bytearray(encode(prepare()))
    data[2] = version
    with pytest.raises(NewerFormat, match=f"format {version}, .* up to {MESSAGE_VERSION}"):
        decode(bytes(data))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"VD",
        b"VD\x01",
        b"VD\x01\x00",
        b"VD\x01\x00\xc1",
        b"xx" + encode(protocol.durable("w", 1))[2:],
        encode(protocol.durable("w", 1))[:-1],
        encode(protocol.durable("w", 1)) + b"\x00",
        b"VD\x01\x00" + msgspec.msgpack.encode({"type": "NoSuchMessage"}),
        b"VD\x01\x00" + msgspec.msgpack.encode({"type": "ConfirmRequest"}),
        b"VD\x01\x00" + msgspec.msgpack.encode({"type": "ConfirmRequest", "term": "one"}),
        b"VD\x01\x00" + msgspec.msgpack.encode([1, 2, 3]),
        b"VD\x01\x00\x81\xa4type\xa1\xff",
        b"VD\x01\x00\x82\xa4type\xaaErrorReply\xa7details\x81\xa1a" + b"\x91" * 100_000 + b"\xc0",
    ],
    ids=lambda data: repr(data[:24]),
)
def test_what_is_no_message_of_ours_is_refused(data: bytes) -> None:
    with pytest.raises(BadMessage):
        decode(data)


@given(st.binary(max_size=64))
def test_any_bytes_are_a_message_or_are_refused(data: bytes) -> None:
    for framed in (data, b"VD\x01\x00" + data):
        try:
            decode(framed)
        except (BadMessage, NewerFormat):
            continue


@given(st.data())
def test_a_message_with_some_bytes_changed_is_read_or_refused_and_nothing_else(
    data: st.DataObject,
) -> None:
    raw = bytearray(encode(SAMPLES[data.draw(st.integers(0, len(SAMPLES) - 1))]))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode(bytes(raw))
    except (BadMessage, NewerFormat):
        return


def test_columns_are_views_of_the_message_and_not_copies() -> None:
    framed = encode(prepare())
    got = decode(framed)
    assert isinstance(got, Prepare)
    (block,) = got.blocks
    whole = np.frombuffer(framed, dtype=np.uint8)
    assert block.metadata is not None
    for column in (
        block.vectors,
        block.hashes,
        block.ids.data,
        block.ids.offsets,
        block.metadata.data,
    ):
        assert np.shares_memory(np.frombuffer(column, dtype=np.uint8), whole)
    assert np.array_equal(block.vector_array(), VECTORS)
    assert block.ids.unpack() == [b"a", b"b", "ü".encode()]


def test_a_view_of_a_message_is_decoded_like_its_bytes() -> None:
    framed = b"before" + encode(prepare()) + b"after"
    assert encode(decode(memoryview(framed)[6:-5])) == encode(prepare())
