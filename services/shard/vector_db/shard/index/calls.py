"""Searches of FAISS indexes, and their arrays, without what its Python wrapper adds to each.

Owns the rule that what a search is given stays alive until it returns, and is only read: so threads
share parameters, and bits of live rows belong to their view.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import faiss as _faiss
import numpy as np
from numpy.typing import NDArray

from vector_db.common.model.rows import F32

faiss: Any = _faiss
_KEPT = 64
"""Parameters kept: few efforts recur, one for each k."""


def array_of(vector: Any) -> NDArray[Any]:
    """The items of a vector that an index holds, where they lie: no longer than the index lives."""
    array: NDArray[Any] = faiss.rev_swig_ptr(vector.data(), vector.size())
    return array


def packed_bits(live: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """`live` as bits, the first in the lowest, as a selector takes them."""
    return np.packbits(live, bitorder="little")


def selector_of(bits: NDArray[np.uint8]) -> Any:
    """A selector of the rows whose bit is set; it refers to `bits`, which must outlive it."""
    return faiss.IDSelectorBitmap(len(bits), faiss.swig_ptr(bits))


def search_index(
    index: Any, queries: F32, k: int, parameters: Any
) -> tuple[F32, NDArray[np.int64]]:
    """FAISS's own scores [nq, k] and rows [nq, k], -1 where there are fewer.

    `queries` float32[nq, dimension], contiguous.
    """
    nq = len(queries)
    scores = np.empty((nq, k), dtype=np.float32)
    rows = np.empty((nq, k), dtype=np.int64)
    pointer = faiss.swig_ptr
    index.search_c(nq, pointer(queries), k, pointer(scores), pointer(rows), parameters)
    return scores, rows


class Parameters:
    """Search parameters by effort, made once. It knows nothing of its index, which shall be freed
    with its last reference."""

    def __init__(self) -> None:
        self._made: dict[int, Any] = {}

    def of(self, effort: int, make: Callable[[int], Any]) -> Any:
        """Those of an unmasked search."""
        parameters = self._made.get(effort)
        if parameters is None:
            parameters = make(effort)
            if len(self._made) >= _KEPT:
                self._made = {}
            self._made[effort] = parameters
        return parameters
