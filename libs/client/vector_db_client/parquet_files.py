"""Rows in a Parquet file: columns ``id``, ``vector``, ``metadata`` (JSON text), or one's own.

One row group is in memory at a time. The format version stands in the schema's key-value metadata
under ``vector_db.*``; files of other origin need none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from vector_db_client.files import ExportInfo, FileError, PartFile, read_info
from vector_db_client.values import Metadata, Row, RowBatch, Vectors

PREFIX = "vector_db."
ROW_GROUP_BYTES = 32 * 1024 * 1024
"""Vector bytes that an export gathers for one row group."""


class ParquetSource:
    """Rows of a Parquet file.

    Without a column ``metadata`` all other columns become the metadata, nulls left out.
    """

    def __init__(self, path: Path, id_column: str = "id", vector_column: str = "vector") -> None:
        """:raises FileError: no Parquet file, or without these columns."""
        self._path = path
        try:
            self._file = pq.ParquetFile(path)
        except pa.ArrowException as error:
            raise FileError(f"{path}: not a readable Parquet file: {error}") from None
        schema = self._file.schema_arrow
        fields = {
            key.decode().removeprefix(PREFIX): value.decode()
            for key, value in (schema.metadata or {}).items()
            if key.startswith(PREFIX.encode())
        }
        self.info: ExportInfo | None = read_info(fields, path) if fields else None
        for option, name in (("--id-column", id_column), ("--vector-column", vector_column)):
            if name not in schema.names:
                raise FileError(
                    f"{path}: has no column {name!r} (see {option}), but {', '.join(schema.names)}"
                )
        self._id, self._vector = id_column, vector_column
        self._others = [name for name in schema.names if name not in (id_column, vector_column)]
        self.rows_total: int = self._file.metadata.num_rows
        self.dimension = self._find_dimension(schema.field(vector_column).type)

    def _find_dimension(self, kind: Any) -> int:
        is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
        if pa.types.is_fixed_size_list(kind):
            return int(kind.list_size)
        if not is_list:
            raise FileError(f"{self._path}: column {self._vector!r} holds {kind}, not lists")
        for batch in self._file.iter_batches(1, columns=[self._vector]):
            return len(batch.column(0)[0])
        return 0

    def batches(self, batch_size: int) -> Iterator[RowBatch]:
        """See `Source.batches`."""
        start = 0
        try:
            for batch in self._file.iter_batches(batch_size):
                where = f"{self._path}, rows {start} to {start + len(batch) - 1}"
                ids = batch.column(self._id)
                if ids.null_count:
                    raise FileError(f"{where}: an id is null")
                yield RowBatch(
                    [value if isinstance(value, str) else str(value) for value in ids.to_pylist()],
                    self._vectors_of(batch.column(self._vector), where),
                    self._metadata_of(batch, where),
                )
                start += len(batch)
        except pa.ArrowException as error:
            raise FileError(f"{self._path}: cannot be read after row {start}: {error}") from None

    def _vectors_of(self, column: Any, where: str) -> Vectors:
        flat = column.flatten()
        if column.null_count or flat.null_count:
            raise FileError(f"{where}: a vector or a number in it is null")
        lengths = column.value_lengths() if hasattr(column, "value_lengths") else None
        if lengths is not None and set(lengths.unique().to_pylist()) - {self.dimension}:
            raise FileError(f"{where}: vectors of different dimensions")
        values = flat.to_numpy(zero_copy_only=False)
        if values.dtype.kind not in "fiu":
            raise FileError(f"{where}: vectors hold {flat.type}, not numbers")
        vectors: Vectors = values.reshape(len(column), self.dimension)
        return vectors

    def _metadata_of(self, batch: Any, where: str) -> list[Metadata | None] | None:
        if not self._others:
            return None
        if "metadata" not in self._others:
            return [
                {key: value for key, value in row.items() if value is not None} or None
                for row in batch.select(self._others).to_pylist()
            ]
        found: list[Metadata | None] = []
        for value in batch.column("metadata").to_pylist():
            try:
                metadata = orjson.loads(value) if isinstance(value, str) else value
            except orjson.JSONDecodeError as error:
                raise FileError(f"{where}: metadata is not JSON: {error}") from None
            if metadata is not None and not isinstance(metadata, dict):
                raise FileError(f"{where}: metadata: needs an object or null")
            found.append(metadata)
        return found


class ParquetSink:
    """Writes OUT.parquet, a row group for every `ROW_GROUP_BYTES` of vectors."""

    def __init__(self, path: Path, info: ExportInfo, overwrite: bool) -> None:
        """:raises FileError: a file of that name exists, unless `overwrite`."""
        self._file = PartFile(path, overwrite)
        self._dimension = info.dimension
        self._schema = pa.schema(
            [
                pa.field("id", pa.string(), nullable=False),
                pa.field("vector", pa.list_(pa.float32(), info.dimension), nullable=False),
                pa.field("metadata", pa.string()),
            ],
            metadata={PREFIX + key: str(value) for key, value in info.as_dict().items()},
        )
        self._rows_per_group = max(1, ROW_GROUP_BYTES // (4 * info.dimension))
        self._pending: list[Row] = []
        self._writer = pq.ParquetWriter(
            self._file.part, self._schema, compression="zstd", use_dictionary=False
        )

    def write(self, rows: Sequence[Row]) -> None:
        """See `Sink.write`."""
        self._pending.extend(rows)
        if len(self._pending) >= self._rows_per_group:
            self._flush()

    def _flush(self) -> None:
        if not self._pending:
            return
        rows, self._pending = self._pending, []
        vectors = np.empty((len(rows), self._dimension), "<f4")
        for at, row in enumerate(rows):
            if row.vector is None or row.vector.shape != (self._dimension,):
                raise FileError(f"row {row.id!r}: its vector does not have the right dimension")
            vectors[at] = row.vector
        columns = [
            pa.array([row.id for row in rows], pa.string()),
            pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), self._dimension),
            pa.array(
                [None if r.metadata is None else orjson.dumps(r.metadata).decode() for r in rows],
                pa.string(),
            ),
        ]
        table = pa.Table.from_arrays(columns, schema=self._schema)
        self._writer.write_table(table, row_group_size=len(rows))

    def finish(self) -> None:
        """See `Sink.finish`."""
        self._flush()
        self._writer.close()
        self._file.publish()

    def discard(self) -> None:
        """See `Sink.discard`."""
        self._writer.close()
        self._file.discard()
