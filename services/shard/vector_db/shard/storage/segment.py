"""What growing and sealed segments have in common, as the slice sees them."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vector_db.common.model.rows import F32, I64
from vector_db.shard.storage.payloads import BytesReader
from vector_db.shard.views import SegmentView


class Segment(Protocol):
    """Rows in commit order, each with the timestamps between which it is visible.

    A row is visible at `s` when ``begin_ts <= s < end_ts``. Of one id, the newest row with
    ``begin_ts <= s`` decides: every older one ended when it began, or before.

    The *version* of a row, which is answered and compared with, is its ``begin_ts``, unless it was
    copied from another generation of its collection: then it is the one that it had there.
    """

    rows: int

    @property
    def vectors(self) -> F32:
        """float32[≥ rows, dimension], bit-exact."""

    @property
    def begin_ts(self) -> I64:
        """int64[≥ rows]"""

    @property
    def versions(self) -> I64:
        """int64[≥ rows]; `begin_ts` itself where no row has another one."""

    @property
    def ids(self) -> BytesReader: ...

    @property
    def metadata(self) -> BytesReader: ...

    def end_ts(self, rows: NDArray[np.int64]) -> I64:
        """When each of `rows` died, TS_NEVER while alive."""

    def kill(self, rows: NDArray[np.int64], ts: int) -> int:
        """Let those of `rows` that are alive die at `ts`; how many they were."""

    def count(self, snapshot_ts: int) -> int:
        """Rows visible at the snapshot."""

    def view(self, snapshot_ts: int) -> SegmentView | None:
        """The segment at the snapshot, None when no row of it is visible."""

    def undo_above(self, ts: int) -> bool:
        """Forget rows and deaths after `ts`; whether there were any."""


def own_versions(versions: I64, begin_ts: I64) -> I64 | None:
    """The versions of some rows if they have to be kept; None: they are when the rows began."""
    return None if np.array_equal(versions, begin_ts) else versions


def inverse_norms(vectors: F32) -> F32:
    """1 / |v| per row, float32[n]; 0 for a zero vector.

    Rows whose squares would leave float32 are done in float64.
    """
    squares = np.einsum("ij,ij->i", vectors, vectors)
    unsafe = ~((squares > 1e-30) & (squares < 1e30))
    norms = np.sqrt(squares, dtype=np.float64)
    if unsafe.any():
        wide = vectors[unsafe].astype(np.float64)
        norms[unsafe] = np.sqrt(np.einsum("ij,ij->i", wide, wide))
    inverse = np.zeros(len(norms), dtype=np.float64)
    np.divide(1.0, norms, out=inverse, where=norms > 0)
    limit = float(np.finfo(np.float32).max)
    return np.minimum(inverse, limit).astype(np.float32)
