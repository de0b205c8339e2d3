"""RowBlock: a batch of rows of one collection as columns, the unit in which writes travel and are
logged.

Owns the invariant that the columns agree in length, checked once at construction from untrusted
bytes; no Python object per row exists on the write path but the key itself.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import google_crc32c
import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

F32: TypeAlias = NDArray[np.float32]
U32: TypeAlias = NDArray[np.uint32]
U64: TypeAlias = NDArray[np.uint64]
I64: TypeAlias = NDArray[np.int64]
if TYPE_CHECKING:
    Buffer: TypeAlias = bytes | bytearray | memoryview
else:
    Buffer = memoryview  # msgspec decodes such a field as a view of the message, without a copy


_FEW = 64
"""Items up to which `struct` beats NumPy's call overhead."""


def hash_id(row_id: bytes) -> int:
    """The 64-bit hash by which ids are placed on shards and found in sealed segments (XXH3-64)."""
    return xxhash.xxh3_64_intdigest(row_id)


def hash_ids(ids: Sequence[bytes]) -> U64:
    """`hash_id` of each id, shape [n] uint64."""
    return np.fromiter(map(xxhash.xxh3_64_intdigest, ids), dtype=np.uint64, count=len(ids))


class Blob(msgspec.Struct, frozen=True):
    """n byte strings as one blob: `offsets` is uint32[n + 1] in little-endian bytes."""

    offsets: Buffer
    data: Buffer

    @classmethod
    def pack(cls, items: Sequence[bytes]) -> Blob:
        """The blob of `items`, in order."""
        if len(items) <= _FEW:
            offsets_of_few = struct.pack(
                f"<{len(items) + 1}I", 0, *itertools.accumulate(map(len, items))
            )
            return cls(offsets_of_few, b"".join(items))
        offsets = np.zeros(len(items) + 1, dtype="<u4")
        lengths = np.fromiter(map(len, items), dtype=np.int64, count=len(items))
        np.cumsum(lengths, out=offsets[1:])
        return cls(offsets.tobytes(), b"".join(items))

    def __len__(self) -> int:
        return len(self.offsets) // 4 - 1

    def offset_array(self) -> U32:
        """uint32[n + 1], a view."""
        return np.frombuffer(self.offsets, dtype="<u4")

    def lengths(self) -> NDArray[np.int64]:
        """Bytes of each item, int64[n]."""
        offsets = self.offset_array().astype(np.int64)
        return offsets[1:] - offsets[:-1]

    def unpack(self) -> list[bytes]:
        """The n items as bytes."""
        data = bytes(self.data)
        n = len(self.offsets) // 4
        few = n <= _FEW
        o = struct.unpack(f"<{n}I", self.offsets) if few else self.offset_array().tolist()
        return [data[a:b] for a, b in itertools.pairwise(o)]

    def range(self, start: int, stop: int) -> Blob:
        """The blob of items [start, stop), its data a view of this one's."""
        offsets = self.offset_array()[start : stop + 1]
        data = memoryview(self.data)[int(offsets[0]) : int(offsets[-1])]
        return Blob((offsets - offsets[0]).tobytes(), data)

    def take(self, rows: Sequence[int]) -> Blob:
        """The blob of the items at `rows`, in that order."""
        items = self.unpack()
        return Blob.pack([items[r] for r in rows])


class RowBlock(msgspec.Struct, frozen=True):
    """n rows of one collection.

    A block holds rows that are written (`vectors` n × dimension float32, little-endian, `metadata`
    JSON bytes each, empty = no metadata) or keys that are deleted (`delete=True`: no vectors, no
    metadata).

    `precondition`: what must hold of *every* row: ``none`` (blind), ``absent`` (insert),
    ``present`` (update), ``version`` (`versions`: int64[n] commit_ts that the row must have now).
    Two belong to a generation of a collection that is being filled (docs/adr/0019): ``mirrored``
    is judged elsewhere, and not counted; ``copied`` must be absent, and keeps `versions`.
    """

    collection_id: int
    dimension: int
    ids: Blob
    hashes: Buffer
    vectors: Buffer = b""
    metadata: Blob | None = None
    delete: bool = False
    precondition: str = "none"
    versions: Buffer = b""

    def __len__(self) -> int:
        return len(self.hashes) // 8

    def hash_array(self) -> U64:
        """uint64[n] of `hash_id`, a view."""
        return np.frombuffer(self.hashes, dtype="<u8")

    def vector_array(self) -> F32:
        """float32[n, dimension], a view."""
        return np.frombuffer(self.vectors, dtype="<f4").reshape(-1, self.dimension)

    def version_array(self) -> I64:
        """int64[n] (empty unless ``version`` or ``copied`` is the precondition), a view."""
        return np.frombuffer(self.versions, dtype="<i8")

    def take(self, rows: NDArray[np.int64]) -> RowBlock:
        """The block of the rows at `rows`, in that order."""
        index = rows.tolist()
        return RowBlock(
            collection_id=self.collection_id,
            dimension=self.dimension,
            ids=self.ids.take(index),
            hashes=self.hash_array()[rows].tobytes(),
            vectors=b"" if self.delete else self.vector_array()[rows].tobytes(),
            metadata=None if self.metadata is None else self.metadata.take(index),
            delete=self.delete,
            precondition=self.precondition,
            versions=self.version_array()[rows].tobytes() if self.versions else b"",
        )

    def range(self, start: int, stop: int) -> RowBlock:
        """The block of rows [start, stop), its columns views of this one's."""
        row = 0 if self.delete else 4 * self.dimension
        return RowBlock(
            collection_id=self.collection_id,
            dimension=self.dimension,
            ids=self.ids.range(start, stop),
            hashes=memoryview(self.hashes)[8 * start : 8 * stop],
            vectors=memoryview(self.vectors)[row * start : row * stop],
            metadata=None if self.metadata is None else self.metadata.range(start, stop),
            delete=self.delete,
            precondition=self.precondition,
            versions=memoryview(self.versions)[8 * start : 8 * stop] if self.versions else b"",
        )

    def sizes(self) -> NDArray[np.int64]:
        """What each row weighs in a record, bytes, int64[n].

        Vector and metadata, or half of the whole row where its key is the larger part: a sum of
        weights bounds the payload, and twice the sum the whole.
        """
        payload = np.zeros(len(self), dtype=np.int64)
        if not self.delete:
            payload += 4 * self.dimension
        if self.metadata is not None:
            payload += self.metadata.lengths()
        # A hash and two offsets go with every key.
        whole = payload + self.ids.lengths() + 16
        weights: NDArray[np.int64] = np.maximum(payload, (whole + 1) // 2)
        return weights

    def check(self) -> None:
        """Refuse a block whose columns disagree.

        :raises ValueError: names the column.
        """
        n = len(self)
        if len(self.ids) != n:
            raise ValueError(f"ids: {len(self.ids)} for {n} rows")
        want = 0 if self.delete else 4 * n * self.dimension
        if len(self.vectors) != want:
            raise ValueError(f"vectors: {len(self.vectors)} bytes, want {want}")
        if self.metadata is not None and len(self.metadata) != n:
            raise ValueError(f"metadata: {len(self.metadata)} for {n} rows")
        if self.precondition in ("version", "copied") and len(self.versions) != 8 * n:
            raise ValueError(f"versions: {len(self.versions)} bytes for {n} rows")


def chunks_checksum(chunks: Iterable[Sequence[RowBlock]], crc: int = 0) -> int:
    """crc32c over everything that the chunks write, in order, continued from `crc` (the checksum of
    the chunks before them): what a PREPARE says of the STAGE records that precede it."""
    for blocks in chunks:
        for block in blocks:
            metadata = block.metadata
            head = f"{block.collection_id} {block.delete} {block.precondition} {len(block)}"
            for part in (
                head.encode(),
                block.ids.offsets,
                block.ids.data,
                block.vectors,
                b"" if metadata is None else metadata.offsets,
                b"" if metadata is None else metadata.data,
                block.versions,
            ):
                crc = google_crc32c.extend(crc, bytes(part))
    return crc
