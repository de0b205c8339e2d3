"""LanceDB, in process: columnar files, one HNSW graph over scalar-quantised vectors."""

from __future__ import annotations

from pathlib import Path

import lancedb
import pyarrow as pa
from lancedb.index import BTree, HnswSq

from bench.peers.drivers.harness import F32, FIELDS, K, OneWriter, Searcher, fields_of, serve

REFINE = 3
"""So many times K candidates are scored again from the full vectors; `ef` is at least that."""


class Lance(OneWriter):
    """One partition, so that `ef` is all there is to choose."""

    def open(self, directory: Path, dimension: int) -> None:
        self._dimension = dimension
        columns = [
            pa.field("id", pa.int64()),
            pa.field("vector", pa.list_(pa.float32(), dimension)),
        ]
        columns += [pa.field(name, pa.int32()) for name in FIELDS]
        database = lancedb.connect(str(directory / "lance"))
        self._table = database.create_table("bench", schema=pa.schema(columns))

    def insert(self, first: int, vectors: F32) -> None:
        count = len(vectors)
        fields = list(fields_of(first, count))
        columns = {
            "id": pa.array(range(first, first + count), pa.int64()),
            "vector": pa.FixedSizeListArray.from_arrays(
                pa.array(vectors.reshape(-1)), self._dimension
            ),
        }
        columns |= {name: pa.array([f[name] for f in fields], pa.int32()) for name in FIELDS}
        self._table.add(pa.table(columns))

    def build(self) -> None:
        self._table.optimize()
        config = HnswSq(distance_type="cosine", num_partitions=1, m=16, ef_construction=128)
        self._table.create_index("vector", config=config)
        self._table.create_index("percent", config=BTree())
        for index in self._table.list_indices():
            self._table.wait_for_index([index.name])

    def searcher(self) -> Searcher:
        return self._search

    def _search(self, query: F32, effort: int, filtered: bool) -> list[int]:
        asked = self._table.search(query).distance_type("cosine").select(["id"]).limit(K)
        asked = asked.nprobes(1).ef(max(effort, REFINE * K)).refine_factor(REFINE)
        if filtered:
            asked = asked.where("percent = 0", prefilter=True)
        ids: list[int] = asked.to_arrow()["id"].to_pylist()
        return ids

    def close(self) -> None:
        pass


if __name__ == "__main__":
    serve(Lance())
