"""The links of an HNSW graph as FAISS lays them out, and a graph made to forget some of its rows.

Of each node there are, one after another, its links at the bottom level and at each level above
that it reaches; a list that is not full ends at the first -1 (Malkov and Yashunin, "Efficient and
robust approximate nearest neighbor search using HNSW graphs", and FAISS's HNSW.h).

A node's links are chosen so that none is nearer to another one than to the node. Without a row,
its neighbours would have links to each other that it made needless: so their lists are chosen
anew among what they have and what the row has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import faiss as _faiss
import numpy as np
from numpy.typing import NDArray

from vector_db.common.model.rows import F32
from vector_db.shard.index.calls import array_of

faiss: Any = _faiss
Distances = Callable[[NDArray[np.int64]], F32]
"""Distances float32[n, n] between rows int64[n]."""


@contextmanager
def rows_forgotten(
    graph: Any, rows: NDArray[np.int64], total: int, distances: Distances
) -> Iterator[None]:
    """No link of `graph` (a FAISS HNSW over `total` rows, in memory) leads to `rows` meanwhile."""
    links: NDArray[np.int32] = array_of(graph.neighbors)
    offsets = array_of(graph.offsets)
    levels = faiss.vector_to_array(graph.cum_nneighbor_per_level).astype(np.int64)
    marked = np.zeros(total + 1, dtype=np.bool_)  # the last is for -1
    marked[rows] = True
    hits = np.flatnonzero(marked[links])
    nodes = np.searchsorted(offsets, hits, side="right") - 1
    starts = offsets[nodes].astype(np.int64)
    level = np.searchsorted(levels, hits - starts, side="right") - 1
    spans = np.stack([starts + levels[level], starts + levels[level + 1], nodes, level])
    lists = np.unique(spans, axis=1).T.tolist()
    before = [(a, links[a:b].copy()) for a, b, _, _ in lists]
    try:
        changed = []
        for (a, old), (_, _, node, its_level) in zip(before, lists, strict=True):
            forgotten = old[(old >= 0) & marked[old]]
            # At the same level: who is there has links there, and others have none to follow.
            span = slice(levels[its_level], levels[its_level + 1])
            theirs = [links[int(offsets[row]) :][span] for row in forgotten.tolist()]
            known = np.concatenate([old, *theirs])
            known = known[(known >= 0) & ~marked[known] & (known != node)]
            changed.append((a, _chosen(node, np.unique(known), len(old), distances)))
        for (a, old), (_, new) in zip(before, changed, strict=True):
            links[a : a + len(old)] = -1
            links[a : a + len(new)] = new
        yield
    finally:
        for a, old in before:
            links[a : a + len(old)] = old


def _chosen(
    node: int, known: NDArray[np.int32], most: int, distances: Distances
) -> NDArray[np.int64]:
    """Of `known`, those to which `node` has links, nearest first."""
    table = distances(np.concatenate(([node], known)).astype(np.int64))
    own, others = table[0, 1:], table[1:, 1:]
    nearer = others < own  # [s, at]: to s than to the node
    needless = np.zeros(len(known), dtype=np.bool_)
    chosen: list[int] = []
    for at in np.argsort(own, kind="stable").tolist():
        if len(chosen) < most and not needless[at]:
            chosen.append(at)
            needless |= nearer[at]
    return known[chosen].astype(np.int64)
