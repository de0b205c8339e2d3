"""Key → row of a sealed segment: sorted 64-bit hashes beside u32 rows, found in batches.

Twelve bytes a row and no Python object. A bitmap of hash prefixes in front answers "not here" for a
batch at the cost of one gather, so that blind writes of new keys pay a few microseconds a segment.
The id itself decides: a hash that matches is only a candidate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from vector_db.common.model.rows import I64, U32, U64
from vector_db.shard.storage.payloads import BytesReader

Positions = NDArray[np.int64]


def build_keys(hashes: U64) -> tuple[U64, U32]:
    """(sorted hashes, their rows): equal hashes stay in row order, the newest last."""
    order = np.argsort(hashes, kind="stable")
    return hashes[order], order.astype(np.uint32)


_MIX = np.uint64(0x9E3779B97F4A7C15)
"""Odd, from the golden ratio (Knuth's multiplicative hashing): ids of one shard may agree in the
bits by which they were placed, so the bitmaps take theirs from a product."""

Places = tuple[NDArray[np.int64], NDArray[np.uint8]]
"""Byte number in a bitmap, and the mask of the bit in that byte."""


def _bits_of(hashes: U64, bits: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Two bit numbers below ``2**bits`` for each hash."""
    mixed = hashes * _MIX
    first = (mixed >> np.uint64(64 - bits)).astype(np.int64)
    second = ((mixed >> np.uint64(64 - 2 * bits)) & np.uint64((1 << bits) - 1)).astype(np.int64)
    return first, second


class Probe:
    """The hashes of one batch, prepared once for the bitmaps of many segments."""

    def __init__(self, hashes: U64, ids: Sequence[bytes]) -> None:
        self.hashes = hashes
        self.ids = ids
        self._places: dict[int, tuple[Places, Places]] = {}

    def places(self, bits: int) -> tuple[Places, Places]:
        """The two places of each hash in a bitmap of ``2**bits`` bits."""
        if (found := self._places.get(bits)) is None:
            one, two = _bits_of(self.hashes, bits)
            found = _places(one), _places(two)
            self._places[bits] = found
        return found


def _places(numbers: NDArray[np.int64]) -> Places:
    return numbers >> 3, np.left_shift(1, numbers & 7).astype(np.uint8)


class KeyIndex:
    """Lookup in one sealed segment."""

    def __init__(self, hashes: U64, rows: U32, ids: BytesReader) -> None:
        self._hashes = hashes
        self._rows = rows
        self._ids = ids
        # At least 16 bits a row, two of them set: of the absent keys one in 64 at most passes.
        self._bits = min(max(len(hashes).bit_length() + 4, 10), 28)
        bits = np.zeros(1 << self._bits, dtype=np.bool_)
        for numbers in _bits_of(hashes, self._bits):
            bits[numbers] = True
        self._bitmap = np.packbits(bits, bitorder="little")

    @property
    def memory_bytes(self) -> int:
        return self._bitmap.nbytes

    def newest(self, probe: Probe, pending: NDArray[np.bool_]) -> tuple[Positions, I64]:
        """(positions in the batch, newest row of that id) of those `pending` ids that are here."""
        maybe = self._maybe_here(probe)
        if len(maybe):
            maybe = maybe[pending[maybe]]
        if not len(maybe):
            return maybe, maybe
        wanted = probe.hashes[maybe]
        slots = self._hashes.searchsorted(wanted, side="right") - 1
        equal = ((slots >= 0) & (self._hashes[slots] == wanted)).nonzero()[0]
        if not len(equal):
            return equal, equal
        maybe, slots = maybe[equal], slots[equal]
        rows = self._rows[slots].astype(np.int64)
        ids = probe.ids
        stored = zip(maybe.tolist(), self._ids.take(rows), strict=True)
        other = [at for at, (p, row_id) in enumerate(stored) if row_id != ids[p]]
        for at in other:  # another id with the same hash: look through its equals
            p = int(maybe[at])
            rows[at] = next(self.versions(int(probe.hashes[p]), ids[p]), -1)
        if other:
            maybe, rows = maybe[rows >= 0], rows[rows >= 0]
        return maybe, rows

    def _maybe_here(self, probe: Probe) -> Positions:
        """Positions in the batch of the hashes that the bitmap does not rule out."""
        (byte, mask), (byte2, mask2) = probe.places(self._bits)
        maybe = (self._bitmap.take(byte) & mask).nonzero()[0]
        if len(maybe):
            passed = self._bitmap.take(byte2.take(maybe)) & mask2.take(maybe)
            maybe = maybe[passed.nonzero()[0]]
        return maybe

    def versions(self, key_hash: int, row_id: bytes) -> Iterator[int]:
        """Rows of the id, newest first."""
        wanted = np.uint64(key_hash)
        low = int(np.searchsorted(self._hashes, wanted, side="left"))
        high = int(np.searchsorted(self._hashes, wanted, side="right"))
        for slot in range(high - 1, low - 1, -1):
            row = int(self._rows[slot])
            if self._ids.get(row) == row_id:
                yield row
