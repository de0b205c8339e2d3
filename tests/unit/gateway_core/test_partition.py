"""Rows to shards and records: each row exactly once, in its place, in records of bounded size."""

from __future__ import annotations

import time
from collections import Counter
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vector_db.common.core.placement import shards_of_ids
from vector_db.common.model.collection import Collection, Metric
from vector_db.common.model.limits import CHUNK_BYTES_MAX
from vector_db.common.model.rows import F32, Blob, RowBlock, hash_ids
from vector_db.gateway.core.partition import (
    ShardPart,
    block_of,
    partition,
    row_bytes,
    split_by_shard,
    split_by_size,
)
from vector_db.gateway.core.requests import Delete, Mode, RowsIn, Upsert

KIB = 1024


def collection(dimension: int = 4, shards: tuple[int, ...] = (0,), id: int = 1) -> Collection:
    return Collection(id, "c", dimension, Metric.DOT, shards)


def rows(
    n: int, dimension: int = 4, metadata: list[bytes] | None = None, prefix: str = ""
) -> RowsIn:
    vectors = np.random.default_rng(n).normal(size=(n, dimension)).astype(np.float32)
    return RowsIn([f"{prefix}{i}".encode() for i in range(n)], vectors, metadata)


def blocks_of(part: ShardPart) -> list[RowBlock]:
    return [block for chunk in part.chunks for block in chunk]


def contents(block: RowBlock) -> list[tuple[bytes, bytes, bytes, int]]:
    """(id, vector, metadata, version) of every row."""
    n = len(block)
    vectors = [b""] * n if block.delete else [v.tobytes() for v in block.vector_array()]
    metadata = [b""] * n if block.metadata is None else block.metadata.unpack()
    versions = block.version_array().tolist() or [0] * n
    return list(zip(block.ids.unpack(), vectors, metadata, versions, strict=True))


# --- blocks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "precondition"), [("upsert", "none"), ("insert", "absent"), ("update", "present")]
)
def test_the_mode_becomes_what_must_hold_of_every_row(mode: Mode, precondition: str) -> None:
    block = block_of(Upsert("c", rows(3), mode), collection())
    block.check()
    assert block.precondition == precondition


def test_versions_that_must_hold_travel_with_their_rows() -> None:
    upsert = Upsert("c", rows(3), if_version=np.array([5, 6, 7], dtype=np.int64))
    block = block_of(upsert, collection())
    block.check()
    assert block.precondition == "version"
    assert block.version_array().tolist() == [5, 6, 7]


def test_vectors_are_kept_bit_for_bit_and_not_copied() -> None:
    given_rows = rows(100, 8)
    block = block_of(Upsert("c", given_rows), collection(8))
    assert np.array_equal(block.vector_array(), given_rows.vectors)
    assert np.shares_memory(np.frombuffer(block.vectors, np.uint8), given_rows.vectors)


def test_vectors_that_are_no_contiguous_float32_become_so() -> None:
    wide = np.arange(24, dtype=np.float64).reshape(4, 6)[:, ::2]
    given_rows = RowsIn([b"a", b"b", b"c", b"d"], cast(F32, wide), None)
    block = block_of(Upsert("c", given_rows), collection(3))
    block.check()
    assert np.array_equal(block.vector_array(), wide.astype(np.float32))


def test_a_delete_carries_keys_alone() -> None:
    block = block_of(Delete("c", [b"a", b"b"]), collection())
    block.check()
    assert (block.delete, len(block), len(block.vectors)) == (True, 2, 0)


# --- shards ---------------------------------------------------------------------------------------


@given(n=st.integers(1, 300), shards=st.sets(st.integers(0, 15), min_size=1, max_size=6))
@settings(max_examples=60)
def test_every_row_goes_exactly_once_to_the_shard_its_id_hashes_to(
    n: int, shards: set[int]
) -> None:
    metadata = [b'{"n":%d}' % i for i in range(n)]
    versions = np.arange(n, dtype=np.int64)
    order = tuple(sorted(shards))
    block = block_of(Upsert("c", rows(n, 2, metadata), if_version=versions), collection(2, order))
    split = split_by_shard(block, order)
    for shard, mine in split.items():
        mine.check()
        homes = shards_of_ids(hash_ids(mine.ids.unpack()), order)
        assert (homes == shard).all()
        assert np.array_equal(mine.hash_array(), hash_ids(mine.ids.unpack()))
    together = [row for mine in split.values() for row in contents(mine)]
    assert Counter(together) == Counter(contents(block))


def test_rows_of_one_shard_keep_their_order() -> None:
    block = block_of(Upsert("c", rows(200)), collection())
    for mine in split_by_shard(block, (0, 1, 2)).values():
        numbers = [int(i) for i in mine.ids.unpack()]
        assert numbers == sorted(numbers)


# --- sizes ----------------------------------------------------------------------------------------


def check_bounds(parts: dict[int, ShardPart]) -> None:
    """Payload within the bound, all of a record's rows within twice the bound; but for one row."""
    for part in parts.values():
        for chunk in part.chunks:
            payloads, keys = zip(*map(row_sizes, chunk), strict=True)
            payload, key = np.concatenate(payloads), np.concatenate(keys)
            assert payload.sum() <= CHUNK_BYTES_MAX + payload.max()
            assert (payload + key).sum() <= 2 * CHUNK_BYTES_MAX + (payload + key).max()


def row_sizes(block: RowBlock) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Bytes of vector and metadata, and of the key, of every row."""
    payload = np.full(len(block), len(block.vectors) // len(block), dtype=np.int64)
    if block.metadata is not None:
        payload += lengths(block.metadata)
    return payload, lengths(block.ids) + 16


def lengths(blob: Blob) -> NDArray[np.int64]:
    return np.array([len(item) for item in blob.unpack()], dtype=np.int64)


@pytest.mark.parametrize(
    ("n", "dimension"),
    [(1, 4), (1000, 384), (10_000, 128), (3, 65_536), (1, 200_000), (50_000, 1)],
)
def test_a_batch_of_even_rows_is_cut_into_records_of_bounded_size(n: int, dimension: int) -> None:
    upsert = Upsert("c", rows(n, dimension))
    parts = partition([(block_of(upsert, collection(dimension)), collection(dimension))])
    check_bounds(parts)
    records = len(parts[0].chunks)
    assert records <= 2 + 2 * parts[0].size_bytes // CHUNK_BYTES_MAX, "no needless records"


def test_rows_with_uneven_metadata_are_cut_into_records_of_bounded_size() -> None:
    """A few heavy rows before many light ones must not meet in one record."""
    metadata = [b'{"t":"%s"}' % (b"x" * 60 * KIB)] * 60 + [b"{}"] * 3000
    block = block_of(Upsert("c", rows(len(metadata), 1, metadata)), collection(1))
    check_bounds(partition([(block, collection(1))]))


def test_rows_of_long_ids_are_cut_into_records_of_bounded_size() -> None:
    block = block_of(Upsert("c", rows(4000, 1, prefix="x" * 500)), collection(1))
    check_bounds(partition([(block, collection(1))]))


def test_deletes_are_cut_into_records_of_bounded_size() -> None:
    block = block_of(Delete("c", [b"%0500d" % i for i in range(4000)]), collection())
    check_bounds(partition([(block, collection())]))


@given(
    sizes=st.lists(st.sampled_from([0, 10, 1000, 60 * KIB]), min_size=1, max_size=60),
    dimension=st.sampled_from([1, 64, 4096]),
)
@settings(max_examples=60)
def test_the_pieces_of_a_block_are_the_block(sizes: list[int], dimension: int) -> None:
    metadata = [b"x" * size for size in sizes]
    block = block_of(Upsert("c", rows(len(sizes), dimension, metadata)), collection(dimension))
    pieces = list(split_by_size(block))
    for piece in pieces:
        piece.check()
    assert [row for piece in pieces for row in contents(piece)] == contents(block)


def seconds_to_cut(n: int) -> float:
    """Of this thread at work: what else the machine does meanwhile is not counted."""
    metadata = [b'{"n":%d}' % i for i in range(n)]
    block = block_of(Upsert("c", rows(n, 128, metadata)), collection(128))
    best = float("inf")
    for _ in range(3):
        started = time.thread_time()
        pieces = sum(1 for _ in split_by_size(block))
        best = min(best, time.thread_time() - started)
    assert pieces > n // 2000
    return best


def test_cutting_a_large_batch_takes_time_in_proportion_to_its_rows() -> None:
    """Eight times the rows are eight times the work, not sixty-four times: this blocks the loop."""
    assert seconds_to_cut(64_000) < 24 * seconds_to_cut(8_000)


# --- transactions ---------------------------------------------------------------------------------


def test_small_operations_on_one_shard_share_a_record_in_their_order() -> None:
    one, two = collection(4, (3,), 1), collection(2, (3,), 2)
    blocks = [
        (block_of(Upsert("one", rows(5)), one), one),
        (block_of(Delete("two", [b"a"]), two), two),
        (block_of(Upsert("two", rows(5, 2)), two), two),
    ]
    parts = partition(blocks)
    assert list(parts) == [3]
    (chunk,) = parts[3].chunks
    assert [block.collection_id for block in chunk] == [1, 2, 2]


def test_the_parts_of_a_transaction_hold_each_of_its_rows_exactly_once() -> None:
    one, two = collection(64, (0, 1, 2), 1), collection(2, (2, 5), 2)
    blocks = [
        (block_of(Upsert("one", rows(9000, 64)), one), one),
        (block_of(Upsert("two", rows(700, 2)), two), two),
        (block_of(Delete("two", [b"gone-%d" % i for i in range(50)]), two), two),
    ]
    parts = partition(blocks)
    assert set(parts) <= {0, 1, 2, 5}
    check_bounds(parts)
    sent = Counter(
        (block.collection_id, *row)
        for part in parts.values()
        for block in blocks_of(part)
        for row in contents(block)
    )
    wanted = Counter((c.id, *row) for block, c in blocks for row in contents(block))
    assert sent == wanted
    for part in parts.values():
        assert part.size_bytes == sum(map(row_bytes, blocks_of(part)))
