"""Which index a segment gets: what its collection asks, and where it asks nothing, what fits.

Owns the rule of `auto`: the fastest index whose memory fits into the budget. A graph of
half-precision copies, then one of single bytes, then lists of product-quantised codes; a recall
target that lists reach only with much effort keeps the graph, served from its mapped file.
"""

from __future__ import annotations

from typing import NamedTuple

from msgspec.structs import replace

from vector_db.common.model.collection import Collection, Encoding, IndexKind, IndexOptions
from vector_db.shard.core.footprint import index_bytes

IVF_ROWS_MIN = 10_000
IVF_DIMENSION_MIN = 8
LISTS_RECALL_MAX = 0.98
"""Above it lists have to be searched so widely that a graph on mapped pages is faster."""


class Choice(NamedTuple):
    """An index to build; `kind` is never AUTO, EXACT means none."""

    kind: IndexKind
    options: IndexOptions


def choose(collection: Collection, rows: int, budget_bytes: float) -> Choice:
    """The index of a segment of `rows` rows, when `budget_bytes` of memory are left for it."""
    options = collection.index
    kind = options.kind
    if kind is IndexKind.IVF_PQ and not lists_fit(rows, collection.dimension):
        kind = IndexKind.HNSW
    if kind is not IndexKind.AUTO:
        return Choice(kind, options)
    given = options.encoding
    encodings = (Encoding.AUTO, Encoding.SQ8) if given is Encoding.AUTO else (given,)
    for encoding in encodings:
        need = rows * index_bytes(IndexKind.HNSW, encoding, options.m, collection.dimension)
        if need <= budget_bytes:
            return Choice(IndexKind.HNSW, replace(options, kind=IndexKind.HNSW, encoding=encoding))
    if lists_fit(rows, collection.dimension) and collection.recall_target <= LISTS_RECALL_MAX:
        return Choice(IndexKind.IVF_PQ, replace(options, kind=IndexKind.IVF_PQ))
    return Choice(IndexKind.HNSW, replace(options, kind=IndexKind.HNSW, encoding=encodings[-1]))


def lists_fit(rows: int, dimension: int) -> bool:
    """Whether lists of codes are worth their training."""
    return rows >= IVF_ROWS_MIN and dimension >= IVF_DIMENSION_MIN


def satisfies(
    built: Choice, encoding: Encoding, quick: bool, collection: Collection, rows: int
) -> bool:
    """Whether an index that was built so is what the collection wants for a segment of `rows`.

    :param encoding: what became of `built.options.encoding`.
    """
    wanted = collection.index
    if quick or wanted.kind is IndexKind.EXACT:
        return False
    if built.kind is IndexKind.IVF_PQ:
        return wanted.kind is not IndexKind.HNSW and wanted.lists == built.options.lists
    if wanted.kind is IndexKind.IVF_PQ and lists_fit(rows, collection.dimension):
        return False
    shaped = (wanted.m, wanted.ef_construction) == (built.options.m, built.options.ef_construction)
    return shaped and wanted.encoding in (Encoding.AUTO, encoding)
