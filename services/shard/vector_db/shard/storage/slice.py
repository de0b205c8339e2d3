"""One shard's part of one collection: a growing segment, sealed ones, and one that is being sealed.

Owns the order of versions: sealed segments oldest first, then the frozen one, then the growing
one, so that the newest version of an id is in the last of them that has the id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vector_db.common.model.collection import Collection, Metric
from vector_db.common.model.ids import TS_NEVER
from vector_db.common.model.rows import I64, U64, RowBlock, hash_id
from vector_db.shard.core.parts import Latest
from vector_db.shard.storage.deaths import Deaths
from vector_db.shard.storage.growing import GrowingSegment
from vector_db.shard.storage.image import MemoryPart, capture
from vector_db.shard.storage.keys import Probe
from vector_db.shard.storage.payloads import unpacked
from vector_db.shard.storage.sealed import SealedSegment
from vector_db.shard.storage.segment import Segment


@dataclass(frozen=True, slots=True)
class SavedImage:
    """The column image that the last durable checkpoint has of a slice; `name` None: no rows."""

    ts: int
    layout: int
    name: str | None
    size_bytes: int


class Slice:
    """Mutated on one thread."""

    def __init__(self, collection: Collection, shard: int) -> None:
        self.collection = collection
        self.shard = shard
        self.growing = self._new_growing()
        self.frozen: GrowingSegment | None = None
        self.sealed: list[SealedSegment] = []
        self.changed_ts = 0
        """Newest commit that touched the slice; it may be too new after an undo."""
        self.layout = 0
        """Grows whenever rows move from memory to a sealed segment."""
        self.moves = 0
        """Grows whenever a row may lie elsewhere than where `locate` found it."""
        self.image: SavedImage | None = None
        self.saved_deaths: dict[str, tuple[int, str]] = {}
        """Sealed segment → (deaths, file) of the last durable checkpoint."""

    def segments(self) -> list[Segment]:
        """All that hold rows, oldest first."""
        segments: list[Segment] = list(self.sealed)
        if self.frozen is not None:
            segments.append(self.frozen)
        if self.growing.rows:
            segments.append(self.growing)
        return segments

    # --- writes ---------------------------------------------------------------------------------

    def apply(self, block: RowBlock, ts: int) -> int:
        """Upsert or delete; how many of the keys were alive.

        An id that comes twice in one block counts once, its last row wins.

        :raises ValueError: `ts` lies before the newest row's.
        """
        ids = unpacked(block.ids)
        if len(set(ids)) < len(ids):
            last = {row_id: at for at, row_id in enumerate(ids)}
            return self.apply(block.take(np.array(sorted(last.values()), dtype=np.int64)), ts)
        hashes = block.hash_array()
        in_growing = self.growing.find(ids)
        alive = 0
        for segment, _, rows in self._newest(ids, hashes, in_growing):
            alive += segment.kill(rows, ts)
        if not block.delete:
            versions = block.version_array() if block.precondition == "copied" else None
            self.growing.append(
                ids,
                block.ids,
                hashes,
                block.vector_array(),
                block.metadata,
                in_growing,
                ts,
                versions,
            )
        if alive or not block.delete:
            self.changed_ts = max(self.changed_ts, ts)
        return alive

    def undo_above(self, ts: int) -> None:
        """Forget rows and deaths after `ts`.

        :raises RuntimeError: a row after `ts` is sealed or being sealed.
        """
        if self.frozen is not None and self.frozen.prefix(ts) < self.frozen.rows:
            raise RuntimeError(f"rows being sealed cannot be undone to {ts}")
        for segment in self.segments():
            segment.undo_above(ts)
        self.moves += 1

    # --- sealing --------------------------------------------------------------------------------

    def freeze(self, rows: int) -> GrowingSegment:
        """Set the first `rows` growing rows aside; they stay visible."""
        frozen = self.growing
        self.growing = frozen.split(rows)
        self.frozen = frozen
        self.moves += 1
        return frozen

    def capture(self, ts: int) -> list[MemoryPart]:
        """The rows in memory as commits up to `ts` left them, oldest first; [] = none."""
        memory = [m for m in (self.frozen, self.growing) if m is not None]
        parts = [capture(m, ts) for m in memory]
        return [part for part in parts if part.rows]

    def replace_frozen(self, segment: SealedSegment) -> None:
        """The frozen rows are on disk: serve them from there, with the deaths they have by now."""
        if self.frozen is None or self.frozen.rows != segment.rows:
            raise RuntimeError(f"{segment.name} does not hold the frozen rows")
        end = self.frozen.end_column(segment.rows)
        dead = np.flatnonzero(end != TS_NEVER)
        dead = dead[np.argsort(end[dead], kind="stable")]
        segment.deaths = Deaths(segment.rows)
        segment.deaths.add(dead, end[dead])
        self.sealed.append(segment)
        self.frozen = None
        self.layout += 1
        self.moves += 1

    def replace_merged(
        self,
        sources: Sequence[SealedSegment],
        dropped: Sequence[NDArray[np.integer]],
        merged: SealedSegment | None,
    ) -> None:
        """Serve the rows of adjacent `sources` from `merged`, which lacks those `dropped` of each.

        The deaths that the sources have by now go with them. None: no row was left.

        :raises RuntimeError: `merged` does not hold exactly those rows.
        """
        start, rows, ts, kept = self.sealed.index(sources[0]), [], [], 0
        for source, gone in zip(sources, dropped, strict=True):
            dead, when = source.deaths.arrays(source.deaths.count)
            numbers = np.full(source.rows, -1, dtype=np.int64)
            stays = np.ones(source.rows, dtype=np.bool_)
            stays[gone] = False
            count = int(np.count_nonzero(stays))
            numbers[stays] = np.arange(kept, kept + count)
            still = stays[dead]
            rows.append(numbers[dead[still]])
            ts.append(when[still])
            kept += count
        if kept != (0 if merged is None else merged.rows):
            raise RuntimeError(f"{kept} rows are left of the segments that were merged")
        stop = start + len(sources)
        if merged is not None:
            dead, when = np.concatenate(rows), np.concatenate(ts)
            order = np.argsort(when, kind="stable")
            merged.deaths = Deaths(merged.rows)
            merged.deaths.add(dead[order], when[order])
        self.sealed[start:stop] = [] if merged is None else [merged]
        self.moves += 1

    # --- reads ----------------------------------------------------------------------------------

    def latest(self, block: RowBlock) -> Latest:
        """The newest version of each key of the block."""
        ids, n = unpacked(block.ids), len(block)
        changed, version = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
        exists = np.zeros(n, dtype=np.bool_)
        found = self._newest(ids, block.hash_array(), self.growing.find(ids))
        for segment, at, rows in found:
            begin, end = segment.begin_ts[rows], segment.end_ts(rows)
            alive = end == TS_NEVER
            exists[at] = alive
            changed[at] = np.where(alive, begin, end)
            version[at] = np.where(alive, segment.versions[rows], 0)
        return Latest(exists, changed, version)

    def locate(
        self, ids: Sequence[bytes], wanted: Sequence[int], snapshot_ts: int
    ) -> dict[int, tuple[Segment, int]]:
        """Where the ids at the positions `wanted` are visible: position → (segment, row)."""
        decided: dict[int, tuple[Segment, int]] = {}
        pending = list(wanted)
        for memory in (self.growing, self.frozen):
            if memory is None or not memory.rows:
                continue
            rows = [memory.row_at(ids[p], snapshot_ts) for p in pending]
            for p, row in zip(pending, rows, strict=True):
                if row >= 0:
                    decided[p] = (memory, row)
            pending = [p for p in pending if p not in decided]
        if self.sealed and pending:
            asked = [ids[p] for p in pending]
            hashes = np.array([hash_id(i) for i in asked], dtype=np.uint64)
            for at, place in self._locate_sealed(Probe(hashes, asked), snapshot_ts).items():
                decided[pending[at]] = place
        return {
            p: (segment, row)
            for p, (segment, row) in decided.items()
            if segment.end_ts(np.array([row]))[0] > snapshot_ts
        }

    def count(self, snapshot_ts: int) -> int:
        """Rows visible at the snapshot."""
        return sum(segment.count(snapshot_ts) for segment in self.segments())

    # --- inside ---------------------------------------------------------------------------------

    def _new_growing(self) -> GrowingSegment:
        cosine = self.collection.metric == Metric.COSINE
        return GrowingSegment(self.collection.dimension, cosine)

    def _newest(
        self, ids: list[bytes], hashes: U64, in_growing: I64
    ) -> list[tuple[Segment, I64, I64]]:
        """(segment, positions, rows) of the newest version of each id, dead ones too."""
        found: list[tuple[Segment, I64, I64]] = []
        pending = np.ones(len(ids), dtype=np.bool_)

        def take(segment: Segment, at: I64, rows: I64) -> None:
            if len(at):
                found.append((segment, at, rows))
                pending[at] = False

        at = np.flatnonzero(in_growing >= 0)
        take(self.growing, at, in_growing[at])
        if self.frozen is not None and pending.any():
            rows = self.frozen.find(ids)
            at = np.flatnonzero((rows >= 0) & pending)
            take(self.frozen, at, rows[at])
        if self.sealed and pending.any():
            probe = Probe(hashes, ids)
            for segment in reversed(self.sealed):
                take(segment, *segment.newest(probe, pending))
        return found

    def _locate_sealed(self, probe: Probe, snapshot_ts: int) -> dict[int, tuple[Segment, int]]:
        decided: dict[int, tuple[Segment, int]] = {}
        pending = np.ones(len(probe.ids), dtype=np.bool_)
        for segment in reversed(self.sealed):
            if not pending.any():
                break
            at, rows = segment.newest(probe, pending)
            begin = segment.begin_ts[rows]
            for p, row, born in zip(at.tolist(), rows.tolist(), begin.tolist(), strict=True):
                if born > snapshot_ts:
                    row = segment.row_at(int(probe.hashes[p]), probe.ids[p], snapshot_ts)
                if row >= 0:
                    decided[p] = (segment, row)
                    pending[p] = False
        return decided
