"""All rows of one worker: its slices, when they are sealed and checkpointed, and their opening.

Owns the invariant that what the files of the last durable manifest say, plus every commit above its
timestamp applied again in order, is the state in memory. All methods run on one thread; jobs and
views may be used on others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum, auto
from typing import Any

from vector_db.common.core.messages.reads import (
    FetchRequest,
    RowsReply,
    ScrollRequest,
    StatsReply,
    StatsRequest,
)
from vector_db.common.model.collection import Collection, Metric
from vector_db.common.model.errors import NotFound, StorageCorrupt
from vector_db.common.model.rows import F32, RowBlock
from vector_db.common.ports import Disk
from vector_db.shard.core.parts import Latest
from vector_db.shard.storage.image import read_deaths, read_image
from vector_db.shard.storage.jobs import (
    NO_MANIFEST,
    CheckpointJob,
    SealJob,
    SliceEntry,
    capture_slice,
    parse_manifest,
)
from vector_db.shard.storage.leftovers import SEGMENTS_DIR, highest_number, remove_leftovers
from vector_db.shard.storage.options import StoreOptions
from vector_db.shard.storage.reads import (
    Layers,
    Place,
    RowMask,
    locate,
    pairs,
    rows_reply,
    scroll_places,
    stretches,
)
from vector_db.shard.storage.sealed import SealedSegment
from vector_db.shard.storage.slice import SavedImage, Slice
from vector_db.shard.storage.stats import stats_of
from vector_db.shard.storage.upkeep import Upkeep
from vector_db.shard.views import SegmentView

__all__ = ["CheckpointJob", "SealJob", "Store", "StoreOptions"]


NO_LAYERS: Layers = {}


class Idle(Enum):
    """For how long a worker has applied nothing."""

    NO = auto()
    SHORT = auto()
    LONG = auto()


class Store:
    """The slices of one worker, by collection and shard, made when they are first asked for."""

    def __init__(self, disk: Disk, options: StoreOptions) -> None:
        self._disk = disk
        self._options = options
        self._collections: dict[int, Collection] = {}
        self._slices: dict[int, dict[int, Slice]] = {}
        self._names_used = 0
        self._rooms: list[tuple[F32, int, int]] = []
        self._sealing: dict[str, SealJob] = {}
        self._checkpointing: CheckpointJob | None = None
        self.arriving: set[str] = set()
        """Segments and images that are being copied from another worker, relative to the root."""
        self.upkeep = Upkeep(self.all_slices, self.new_name, options)

    @classmethod
    def open(
        cls,
        disk: Disk,
        options: StoreOptions,
        manifest: dict[str, Any] | None,
        collections: Iterable[Collection],
    ) -> Store:
        """The store as of the manifest; files that the manifest does not name are removed.

        Slices of collections that are not given are left out: they were dropped.

        :raises StorageCorrupt: a file is missing or damaged (columns of sealed segments are
            checked at their first use, see `verify`).
        :raises NewerFormat: written by a newer program.
        """
        store = cls(disk, options)
        for collection in collections:
            store.add_collection(collection)
        known = NO_MANIFEST if manifest is None else parse_manifest(manifest)
        store._names_used = max(known.names_used, highest_number(disk.root))
        for entry in known.slices:
            if entry.collection in store._collections:
                store._slices[entry.collection][entry.shard] = store.opened(entry, known.ts)
        remove_leftovers(disk.root, known.files(), known.segments(), known.names_used)
        return store

    def sealed_segments(self) -> list[tuple[Slice, SealedSegment]]:
        """All sealed segments, with the slices that they belong to."""
        return [(part, segment) for part in self.all_slices() for segment in part.sealed]

    def verify(self) -> None:
        """Check every byte of every sealed segment now, in any thread.

        :raises StorageCorrupt: names file and offset.
        """
        # Copies, because the owner's thread may go on writing.
        parts = [
            part for by_shard in list(self._slices.values()) for part in list(by_shard.values())
        ]
        for part in parts:
            for segment in list(part.sealed):
                segment.verify()

    # --- collections ----------------------------------------------------------------------------

    def add_collection(self, c: Collection) -> None:
        """Know `c`; a second time changes nothing but the catalog entry."""
        self._collections[c.id] = c
        for part in self._slices.setdefault(c.id, {}).values():
            part.collection = c

    def drop_collection(self, collection_id: int) -> None:
        """Forget it at once; its files go with the next durable checkpoint."""
        self._collections.pop(collection_id, None)
        self._slices.pop(collection_id, None)

    # --- shards that come and go ------------------------------------------------------------------

    def shards(self) -> set[int]:
        """Those that have slices here."""
        return {shard for parts in self._slices.values() for shard in parts}

    def all_slices(self) -> list[Slice]:
        """Of all collections and shards."""
        return [part for parts in self._slices.values() for part in parts.values()]

    def slices_of(self, shard: int) -> list[Slice]:
        """Of all collections that have rows at the shard."""
        return [parts[shard] for parts in self._slices.values() if shard in parts]

    def drop_shard(self, shard: int) -> None:
        """Forget all rows of the shard; their files go with the next durable checkpoint."""
        for parts in self._slices.values():
            parts.pop(shard, None)

    def put_shard(self, shard: int, slices: Iterable[Slice]) -> None:
        """Serve these slices as the shard, in the place of what is here of it; slices of
        collections that are gone are left out."""
        self.drop_shard(shard)
        for part in slices:
            if (collection := self._collections.get(part.collection.id)) is not None:
                part.collection = collection
                self._slices[collection.id][shard] = part

    def opened(self, entry: SliceEntry, ts: int) -> Slice:
        """The slice as files say it was at `ts`; it is not served yet.

        :raises StorageCorrupt: a file is missing or damaged, or of another collection.
        :raises NotFound: no such collection.
        """
        collection = self.collection(entry.collection)
        part = Slice(collection, entry.shard)
        size = 0
        if entry.image is not None:
            cosine = collection.metric == Metric.COSINE
            part.growing, size = read_image(self._disk, entry.image, collection.dimension, cosine)
        part.image = SavedImage(ts, part.layout, entry.image, size)
        part.changed_ts = ts
        for item in entry.segments:
            segment = SealedSegment(self._disk.root, item.name)
            if segment.dimension != collection.dimension:
                raise StorageCorrupt(
                    f"{item.name}: dimension {segment.dimension}, the catalog has "
                    f"{collection.dimension} (offset 0)"
                )
            if item.deaths_file is not None:
                segment.deaths = read_deaths(self._disk, item.deaths_file, segment.rows)
                part.saved_deaths[item.name] = (item.deaths, item.deaths_file)
            part.sealed.append(segment)
        return part

    def segment_name(self, collection_id: int, shard: int) -> str:
        """A name for a new sealed segment."""
        return self.new_name(f"{SEGMENTS_DIR}/{collection_id}-{shard}")

    def new_name(self, base: str) -> str:
        """A file name never used before in this data directory."""
        self._names_used += 1
        return f"{base}-{self._names_used}"

    def knows(self, collection_id: int) -> bool:
        """Whether there is such a collection."""
        return collection_id in self._collections

    def collection(self, collection_id: int) -> Collection:
        """:raises NotFound: no such collection."""
        if (found := self._collections.get(collection_id)) is None:
            raise NotFound(f"collection {collection_id} does not exist on this worker")
        return found

    # --- writes ---------------------------------------------------------------------------------

    def latest(self, shard: int, block: RowBlock) -> Latest:
        """The newest version of each key of the block.

        :raises NotFound: no such collection.
        """
        return self._slice(block.collection_id, shard).latest(block)

    def changed_ts(self, collection_id: int, shard: int) -> int:
        """Newest commit that touched the collection at the shard; may be too new, 0 for none."""
        part = self._slices.get(collection_id, {}).get(shard)
        return 0 if part is None else part.changed_ts

    def apply(self, shard: int, block: RowBlock, commit_ts: int) -> int:
        """Upsert the rows, or delete the keys, of a committed block; how many were alive.

        Blocks of one transaction carry the same `commit_ts`; a later one wins over an earlier.

        :raises NotFound: no such collection.
        :raises ValueError: the dimension differs, or `commit_ts` lies before the newest row's.
        """
        collection = self.collection(block.collection_id)
        if not block.delete and block.dimension != collection.dimension:
            raise ValueError(f"dimension {block.dimension}, want {collection.dimension}")
        part = self._slice(block.collection_id, shard)
        alive = part.apply(block, commit_ts)
        if (room := part.growing.room_ahead()) is not None:
            self._rooms.append(room)
        return alive

    def rooms_ahead(self) -> list[tuple[F32, int, int]]:
        """Arrays that rows will be written to, with the bytes whose memory is to be taken first;
        each is told once."""
        rooms, self._rooms = self._rooms, []
        return rooms

    def undo_above(self, ts: int) -> None:
        """Undo every commit after `ts`.

        :raises RuntimeError: a row after `ts` is sealed, which the caller's `stable_ts` forbade.
        """
        for part in self.all_slices():
            part.undo_above(ts)

    # --- reads ----------------------------------------------------------------------------------

    def views(
        self,
        collection_id: int,
        shards: Sequence[int],
        snapshot_ts: int,
        over: Layers = NO_LAYERS,
    ) -> list[SegmentView]:
        """Every segment of the shards that has a visible row, as of the snapshot; then what is
        staged over it, whose rows hide older versions of theirs.

        :raises NotFound: no such collection.
        :raises StorageCorrupt: at the first use of a damaged segment.
        """
        parts = self._parts(collection_id, shards)
        views = [view for _, view in pairs(parts, snapshot_ts, over)]
        staged = (layer.view() for layer in over.values())
        return views + [view for view in staged if view is not None]

    def slice_of(self, collection_id: int, shard: int) -> Slice | None:
        """A slice that has been written to; None: it has no rows.

        :raises NotFound: no such collection.
        """
        return self._parts(collection_id, (shard,)).get(shard)

    def locate(
        self,
        collection_id: int,
        shards: Sequence[int],
        ids: list[bytes],
        snapshot_ts: int,
        over: Layers = NO_LAYERS,
    ) -> list[Place | None]:
        """(segment, row) of each id as of the snapshot, None where it is not visible.

        :raises NotFound: no such collection.
        """
        return locate(self._parts(collection_id, shards), ids, snapshot_ts, over)

    def fetch(self, request: FetchRequest, over: Layers = NO_LAYERS) -> RowsReply:
        """The visible rows in the order asked; absent ones are left out.

        :raises NotFound: no such collection.
        """
        dimension = self.collection(request.collection_id).dimension
        ids = request.ids.unpack()
        parts = self._parts(request.collection_id, request.shards)
        found = locate(parts, ids, request.snapshot_ts, over)
        places = [place for place in found if place is not None]
        return rows_reply(places, dimension, request.include_vectors)

    def count_all(
        self,
        collection_id: int,
        shards: Sequence[int],
        snapshot_ts: int,
        over: Layers = NO_LAYERS,
    ) -> int:
        """Rows visible at the snapshot.

        :raises NotFound: no such collection.
        """
        parts = self._parts(collection_id, shards).values()
        below = sum(part.count(snapshot_ts) for part in parts)
        return below + sum(layer.count_change() for layer in over.values())

    def scroll(
        self, request: ScrollRequest, mask: RowMask | None, over: Layers = NO_LAYERS
    ) -> RowsReply:
        """The first `limit` visible rows with id > `after`, in the order of ids bytewise.

        :param mask: which rows of a view match the filter, bool[rows].
        :raises NotFound: no such collection.
        """
        dimension = self.collection(request.collection_id).dimension
        parts = self._parts(request.collection_id, request.shards)
        found = stretches(parts, request.snapshot_ts, over, mask)
        places = scroll_places(found, request.after, request.limit)
        return rows_reply(places, dimension, request.include_vectors)

    def stats(self, request: StatsRequest) -> StatsReply:
        """Sizes of the collection's slices now.

        :raises NotFound: no such collection.
        """
        parts = self._parts(request.collection_id, request.shards)
        return stats_of(self.collection(request.collection_id), parts.values(), self.upkeep)

    def bytes_held(self) -> int:
        """Bytes held in memory: rows, deaths, keys and indexes that are not served from files."""
        return self.upkeep.held_bytes()

    # --- sealing --------------------------------------------------------------------------------

    def seal_due(self, stable_ts: int, idle: Idle) -> SealJob | None:
        """The next growing segment to seal, frozen; its rows up to `stable_ts` stay searchable.

        Run the job in any thread, then hand it to `sealed`. One at a time per slice.

        :param idle: SHORT: seal also smaller segments that are worth an index; LONG: and those that
            can be merged into a larger one.
        """
        options = self._options
        parts = self.all_slices()
        crowded = sum(part.growing.payload for part in parts) > options.growing_bytes_max

        def is_due(part: Slice, rows: int, payload: int) -> bool:
            rows_min = options.seal_rows
            if idle is not Idle.NO and len(part.sealed) < options.idle_segments_max:
                rows_min = options.index_rows_min
                if idle is Idle.LONG and part.sealed:
                    rows_min = min(rows_min, options.idle_rows_min)
            return rows > 0 and (crowded or rows >= rows_min or payload >= options.seal_bytes)

        # This runs after every group of commits: most slices are ruled out by their counters.
        maybe = [
            part
            for part in parts
            if part.frozen is None and is_due(part, part.growing.rows, part.growing.payload)
        ]
        for part in sorted(maybe, key=lambda part: part.growing.payload, reverse=True):
            rows = part.growing.prefix(stable_ts)
            if is_due(part, rows, part.growing.payload_bytes(rows)):
                job = SealJob(
                    self._disk,
                    part,
                    part.freeze(rows),
                    self.segment_name(part.collection.id, part.shard),
                )
                self._sealing[job.name] = job
                return job
        return None

    def sealed(self, job: SealJob) -> None:
        """The job has run: serve its rows from the files, with the deaths that came meanwhile.

        :raises RuntimeError: the job did not run.
        """
        if job.segment is None:
            raise RuntimeError(f"{job.name} is not written yet")
        del self._sealing[job.name]
        if self._is_known(job.owner):
            job.owner.replace_frozen(job.segment)
            self.upkeep.note_sealed(job.owner, job.rows)

    # --- checkpoints ----------------------------------------------------------------------------

    def checkpoint(self, ts: int) -> CheckpointJob:
        """Capture the state at `ts`: references and a few copies. One at a time: a later call
        abandons the job of an earlier one.

        :param ts: at most what is stable, at least what was stable when the last segment froze.
        :raises ValueError: a sealed row is newer than `ts`.
        """
        captures = [capture_slice(part, ts, self.new_name) for part in self.all_slices()]
        self._checkpointing = CheckpointJob(self._disk, ts, self._names_used, captures)
        return self._checkpointing

    def checkpointed(self, job: CheckpointJob) -> None:
        """The manifest of the job is durable: remove the files that only older ones named.

        :raises RuntimeError: the job did not run, or a later one was begun.
        """
        if job is not self._checkpointing:
            raise RuntimeError("not the last checkpoint that was begun")
        entries = job.entries()
        job.settle()
        self._checkpointing = None
        alive = {segment.name for part in self.all_slices() for segment in part.sealed}
        keep = entries.segments() | alive | set(self._sealing) | self.upkeep.making | self.arriving
        files = entries.files() | self.arriving
        remove_leftovers(self._disk.root, files, keep, entries.names_used)

    # --- inside ---------------------------------------------------------------------------------

    def _slice(self, collection_id: int, shard: int) -> Slice:
        collection = self.collection(collection_id)
        parts = self._slices[collection_id]
        if (part := parts.get(shard)) is None:
            part = parts[shard] = Slice(collection, shard)
        return part

    def _parts(self, collection_id: int, shards: Sequence[int]) -> dict[int, Slice]:
        self.collection(collection_id)
        parts = self._slices[collection_id]
        return {shard: parts[shard] for shard in shards if shard in parts}

    def _is_known(self, part: Slice) -> bool:
        return self._slices.get(part.collection.id, {}).get(part.shard) is part
