"""The segment that takes the writes: columns in memory, in commit order.

Owns two invariants: `begin_ts` never decreases, so the rows of a snapshot are a prefix; and no
array entry below a row count that was ever published changes in place (`end_ts` excepted, which
views copy), so views stay valid while rows are appended, undone or split off.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vector_db.common.model.ids import TS_NEVER
from vector_db.common.model.rows import F32, I64, U64, Blob
from vector_db.shard.search.coarse import ROWS_MIN as COARSE_ROWS_MIN
from vector_db.shard.search.coarse import CoarseRows
from vector_db.shard.search.columns import Columns
from vector_db.shard.storage.order import IdRuns
from vector_db.shard.storage.payloads import GrowingBytes, grown
from vector_db.shard.storage.segment import inverse_norms, own_versions
from vector_db.shard.views import SegmentView

_AHEAD_FROM_BYTES = 2 * 1024 * 1024
_AHEAD_BYTES_MAX = 8 * 1024 * 1024
"""Room for vectors for which memory is taken before rows come: half of what they take, at most."""
_ARRAYS = ("vectors", "hashes", "begin_ts", "_end_ts", "_previous", "_inverse_norms", "_versions")
"""`_versions` only in some segments."""


class GrowingSegment:
    """Appended to by one thread. An empty one allocates nothing worth naming."""

    def __init__(self, dimension: int, cosine: bool) -> None:
        self.rows = 0
        self.dimension = dimension
        self.cosine = cosine
        self.vectors: F32 = np.empty((0, dimension), dtype=np.float32)
        self.hashes: U64 = np.empty(0, dtype=np.uint64)
        self.begin_ts: I64 = np.empty(0, dtype=np.int64)
        self._end_ts: I64 = np.empty(0, dtype=np.int64)
        self._inverse_norms: F32 = np.empty(0, dtype=np.float32)
        self._versions: I64 | None = None
        """None: they are `begin_ts`."""
        self._previous: I64 = np.empty(0, dtype=np.int64)
        """Row of the id's version before, -1 when it is not in this segment."""
        self._latest: dict[bytes, int] = {}
        self._dead = 0
        self._paged_bytes = 0
        """Bytes of `vectors`, from the start, whose memory was taken, as far as that is known."""
        self.ids = GrowingBytes()
        self.metadata = GrowingBytes()
        self.columns = Columns(self.metadata)
        self.order = IdRuns()
        self.coarse = CoarseRows(dimension)

    # --- writes ---------------------------------------------------------------------------------

    def find(self, ids: list[bytes]) -> I64:
        """Newest row of each id, dead ones too; -1 where it is not here."""
        found = map(self._latest.get, ids, itertools.repeat(-1))
        return np.fromiter(found, dtype=np.int64, count=len(ids))

    def append(
        self,
        ids: list[bytes],
        id_blob: Blob,
        hashes: U64,
        vectors: F32,
        metadata: Blob | None,
        previous: I64,
        ts: int,
        versions: I64 | None = None,
    ) -> None:
        """Append rows with distinct ids, born at `ts`.

        :param previous: what `find` answers for `ids`.
        :param versions: those that the rows have, where it is not `ts`.
        :raises ValueError: `ts` lies before the newest row's.
        """
        n, start = len(ids), self.rows
        if start and ts < int(self.begin_ts[start - 1]):
            raise ValueError(f"commit {ts} after {int(self.begin_ts[start - 1])}")
        if versions is not None and self._versions is None:
            self._versions = self.begin_ts[:start].copy()
        self._reserve(n)
        span = slice(start, start + n)
        self.vectors[span] = vectors
        self.hashes[span] = hashes
        self.begin_ts[span] = ts
        if self._versions is not None:
            self._versions[span] = ts if versions is None else versions
        self._end_ts[span] = TS_NEVER
        self._previous[span] = previous
        if self.cosine:
            self._inverse_norms[span] = inverse_norms(vectors)
        self.ids.append(id_blob)
        if metadata is None:
            self.metadata.append_empty(n)
        else:
            self.metadata.append(metadata)
        self._latest.update(zip(ids, range(start, start + n), strict=True))
        self.rows = start + n

    def room_ahead(self) -> tuple[F32, int, int] | None:
        """(the vectors, first and last byte of it) of the room that should have its memory soon.

        Asked after every append; it is told once.
        """
        used = 4 * self.dimension * self.rows
        ahead = min(_AHEAD_BYTES_MAX, used // 2)
        if used < _AHEAD_FROM_BYTES or used + ahead // 2 < self._paged_bytes:
            return None
        start = max(used, self._paged_bytes)
        self._paged_bytes = min(used + ahead, self.vectors.nbytes)
        return (self.vectors, start, self._paged_bytes) if start < self._paged_bytes else None

    def kill(self, rows: NDArray[np.int64], ts: int) -> int:
        alive = rows[self._end_ts[rows] == TS_NEVER]
        self._end_ts[alive] = ts
        self._dead += len(alive)
        return len(alive)

    def undo_above(self, ts: int) -> bool:
        keep = self.prefix(ts)
        changed = keep < self.rows
        if changed:
            self._forget_latest(keep)
            # Without room behind the kept rows, the next append copies them elsewhere.
            for name, array in self._arrays():
                setattr(self, name, array[:keep])
            self._drop_plain_versions()
            self.ids, self.metadata = self.ids.copy(0, keep), self.metadata.copy(0, keep)
            self._restart(keep)
        end = self._end_ts[:keep]
        revived = (end > ts) & (end != TS_NEVER)
        if revived.any():
            end[revived] = TS_NEVER
            changed = True
        self._dead = int(np.count_nonzero(end != TS_NEVER))
        return changed

    def split(self, keep: int) -> GrowingSegment:
        """Keep the first `keep` rows here, for sealing, and move the others to a new segment.

        Deaths of the kept rows stay, also those that came with the moved ones.
        """
        tail = GrowingSegment(self.dimension, self.cosine)
        if keep == self.rows:
            return tail
        start, stop = keep, self.rows
        for name, array in self._arrays():
            setattr(tail, name, array[start:stop].copy())
        tail._drop_plain_versions()
        tail._previous = np.maximum(tail._previous - start, -1)
        tail.ids, tail.metadata = self.ids.copy(start, stop), self.metadata.copy(start, stop)
        tail._restart(stop - start)
        tail._latest = {i: row for row, i in enumerate(tail.ids.range(0, tail.rows))}
        self._forget_latest(keep)
        self.rows = keep
        for part in (self, tail):
            part._dead = int(np.count_nonzero(part._end_ts[: part.rows] != TS_NEVER))
        self.order = IdRuns()
        return tail

    @classmethod
    def from_columns(
        cls,
        vectors: F32,
        hashes: U64,
        begin_ts: I64,
        end_ts: I64,
        norms: F32 | None,
        ids: GrowingBytes,
        metadata: GrowingBytes,
        versions: I64 | None = None,
    ) -> GrowingSegment:
        """The segment with these rows, taken over as they are; ids may repeat.

        :param norms: inverse norms where the metric is cosine.
        :param versions: None: they are `begin_ts`.
        """
        segment = cls(vectors.shape[1], norms is not None)
        segment.vectors, segment.hashes = vectors, hashes
        segment.begin_ts, segment._end_ts = begin_ts, end_ts
        segment._versions = versions
        if norms is not None:
            segment._inverse_norms = norms
        segment.ids, segment.metadata = ids, metadata
        segment._restart(len(begin_ts))
        segment._dead = int(np.count_nonzero(end_ts != TS_NEVER))
        previous, latest = [], segment._latest
        for row, row_id in enumerate(ids.range(0, segment.rows)):
            previous.append(latest.get(row_id, -1))
            latest[row_id] = row
        segment._previous = np.array(previous, dtype=np.int64)
        return segment

    # --- reads ----------------------------------------------------------------------------------

    @property
    def versions(self) -> I64:
        return self.begin_ts if self._versions is None else self._versions

    def prefix(self, ts: int) -> int:
        """How many rows were born at or before `ts`."""
        return int(np.searchsorted(self.begin_ts[: self.rows], ts, side="right"))

    def end_ts(self, rows: NDArray[np.int64]) -> I64:
        return self._end_ts[rows]

    def end_column(self, rows: int) -> I64:
        """A copy of the `end_ts` of the first `rows` rows."""
        return self._end_ts[:rows].copy()

    def row_at(self, row_id: bytes, snapshot_ts: int) -> int:
        """The newest row of the id born at or before the snapshot, dead or not; -1: none here."""
        row = self._latest.get(row_id, -1)
        while row >= 0 and self.begin_ts[row] > snapshot_ts:
            row = int(self._previous[row])
        return row

    def count(self, snapshot_ts: int) -> int:
        n = self.prefix(snapshot_ts)
        if not self._dead:
            return n
        return int(np.count_nonzero(self._end_ts[:n] > snapshot_ts))

    def view(self, snapshot_ts: int) -> SegmentView | None:
        n = self.prefix(snapshot_ts)
        live: NDArray[np.bool_] | None = None
        if self._dead:
            live = self._end_ts[:n] > snapshot_ts
            alive = int(np.count_nonzero(live))
            live, n = (None if alive == n else live), (n if alive else 0)
        if n == 0:
            return None
        return SegmentView(
            rows=n,
            vectors=self.vectors[:n],
            inverse_norms=self._inverse_norms[:n] if self.cosine else None,
            versions=self.versions[:n],
            live=live,
            ids=self.ids,
            metadata=self.metadata,
            columns=self.columns,
            index=None,
            coarse=self.coarse if n >= COARSE_ROWS_MIN and CoarseRows.possible else None,
            visible=n if live is None else alive,
        )

    def inverse_norm_column(self, rows: int) -> F32 | None:
        """float32[rows], None unless the metric is cosine."""
        return self._inverse_norms[:rows] if self.cosine else None

    def version_column(self, rows: int) -> I64 | None:
        """int64[rows], None where the versions are `begin_ts`."""
        kept = self._versions
        return None if kept is None else own_versions(kept[:rows], self.begin_ts[:rows])

    def payload_bytes(self, rows: int) -> int:
        """Bytes of vectors, ids and metadata of the first `rows` rows."""
        return (
            4 * self.dimension * rows + self.ids.size_bytes(rows) + self.metadata.size_bytes(rows)
        )

    @property
    def payload(self) -> int:
        """`payload_bytes` of all rows, cheaply."""
        return 4 * self.dimension * self.rows + self.ids.used + self.metadata.used

    @property
    def memory_bytes(self) -> int:
        """Bytes written, not the room behind them; a dict entry with its key counts as 150."""
        arrays = [array for _, array in self._arrays()]
        row_bytes = sum(a.itemsize * (self.dimension if a.ndim == 2 else 1) for a in arrays)
        offsets = 2 * 8 * self.rows
        return int(
            self.rows * row_bytes
            + offsets
            + self.ids.used
            + self.metadata.used
            + self.coarse.memory_bytes
            + 150 * len(self._latest)
        )

    # --- inside ---------------------------------------------------------------------------------

    def _reserve(self, n: int) -> None:
        need = self.rows + n
        for name, array in self._arrays():
            if name == "_inverse_norms" and not self.cosine:
                continue
            # Wide columns grow by other steps than narrow ones: each has its own room.
            if len(array) < need:
                setattr(self, name, grown(array, self.rows, need))
                if name == "vectors":
                    self._paged_bytes = 0

    def _arrays(self) -> list[tuple[str, NDArray[Any]]]:
        """The columns that there are, by name."""
        arrays = [(name, getattr(self, name)) for name in _ARRAYS]
        return [(name, array) for name, array in arrays if array is not None]

    def _drop_plain_versions(self) -> None:
        """Rows left, and with them maybe all whose version was not their `begin_ts`."""
        if self._versions is not None:
            self._versions = own_versions(self._versions, self.begin_ts)

    def _forget_latest(self, keep: int) -> None:
        """Point every id of the rows from `keep` on at its version before."""
        latest, previous = self._latest, self._previous[keep : self.rows].tolist()
        ids = self.ids.range(keep, self.rows)
        for row_id, before in zip(reversed(ids), reversed(previous), strict=True):
            if before < 0:
                del latest[row_id]
            elif before < keep:
                latest[row_id] = before

    def _restart(self, rows: int) -> None:
        """After the payload columns were replaced: what hangs on them starts anew."""
        self.rows = rows
        self.columns = Columns(self.metadata)
        self.order = IdRuns()
        self.coarse = CoarseRows(self.dimension)
