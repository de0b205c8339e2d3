"""What a transaction has staged itself, as its own reads see it above their snapshot.

Owns the invariant that a read which names n chunks sees exactly chunks 0 to n - 1, the later over
the earlier, over the rows of its snapshot. A staged row is born, and dies, at the number of its
chunk (counted from 1): a smaller n is an older snapshot of the same overlay, so it only ever grows.

Keys are kept for every staged row. Vectors and metadata are copied only for what needs them in
columns (search, filters) and are otherwise taken from the blocks, of which those above a limit are
read again each time: a transaction may be larger than memory allows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vector_db.common.model.errors import InvalidArgument
from vector_db.common.model.limits import OVERLAY_BYTES_MAX
from vector_db.common.model.rows import F32, I64, Blob, RowBlock
from vector_db.shard.search.columns import Columns
from vector_db.shard.storage.deaths import Deaths
from vector_db.shard.storage.growing import GrowingSegment
from vector_db.shard.storage.payloads import GrowingBytes, grown
from vector_db.shard.storage.segment import Segment, inverse_norms
from vector_db.shard.storage.slice import Slice
from vector_db.shard.views import SegmentView

LOCATE_IDS_MAX = 4096
"""Ids looked up in one go, a few milliseconds: other work of the loop comes in between."""

_KEY_BYTES = 300
"""What a staged key costs here besides its own bytes: array entries, dict entries, lists."""


class StagedRows:
    """The rows and deletes of one transaction in one collection at one shard."""

    def __init__(
        self, dimension: int, cosine: bool, read: Callable[[int], Sequence[RowBlock]]
    ) -> None:
        """`read`: this collection's blocks of a chunk, counted from 0."""
        self.dimension = dimension
        self.cosine = cosine
        self._read = read
        self.chunks = 0
        self.touched: list[list[bytes]] = []
        """Per chunk, the ids that no earlier one wrote or deleted."""
        self.keys = GrowingSegment(0, cosine=False)
        self._deleted: dict[bytes, int] = {}
        """Id → first chunk that deletes it while no row of it is staged."""
        self._blocks: list[RowBlock | None] = []
        """Blocks of rows without repeated ids; None: to be read again."""
        self._places: list[tuple[int, int]] = []
        """(chunk, place among its blocks) of each of them."""
        self._starts: list[int] = []
        self._held = 0
        self._payload = [0]
        """Bytes of ids, vectors and metadata of the first n chunks, by n."""
        self._vectors: F32 = np.empty((0, dimension), dtype=np.float32)
        self._inverse_norms: F32 = np.empty(0, dtype=np.float32)
        self._metadata = GrowingBytes()
        self._columns = Columns(self._metadata)
        self._blocks_copied = 0

    # --- growth ---------------------------------------------------------------------------------

    def absorb_next(self) -> bool:
        """Read the next chunk; whether it has anything of this collection.

        :raises InvalidArgument: the dimension of a block differs.
        """
        blocks = self._read(self.chunks)
        for block in blocks:
            if not block.delete and block.dimension != self.dimension:
                raise InvalidArgument(
                    f"dimension {block.dimension} is staged, the collection has {self.dimension}"
                )
        number, touched = self.chunks + 1, list[bytes]()
        size = self._payload[-1]
        for place, block in enumerate(blocks):
            one = _without_repeats(block)
            self._absorb_keys(one, number, touched)
            if not one.delete:
                size += _size_of(one)
                fits = size <= OVERLAY_BYTES_MAX
                self._blocks.append(one if fits else None)
                self._places.append((number - 1, place))
                self._held = size if fits else self._held
        self.touched.append(touched)
        self._payload.append(size)
        self.chunks = number
        return bool(blocks)

    def _absorb_keys(self, block: RowBlock, number: int, touched: list[bytes]) -> None:
        ids = block.ids.unpack()
        before = self.keys.find(ids)
        known = before.tolist()
        deleted = self._deleted
        fresh = [
            row_id
            for row_id, row in zip(ids, known, strict=True)
            if row < 0 and row_id not in deleted
        ]
        touched.extend(fresh)
        self.keys.kill(before[before >= 0], number)
        if block.delete:
            deleted.update(dict.fromkeys(fresh, number))
            return
        self._starts.append(self.keys.rows)
        nothing: F32 = np.empty((len(ids), 0), dtype=np.float32)
        self.keys.append(ids, block.ids, block.hash_array(), nothing, None, before, number)

    def _block(self, number: int) -> RowBlock:
        block = self._blocks[number]
        if block is None:
            chunk, place = self._places[number]
            block = _without_repeats(self._read(chunk)[place])
        return block

    def copy_next(self, chunks: int) -> bool:
        """Copy vectors and metadata of the next block of the first `chunks` chunks; false: none."""
        at = self._blocks_copied
        if at == len(self._blocks) or self._starts[at] >= self.keys.prefix(chunks):
            return False
        block, start = self._block(at), self._starts[at]
        stop = start + len(block)
        if len(self._vectors) < stop:
            self._vectors = grown(self._vectors, start, stop)  # type: ignore[assignment]
            if self.cosine:
                bigger = grown(self._inverse_norms, start, stop)
                self._inverse_norms = bigger  # type: ignore[assignment]
        vectors = block.vector_array()
        self._vectors[start:stop] = vectors
        if self.cosine:
            self._inverse_norms[start:stop] = inverse_norms(vectors)
        if block.metadata is None:
            self._metadata.append_empty(len(block))
        else:
            self._metadata.append(block.metadata)
        self._blocks_copied = at + 1
        return True

    # --- reads, all as of the first `chunks` chunks ---------------------------------------------

    def find(self, row_id: bytes, chunks: int) -> int | None:
        """The staged row of the id, -1 when it is deleted, None when it is not touched."""
        row = self.keys.row_at(row_id, chunks)
        if row >= 0:
            return row if self.keys.end_ts(np.array([row]))[0] > chunks else -1
        return -1 if self._deleted.get(row_id, chunks + 1) <= chunks else None

    def count(self, chunks: int) -> int:
        """Rows that are staged and not deleted again."""
        return self.keys.count(chunks)

    def visible(self, chunks: int) -> tuple[int, NDArray[np.bool_] | None]:
        """(rows, bool[rows] of those that count, None for all); (0, None) when there are none."""
        view = self.keys.view(chunks)
        return (0, None) if view is None else (view.rows, view.live)

    def view(self, chunks: int) -> SegmentView | None:
        """The staged rows as a segment, their versions 0; None when there are none.

        :raises RuntimeError: `copy_next` was not called until there was nothing left.
        """
        keys = self.keys.view(chunks)
        if keys is None:
            return None
        n = keys.rows
        if self._metadata.rows < n:
            raise RuntimeError(f"{self._metadata.rows} of {n} staged rows are copied")
        return replace(
            keys,
            vectors=self._vectors[:n],
            inverse_norms=self._inverse_norms[:n] if self.cosine else None,
            versions=np.zeros(n, dtype=np.int64),
            metadata=self._metadata,
            columns=self._columns,
        )

    def payload_bytes(self, chunks: int) -> int:
        """Bytes of ids, vectors and metadata that the chunks stage."""
        return self._payload[chunks]

    def take(self, rows: I64, include_vectors: bool) -> tuple[list[bytes], list[bytes], F32]:
        """(ids, metadata, vectors float32[n or 0, dimension]) of rows, from their blocks."""
        texts = [b""] * len(rows)
        wanted = len(rows) if include_vectors else 0
        vectors: F32 = np.empty((wanted, self.dimension), dtype=np.float32)
        numbers = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(numbers).tolist():
            block, start = self._block(number), self._starts[number]
            at = np.flatnonzero(numbers == number)
            inside = rows[at] - start
            for place, item in zip(at.tolist(), _items(block.metadata, inside), strict=True):
                texts[place] = item
            if include_vectors:
                vectors[at] = block.vector_array()[inside]
        return self.keys.ids.take(rows), texts, vectors

    @property
    def memory_bytes(self) -> int:
        """Bytes held, the blocks among them."""
        keys = self.keys.rows + len(self._deleted)
        copied = self._metadata.rows * (4 * self.dimension + 16) + self._metadata.used
        return keys * _KEY_BYTES + 2 * self.keys.ids.used + copied + self._held


class Hidden:
    """The rows of one slice, visible at one snapshot, that the overlay's ids hide."""

    def __init__(self, part: Slice | None, snapshot_ts: int) -> None:
        self._part = part
        self._moves = 0 if part is None else part.moves
        self._snapshot_ts = snapshot_ts
        self.chunks = 0
        self._done = 0
        self._segments: dict[int, tuple[Segment, Deaths]] = {}

    def fits(self, part: Slice | None, snapshot_ts: int) -> bool:
        """Whether this is of that snapshot, and the rows still lie where they were found."""
        if part is not self._part or snapshot_ts != self._snapshot_ts:
            return False
        return part is None or part.moves == self._moves

    def locate_next(self, staged: StagedRows) -> int:
        """Look up some ids of the next chunk; how many."""
        touched = staged.touched[self.chunks]
        ids = touched[self._done : self._done + LOCATE_IDS_MAX]
        if self._part is not None and ids:
            found: dict[int, tuple[Segment, list[int]]] = {}
            places = self._part.locate(ids, range(len(ids)), self._snapshot_ts)
            for segment, row in places.values():
                found.setdefault(id(segment), (segment, []))[1].append(row)
            for segment, rows in found.values():
                self._hide(segment, rows)
        self._done += len(ids)
        if self._done == len(touched):
            self.chunks, self._done = self.chunks + 1, 0
        return len(ids)

    def _hide(self, segment: Segment, rows: list[int]) -> None:
        if id(segment) not in self._segments:
            view = segment.view(self._snapshot_ts)
            self._segments[id(segment)] = segment, Deaths(0 if view is None else view.rows)
        deaths = self._segments[id(segment)][1]
        deaths.add(np.array(rows, dtype=np.int64), self.chunks + 1)

    def count(self, chunks: int) -> int:
        """How many rows the first `chunks` chunks hide."""
        return sum(deaths.until(chunks) for _, deaths in self._segments.values())

    def mask(self, segment: Segment, view: SegmentView, chunks: int) -> SegmentView:
        """The view without the rows that the first `chunks` chunks hide."""
        known = self._segments.get(id(segment))
        others = None if known is None else known[1].live(chunks)
        if others is None:
            return view
        return view.showing(others if view.live is None else view.live & others)

    @property
    def memory_bytes(self) -> int:
        """Bytes of masks and row numbers."""
        return sum(deaths.memory_bytes for _, deaths in self._segments.values())


@dataclass(frozen=True, slots=True)
class Layer:
    """What one read sees above one shard's slice: the first `chunks` chunks."""

    staged: StagedRows
    hidden: Hidden
    chunks: int

    def find(self, row_id: bytes) -> int | None:
        """The staged row of the id, -1 when it is deleted, None when it is not touched."""
        return self.staged.find(row_id, self.chunks)

    def mask(self, segment: Segment, view: SegmentView) -> SegmentView:
        """A view of the slice without the rows that the overlay replaces or deletes."""
        return self.hidden.mask(segment, view, self.chunks)

    def view(self) -> SegmentView | None:
        """The staged rows themselves."""
        return self.staged.view(self.chunks)

    def visible(self) -> tuple[int, NDArray[np.bool_] | None]:
        """`StagedRows.visible` of the chunks."""
        return self.staged.visible(self.chunks)

    def count_change(self) -> int:
        """How many more rows are visible than at the snapshot alone; it may be negative."""
        return self.staged.count(self.chunks) - self.hidden.count(self.chunks)


def _without_repeats(block: RowBlock) -> RowBlock:
    """Of an id that comes twice in one block the last row wins, as in a commit."""
    ids = block.ids.unpack()
    if len(set(ids)) == len(ids):
        return block
    last = {row_id: at for at, row_id in enumerate(ids)}
    return block.take(np.array(sorted(last.values()), dtype=np.int64))


def _size_of(block: RowBlock) -> int:
    metadata = 0 if block.metadata is None else len(block.metadata.data)
    return len(block.ids.data) + len(block.vectors) + metadata


def _items(column: Blob | None, rows: I64) -> list[bytes]:
    if column is None:
        return [b""] * len(rows)
    offsets, data = column.offset_array(), column.data
    spans = zip(offsets[rows].tolist(), offsets[rows + 1].tolist(), strict=True)
    return [bytes(data[a:b]) for a, b in spans]
