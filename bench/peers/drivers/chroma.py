"""Chroma, in process: its persistent client over SQLite and an HNSW index."""

from __future__ import annotations

from pathlib import Path

import chromadb
from chromadb.config import Settings

from bench.peers.drivers.harness import F32, K, Searcher, fields_of, serve


class Chroma:
    """The index grows while rows are inserted, so there is nothing left to build."""

    def open(self, directory: Path, dimension: int) -> None:
        settings = Settings(anonymized_telemetry=False)
        client = chromadb.PersistentClient(path=str(directory / "chroma"), settings=settings)
        hnsw = {"space": "cosine", "ef_construction": 128, "max_neighbors": 16}
        self._collection = client.create_collection(
            "bench", configuration={"hnsw": hnsw}, embedding_function=None
        )
        self._effort = 0

    def insert(self, first: int, vectors: F32) -> None:
        count = len(vectors)
        self._collection.add(
            ids=[str(row) for row in range(first, first + count)],
            embeddings=vectors,
            metadatas=list(fields_of(first, count)),
        )

    def build(self) -> None:
        self._collection.count()

    def searcher(self) -> Searcher:
        return self._search

    def _search(self, query: F32, effort: int, filtered: bool) -> list[int]:
        if effort and effort != self._effort:
            self._collection.modify(configuration={"hnsw": {"ef_search": effort}})
            self._effort = effort
        found = self._collection.query(
            query_embeddings=query[None],
            n_results=K,
            where={"percent": 0} if filtered else None,
            include=[],
        )
        return [int(one) for one in found["ids"][0]]

    def close(self) -> None:
        pass


if __name__ == "__main__":
    serve(Chroma())
