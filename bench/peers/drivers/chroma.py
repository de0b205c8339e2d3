"""Chroma, in process: its persistent client over SQLite and an HNSW index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import chromadb
from chromadb.config import Settings

from bench.peers.drivers.harness import F32, K, OneWriter, Searcher, fields_of, serve

COLLECTION = "bench"


class Chroma(OneWriter):
    """The index grows while rows are inserted, so there is nothing left to build."""

    def open(self, directory: Path, dimension: int) -> None:
        self._path = str(directory / "chroma")
        self._client = self._connect()
        hnsw = {"space": "cosine", "ef_construction": 128, "max_neighbors": 16}
        self._collection = self._client.create_collection(
            COLLECTION, configuration={"hnsw": hnsw}, embedding_function=None
        )
        self._effort = 0

    def _connect(self) -> Any:
        settings = Settings(anonymized_telemetry=False)
        return chromadb.PersistentClient(path=self._path, settings=settings)

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
        if effort != self._effort:
            self._use(effort)
        found = self._collection.query(
            query_embeddings=query[None],
            n_results=K,
            where={"percent": 0} if filtered else None,
            include=[],
        )
        return [int(one) for one in found["ids"][0]]

    def _use(self, effort: int) -> None:
        self._collection.modify(configuration={"hnsw": {"ef_search": effort}})
        # An index that is in memory keeps its beam: only one that is opened anew has the other.
        self._client.clear_system_cache()
        self._client = self._connect()
        self._collection = self._client.get_collection(COLLECTION, embedding_function=None)
        self._effort = effort

    def close(self) -> None:
        pass


if __name__ == "__main__":
    serve(Chroma())
