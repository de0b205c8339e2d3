"""Answers of the database to protobuf messages; vectors bit for bit as stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from vector_db.common.model.collection import Collection, Encoding, IndexKind, Metric
from vector_db.common.model.rows import F32
from vector_db.gateway.core.distance import distance_of
from vector_db.gateway.core.requests import (
    CollectionStats,
    Hits,
    Isolation,
    OpenTransaction,
    Page,
    QueryResult,
    Rows,
    WriteResult,
)
from vector_db.v1 import vector_db_pb2 as pb

_ISOLATIONS: dict[Isolation, Any] = {
    "snapshot": pb.ISOLATION_SNAPSHOT,
    "serializable": pb.ISOLATION_SERIALIZABLE,
}
_KINDS = {
    IndexKind.AUTO: pb.INDEX_KIND_AUTO,
    IndexKind.HNSW: pb.INDEX_KIND_HNSW,
    IndexKind.IVF_PQ: pb.INDEX_KIND_IVF_PQ,
    IndexKind.EXACT: pb.INDEX_KIND_EXACT,
}
_ENCODINGS = {
    Encoding.AUTO: pb.ENCODING_AUTO,
    Encoding.FLOAT32: pb.ENCODING_FLOAT32,
    Encoding.FLOAT16: pb.ENCODING_FLOAT16,
    Encoding.SQ8: pb.ENCODING_SQ8,
}
_METRICS = {
    Metric.COSINE: pb.METRIC_COSINE,
    Metric.DOT: pb.METRIC_DOT,
    Metric.EUCLIDEAN: pb.METRIC_EUCLIDEAN,
}


def encode_collection(
    collection: Collection, aliases: Sequence[str], spreading: int | None = None
) -> Any:
    """A catalog entry; `spreading`: over how many shards it is being spread."""
    index = collection.index
    return pb.Collection(
        name=collection.name,
        dimension=collection.dimension,
        metric=_METRICS[collection.metric],
        shards=collection.shards,
        created_ts=collection.origin,
        index=pb.IndexOptions(
            kind=_KINDS[index.kind],
            encoding=_ENCODINGS[index.encoding],
            m=index.m,
            ef_construction=index.ef_construction,
            lists=index.lists,
        ),
        recall_target=collection.recall_target,
        fields=collection.fields,
        aliases=aliases,
        spreading_shards=spreading or 0,
    )


def encode_stats(stats: CollectionStats) -> Any:
    """What a collection holds and takes."""
    return pb.CollectionStats(
        rows=stats.rows,
        rows_indexed=stats.rows_indexed,
        segments=stats.segments,
        bytes_memory=stats.bytes_memory,
        bytes_disk=stats.bytes_disk,
        rows_dead=stats.rows_dead,
        kinds=stats.kinds,
        recall_target=stats.recall_target,
        recall_measured=stats.recall_measured,
        recall_samples=stats.recall_samples,
        rows_building=stats.building[0],
        rows_built=stats.building[1],
        bytes_predicted=stats.bytes_predicted,
        bytes_resident=stats.bytes_resident,
    )


def encode_write(result: WriteResult) -> Any:
    """The answer of every write."""
    return pb.WriteResponse(
        count=result.count, commit_ts=result.commit_ts, replayed=result.replayed
    )


def encode_begin(begun: OpenTransaction) -> Any:
    """A transaction that was begun."""
    return pb.BeginTransactionResponse(
        id=begun.txn_id,
        transaction=begun.token,
        isolation=_ISOLATIONS[begun.isolation],
        snapshot_ts=begun.snapshot_ts,
        expires_ms=begun.expires_ms,
    )


def encode_query(result: QueryResult) -> Any:
    """One `Hits` a query, with distances derived from the similarities."""
    return pb.QuerySimilarResponse(
        results=[_hits(hits, Metric(result.metric)) for hits in result.hits],
        snapshot_ts=result.snapshot_ts,
        cursor=result.cursor or "",
        explain="" if result.explain is None else orjson.dumps(result.explain).decode(),
    )


def encode_get(rows: Rows) -> Any:
    """Rows that were fetched."""
    return pb.GetResponse(vectors=_stored_vectors(rows), snapshot_ts=rows.snapshot_ts)


def encode_scroll(page: Page) -> Any:
    """A page; the cursor is empty at the end."""
    return pb.ScrollResponse(
        vectors=_stored_vectors(page.rows),
        cursor=page.cursor or "",
        snapshot_ts=page.rows.snapshot_ts,
    )


def _hits(hits: Hits, metric: Metric) -> Any:
    metadata = hits.metadata
    vectors = _row_bytes(hits.vectors)
    return pb.Hits(
        vectors=[
            pb.Hit(
                id=row_id.decode(),
                similarity=similarity,
                distance=distance_of(metric, similarity),
                metadata="" if metadata is None else metadata[i].decode(),
                dimensions=b"" if vectors is None else vectors[i],
            )
            for i, (row_id, similarity) in enumerate(zip(hits.ids, hits.similarities, strict=True))
        ]
    )


def _stored_vectors(rows: Rows) -> list[Any]:
    vectors = _row_bytes(rows.vectors)
    return [
        pb.StoredVector(
            id=row_id.decode(),
            dimensions=b"" if vectors is None else vectors[i],
            metadata=rows.metadata[i].decode(),
            version=rows.versions[i],
        )
        for i, row_id in enumerate(rows.ids)
    ]


def _row_bytes(vectors: F32 | None) -> list[bytes] | None:
    """Each row's little-endian bytes."""
    if vectors is None:
        return None
    data = np.ascontiguousarray(vectors, dtype="<f4").tobytes()
    size = 4 * vectors.shape[1]
    return [data[at : at + size] for at in range(0, len(data), size)]
