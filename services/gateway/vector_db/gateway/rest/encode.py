"""Answers as JSON bytes.

Owns the invariant that stored metadata is spliced in as it is, never parsed again, and that float32
vectors are written with the shortest digits that read back as the same float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson
from aiohttp import web

from vector_db.common.model.collection import Collection, Metric
from vector_db.common.model.times import to_rfc3339
from vector_db.gateway.core.distance import distance_of
from vector_db.gateway.core.requests import (
    CollectionStats,
    Hits,
    OpenTransaction,
    Page,
    QueryResult,
    Rows,
    WriteResult,
)

_NUMPY = orjson.OPT_SERIALIZE_NUMPY


def json_response(
    value: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """`value` as a JSON answer; float32 arrays allowed."""
    return web.Response(
        body=orjson.dumps(value, option=_NUMPY),
        status=status,
        content_type="application/json",
        headers=headers,
    )


def query_answer(result: QueryResult, batch: bool, distance: bool) -> dict[str, Any]:
    """``{"vectors", "snapshot_ts", "cursor"?, "explain"?}``.

    For a batch ``{"results": [{"vectors"}, …], "snapshot_ts", "explain"?}``.
    """
    metric = Metric(result.metric) if distance else None
    answer: dict[str, Any]
    if batch:
        results = [{"vectors": _hits(hits, metric)} for hits in result.hits]
        answer = {"results": results, "snapshot_ts": result.snapshot_ts}
    else:
        answer = {"vectors": _hits(result.hits[0], metric), "snapshot_ts": result.snapshot_ts}
        if result.paged:
            answer["cursor"] = result.cursor
    if result.explain is not None:
        answer["explain"] = result.explain
    return answer


def _hits(hits: Hits, metric: Metric | None) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = [
        {"id": row_id.decode(), "similarity": similarity}
        for row_id, similarity in zip(hits.ids, hits.similarities, strict=True)
    ]
    if hits.metadata is not None:
        for hit, text in zip(out, hits.metadata, strict=True):
            hit["metadata"] = orjson.Fragment(text) if text else None
    if hits.vectors is not None:
        for hit, vector in zip(out, hits.vectors, strict=True):
            hit["dimensions"] = vector
    if metric is not None:
        for hit in out:
            distance = distance_of(metric, hit["similarity"])
            hit["distance"] = distance if math.isfinite(distance) else None
    return out


def rows_of(rows: Rows, include: Iterable[str]) -> list[dict[str, Any]]:
    """The rows that were read, each ``{"id", "dimensions"?, "metadata"?, "version"}``."""
    out: list[dict[str, Any]] = [{"id": row_id.decode()} for row_id in rows.ids]
    if "dimensions" in include and rows.vectors is not None:
        for row, vector in zip(out, rows.vectors, strict=True):
            row["dimensions"] = vector
    if "metadata" in include:
        for row, text in zip(out, rows.metadata, strict=True):
            row["metadata"] = orjson.Fragment(text) if text else None
    for row, version in zip(out, rows.versions, strict=True):
        row["version"] = version
    return out


def page_answer(page: Page, include: Iterable[str]) -> dict[str, Any]:
    """A scroll page; the cursor is null at the end."""
    return {
        "vectors": rows_of(page.rows, include),
        "cursor": page.cursor,
        "snapshot_ts": page.rows.snapshot_ts,
    }


def write_answer(result: WriteResult, staged: bool = False) -> dict[str, Any]:
    """What every write answers; what is only staged has no `commit_ts` yet."""
    if staged:
        return {"count": result.count}
    return {"count": result.count, "commit_ts": result.commit_ts}


def open_transaction_answer(begun: OpenTransaction) -> dict[str, Any]:
    """A transaction that was begun."""
    return {
        "transaction": begun.txn_id,
        "token": begun.token,
        "isolation": begun.isolation,
        "snapshot_ts": begun.snapshot_ts,
        "expires_at": to_rfc3339(begun.expires_ms),
    }


def collection_answer(
    collection: Collection, aliases: Sequence[str], spreading: int | None
) -> dict[str, Any]:
    """A catalog entry; `spreading`: over how many shards it is being spread."""
    index = collection.index
    return {
        "name": collection.name,
        "dimension": collection.dimension,
        "metric": collection.metric.value,
        "shards": len(collection.shards),
        "commit_ts": collection.origin,
        "index": {
            "kind": index.kind.value,
            "encoding": index.encoding.value,
            "m": index.m,
            "ef_construction": index.ef_construction,
            "lists": index.lists,
        },
        "recall_target": collection.recall_target,
        "fields": collection.fields,
        "aliases": aliases,
        "spreading": None if spreading is None else {"shards": spreading},
    }


def stats_answer(stats: CollectionStats) -> dict[str, Any]:
    """What a collection holds and takes."""
    rows, done = stats.building
    return {
        "rows": stats.rows,
        "rows_indexed": stats.rows_indexed,
        "rows_dead": stats.rows_dead,
        "segments": stats.segments,
        "kinds": stats.kinds,
        "recall": {
            "target": stats.recall_target,
            "measured": stats.recall_measured,
            "samples": stats.recall_samples,
        },
        "building": {"rows": rows, "done": done},
        "bytes_memory": stats.bytes_memory,
        "bytes_disk": stats.bytes_disk,
        "bytes_predicted": stats.bytes_predicted,
        "bytes_resident": stats.bytes_resident,
    }
