"""JSON rows ``[{"id", "dimensions", "metadata"?}, …]`` as columns, checked as a whole batch.

The loop touches each row a handful of times: this is the hot path of JSON inserts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import simdjson

from vector_db.common.model.errors import InvalidArgument
from vector_db.common.model.limits import Limits
from vector_db.common.model.rows import I64
from vector_db.common.model.times import TS_MAX
from vector_db.gateway.core.requests import RowsIn
from vector_db.gateway.core.rows import (
    check_distinct,
    check_ids,
    check_metadata_size,
    check_row_count,
    dump_metadata,
)
from vector_db.gateway.rest.json_reader import Floats, Lazy, narrow, read_numbers, to_plain

_FIELDS = frozenset(("id", "dimensions", "metadata", "if_version"))


@dataclass(frozen=True, slots=True)
class GivenRows:
    """Rows of a body, and int64[n], the version that each must have now, where they say so."""

    rows: RowsIn
    if_version: I64 | None = None


def read_rows(value: Lazy, where: str, limits: Limits, arrays: int = -1) -> GivenRows:
    """The rows of one JSON array.

    :param arrays: how many arrays the body may hold at most, or -1 for any number. When they are
        just this array and one list a row, no list is nested, which need not be checked then.
    :raises InvalidArgument: names the first row at fault and why.
    :raises TooLarge: more than `rows_per_batch_max` rows.
    """
    if not isinstance(value, simdjson.Array):
        raise InvalidArgument(f"{where}: must be a list of rows")
    check_row_count(len(value), limits, where)
    ids: list[str] = []
    lists: list[Lazy] = []
    metadata: list[bytes] = []
    versions: list[int] = []
    for row in value:
        if not isinstance(row, simdjson.Object):
            raise InvalidArgument(f"{where}[{len(ids)}]: must be an object with id and dimensions")
        try:
            row_id = row["id"]
            lists.append(row["dimensions"])
        except KeyError:
            missing = "dimensions" if "id" in set(row.keys()) else "id"
            raise InvalidArgument(
                f"{where}[{len(ids)}]: the field {missing!r} is missing"
            ) from None
        if type(row_id) is not str:
            raise InvalidArgument(f"{where}[{len(ids)}].id: must be a string")
        if len(row) == 2:
            metadata.append(b"")
        else:
            _read_more(row, f"{where}[{len(ids)}]", limits, metadata, versions)
        ids.append(row_id)
    encoded = check_ids(ids, where, ".id")
    check_distinct(encoded, where, ".id")
    flat = arrays == 1 + sum(type(numbers) is not str for numbers in lists)
    parts = [
        read_numbers(numbers, f"{where}[{row}].dimensions", limits, flat)
        for row, numbers in enumerate(lists)
    ]
    if len({part.size for part in parts}) != 1:
        _name_ragged(parts, where)
    vectors = narrow(parts).reshape(len(parts), -1)
    if not any(metadata):
        return GivenRows(RowsIn(encoded, vectors, None), _all_or_none(versions, value, where))
    check_metadata_size(metadata, limits, where)
    return GivenRows(RowsIn(encoded, vectors, metadata), _all_or_none(versions, value, where))


def read_version(value: object, place: str) -> int:
    """A version that a row may have.

    :raises InvalidArgument: not an integer from 0 to `TS_MAX`.
    """
    if type(value) is not int or not 0 <= value <= TS_MAX:
        raise InvalidArgument(f"{place}: must be a version, an integer from 0 to {TS_MAX}")
    return value


def _all_or_none(versions: list[int], rows: Lazy, where: str) -> I64 | None:
    """int64[n] when every row has an `if_version`."""
    if not versions:
        return None
    if len(versions) != len(rows):
        bare = next(i for i, row in enumerate(rows) if row.get("if_version") is None)
        raise InvalidArgument(f"{where}[{bare}].if_version: every row of a write has one, or none")
    return np.array(versions, dtype=np.int64)


def _read_more(
    row: Lazy, place: str, limits: Limits, metadata: list[bytes], versions: list[int]
) -> None:
    """The fields of a row that it may lack, put where they belong."""
    keys = set(row.keys())
    unknown = sorted(keys - _FIELDS)
    if unknown:
        raise InvalidArgument(f"{place}.{unknown[0]}: unknown field")
    metadata.append(_read_metadata(row, place, limits))
    if "if_version" in keys and (given := row["if_version"]) is not None:
        versions.append(read_version(given, f"{place}.if_version"))


def _read_metadata(row: Lazy, place: str, limits: Limits) -> bytes:
    value = row.get("metadata")
    where = f"{place}.metadata"
    # Text can shrink when it is made compact (escapes), so this bound is only for memory's sake.
    if isinstance(value, simdjson.Object) and len(value.mini) > 2 * limits.metadata_bytes_max:
        raise InvalidArgument(
            f"{where}: over the limit metadata_bytes_max of {limits.metadata_bytes_max} bytes"
        )
    if isinstance(value, simdjson.Array):
        raise InvalidArgument(f"{where}: must be a JSON object or null")
    return dump_metadata(to_plain(value), where)


def _name_ragged(parts: list[Floats], where: str) -> None:
    row = next(i for i, part in enumerate(parts) if part.size != parts[0].size)
    raise InvalidArgument(
        f"{where}[{row}].dimensions: {parts[row].size} numbers, row 0 has {parts[0].size}"
    )
