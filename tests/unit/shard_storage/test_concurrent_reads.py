"""Views read in other threads while the owner writes, seals and undoes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

import numpy as np

from vector_db.common.model.rows import Blob, RowBlock, hash_ids
from vector_db.shard.storage.store import Store
from vector_db.shard.views import SegmentView

ROWS = 5


def block_of(ts: int) -> RowBlock:
    """Rows whose id, metadata and every vector entry say the same number."""
    numbers = [ts * 100 + n for n in range(ROWS)]
    ids = [b"%d" % (n % 700) for n in numbers]
    vectors = np.repeat(np.array(numbers, dtype=np.float32), 4)
    texts = Blob.pack([b"%d" % n for n in numbers])
    return RowBlock(7, 4, Blob.pack(ids), hash_ids(ids).tobytes(), vectors.tobytes(), texts)


def mistakes(view: SegmentView, ts: int) -> list[str]:
    numbers = [int(text) for text in view.metadata.range(0, view.rows)]
    ids = view.ids.take(range(view.rows))
    found = [f"id {i!r} of {n}" for i, n in zip(ids, numbers, strict=True) if int(i) != n % 700]
    if view.vectors.tolist() != [[float(n)] * 4 for n in numbers]:
        found.append("vectors")
    if view.versions.tolist() != [n // 100 for n in numbers] or view.versions.max() > ts:
        found.append("versions")
    return found


def test_views_stay_whole_in_other_threads_while_rows_are_written_sealed_and_undone(
    store: Store, seal: Callable[[Store, int], int]
) -> None:
    views: queue.SimpleQueue[tuple[SegmentView, int] | None] = queue.SimpleQueue()
    found: list[str] = []
    checked = 0

    def check() -> None:
        nonlocal checked
        while (item := views.get()) is not None:
            found.extend(mistakes(*item))
            checked += 1

    threads = [threading.Thread(target=check) for _ in range(2)]
    for thread in threads:
        thread.start()
    for ts in range(1, 301):
        store.apply(0, block_of(ts), ts)
        for view in store.views(7, (0,), ts)[-3:]:
            views.put((view, ts))
        if ts % 11 == 0:
            store.undo_above(ts - 1)
        if ts % 40 == 0:
            seal(store, ts - 2)
    for _ in threads:
        views.put(None)
    for thread in threads:
        thread.join()
    assert found == [] and checked > 300
