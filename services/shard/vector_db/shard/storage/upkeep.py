"""What becomes of sealed segments: which get an index, which are merged, which are held in memory.

Owns three invariants. A segment is in one job at a time. A merge drops only rows that no read can
see any more, and what replaces its sources has every death that came to them meanwhile. Indexes
held in memory, with the rows in memory, stay within the budget: what is beyond it is served from
mapped files.

Everything here runs on the owner's thread, between commits; the work itself is in `building/`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from vector_db.common.model.collection import Collection, IndexKind
from vector_db.common.model.ids import HIDDEN_PREFIX
from vector_db.common.model.rows import U32
from vector_db.shard.building.task import BuildTask
from vector_db.shard.core.compaction import CREDIT_ROWS, Facts, merge_due
from vector_db.shard.core.index_choice import Choice, choose, lists_fit, satisfies
from vector_db.shard.index.build import IndexSpec
from vector_db.shard.index.opening import SegmentIndex
from vector_db.shard.storage.leftovers import SEGMENTS_DIR
from vector_db.shard.storage.options import StoreOptions
from vector_db.shard.storage.sealed import SealedSegment
from vector_db.shard.storage.slice import Slice

_INDEX_SHARE = 0.8
"""Of the memory budget for indexes; the rest is for rows in memory, deaths and key bitmaps."""
_ROOM_SHARE = 0.9
"""Of the room that is left: what moves to memory shall not soon have to go again."""


@dataclass(frozen=True, slots=True, eq=False)
class IndexJob:
    """Build the index of a segment; `rows` that it will have."""

    owner: Slice
    segment: SealedSegment
    task: BuildTask
    rows: int


@dataclass(frozen=True, slots=True, eq=False)
class FieldsJob:
    """Write the declared fields of a segment anew."""

    owner: Slice
    segment: SealedSegment
    task: BuildTask
    rows: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class MergeJob:
    """Merge `sources` into the segment `task.name`, without the rows `dropped` of each.

    `small`: so little work that a process would cost more.
    """

    owner: Slice
    sources: tuple[SealedSegment, ...]
    dropped: tuple[U32, ...]
    task: BuildTask
    rows: int
    small: bool


Job: TypeAlias = IndexJob | FieldsJob | MergeJob


class Upkeep:
    """Of all slices of one store."""

    def __init__(
        self,
        slices: Callable[[], Iterable[Slice]],
        new_name: Callable[[str], str],
        options: StoreOptions,
    ) -> None:
        self._slices = slices
        self._new_name = new_name
        self._options = options
        self._hopeless: set[str] = set()
        self._not_quickly: set[str] = set()
        self._credit_rows: dict[tuple[int, int], int] = {}
        self._running: dict[Job, int] = {}
        """Jobs under way, and how many rows each has done."""

    @property
    def making(self) -> set[str]:
        """Names of the segments that are being made."""
        return {job.task.name for job in self._running if isinstance(job, MergeJob)}

    def note_progress(self, job: Job, rows_done: int) -> None:
        """The job has so many rows in its index now."""
        self._running[job] = rows_done

    def ended(self, job: Job) -> None:
        """The job is over, whatever came of it."""
        self._running.pop(job, None)

    # --- indexes --------------------------------------------------------------------------------

    def wants_index(self, collection: Collection, rows: int) -> bool:
        """Whether a segment of so many rows is worth an index."""
        if collection.name.startswith(HIDDEN_PREFIX):
            return False
        return collection.index.kind is not IndexKind.EXACT and rows >= self._options.index_rows_min

    def is_settled(self, owner: Slice, segment: SealedSegment) -> bool:
        """Whether the segment is searched as its collection wants it."""
        index = segment.index
        if not self.wants_index(owner.collection, segment.rows):
            return index is None
        if index is None:
            return False
        meta = index.meta
        built = Choice(meta.kind, meta.options)
        return satisfies(built, meta.encoding, meta.quick, owner.collection, segment.rows)

    def unwanted_index(self) -> SealedSegment | None:
        """A segment with an index that its collection does not want any more."""
        for owner, segment in self._free():
            wanted = self.wants_index(owner.collection, segment.rows)
            if segment.index is not None and not wanted:
                return segment
        return None

    def quick_due(self) -> IndexJob | None:
        """The largest segment that has no index and is worth a quick one, or lists for good."""
        due = [
            (owner, segment)
            for owner, segment in self._free()
            if segment.index is None
            and self.wants_index(owner.collection, segment.rows)
            and segment.rows >= self._options.quick_rows_min
            and segment.name not in self._not_quickly
            and lists_fit(segment.rows, segment.dimension)
        ]
        if not due:
            return None
        owner, segment = max(due, key=lambda pair: pair[1].rows)
        wanted = self._choice(owner, segment.rows)
        options = wanted.options
        quick = wanted.kind is not IndexKind.IVF_PQ
        spec = IndexSpec(IndexKind.IVF_PQ, owner.collection.metric, options, quick)
        return self._index_job(owner, segment, spec)

    def final_due(self) -> IndexJob | None:
        """The largest segment whose index is not the one that its collection wants.

        Of each slice the oldest of them, even when it has to be waited for: merges extend the graph
        of the oldest, and what was built for the others is lost.
        """
        oldest: dict[Slice, SealedSegment] = {}
        for owner in self._slices():
            for segment in owner.sealed:
                if (
                    segment.name not in self._hopeless
                    and self.wants_index(owner.collection, segment.rows)
                    and not self.is_settled(owner, segment)
                ):
                    oldest[owner] = segment
                    break
        busy = self._busy()
        due = [pair for pair in oldest.items() if pair[1].name not in busy]
        if not due:
            return None
        owner, segment = max(due, key=lambda pair: pair[1].rows)
        kind, options = self._choice(owner, segment.rows)
        return self._index_job(owner, segment, IndexSpec(kind, owner.collection.metric, options))

    def indexed(self, job: IndexJob, index: SegmentIndex | None) -> None:
        """The job is over; None: without an index, and the segment stays as it was."""
        self.ended(job)
        if index is not None:
            job.segment.index = index

    def give_up(self, names: Iterable[str]) -> None:
        """Nothing more is done for these segments while this process lives."""
        self._hopeless.update(names)

    def give_up_quick(self, name: str) -> None:
        """The segment waits for its own index without a quick one."""
        self._not_quickly.add(name)

    # --- declared fields ------------------------------------------------------------------------

    def fields_due(self) -> FieldsJob | None:
        """A segment whose declared fields are not those of its collection."""
        for owner, segment in self._free():
            wanted = owner.collection.fields
            there = () if segment.fields is None else tuple(segment.fields.paths)
            if there != wanted:
                job = FieldsJob(owner, segment, BuildTask(segment.name, fields=wanted))
                self._running[job] = 0
                return job
        return None

    # --- merges ---------------------------------------------------------------------------------

    def merge_due(self, floor_ts: int, idle: bool) -> MergeJob | None:
        """The next merge; `floor_ts`: no read is of an older snapshot."""
        taken = self._busy() | self._hopeless
        for owner in self._slices():
            facts = [
                Facts(
                    segment.rows,
                    segment.disk_bytes,
                    segment.deaths.until(floor_ts),
                    segment.name in taken,
                )
                for segment in owner.sealed
            ]
            merge = merge_due(
                facts,
                idle,
                self._credit(owner),
                self._options.segment_rows_max,
                self._options.segment_bytes_max,
            )
            if merge is not None:
                sources = tuple(owner.sealed[merge.start : merge.stop])
                return self._merge_job(owner, sources, merge.whole, floor_ts)
        return None

    def merged(self, job: MergeJob, segment: SealedSegment | None) -> None:
        """The job has run: serve its rows from the new segment; None: no row was left."""
        job.owner.replace_merged(job.sources, job.dropped, segment)

    def note_sealed(self, owner: Slice, rows: int) -> None:
        """`rows` rows were sealed: reads may have so much more copying done for them."""
        key = owner.collection.id, owner.shard
        self._credit_rows[key] = self._credit(owner) + CREDIT_ROWS * rows

    def progress_of(self, parts: Iterable[Slice]) -> tuple[int, int]:
        """(rows in builds under way, how many of them are done) of some slices."""
        rows = done = 0
        for job, made in self._running.items():
            if any(job.owner is part for part in parts):
                rows, done = rows + job.rows, done + made
        return rows, done

    # --- memory ---------------------------------------------------------------------------------

    def fits(self, size_bytes: int) -> bool:
        """Whether an index of that size may be held in memory, beside what is there."""
        return self.held_bytes() + size_bytes <= self._options.hot_bytes

    def reopen_due(self) -> tuple[Slice, SealedSegment, bool] | None:
        """A segment whose index should change its place, and whether it is to be mapped."""
        room = self._options.hot_bytes - self.held_bytes()
        for owner, segment in sorted(self._free(), key=lambda pair: -pair[1].rows):
            if (index := segment.index) is None:
                continue
            if room < 0 and not index.mapped:
                return owner, segment, True
            if index.mapped and index.meta.size_bytes <= room * _ROOM_SHARE:
                return owner, segment, False
        return None

    def held_bytes(self) -> int:
        """Bytes held in memory: rows, deaths, keys and indexes that are not served from files."""
        total = 0
        for part in self._slices():
            total += sum(m.memory_bytes for m in (part.growing, part.frozen) if m is not None)
            total += sum(segment.memory_bytes for segment in part.sealed)
        return total

    # --- inside ---------------------------------------------------------------------------------

    def _busy(self) -> set[str]:
        """Names of the segments that jobs work on."""
        busy: set[str] = set()
        for job in self._running:
            busy.update(job.task.merge or (job.task.name,))
        return busy

    def _free(self) -> list[tuple[Slice, SealedSegment]]:
        taken = self._busy() | self._hopeless
        return [
            (owner, segment)
            for owner in self._slices()
            for segment in owner.sealed
            if segment.name not in taken
        ]

    def _credit(self, owner: Slice) -> int:
        key = owner.collection.id, owner.shard
        if key not in self._credit_rows:
            # Found at the start: as if it had just been sealed, but for one copy only.
            self._credit_rows[key] = sum(segment.rows for segment in owner.sealed)
        return self._credit_rows[key]

    def _choice(self, owner: Slice, rows: int, replaced: Iterable[SealedSegment] = ()) -> Choice:
        held = self.held_bytes() - sum(s.memory_bytes for s in replaced)
        return choose(owner.collection, rows, _INDEX_SHARE * self._options.hot_bytes - held)

    def _index_job(self, owner: Slice, segment: SealedSegment, spec: IndexSpec) -> IndexJob:
        job = IndexJob(owner, segment, BuildTask(segment.name, index=spec), segment.rows)
        self._running[job] = 0
        return job

    def _merge_job(
        self, owner: Slice, sources: tuple[SealedSegment, ...], whole: bool, floor_ts: int
    ) -> MergeJob:
        collection = owner.collection
        dropped = [source.deaths.arrays(source.deaths.until(floor_ts))[0] for source in sources]
        first = sources[0]
        extends = whole and self.is_settled(owner, first) and _is_graph(first)
        if extends:
            dropped[0] = dropped[0][:0]
        rows = sum(s.rows - len(gone) for s, gone in zip(sources, dropped, strict=True))
        spec = None
        if self.wants_index(collection, rows):
            kind, options = self._choice(owner, rows, sources)
            spec = IndexSpec(kind, collection.metric, options)
            if extends and first.index is not None and kind is IndexKind.HNSW:
                encoding = first.index.meta.encoding
                spec = msgspec.structs.replace(spec, base=first.name, encoding=encoding)
        name = self._new_name(f"{SEGMENTS_DIR}/{collection.id}-{owner.shard}")
        names = tuple(source.name for source in sources)
        task = BuildTask(name, names, collection.fields, spec)
        size = sum(source.disk_bytes for source in sources)
        small = spec is None and size <= self._options.merge_inline_bytes
        job = MergeJob(owner, sources, tuple(dropped), task, rows, small)
        key = collection.id, owner.shard
        self._credit_rows[key] = self._credit(owner) - rows
        self._running[job] = 0
        return job


def _is_graph(segment: SealedSegment) -> bool:
    return segment.index is not None and segment.index.kind is IndexKind.HNSW
