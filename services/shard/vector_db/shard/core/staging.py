"""One shard's part of a transaction that is not decided: its chunks and its PREPARE.

Owns two invariants: the first copy of a chunk counts, and memory holds at most
`STAGED_PART_BYTES_MAX` of a part's chunks. Beyond that a chunk is its place in the log, and is read
back when it is needed, one at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from vector_db.common.core.messages.transactions import Prepare, ReadSet, Stage, Vote
from vector_db.common.model.limits import STAGED_PART_BYTES_MAX
from vector_db.common.model.rows import U64, RowBlock, chunks_checksum, hash_ids
from vector_db.shard.core.conflicts import Footprint, KeySource


class Shape(NamedTuple):
    """What kind of a block it is; `role` is ``mirrored``, ``copied`` (docs/adr/0019) or empty."""

    collection_id: int
    dimension: int
    delete: bool
    role: str

    def is_blind(self, mode: str) -> bool:
        """Whether such a block of a PREPARE of this mode looks at no row."""
        if self.role:
            return self.role == "mirrored" and not self.delete
        return mode == "blind"

    def is_judged(self, mode: str) -> bool:
        """Whether its rows are compared with those that are there."""
        return self.role == "copied" or (not self.role and mode != "blind")


class RecordSource(Protocol):
    """Random access to the chunks in the log."""

    def load(self, lsn: int) -> Stage:
        """The chunk that was logged at `lsn`, durable or still buffered.

        :raises StorageCorrupt: the record is damaged, or no chunk.
        """


@dataclass(slots=True)
class _Chunk:
    """`stage` is None once it is left to the log; what votes need of it stays."""

    lsn: int
    stage: Stage | None
    keys: tuple[tuple[Shape, U64], ...]
    """Of each block, the hashes of its keys."""


@dataclass(slots=True)
class Part:
    """One shard's part of an undecided transaction.

    `lsn` is its oldest record in the WAL; `records` None keeps every chunk in memory. `late`: the
    chunks were not all here when the PREPARE came, so the vote is NO, after a restart as well.
    `fetched`: from a peer, since the transaction is committed, so it is not voted on. `prompt`: it
    was voted on when the PREPARE came, before any later one.
    """

    txn_id: bytes
    shard: int
    lsn: int
    deadline_ms: int
    term: int
    records: RecordSource | None = None
    prepare: Prepare | None = None
    prepare_lsn: int = 0
    late: bool = False
    fetched: bool = False
    prompt: bool = False
    vote: Vote | None = None
    _chunks: dict[int, _Chunk] = field(default_factory=dict)
    _bytes: int = 0
    _crcs: list[int] = field(default_factory=list)
    """`_crcs[i]` is the checksum of chunks 0 to i: chunks are checked as they come, in order."""

    def add_chunk(self, stage: Stage, lsn: int, replace: bool = False) -> None:
        """Take a chunk that is logged at `lsn`; one that is here already is passed over unless
        it is to be replaced (by what a peer has)."""
        index = stage.index
        known = self._chunks.get(index)
        if known is not None:
            if not replace:
                return
            # It may differ: what was checked from here on is checked again.
            del self._crcs[index:]
            self._bytes -= 0 if known.stage is None else _stage_bytes(known.stage)
        size = _stage_bytes(stage)
        held = self.records is None or self._bytes + size <= STAGED_PART_BYTES_MAX
        if held:
            self._bytes += size
        self._chunks[index] = _Chunk(
            lsn,
            stage if held else None,
            tuple((shape_of(b), b.hash_array().copy()) for b in stage.blocks),
        )
        if len(self._crcs) == index:
            crc = self._crcs[-1] if self._crcs else 0
            self._crcs.append(chunks_checksum([stage.blocks], crc))
            self._check_following()

    def _check_following(self) -> None:
        while (index := len(self._crcs)) in self._chunks:
            self._crcs.append(chunks_checksum([self.chunk(index)], self._crcs[-1]))

    def add_prepare(self, prepare: Prepare, lsn: int, fetched: bool) -> None:
        """Take the PREPARE, unless one is here."""
        if self.prepare is not None:
            return
        self.prepare = prepare
        self.prepare_lsn = lsn
        self.fetched = fetched
        # Chunks that expired may be gone here and back after a restart: a PREPARE that outlives
        # them is refused either way.
        outlives = bool(prepare.stages) and prepare.deadline_ms > self.deadline_ms
        self.late = outlives or not self.whole

    @property
    def whole(self) -> bool:
        """Whether the PREPARE and all that it names are here, as they were sent."""
        prepare = self.prepare
        if prepare is None or len(self._crcs) < prepare.stages:
            return False
        return not prepare.stages or self._crcs[prepare.stages - 1] == prepare.stages_crc

    @property
    def arrived(self) -> int:
        """How many of the chunks that count are here."""
        return sum(1 for _ in self._named())

    @property
    def in_order(self) -> int:
        """Chunks 0 to here (exclusive) are here."""
        return len(self._crcs)

    def chunk(self, index: int) -> tuple[RowBlock, ...]:
        """The blocks of a chunk that is here, from memory or from the log."""
        chunk = self._chunks[index]
        if chunk.stage is not None:
            return chunk.stage.blocks
        if self.records is None:
            raise ValueError(f"chunk {index} is nowhere")
        return self.records.load(chunk.lsn).blocks

    def _named(self) -> Iterable[int]:
        """The chunks that count: those that the PREPARE names, or else all."""
        end = None if self.prepare is None else self.prepare.stages
        return (i for i in sorted(self._chunks) if end is None or i < end)

    def blocks(self) -> Iterator[RowBlock]:
        """Every block of the part, chunks first, in order; one chunk is in memory at a time."""
        for index in self._named():
            yield from self.chunk(index)
        if self.prepare is not None:
            yield from self.prepare.blocks

    def lsns(self) -> list[int]:
        """Where the records of a whole part lie in the WAL: chunks in order, then the PREPARE."""
        return [*(self._chunks[i].lsn for i in self._named()), self.prepare_lsn]

    def all_lsns(self) -> list[int]:
        """Where all records of the part lie in the WAL, whole or not."""
        lsns = [chunk.lsn for chunk in self._chunks.values()]
        return lsns if self.prepare is None else [*lsns, self.prepare_lsn]

    def shapes(self) -> set[Shape]:
        """What kinds of blocks the part has."""
        return {shape for shape, _ in self._keys()}

    def _keys(self) -> Iterator[tuple[Shape, U64]]:
        """The shape of each block, and the keys that it writes; no chunk is read back for it."""
        for i in self._named():
            yield from self._chunks[i].keys
        if self.prepare is not None:
            for block in self.prepare.blocks:
                yield shape_of(block), block.hash_array()

    def footprint(self, prepare: Prepare) -> Footprint:
        """What the part touches."""
        mode, shapes = prepare.mode, self.shapes()

        def source(blind: bool) -> KeySource | None:
            if all(shape.is_blind(mode) != blind for shape in shapes):
                return None
            return lambda: [
                (s.collection_id, k) for s, k in self._keys() if s.is_blind(mode) == blind
            ]

        return Footprint(
            tuple(sorted({shape.collection_id for shape in shapes})),
            source(False),
            source(True),
            tuple((r.collection_id, read_hashes(r)) for r in prepare.reads if not r.whole),
            tuple(sorted({r.collection_id for r in prepare.reads if r.whole})),
        )


def read_hashes(read: ReadSet) -> U64:
    """The hashes of the keys that were read."""
    return hash_ids(read.ids.unpack()) if len(read.ids) else np.empty(0, dtype=np.uint64)


def shape_of(block: RowBlock) -> Shape:
    """What kind of a block it is."""
    role = block.precondition if block.precondition in ("mirrored", "copied") else ""
    return Shape(block.collection_id, block.dimension, block.delete, role)


def _stage_bytes(stage: Stage) -> int:
    total = 0
    for b in stage.blocks:
        total += len(b.vectors) + len(b.ids.data) + len(b.ids.offsets) + len(b.hashes)
        total += len(b.versions)
        if b.metadata is not None:
            total += len(b.metadata.data) + len(b.metadata.offsets)
    return total
