"""An immutable segment on disk, mapped: `vectors.f32` (raw float32) and `columns.vdb` (the rest).

Derived from them and made anew at any time: an index (`index.faiss`), declared fields
(`fields.arrow`).

Owns the invariant that a sealed file is never changed: deaths live beside it (`deaths.py`), and a
segment whose last file is `columns.vdb` is complete when that file exists. The raw vectors lie in a
file of their own, row after row, so that an index builder in another process can map them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vector_db.common.model.errors import StorageCorrupt
from vector_db.common.model.rows import F32, I64, U32, U64
from vector_db.common.ports import Disk
from vector_db.shard.index.opening import SegmentIndex
from vector_db.shard.search.columns import Columns
from vector_db.shard.search.postings import DeclaredColumns
from vector_db.shard.storage.deaths import Deaths
from vector_db.shard.storage.fields import Fields, open_fields, write_fields
from vector_db.shard.storage.keys import KeyIndex, Positions, Probe
from vector_db.shard.storage.payloads import MappedBytes
from vector_db.shard.storage.segment_files import COLUMNS_FILE, SEGMENT_KIND, VECTORS_FILE
from vector_db.shard.storage.table import MappedFile, Table
from vector_db.shard.views import FilterColumns, SegmentView


class SealedSegment:
    """One mapped segment. Reading a column verifies it first; `index` is set when one was built."""

    def __init__(self, root: Path, name: str) -> None:
        """Map the files of the segment `name` (relative to `root`) without reading the columns.

        :raises StorageCorrupt: a file is missing, cut short, or its header is damaged.
        :raises NewerFormat: written by a newer program.
        """
        self._table = Table(root, f"{name}/{COLUMNS_FILE}", SEGMENT_KIND)
        meta = self._table.meta
        self.name = name
        self.directory = root / name
        self._root = root
        self.rows: int = meta["rows"]
        self.dimension: int = meta["dimension"]
        self.cosine: bool = meta["cosine"]
        self._vectors_crc32c: int = meta["vectors_crc32c"]
        size = 4 * self.rows * self.dimension
        self._vectors_file = MappedFile(root, f"{name}/{VECTORS_FILE}", size)
        self._vectors: F32 | None = None
        self._keys: KeyIndex | None = None
        self.ids = MappedBytes(self._table, "ids")
        self.metadata = MappedBytes(self._table, "metadata")
        self._lazy = Columns(self.metadata)
        self.columns: FilterColumns = self._lazy
        self.deaths = Deaths(self.rows)
        self._index: SegmentIndex | None = None
        self._whole: SegmentView | None = None
        self.fields = open_fields(root, name, self.rows)
        self._whole_of = (0, 0)
        self._last_ts = 0

    @property
    def index(self) -> SegmentIndex | None:
        """The index over all rows, once one was built."""
        return self._index

    @index.setter
    def index(self, index: SegmentIndex | None) -> None:
        self._index = index
        self._whole = None

    @property
    def fields(self) -> Fields | None:
        """The declared fields, where it was written with some; other paths are made lazily."""
        return self._fields

    @fields.setter
    def fields(self, fields: Fields | None) -> None:
        self._fields = fields
        self.columns = self._lazy if fields is None else DeclaredColumns(fields, self._lazy)
        self._whole = None

    def rewrite_fields(self, disk: Disk, paths: Sequence[str]) -> Fields | None:
        """Write the fields anew for other paths, and verify them. In any thread; then set `fields`.

        :raises DiskFull: the old file stands.
        :raises StorageCorrupt: a file of the segment is damaged.
        """
        write_fields(disk, self.name, paths, self.metadata, self.rows)
        return self.open_fields()

    def open_fields(self) -> Fields | None:
        """The fields as they are on disk, verified. In any thread; then set `fields`.

        :raises StorageCorrupt: the file is damaged.
        """
        fields = open_fields(self._root, self.name, self.rows)
        if fields is not None:
            fields.verify()
        return fields

    # --- columns --------------------------------------------------------------------------------

    @property
    def vectors(self) -> F32:
        """float32[rows, dimension] over the mapping, read-only.

        :raises StorageCorrupt: at the first use, when the file is damaged.
        """
        if self._vectors is None:
            file = self._vectors_file
            file.check(0, file.size_bytes, self._vectors_crc32c, "the vectors")
            flat = np.frombuffer(file.data, dtype=np.float32)
            self._vectors = flat.reshape(self.rows, self.dimension)
        return self._vectors

    @property
    def begin_ts(self) -> I64:
        return self._table.column("begin_ts")

    @property
    def versions(self) -> I64:
        return self._table.column("versions" if self.has_versions else "begin_ts")

    @property
    def has_versions(self) -> bool:
        """Whether any row's version is not its `begin_ts`."""
        return self._table.has("versions")

    @property
    def inverse_norms(self) -> F32 | None:
        """float32[rows], None unless the metric is cosine."""
        return self._table.column("inverse_norms") if self.cosine else None

    @property
    def id_order(self) -> U32:
        """uint32[rows]: the rows in the bytewise order of their ids, equal ids oldest first."""
        return self._table.column("id_order")

    @property
    def keys(self) -> KeyIndex:
        """The key index; its bitmap is made at the first use."""
        if self._keys is None:
            self._keys = KeyIndex(*self.key_columns(), self.ids)
        return self._keys

    def key_columns(self) -> tuple[U64, U32]:
        """(sorted key hashes, the row of each)."""
        return self._table.column("key_hashes"), self._table.column("key_rows")

    def verify(self) -> None:
        """Read and check every byte now, and make what first use would make.

        :raises StorageCorrupt: names file and offset.
        """
        self._table.verify()
        lengths = {len(self.begin_ts), len(self.versions), self.rows}
        if self.vectors.shape != (self.rows, self.dimension) or len(lengths) > 1:
            raise StorageCorrupt(f"{self.name}: the columns disagree on the row count (offset 0)")
        if self._fields is not None:
            self._fields.verify()
        _ = self.keys

    # --- versions -------------------------------------------------------------------------------

    def newest(self, probe: Probe, pending: NDArray[np.bool_]) -> tuple[Positions, I64]:
        """(positions in the batch, newest row here) of those `pending` ids that are here."""
        return self.keys.newest(probe, pending)

    def row_at(self, key_hash: int, row_id: bytes, snapshot_ts: int) -> int:
        """The newest row of the id born at or before the snapshot, dead or not; -1: none here."""
        begin_ts = self.begin_ts
        for row in self.keys.versions(key_hash, row_id):
            if begin_ts[row] <= snapshot_ts:
                return row
        return -1

    def end_ts(self, rows: NDArray[np.int64]) -> I64:
        return self.deaths.end_ts(rows)

    def kill(self, rows: NDArray[np.int64], ts: int) -> int:
        return self.deaths.kill(rows, ts)

    def undo_above(self, ts: int) -> bool:
        if int(self.begin_ts[-1]) > ts:
            raise RuntimeError(f"{self.name}: sealed rows up to {int(self.begin_ts[-1])} cannot be "
                               f"undone to {ts}")  # fmt: skip
        return self.deaths.undo_above(ts) > 0

    def count(self, snapshot_ts: int) -> int:
        # A row that died at or before the snapshot was born before it, too.
        return self._prefix(snapshot_ts) - self.deaths.until(snapshot_ts)

    def view(self, snapshot_ts: int) -> SegmentView | None:
        deaths = self.deaths
        known = self._whole_of == (deaths.count, deaths.undone) and snapshot_ts >= self._last_ts
        if known and self._whole is not None:
            return self._whole
        n = self._prefix(snapshot_ts)
        visible = n - deaths.until(snapshot_ts)
        if not visible:
            return None
        live, norms = self.deaths.live(snapshot_ts), self.inverse_norms
        view = SegmentView(
            rows=n,
            vectors=self.vectors[:n],
            inverse_norms=None if norms is None else norms[:n],
            versions=self.versions[:n],
            live=None if live is None else live[:n],
            ids=self.ids,
            metadata=self.metadata,
            columns=self.columns,
            index=self.index,
            name=self.name,
            visible=visible,
            # Bits beyond the last visible row would name rows that were born later.
            packed=self.deaths.packed(snapshot_ts) if n == self.rows else None,
        )
        if n == self.rows and n - visible == deaths.count:
            # Every newer snapshot sees the same until a row dies or lives again.
            self._whole, self._whole_of = view, (deaths.count, deaths.undone)
            self._last_ts = max(int(self.begin_ts[-1]), deaths.last_ts)
        return view

    @property
    def memory_bytes(self) -> int:
        """Bytes held outside the mappings."""
        keys = 0 if self._keys is None else self._keys.memory_bytes
        index = 0 if self._index is None else self._index.resident_bytes
        return self.deaths.memory_bytes + keys + index

    @property
    def mapped_bytes(self) -> int:
        """Bytes served from mapped files."""
        index = self._index
        mapped = index.meta.size_bytes if index is not None and index.mapped else 0
        return self._own_bytes + mapped

    @property
    def disk_bytes(self) -> int:
        built = 0 if self._index is None else self._index.meta.size_bytes
        return self._own_bytes + built

    @property
    def _own_bytes(self) -> int:
        """Of all files but the index."""
        fields = 0 if self._fields is None else self._fields.size_bytes
        return self._table.size_bytes + self._vectors_file.size_bytes + fields

    @property
    def payload_bytes(self) -> int:
        """Bytes of ids and metadata."""
        return self._table.size_of("ids_data") + self._table.size_of("metadata_data")

    def _prefix(self, ts: int) -> int:
        return int(np.searchsorted(self.begin_ts, ts, side="right"))
