"""Walks through the graph of a FAISS index by compiled code, over the index's own arrays.

FAISS is asked to make, extend, write and read graphs; but each of its searches clears a byte for
every row of the index and fetches neighbours one after another. At 1,000,000 x 128 and equal recall
the walk here takes half the time (`make bench-engine`). Owns two promises: it visits the rows that
FAISS would visit for the same beam, and no walk outlives the arrays of its index.
"""

from __future__ import annotations

from typing import Any

import faiss as _faiss
import numpy as np
from numpy.typing import NDArray

from vector_db.common.model.collection import Encoding
from vector_db.common.model.rows import F32
from vector_db.shard.index.calls import array_of
from vector_db.shard.native import native

faiss: Any = _faiss

_ENCODINGS = {Encoding.FLOAT32: 0, Encoding.FLOAT16: 1, Encoding.SQ8: 2}


class Walker:
    """Searches of one graph; keep it no longer than its FAISS index."""

    def __init__(self, graph: Any, beam_max: int) -> None:
        self._graph = graph
        self.beam_max = beam_max

    def search(
        self, queries: F32, k: int, beam: int, live: NDArray[np.uint8] | None
    ) -> tuple[F32, NDArray[np.int64]]:
        """Closeness float32[nq, k], higher is better, and rows int64[nq, k], -1 where there are
        fewer.

        `queries` float32[nq, dimension], contiguous; k <= beam <= `beam_max`; `live`: bits of the
        rows that may be found, None: all.
        """
        shape = (len(queries), k)
        closeness = np.empty(shape, dtype=np.float32)
        rows = np.empty(shape, dtype=np.int64)
        self._graph.search(queries, k, beam, live, closeness, rows)
        return closeness, rows


def walker_of(index: Any, encoding: Encoding) -> Walker | None:
    """Of an `IndexHNSW`, in memory or mapped; None where there is no compiled code."""
    if native is None:
        return None
    storage, graph = faiss.downcast_index(index.storage), index.hnsw
    trained = None
    if encoding is Encoding.SQ8:
        trained = faiss.vector_to_array(storage.sq.trained)
    starts = faiss.vector_to_array(graph.cum_nneighbor_per_level).tolist()
    return Walker(
        native.Graph(
            codes=array_of(storage.codes),
            encoding=_ENCODINGS[encoding],
            dimension=index.d,
            distance=index.metric_type == faiss.METRIC_L2,
            links=array_of(graph.neighbors),
            offsets=array_of(graph.offsets),
            starts=tuple(starts),
            entry=graph.entry_point,
            levels=graph.max_level + 1,
            trained=trained,
        ),
        native.BEAM_MAX,
    )
