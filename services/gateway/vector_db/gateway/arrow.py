"""Batches of rows as Arrow IPC streams, decoded as columns.

Columns: ``id`` (string), ``vector`` (fixed-size or variable list of float16, 32 or 64) and, if
given, ``metadata`` (string of JSON, nullable) and ``if_version`` (int64). Owns the invariant that
bytes from outside never reach NumPy unchecked: the schema is looked at before any batch, what
compressed buffers claim to become is bounded before Arrow allocates it, and Arrow validates every
offset before it is used.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vector_db.common.model.errors import InvalidArgument
from vector_db.common.model.limits import Limits
from vector_db.common.model.rows import F32, I64
from vector_db.common.model.times import TS_MAX
from vector_db.gateway.arrow_bounds import check_expansion
from vector_db.gateway.core.requests import RowsIn
from vector_db.gateway.core.rows import (
    check_dimension,
    check_distinct,
    check_id_blob,
    check_row_count,
    compact_metadata,
)

_WHERE = "rows"
_COLUMNS = frozenset(("id", "vector", "metadata", "if_version"))


def decode_arrow(body: bytes, limits: Limits) -> tuple[RowsIn, I64 | None]:
    """The rows of an Arrow IPC stream, and int64[n], the version that each must have, if given.

    Record batches follow one another.

    NaN, infinite and overflown values stay in `vectors` as such: `validate_rows` names them.

    :raises InvalidArgument: malformed, another schema, nulls in ids or vectors, invalid ids, a
        duplicate id, vectors of several dimensions, bad metadata; names the row.
    :raises TooLarge: more than `rows_per_batch_max` rows, or buffers that expand beyond
        `body_bytes_max`.
    """
    table = _read(body, limits)
    check_row_count(table.num_rows, limits, _WHERE)
    try:
        table.validate(full=True)
    except (pa.ArrowException, ValueError) as error:
        raise _malformed(error) from None
    ids: list[bytes] = []
    vectors: list[F32] = []
    texts: list[str | None] = []
    versions: list[I64] = []
    for batch in table.to_batches():
        if batch.num_rows == 0:
            continue
        first = len(ids)
        ids += _ids(batch.column("id"), first)
        vectors.append(_vectors(batch.column("vector"), limits, first))
        if vectors[-1].shape[1] != vectors[0].shape[1]:
            raise InvalidArgument(
                f"{_WHERE}[{first}].vector: {vectors[-1].shape[1]} numbers, "
                f"row 0 has {vectors[0].shape[1]}"
            )
        if "metadata" in batch.schema.names:
            texts += batch.column("metadata").to_pylist()
        if "if_version" in batch.schema.names:
            versions.append(_versions(batch.column("if_version"), first))
    check_distinct(ids, _WHERE, ".id")
    metadata = compact_metadata(texts, limits, _WHERE) if texts else None
    rows = RowsIn(ids, vectors[0] if len(vectors) == 1 else np.concatenate(vectors), metadata)
    return rows, np.concatenate(versions) if versions else None


def _read(body: bytes, limits: Limits) -> Any:
    try:
        with pa.ipc.open_stream(pa.py_buffer(body)) as reader:
            _check_schema(reader.schema)
            check_expansion(body, limits)
            return reader.read_all()
    except (pa.ArrowException, OSError, ValueError, EOFError) as error:
        raise _malformed(error) from None


def _malformed(error: Exception) -> InvalidArgument:
    return InvalidArgument(f"body: not a valid Arrow IPC stream ({str(error)[:300]})")


def _check_schema(schema: Any) -> None:
    names = list(schema.names)
    for name in names:
        if name not in _COLUMNS:
            raise InvalidArgument(
                f"column {name!r} is unknown; there are id, vector, metadata and if_version"
            )
        if names.count(name) > 1:
            raise InvalidArgument(f"column {name!r} is given twice")
    for name in ("id", "vector"):
        if name not in names:
            raise InvalidArgument(f"column {name!r} is missing")
    for name in {"id", "metadata"} & set(names):
        kind = schema.field(name).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise InvalidArgument(f"column {name!r} must be a string column, not {kind}")
    if "if_version" in names and not pa.types.is_int64(schema.field("if_version").type):
        kind = schema.field("if_version").type
        raise InvalidArgument(f"column 'if_version' must be an int64 column, not {kind}")
    kind = schema.field("vector").type
    is_list = (
        pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)
    )
    if not is_list or not pa.types.is_floating(kind.value_type):
        raise InvalidArgument(f"column 'vector' must be a list of floating numbers, not {kind}")


def _ids(column: Any, first: int) -> list[bytes]:
    if len(column) == 0:
        return []
    if column.null_count:
        raise InvalidArgument(f"{_WHERE}[{first + _first_null(column)}].id: must not be null")
    _, offsets_buffer, data = column.buffers()
    large = pa.types.is_large_string(column.type)
    kind = np.dtype(np.int64 if large else np.int32)
    offsets = np.frombuffer(
        offsets_buffer, kind, count=len(column) + 1, offset=column.offset * kind.itemsize
    )
    raw = b"" if data is None else memoryview(data)
    check_id_blob(offsets.astype(np.int64), raw, _WHERE, first)
    ids: list[bytes] = column.cast(pa.large_binary() if large else pa.binary()).to_pylist()
    return ids


def _vectors(column: Any, limits: Limits, first: int) -> F32:
    """float32[rows, dimension] of one batch."""
    n = len(column)
    if column.null_count:
        raise InvalidArgument(f"{_WHERE}[{first + _first_null(column)}].vector: must not be null")
    if pa.types.is_fixed_size_list(column.type):
        dimension = int(column.type.list_size)
    else:
        dimension = _common_length(column, first)
    check_dimension(dimension, limits, f"{_WHERE}[{first}].vector")
    values = column.flatten()
    if values.null_count:
        row = first + _first_null(values) // dimension
        raise InvalidArgument(f"{_WHERE}[{row}].vector: must not hold nulls")
    numbers: NDArray[np.floating[Any]] = values.to_numpy(zero_copy_only=True)
    # A signalling NaN would warn too.
    with np.errstate(over="ignore", invalid="ignore"):
        return numbers.astype(np.float32, copy=False).reshape(n, dimension)


def _versions(column: Any, first: int) -> I64:
    """int64[rows] of one batch."""
    if column.null_count:
        row = first + _first_null(column)
        raise InvalidArgument(f"{_WHERE}[{row}].if_version: every row of a write has one, or none")
    versions: I64 = column.to_numpy(zero_copy_only=True)
    bad = (versions < 0) | (versions > TS_MAX)
    if bad.any():
        row = first + int(np.argmax(bad))
        raise InvalidArgument(
            f"{_WHERE}[{row}].if_version: must be a version, an integer from 0 to {TS_MAX}"
        )
    return versions


def _common_length(column: Any, first: int) -> int:
    offsets = column.offsets.to_numpy(zero_copy_only=True)
    lengths = np.diff(offsets)
    if lengths.size == 0:
        return 1
    ragged = lengths != lengths[0]
    if ragged.any():
        row = int(np.argmax(ragged))
        raise InvalidArgument(
            f"{_WHERE}[{first + row}].vector: {lengths[row]} numbers, row {first} has {lengths[0]}"
        )
    return int(lengths[0])


def _first_null(column: Any) -> int:
    return int(np.argmin(column.is_valid().to_numpy(zero_copy_only=False)))
