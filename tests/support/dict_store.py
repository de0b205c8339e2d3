"""`parts.RowStore` in a dict, with all versions of all rows: what the storage must be equal to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vector_db.common.model.collection import Collection
from vector_db.common.model.ids import TS_NEVER
from vector_db.common.model.rows import RowBlock
from vector_db.shard.core.parts import Latest


@dataclass(slots=True)
class Version:
    """`value` is the first number of the row's vector; `version` is `begin_ts`, unless the row was
    copied from another generation of the collection."""

    begin_ts: int
    end_ts: int
    value: float
    version: int


class DictStore:
    """Rows by id; collections and shards are not told apart."""

    def __init__(self) -> None:
        self.rows: dict[bytes, list[Version]] = {}
        self.collections: dict[int, Collection] = {}

    def add_collection(self, c: Collection) -> None:
        """The catalog entry, which may be a newer one of a collection that is known."""
        self.collections[c.id] = c

    def latest(self, shard: int, block: RowBlock) -> Latest:
        newest = [v[-1] if (v := self.rows.get(i)) else None for i in block.ids.unpack()]
        alive = [v is not None and v.end_ts == TS_NEVER for v in newest]
        changed = [
            0 if v is None else (v.begin_ts if v.end_ts == TS_NEVER else v.end_ts) for v in newest
        ]
        version = [
            v.version if v is not None and a else 0 for v, a in zip(newest, alive, strict=True)
        ]
        return Latest(
            np.array(alive, dtype=np.bool_),
            np.array(changed, dtype=np.int64),
            np.array(version, dtype=np.int64),
        )

    def changed_ts(self, collection_id: int, shard: int) -> int:
        """Newest commit of any row: too new for most shards, never too old."""
        stamps = (t for v in self.rows.values() for x in v for t in (x.begin_ts, x.end_ts))
        return max((t for t in stamps if t != TS_NEVER), default=0)

    def apply(self, shard: int, block: RowBlock, commit_ts: int) -> int:
        found = 0
        values = [] if block.delete else block.vector_array()[:, 0].tolist()
        copied = block.version_array().tolist() if block.precondition == "copied" else None
        for n, row_id in enumerate(block.ids.unpack()):
            versions = self.rows.setdefault(row_id, [])
            if versions and versions[-1].end_ts == TS_NEVER:
                versions[-1].end_ts = commit_ts
                found += 1
            if not block.delete:
                version = commit_ts if copied is None else copied[n]
                versions.append(Version(commit_ts, TS_NEVER, values[n], version))
        return found

    def undo_above(self, ts: int) -> None:
        for row_id, versions in list(self.rows.items()):
            kept = [v for v in versions if v.begin_ts <= ts]
            for version in kept:
                if version.end_ts != TS_NEVER and version.end_ts > ts:
                    version.end_ts = TS_NEVER
            if kept:
                self.rows[row_id] = kept
            else:
                del self.rows[row_id]

    def shards(self) -> set[int]:
        """Rows are not told apart by shard, so none ever go."""
        return set()

    def at(self, ts: int) -> dict[bytes, tuple[int, float]]:
        """Key → (version, value) of the rows that are visible at `ts`."""
        return {
            row_id: (v.version, v.value)
            for row_id, versions in self.rows.items()
            for v in versions
            if v.begin_ts <= ts < v.end_ts
        }

    def alive(self) -> dict[bytes, tuple[int, float]]:
        """`at` the end of time."""
        return self.at(TS_NEVER - 1)
