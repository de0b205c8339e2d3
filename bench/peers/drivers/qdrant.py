"""Qdrant Edge, in process: the segments of Qdrant as a library."""

from __future__ import annotations

from pathlib import Path

import qdrant_edge as q

from bench.peers.drivers.harness import F32, K, OneWriter, Searcher, fields_of, serve

FULL_SCAN_KIB = 1_000
"""Below so much of a segment no graph is built or walked."""


class Qdrant(OneWriter):
    """One shard; `optimize` merges its segments and builds their graphs."""

    def open(self, directory: Path, dimension: int) -> None:
        hnsw = q.HnswIndexConfig(m=16, ef_construct=128, full_scan_threshold=FULL_SCAN_KIB)
        path = directory / "qdrant"
        path.mkdir()
        config = q.EdgeConfig(
            vectors=q.EdgeVectorParams(size=dimension, distance=q.Distance.Cosine),
            hnsw_config=hnsw,
            optimizers=q.EdgeOptimizersConfig(indexing_threshold=FULL_SCAN_KIB),
        )
        self._shard = q.EdgeShard.create(str(path), config)

    def insert(self, first: int, vectors: F32) -> None:
        count = len(vectors)
        points = [
            q.Point(first + at, vector, fields)
            for at, (vector, fields) in enumerate(
                zip(vectors.tolist(), fields_of(first, count), strict=True)
            )
        ]
        self._shard.update(q.UpdateOperation.upsert_points(points))

    def build(self) -> None:
        integer = q.PayloadSchemaType.Integer
        self._shard.update(q.UpdateOperation.create_field_index("percent", integer))
        self._shard.optimize()

    def searcher(self) -> Searcher:
        match = q.FieldCondition(key="percent", match=q.MatchValue(0))
        wanted = q.Filter(must=[match])

        def search(query: F32, effort: int, filtered: bool) -> list[int]:
            found = self._shard.query(
                q.QueryRequest(
                    limit=K,
                    query=q.Query.Nearest(query.tolist()),
                    filter=wanted if filtered else None,
                    params=q.SearchParams(hnsw_ef=effort),
                )
            )
            return [int(point.id) for point in found]

        return search

    def close(self) -> None:
        self._shard.close()


if __name__ == "__main__":
    serve(Qdrant())
