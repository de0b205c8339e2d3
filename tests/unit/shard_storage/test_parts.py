"""The small rooms one by one: keys, deaths, byte columns, id order, norms, scroll."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from vector_db.common.core.messages.reads import RowsReply, ScrollRequest
from vector_db.common.model.ids import TS_NEVER
from vector_db.common.model.rows import Blob, RowBlock, hash_ids
from vector_db.shard.storage.deaths import Deaths
from vector_db.shard.storage.keys import KeyIndex, Probe, build_keys
from vector_db.shard.storage.order import IdRuns, sorted_rows
from vector_db.shard.storage.payloads import GrowingBytes, unpacked
from vector_db.shard.storage.segment import inverse_norms
from vector_db.shard.storage.store import Store
from vector_db.shard.views import SegmentView

BlockMaker = Callable[..., RowBlock]


def bytes_column(items: list[bytes]) -> GrowingBytes:
    column = GrowingBytes()
    column.append(Blob.pack(items))
    return column


def find(index: KeyIndex, hashes: list[int], ids: list[bytes]) -> dict[bytes, int]:
    probe = Probe(np.array(hashes, dtype=np.uint64), ids)
    at, rows = index.newest(probe, np.ones(len(ids), dtype=np.bool_))
    return {ids[p]: row for p, row in zip(at.tolist(), rows.tolist(), strict=True)}


@pytest.mark.parametrize("count", [0, 1, 32, 33, 1000])
def test_items_of_a_blob_are_unpacked_as_they_are(count: int) -> None:
    items = [b"\0" * (i % 7) + b"%d" % i for i in range(count)]
    items[3::5] = [b""] * len(items[3::5])
    blob = Blob.pack(items)
    assert unpacked(blob) == items
    assert unpacked(blob.range(count // 3, count)) == items[count // 3 :]


def test_ids_with_the_same_hash_are_told_apart_and_the_newest_row_wins() -> None:
    stored = [b"a", b"b", b"a", b"c", b"b", b"d"]
    hashes = [5, 5, 5, 5, 5, 2**64 - 1]
    index = KeyIndex(*build_keys(np.array(hashes, dtype=np.uint64)), bytes_column(stored))
    asked = [b"a", b"b", b"c", b"d", b"x", b"y"]
    found = find(index, [5, 5, 5, 2**64 - 1, 5, 6], asked)
    assert found == {b"a": 2, b"b": 4, b"c": 3, b"d": 5}
    assert list(index.versions(5, b"b")) == [4, 1]


def test_every_stored_key_is_found_and_no_other_even_when_placement_thinned_the_hashes() -> None:
    ids = [b"%d" % n for n in range(4000)]
    hashes = hash_ids(ids) >> np.uint64(8)
    index = KeyIndex(*build_keys(hashes), bytes_column(ids))
    others = [b"x%d" % n for n in range(4000)]
    asked = ids + others
    all_hashes = np.concatenate([hashes, hash_ids(others) >> np.uint64(8)])
    assert find(index, all_hashes.tolist(), asked) == {i: row for row, i in enumerate(ids)}
    passed = index._maybe_here(Probe(all_hashes[4000:], others))
    assert len(passed) < 4000 / 64


def test_keys_that_are_not_pending_are_passed_over() -> None:
    index = KeyIndex(*build_keys(np.array([1, 2], dtype=np.uint64)), bytes_column([b"a", b"b"]))
    probe = Probe(np.array([1, 2], dtype=np.uint64), [b"a", b"b"])
    at, rows = index.newest(probe, np.array([False, True]))
    assert (at.tolist(), rows.tolist()) == ([1], [1])


def test_deaths_after_the_snapshot_are_undone_in_its_mask() -> None:
    deaths = Deaths(5)
    assert deaths.live(9) is None and deaths.end_ts(np.array([0])).tolist() == [TS_NEVER]
    assert deaths.kill(np.array([1, 2]), 10) == 2
    assert deaths.kill(np.array([2, 4]), 20) == 1
    assert deaths.live(9) is None
    masks = [deaths.live(ts) for ts in (10, 19, 20)]
    assert [m.tolist() for m in masks if m is not None] == [
        [True, False, False, True, True],
        [True, False, False, True, True],
        [True, False, False, True, False],
    ]
    assert deaths.end_ts(np.arange(5)).tolist() == [TS_NEVER, 10, 10, TS_NEVER, 20]
    assert deaths.undo_above(10) == 1
    assert deaths.kill(np.array([3]), 11) == 1
    assert deaths.end_ts(np.array([3, 4])).tolist() == [11, TS_NEVER]
    assert masks[2] is not None and masks[2].tolist() == [True, False, False, True, False]
    after = deaths.live(20)
    assert after is not None and after.tolist() == [True, False, False, False, True]


def test_a_byte_column_reads_what_was_appended_while_it_grows() -> None:
    column, items = GrowingBytes(), list[bytes]()
    for n in range(60):
        batch = [b"%d" % n * (n % 5)] * (n % 4)
        column.append(Blob.pack(batch))
        column.append_empty(n % 2)
        items += batch + [b""] * (n % 2)
    assert column.range(0, column.rows) == items
    assert column.take([7, 3, 3]) == [items[7], items[3], items[3]]
    assert column.get(11) == items[11] and column.range(4, 4) == []
    assert column.copy(5, 9).range(0, 4) == items[5:9]
    assert column.size_bytes(20) == sum(map(len, items[:20]))


def test_rows_are_ordered_by_id_bytes_and_equal_ids_by_row() -> None:
    ids = [b"b", "é".encode(), b"a", b"ab", b"b", b"B", b"a" * 300, b"\xf0\x9f\x98\x80"]
    column = bytes_column([b"skipped", *ids])
    assert sorted_rows(column, 1, 9).tolist() == [
        row for _, row in sorted((i, row) for row, i in enumerate(ids, 1))
    ]


def test_runs_of_a_growing_column_stay_few_and_cover_every_row() -> None:
    rng = np.random.default_rng(1)
    column, runs = GrowingBytes(), IdRuns()
    for rows in range(1, 300):
        column.append(Blob.pack([b"%d" % rng.integers(1 << 40)]))
        parts = runs.runs(column, rows)
        assert len(parts) <= 10
    assert sorted(row for part in parts for row in part.tolist()) == list(range(299))
    for part in parts:
        ids = column.take(part)
        assert ids == sorted(ids)


@pytest.mark.parametrize("scale", [1.0, 1e-25, 1e25, 3e38, 1e-40])
def test_inverse_norms_hold_where_squares_leave_float32(scale: float) -> None:
    vectors = (np.array([[0.3, -0.4, 0.0], [0.1, 0.2, 0.2]]) * scale).astype(np.float32)
    wide = np.linalg.norm(vectors.astype(np.float64), axis=1)
    want = np.minimum(1 / wide, np.finfo(np.float32).max)
    np.testing.assert_allclose(inverse_norms(vectors), want, rtol=1e-6, atol=2e-45)
    assert inverse_norms(np.zeros((1, 3), np.float32)).tolist() == [0.0]


def test_scroll_returns_only_matching_rows_in_id_order_across_segments(
    store: Store, upsert: BlockMaker, delete: BlockMaker, seal: Callable[[Store, int], int]
) -> None:
    ids = [b"%03d" % n for n in range(200)]
    rng = np.random.default_rng(3)
    shuffled = [ids[at] for at in rng.permutation(200)]
    for ts, start in enumerate(range(0, 200, 40), 1):
        part = shuffled[start : start + 40]
        store.apply(
            ts % 2, upsert(part, ts, [b'{"even":%d}' % (int(i) % 2 == 0) for i in part]), ts
        )
        if ts < 4:
            seal(store, ts)
    for shard in (0, 1):
        store.apply(shard, delete([b"010", b"012"]), 6)

    def even(view: SegmentView) -> np.ndarray[Any, np.dtype[np.bool_]]:
        return np.array([b"1" in text for text in view.metadata.range(0, view.rows)])

    def page(after: bytes) -> RowsReply:
        return store.scroll(ScrollRequest(7, (0, 1), 6, 7, after, include_vectors=False), even)

    found: list[bytes] = []
    while len(reply := page(found[-1] if found else b"").ids):
        assert len(reply) <= 7
        found += reply.unpack()
    assert found == [i for i in ids if int(i) % 2 == 0 and i not in (b"010", b"012")]
    assert page(b"").vectors == b""


def test_the_last_row_of_an_id_wins_within_a_block_and_across_blocks_of_a_transaction(
    store: Store, upsert: BlockMaker, delete: BlockMaker
) -> None:
    assert store.apply(0, upsert([b"a", b"b", b"a"], metadata=[b"1", b"2", b"3"]), 1) == 0
    assert store.apply(0, upsert([b"a"], metadata=[b"4"]), 1) == 1
    (view,) = store.views(7, (0,), 1)
    assert view.live is not None
    rows = np.flatnonzero(view.live).tolist()
    assert [(view.ids.get(r), view.metadata.get(r)) for r in rows] == [(b"b", b"2"), (b"a", b"4")]
    assert store.apply(0, delete([b"b", b"b", b"absent"]), 2) == 1
