"""Milvus Lite: pymilvus over gRPC to a server in threads of the same process."""

from __future__ import annotations

from pathlib import Path

from pymilvus import DataType, MilvusClient

from bench.peers.drivers.harness import F32, FIELDS, K, OneWriter, Searcher, fields_of, serve

COLLECTION = "bench"


class Milvus(OneWriter):
    """A graph per segment, and an inverted index on the filtered field."""

    def open(self, directory: Path, dimension: int) -> None:
        self._client = MilvusClient(str(directory / "milvus.db"))
        schema = MilvusClient.create_schema(auto_id=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dimension)
        for name in FIELDS:
            schema.add_field(name, DataType.INT64)
        self._client.create_collection(COLLECTION, schema=schema)

    def insert(self, first: int, vectors: F32) -> None:
        rows = [
            {"id": first + at, "vector": vector, **fields}
            for at, (vector, fields) in enumerate(
                zip(vectors, fields_of(first, len(vectors)), strict=True)
            )
        ]
        self._client.insert(COLLECTION, rows)

    def build(self) -> None:
        self._client.flush(COLLECTION)
        indexes = MilvusClient.prepare_index_params()
        graph = {"M": 16, "efConstruction": 128}
        indexes.add_index("vector", index_type="HNSW", metric_type="COSINE", params=graph)
        indexes.add_index("percent", index_type="INVERTED")
        self._client.create_index(COLLECTION, indexes)
        self._client.load_collection(COLLECTION)

    def searcher(self) -> Searcher:
        return self._search

    def _search(self, query: F32, effort: int, filtered: bool) -> list[int]:
        found = self._client.search(
            COLLECTION,
            [query],
            anns_field="vector",
            limit=K,
            filter="percent == 0" if filtered else "",
            search_params={"metric_type": "COSINE", "params": {"ef": effort}},
        )
        return [int(hit["id"]) for hit in found[0]]

    def close(self) -> None:
        self._client.close()


if __name__ == "__main__":
    serve(Milvus())
