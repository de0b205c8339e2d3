"""What a transaction's reads see of what it staged itself: tokens, limits, and what is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from tests.unit.shard_storage.conftest import BlockMaker
from vector_db.common.core.messages.reads import FetchRequest, Overlay, ScrollRequest
from vector_db.common.model.collection import Collection, Metric
from vector_db.common.model.errors import Conflict, InvalidArgument, NotFound, TooLarge
from vector_db.common.model.rows import Blob, RowBlock
from vector_db.shard.storage import overlay as overlay_module
from vector_db.shard.storage import overlays as overlays_module
from vector_db.shard.storage.overlays import Overlays
from vector_db.shard.storage.reads import Layers
from vector_db.shard.storage.store import Idle, Store, StoreOptions

SHARD = 0
Rows = dict[bytes, tuple[int, bytes]]


class Chunks:
    """The staged chunks of transactions at one shard, and how often each was asked for."""

    def __init__(self) -> None:
        self.of: dict[bytes, list[tuple[RowBlock, ...]]] = {}
        self.asked: list[int] = []

    def staged(
        self, txn_id: bytes, shard: int, start: int, stop: int
    ) -> list[tuple[RowBlock, ...]] | None:
        self.asked.append(start)
        chunks = self.of.get(txn_id, [])
        return chunks[start:stop] if len(chunks) >= stop else None

    def has_chunks(self, overlay: Overlay) -> bool:
        return overlay.chunks[SHARD] <= len(self.of.get(overlay.txn_id, []))


@pytest.fixture
def chunks() -> Chunks:
    return Chunks()


@pytest.fixture
def overlays(chunks: Chunks, store: Store) -> Overlays:
    return Overlays(chunks, store)


def layers(
    overlays: Overlays, count: int, ts: int, payload: bool = True, txn_id: bytes = b"t"
) -> Layers:
    overlay = Overlay(txn_id, 1, {SHARD: count})
    return overlays.open(overlay, 7, (SHARD,), ts).layers(payload)


def rows(store: Store, ts: int, over: Layers) -> Rows:
    """Version and metadata by id, as a scroll sees them; a count must agree."""
    reply = store.scroll(ScrollRequest(7, (SHARD,), ts, 1000), None, over)
    versions = np.frombuffer(reply.versions, dtype="<i8").tolist()
    found = zip(versions, reply.metadata.unpack(), strict=True)
    assert store.count_all(7, (SHARD,), ts, over) == len(reply.ids)
    return dict(zip(reply.ids.unpack(), found, strict=True))


def fetched(store: Store, ts: int, over: Layers, ids: Sequence[bytes]) -> list[bytes]:
    return store.fetch(FetchRequest(7, (SHARD,), ts, Blob.pack(ids)), over).ids.unpack()


def test_a_token_sees_its_own_chunks_and_no_later_ones(
    store: Store, chunks: Chunks, overlays: Overlays, upsert: BlockMaker, delete: BlockMaker
) -> None:
    store.apply(SHARD, upsert([b"a", b"b"], metadata=[b"1", b"1"]), 10)
    chunks.of[b"t"] = [
        (upsert([b"b", b"c"], metadata=[b"2", b"2"]),),
        (delete([b"a", b"c"]),),
        (upsert([b"c"], metadata=[b"3"]), delete([b"b"]), upsert([b"a"], metadata=[b"3"])),
    ]
    seen: list[Rows] = [
        {b"a": (10, b"1"), b"b": (0, b"2"), b"c": (0, b"2")},
        {b"b": (0, b"2")},
        {b"a": (0, b"3"), b"c": (0, b"3")},
    ]
    for count in (3, 1, 2, 3, 2, 1):
        over = layers(overlays, count, 10)
        assert rows(store, 10, over) == seen[count - 1]
        assert fetched(store, 10, over, [b"a", b"b", b"c"]) == sorted(seen[count - 1])
    assert chunks.asked == [0, 1, 2], "an overlay grows, it is not built again"


@pytest.mark.parametrize("held", [0, 1 << 20])
def test_of_an_id_that_comes_twice_in_a_block_the_last_row_wins(
    store: Store,
    chunks: Chunks,
    overlays: Overlays,
    upsert: BlockMaker,
    monkeypatch: pytest.MonkeyPatch,
    held: int,
) -> None:
    monkeypatch.setattr(overlay_module, "OVERLAY_BYTES_MAX", held)
    block = upsert([b"a", b"b", b"a"], metadata=[b"1", b"2", b"3"])
    chunks.of[b"t"] = [(block,)]
    over = layers(overlays, 1, 10)
    assert rows(store, 10, over) == {b"a": (0, b"3"), b"b": (0, b"2")}
    reply = store.fetch(FetchRequest(7, (SHARD,), 10, Blob.pack([b"a"])), over)
    assert bytes(reply.vectors) == block.vector_array()[2].tobytes()
    (view,) = store.views(7, (SHARD,), 10, over)
    assert view.ids.take(range(view.rows)) == [b"b", b"a"]
    assert view.vectors.tobytes() == block.vector_array()[1:].tobytes()


def test_rows_that_move_when_a_segment_is_frozen_stay_hidden(
    store: Store, chunks: Chunks, overlays: Overlays, upsert: BlockMaker, delete: BlockMaker
) -> None:
    old = [b"%d" % n for n in range(8)]
    store.apply(SHARD, upsert(old), 1)
    store.apply(SHARD, upsert([b"8", b"9"]), 5)
    chunks.of[b"t"] = [(delete([b"3", b"9"]),)]
    expected = sorted({*old, b"8"} - {b"3"})
    assert sorted(rows(store, 5, layers(overlays, 1, 5))) == expected
    # The worker has heard of less than the transaction began with: the last rows are not frozen.
    job = store.seal_due(3, Idle.SHORT)
    assert job is not None and job.rows == 8
    assert sorted(rows(store, 5, layers(overlays, 1, 5))) == expected
    job.run()
    store.sealed(job)
    assert sorted(rows(store, 5, layers(overlays, 1, 5))) == expected


def test_one_transaction_may_be_read_above_two_snapshots(
    store: Store, chunks: Chunks, overlays: Overlays, upsert: BlockMaker, delete: BlockMaker
) -> None:
    store.apply(SHARD, upsert([b"a"]), 1)
    store.apply(SHARD, upsert([b"a", b"b"]), 2)
    chunks.of[b"t"] = [(delete([b"a"]),)]
    for _ in range(2):
        assert sorted(rows(store, 2, layers(overlays, 1, 2))) == [b"b"]
        assert rows(store, 1, layers(overlays, 1, 1)) == {}


def test_only_what_needs_columns_is_limited(
    store: Store,
    chunks: Chunks,
    overlays: Overlays,
    upsert: BlockMaker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Per chunk: one byte of id, 16 of vector, 3 of metadata.
    chunks.of[b"t"] = [(upsert([i], metadata=[b"123"]),) for i in (b"a", b"b", b"c")]
    monkeypatch.setattr(overlays_module, "OVERLAY_BYTES_MAX", 40)
    monkeypatch.setattr(overlay_module, "OVERLAY_BYTES_MAX", 40)
    assert len(store.views(7, (SHARD,), 1, layers(overlays, 2, 1))) == 1
    with pytest.raises(TooLarge, match=r"60 bytes staged .* at most 40") as caught:
        layers(overlays, 3, 1)
    assert caught.value.details == {"limit": 40}
    light = layers(overlays, 3, 1, payload=False)
    assert sorted(rows(store, 1, light)) == [b"a", b"b", b"c"]
    chunks.asked.clear()
    assert fetched(store, 1, light, [b"b", b"a"]) == [b"b", b"a"]
    assert chunks.asked == []
    reply = store.fetch(FetchRequest(7, (SHARD,), 1, Blob.pack([b"c", b"a"])), light)
    assert chunks.asked == [2], "what is over the limit is read again"
    last, first = (chunks.of[b"t"][n][0].vectors for n in (2, 0))
    assert bytes(reply.vectors) == bytes(last) + bytes(first)
    assert reply.metadata.unpack() == [b"123", b"123"]
    with pytest.raises(RuntimeError, match="2 of 3 staged rows are copied"):
        store.views(7, (SHARD,), 1, light)


def test_missing_chunks_are_a_conflict(
    chunks: Chunks, overlays: Overlays, upsert: BlockMaker
) -> None:
    chunks.of[b"t"] = [(upsert([b"a"]),)]
    with pytest.raises(Conflict, match="begin again"):
        layers(overlays, 2, 1)
    chunks.of[b"t"] *= 2
    layers(overlays, 2, 1)


def test_a_foreign_dimension_and_an_unknown_collection_are_refused(
    store: Store, chunks: Chunks, overlays: Overlays, upsert: BlockMaker
) -> None:
    store.add_collection(Collection(8, "other", 3, Metric.DOT, (0,)))
    block = upsert([b"a"])
    chunks.of[b"t"] = [(RowBlock(8, 4, block.ids, block.hashes, block.vectors),)]
    overlay = Overlay(b"t", 1, {SHARD: 1})
    with pytest.raises(InvalidArgument, match="dimension 4 is staged, the collection has 3"):
        overlays.open(overlay, 8, (SHARD,), 1).layers(payload=True)
    with pytest.raises(NotFound):
        overlays.open(overlay, 9, (SHARD,), 1).layers(payload=True)
    overlays.sweep()
    assert len(overlays) == 1, "a collection that is not there leaves nothing"


def test_an_overlay_goes_with_its_transaction(
    chunks: Chunks, overlays: Overlays, upsert: BlockMaker
) -> None:
    for txn_id in (b"t", b"u"):
        chunks.of[txn_id] = [(upsert([b"a"]),)]
        layers(overlays, 1, 1, txn_id=txn_id)
    overlays.sweep()
    assert len(overlays) == 2
    del chunks.of[b"t"]
    overlays.sweep()
    assert len(overlays) == 1
    with pytest.raises(Conflict):
        layers(overlays, 1, 1)
    overlays.sweep()
    assert len(overlays) == 1, "a refused read leaves nothing"


@pytest.mark.parametrize("bound", ["OVERLAYS_MAX", "CACHE_BYTES_MAX"])
def test_what_is_kept_is_bounded_in_number_and_bytes(
    chunks: Chunks,
    overlays: Overlays,
    upsert: BlockMaker,
    monkeypatch: pytest.MonkeyPatch,
    bound: str,
) -> None:
    names = [b"%d" % n for n in range(5)]
    for name in names:
        chunks.of[name] = [(upsert([b"a", b"b"]),)]
        (layer,) = layers(overlays, 1, 1, txn_id=name).values()
    layers(overlays, 1, 1, txn_id=names[1])
    two = 2 if bound == "OVERLAYS_MAX" else 2 * layer.staged.memory_bytes
    monkeypatch.setattr(overlays_module, bound, two)
    overlays.sweep()
    assert len(overlays) == 2
    chunks.asked.clear()
    for name in (names[1], names[4]):  # the last ones used
        layers(overlays, 1, 1, txn_id=name)
    assert chunks.asked == []
    layers(overlays, 1, 1, txn_id=names[0])
    assert chunks.asked == [0]
    monkeypatch.setattr(overlays_module, bound, 0)
    overlays.sweep()
    assert len(overlays) == 1, "the one in use stays"


def test_the_bytes_of_an_overlay_follow_what_it_copies(
    chunks: Chunks, overlays: Overlays, upsert: BlockMaker
) -> None:
    ids = [b"id-%06d" % n for n in range(2000)]
    chunks.of[b"t"] = [(upsert(ids, metadata=[b"x" * 100] * 2000),)]
    (light,) = layers(overlays, 1, 1, payload=False).values()
    before = light.staged.memory_bytes
    assert before > 2000 * 200
    (full,) = layers(overlays, 1, 1, payload=True).values()
    assert full.staged.memory_bytes - before >= 2000 * (16 + 100)


def test_indexes_are_not_made_of_the_services_own_collections(
    store: Store,
    options: StoreOptions,
    upsert: BlockMaker,
    seal: Callable[[Store, int], int],
) -> None:
    store.add_collection(Collection(8, "_idempotency", 4, Metric.COSINE, (0,)))
    ids = [b"%d" % n for n in range(options.seal_rows)]
    block = upsert(ids)
    store.apply(SHARD, RowBlock(8, 4, block.ids, block.hashes, block.vectors), 1)
    assert seal(store, 1) == 1
    assert store.upkeep.final_due() is None
    store.apply(SHARD, block, 2)
    assert seal(store, 2) == 1
    due = store.upkeep.final_due()
    assert due is not None and due.owner.collection.id == 7
    assert store.upkeep.final_due() is None
