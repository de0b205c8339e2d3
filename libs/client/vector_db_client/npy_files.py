"""Vectors in a ``.npy`` file, ids and metadata in JSON lines beside it.

Neither is ever held whole: vectors are mapped, lines are read as they are needed, and an export
appends to both. The format version stands in the first line of the JSON lines, which is a header
object; files of other origin need no header.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import orjson

from vector_db_client.files import ExportInfo, FileError, PartFile, read_info
from vector_db_client.values import Metadata, Row, RowBatch

HEADER_KEY = "vector_db_export"
_READ_BYTES = 1 << 20
_GZIP_MAGIC = b"\x1f\x8b"


class NpySource:
    """Rows of a ``.npy`` file [n, dimension] of any float or integer type, and their records."""

    def __init__(self, path: Path, records: Path | None, number_ids: bool = False) -> None:
        """Check the files against each other.

        :param records: JSON lines, plain or gzip; None: the file of the same name beside `path`.
        :param number_ids: there are no records, the ids are the row numbers from 0.
        :raises FileError: a file is missing, is no such file, or they are of different lengths.
        """
        try:
            self._vectors = np.lib.format.open_memmap(path, mode="r")
        except (ValueError, EOFError) as error:
            raise FileError(f"{path}: not a readable .npy file: {error}") from None
        if self._vectors.ndim != 2 or self._vectors.dtype.kind not in "fiu":
            raise FileError(
                f"{path}: needs numbers of shape (n, dimension), has "
                f"{self._vectors.dtype} of shape {self._vectors.shape}"
            )
        self.rows_total, self.dimension = self._vectors.shape
        self.info: ExportInfo | None = None
        self._records = None if number_ids else _find_records(path, records)
        if self._records is not None:
            self.info = _read_header(self._records)
            lines = _count_lines(self._records) - (self.info is not None)
            if lines != self.rows_total:
                raise FileError(
                    f"{self._records}: {lines} records, but {path} has {self.rows_total} vectors"
                )

    def batches(self, batch_size: int) -> Iterator[RowBatch]:
        """See `Source.batches`."""
        if self._records is None:
            for start in range(0, self.rows_total, batch_size):
                vectors = self._vectors[start : start + batch_size]
                yield RowBatch([str(start + n) for n in range(len(vectors))], vectors)
            return
        with _open_lines(self._records) as lines:
            if self.info is not None:
                next(lines)
            number, start = 1 + (self.info is not None), 0
            while chunk := list(islice((line for line in lines if line.strip()), batch_size)):
                records = [
                    _read_record(line, self.info is not None, f"{self._records}, record {n}")
                    for n, line in enumerate(chunk, number)
                ]
                vectors = self._vectors[start : start + len(chunk)]
                yield RowBatch([r[0] for r in records], vectors, [r[1] for r in records])
                number += len(chunk)
                start += len(chunk)


class NpySink:
    """Writes OUT.npy and its records; `info.snapshot_ts` is that of the scroll."""

    def __init__(self, path: Path, records: Path | None, info: ExportInfo, overwrite: bool) -> None:
        """:raises FileError: a file of that name exists, unless `overwrite`."""
        self._shape_tail = info.dimension
        self._count = 0
        self._npy = PartFile(path, overwrite)
        self._records = PartFile(records or path.with_suffix(".jsonl"), overwrite)
        self._npy_file = self._npy.part.open("wb")
        self._records_file = _create_lines(self._records)
        self._header_bytes = self._write_header()
        self._records_file.write(orjson.dumps({HEADER_KEY: info.as_dict()}) + b"\n")

    def _write_header(self) -> int:
        """The header is padded for a growing first axis, so the final one fits into its place."""
        np.lib.format.write_array_header_1_0(
            self._npy_file,
            {"descr": "<f4", "fortran_order": False, "shape": (self._count, self._shape_tail)},
        )
        return self._npy_file.tell()

    def write(self, rows: Sequence[Row]) -> None:
        """See `Sink.write`."""
        for row in rows:
            if row.vector is None or row.vector.shape != (self._shape_tail,):
                raise FileError(f"row {row.id!r}: its vector does not have the right dimension")
            self._npy_file.write(row.vector.astype("<f4", copy=False).tobytes())
            self._records_file.write(orjson.dumps({"id": row.id, "metadata": row.metadata}) + b"\n")
        self._count += len(rows)

    def finish(self) -> None:
        """See `Sink.finish`."""
        self._npy_file.seek(0)
        if self._write_header() != self._header_bytes:
            raise FileError(f"{self._npy.path}: the header of {self._count} rows does not fit")
        self._npy_file.close()
        self._records_file.close()
        # The records come last: whoever finds them finds the vectors too.
        self._npy.publish()
        self._records.publish()

    def discard(self) -> None:
        """See `Sink.discard`."""
        self._npy_file.close()
        self._records_file.close()
        self._npy.discard()
        self._records.discard()


def _create_lines(file: PartFile) -> IO[bytes]:
    if file.path.suffix == ".gz":
        return cast("IO[bytes]", gzip.GzipFile(file.part, "wb"))
    return file.part.open("wb")


def _find_records(path: Path, records: Path | None) -> Path:
    candidates = (
        [records] if records else [path.with_suffix(".jsonl"), path.with_suffix(".jsonl.gz")]
    )
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    if records:
        raise FileError(f"{records}: no such file")
    raise FileError(
        f"{path}: found neither {candidates[0].name} nor {candidates[1].name} beside it; name the "
        "ids and metadata with --records, or number the rows with --number-ids"
    )


def _open_lines(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        zipped = file.read(2) == _GZIP_MAGIC
    return cast("IO[bytes]", gzip.open(path, "rb") if zipped else path.open("rb"))


def _read_header(path: Path) -> ExportInfo | None:
    try:
        with _open_lines(path) as lines:
            first = lines.readline(_READ_BYTES)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise FileError(f"{path}: not a readable gzip file: {error}") from None
    try:
        record = orjson.loads(first) if first.strip() else None
    except orjson.JSONDecodeError as error:
        raise FileError(f"{path}, record 1: not JSON: {error}") from None
    if not isinstance(record, dict) or HEADER_KEY not in record:
        return None
    return read_info(record[HEADER_KEY], path)


def _count_lines(path: Path) -> int:
    """Lines that are not blank."""
    try:
        with _open_lines(path) as lines:
            return sum(1 for line in lines if line.strip())
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise FileError(f"{path}: not a readable gzip file: {error}") from None


def _read_record(line: bytes, exported: bool, where: str) -> tuple[str, Metadata | None]:
    """The id and the metadata: of an export its ``metadata``, otherwise all keys but ``id``."""
    try:
        record: Any = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise FileError(f"{where}: not JSON: {error}") from None
    if not isinstance(record, dict) or "id" not in record:
        raise FileError(f"{where}: needs an object with an id")
    row_id = record.pop("id")
    if isinstance(row_id, int) and not isinstance(row_id, bool):
        row_id = str(row_id)
    if not isinstance(row_id, str):
        raise FileError(f"{where}: id: needs a string or an integer")
    metadata = record.get("metadata") if exported or set(record) == {"metadata"} else record or None
    if metadata is not None and not isinstance(metadata, dict):
        raise FileError(f"{where}: metadata: needs an object or null")
    return row_id, metadata
