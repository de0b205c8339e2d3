"""The overlays of open transactions, built as their reads ask for them and kept for the next ones.

Owns two bounds: no overlay outlives its transaction's undecided chunks, and what is kept is limited
in number and bytes. Building goes in small steps, so that a large transaction does not hold up the
thread that all writes need.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Protocol

from vector_db.common.core.messages.reads import Overlay
from vector_db.common.model.collection import Collection, Metric
from vector_db.common.model.errors import Conflict, TooLarge
from vector_db.common.model.limits import OVERLAY_BYTES_MAX
from vector_db.common.model.rows import RowBlock
from vector_db.shard.storage.overlay import Hidden, Layer, StagedRows
from vector_db.shard.storage.slice import Slice

OVERLAYS_MAX = 64
CACHE_BYTES_MAX = 256 * 1024 * 1024
"""The overlay in use is kept whatever it weighs: its transaction holds at least as much."""

GONE = (
    "the staged rows are gone: the transaction expired, was aborted, or its coordinator changed; "
    "begin again"
)


class Chunks(Protocol):
    """Where chunks come from: the participant."""

    def staged(
        self, txn_id: bytes, shard: int, start: int, stop: int
    ) -> list[tuple[RowBlock, ...]] | None:
        """The blocks of chunks [start, stop) of an undecided transaction; None: one is gone."""

    def has_chunks(self, overlay: Overlay) -> bool:
        """Whether all that the overlay names is here; cheap."""


class Slices(Protocol):
    """Where the rows below come from: the store."""

    def collection(self, collection_id: int) -> Collection: ...

    def slice_of(self, collection_id: int, shard: int) -> Slice | None: ...


Key = tuple[bytes, int, int]
"""(txn_id, term, collection id)."""


class _Entry:
    """One transaction in one collection."""

    def __init__(self) -> None:
        self.staged: dict[int, StagedRows] = {}
        self.hidden: dict[int, Hidden] = {}

    @property
    def memory_bytes(self) -> int:
        staged = sum(s.memory_bytes for s in self.staged.values())
        return staged + sum(h.memory_bytes for h in self.hidden.values())


class Overlays:
    """The overlays of one worker. All methods run on the thread of the store."""

    def __init__(self, chunks: Chunks, slices: Slices) -> None:
        self._chunks = chunks
        self._slices = slices
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def open(
        self, overlay: Overlay, collection_id: int, shards: Sequence[int], snapshot_ts: int
    ) -> OverlayRead:
        """A read of the shards of one collection, above one snapshot."""
        key = overlay.txn_id, overlay.term, collection_id
        entry = self._entries.setdefault(key, _Entry())
        self._entries.move_to_end(key)
        counts = {s: n for s in shards if (n := overlay.chunks.get(s, 0)) > 0}
        return OverlayRead(
            self._chunks, self._slices, entry, overlay.txn_id, collection_id, counts, snapshot_ts
        )

    def sweep(self) -> None:
        """Free the overlays of decided and expired transactions, and what is over the bounds."""
        for key, entry in list(self._entries.items()):
            needed = Overlay(key[0], key[1], dict.fromkeys(entry.staged, 1))
            if not entry.staged or not self._chunks.has_chunks(needed):
                del self._entries[key]
        held = sum(entry.memory_bytes for entry in self._entries.values())
        while len(self._entries) > 1 and (
            len(self._entries) > OVERLAYS_MAX or held > CACHE_BYTES_MAX
        ):
            held -= self._entries.popitem(last=False)[1].memory_bytes


class OverlayRead:
    """One read's use of an overlay: first all `steps`, then `layers`."""

    def __init__(
        self,
        chunks: Chunks,
        slices: Slices,
        entry: _Entry,
        txn_id: bytes,
        collection_id: int,
        counts: dict[int, int],
        snapshot_ts: int,
    ) -> None:
        self._chunks = chunks
        self._slices = slices
        self._entry = entry
        self._txn_id = txn_id
        self._collection_id = collection_id
        self._counts = counts
        self._snapshot_ts = snapshot_ts

    def steps(self, payload: bool) -> Iterator[None]:
        """Brings the overlay up to what the read names, piece by piece; yields between pieces.

        Anything may happen at a yield: other reads of the same overlay, commits, seals.

        :param payload: vectors and metadata are wanted in columns.
        :raises Conflict: a chunk is gone.
        :raises TooLarge: more is staged than columns are made of.
        :raises NotFound: no such collection.
        """
        for shard, count in self._counts.items():
            yield from self._absorb(shard, count)
            yield from self._locate(shard, count)
        if payload:
            yield from self._copy()

    def layers(self, payload: bool) -> dict[int, Layer]:
        """Per shard what the read sees above it, valid until the thread does something else.

        :raises VectorDBError: as `steps` does.
        """
        for _ in self.steps(payload):
            pass
        return {
            shard: Layer(self._entry.staged[shard], self._entry.hidden[shard], count)
            for shard, count in self._counts.items()
        }

    def _absorb(self, shard: int, count: int) -> Iterator[None]:
        collection = self._slices.collection(self._collection_id)
        if (staged := self._entry.staged.get(shard)) is None:
            cosine = collection.metric == Metric.COSINE
            read = partial(_read, self._chunks, self._txn_id, shard, self._collection_id)
            staged = self._entry.staged[shard] = StagedRows(collection.dimension, cosine, read)
        while staged.chunks < count:
            if staged.absorb_next():
                yield

    def _locate(self, shard: int, count: int) -> Iterator[None]:
        staged = self._entry.staged[shard]
        hidden = self._hidden(shard, self._entry.hidden.get(shard))
        while hidden.chunks < count:
            if hidden.locate_next(staged):
                yield
                hidden = self._hidden(shard, hidden)

    def _hidden(self, shard: int, known: Hidden | None) -> Hidden:
        part = self._slices.slice_of(self._collection_id, shard)
        if known is None or not known.fits(part, self._snapshot_ts):
            known = Hidden(part, self._snapshot_ts)
        self._entry.hidden[shard] = known
        return known

    def _copy(self) -> Iterator[None]:
        counts = [(self._entry.staged[shard], n) for shard, n in self._counts.items()]
        size = sum(staged.payload_bytes(n) for staged, n in counts)
        if size > OVERLAY_BYTES_MAX:
            raise TooLarge(
                f"the transaction has {size} bytes staged in this collection at one worker; "
                f"a query or a filter inside it sees at most {OVERLAY_BYTES_MAX} of them",
                limit=OVERLAY_BYTES_MAX,
            )
        for staged, n in counts:
            while staged.copy_next(n):
                yield


def _read(
    chunks: Chunks, txn_id: bytes, shard: int, collection_id: int, number: int
) -> list[RowBlock]:
    """The blocks of one collection in one chunk.

    :raises Conflict: it is gone.
    """
    found = chunks.staged(txn_id, shard, number, number + 1)
    if found is None:
        raise Conflict(GONE)
    return [block for block in found[0] if block.collection_id == collection_id]
