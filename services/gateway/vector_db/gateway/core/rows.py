"""What makes a batch of rows or queries valid, on every edge alike.

Owns the invariant that nothing is published which a shard could refuse for its shape: ids are valid
and distinct, vectors are finite, of the collection's dimension and (under cosine) have a direction,
metadata is one JSON object of bounded size. Checks are vectorised over the batch; only a batch at
fault is walked row by row, to name the row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import orjson
import simdjson
from numpy.typing import NDArray

from vector_db.common.model.collection import Collection, Metric
from vector_db.common.model.errors import InvalidArgument, TooLarge
from vector_db.common.model.ids import validate_id
from vector_db.common.model.limits import ID_BYTES_MAX, Limits
from vector_db.common.model.rows import F32, Buffer
from vector_db.gateway.core.requests import RowsIn

_NORM_MIN = float(np.finfo(np.float32).tiny)
_NORM_MAX = float(np.finfo(np.float32).max)
_LIKELY_MIN, _LIKELY_MAX = 1e-20, 1e30
_FEW = 4
_objects: msgspec.json.Decoder[dict[str, Any]] = msgspec.json.Decoder(dict[str, Any])
_line_break = orjson.Fragment(b"\n")
"""Between two objects: compact JSON has none within, for in a text it is escaped."""
_BLOCK_VALUES = 1 << 18
"""Floats squared at once: 2 MiB of float64, so that a large batch is not doubled in memory."""


def validate_rows(rows: RowsIn, collection: Collection, limits: Limits, where: str) -> None:
    """Refuse a batch that `collection` cannot take; nothing is changed.

    :param where: the place of the batch in the request, named in the error (``vectors``).
    :raises TooLarge: more rows than `rows_per_batch_max`.
    :raises InvalidArgument: an empty batch, another dimension, NaN or infinite (also by float32
        overflow), a zero vector under cosine, a duplicate id, metadata over its limit.
    """
    n = len(rows.ids)
    check_row_count(n, limits, where)
    if rows.vectors.shape != (n, collection.dimension):
        raise InvalidArgument(
            f"{where}[0].dimensions: {rows.vectors.shape[-1]} numbers, "
            f"collection {collection.name!r} has dimension {collection.dimension}"
        )
    check_distinct(rows.ids, where, ".id")
    _check_vectors(rows.vectors, collection.metric, where, ".dimensions")
    if rows.metadata is not None:
        check_metadata_size(rows.metadata, limits, where)


def validate_queries(vectors: F32, collection: Collection, where: str) -> None:
    """Refuse query vectors that `collection` cannot compare.

    :param vectors: float32[nq, dimension].
    :param where: ``vector`` or ``vectors``; the latter gets the index of the query at fault.
    :raises InvalidArgument: another dimension, NaN or infinite, a zero vector under cosine.
    """
    if vectors.ndim != 2 or vectors.shape[1] != collection.dimension:
        raise InvalidArgument(
            f"{where}: {vectors.shape[-1]} numbers, "
            f"collection {collection.name!r} has dimension {collection.dimension}"
        )
    _check_vectors(vectors, collection.metric, where, "")


def check_row_count(n: int, limits: Limits, where: str) -> None:
    """:raises InvalidArgument: no row.
    :raises TooLarge: more than `rows_per_batch_max`.
    """
    if n == 0:
        raise InvalidArgument(f"{where}: at least one row is needed")
    if n > limits.rows_per_batch_max:
        raise TooLarge(
            f"{where}: {n} rows, the limit rows_per_batch_max is {limits.rows_per_batch_max}"
        )


def check_dimension(dimension: int, limits: Limits, where: str) -> None:
    """:raises InvalidArgument: not within 1 and `dimension_max`."""
    if dimension == 0:
        raise InvalidArgument(f"{where}: at least one number is needed")
    if dimension > limits.dimension_max:
        raise InvalidArgument(
            f"{where}: {dimension} numbers, the limit dimension_max is {limits.dimension_max}"
        )


def check_distinct(ids: Sequence[bytes], where: str, suffix: str = "") -> None:
    """:raises InvalidArgument: an id is given twice; it is named with its second place."""
    if len(set(ids)) == len(ids):
        return
    seen: dict[bytes, int] = {}
    for row, row_id in enumerate(ids):
        first = seen.setdefault(row_id, row)
        if first != row:
            raise InvalidArgument(
                f"{where}[{row}]{suffix}: {row_id.decode()!r} was given already in row {first} "
                "of this batch"
            )


def check_finite(vectors: F32, where: str) -> None:
    """Refuse NaN and infinity, which is also what a number beyond float32 became.

    :param vectors: float32[d], or float32[n, d] whose row is then named too.
    :raises InvalidArgument: names the place of the first.
    """
    finite = np.isfinite(vectors)
    if not finite.all():
        place = "".join(f"[{i}]" for i in np.argwhere(~finite)[0])
        raise InvalidArgument(f"{where}{place}: not a finite float32 number")


def squared_norms(vectors: F32) -> NDArray[np.float64]:
    """float64[n] sums of squares; finite exactly where the row is: no float32 overflows them."""
    n, dimension = vectors.shape
    step = max(1, _BLOCK_VALUES // max(1, dimension))
    out = np.empty(n, dtype=np.float64)
    for start in range(0, n, step):
        block = vectors[start : start + step].astype(np.float64)
        np.einsum("ij,ij->i", block, block, out=out[start : start + step])
    return out


def _check_vectors(vectors: F32, metric: Metric, where: str, suffix: str) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        if len(vectors) <= _FEW:
            lengths = [float(np.dot(v, v)) for v in vectors]
            likely = all(_LIKELY_MIN < length < _LIKELY_MAX for length in lengths)
        else:
            squares_32 = np.einsum("ij,ij->i", vectors, vectors)
            # A NaN is the least and the largest, and compares as false.
            likely = bool(squares_32.min() > _LIKELY_MIN and squares_32.max() < _LIKELY_MAX)
    if likely:
        # Finite, and with a direction; anything else is looked at in float64.
        return
    squares = squared_norms(vectors)
    if not math.isfinite(float(squares.sum())):
        row = int(np.argmin(np.isfinite(squares)))
        check_finite(vectors[row], f"{_row_place(where, row, suffix)}")
    if metric is not Metric.COSINE:
        return
    bad = (squares < _NORM_MIN * _NORM_MIN) | (squares > _NORM_MAX * _NORM_MAX)
    if bad.any():
        row = int(np.argmax(bad))
        place = _row_place(where, row, suffix)
        if squares[row] == 0.0:
            raise InvalidArgument(f"{place}: a zero vector has no cosine similarity")
        raise InvalidArgument(
            f"{place}: a vector of length {math.sqrt(squares[row]):.3g} has no cosine similarity "
            "in float32"
        )


def _row_place(where: str, row: int, suffix: str) -> str:
    return where if where == "vector" else f"{where}[{row}]{suffix}"


def check_ids(ids: Sequence[str], where: str, suffix: str = "") -> list[bytes]:
    """The UTF-8 bytes of valid ids.

    :raises InvalidArgument: names the first at fault as ``where[i]suffix``.
    """
    try:
        return [validate_id(row_id) for row_id in ids]
    except InvalidArgument:
        pass
    return [validate_id(row_id, f"{where}[{row}]{suffix}") for row, row_id in enumerate(ids)]


def check_id_blob(offsets: NDArray[np.int64], data: Buffer, where: str, first: int = 0) -> None:
    """Check the ids of a blob without a Python object a row.

    :param offsets: int64[n + 1], non-decreasing, within `data`.
    :param data: valid UTF-8 in each slice (the decoder's part).
    :param first: the number of the first row, where the blob is part of a batch.
    :raises InvalidArgument: empty, over 512 bytes or with a control character; names the row.
    """
    lengths = np.diff(offsets)
    bad = (lengths == 0) | (lengths > ID_BYTES_MAX)
    start, stop = int(offsets[0]), int(offsets[-1])
    blob = np.frombuffer(data, dtype=np.uint8)[start:stop]
    control = (blob < 0x20) | (blob == 0x7F)
    # C1 controls, U+0080 to U+009F: lead byte C2, which valid UTF-8 has nowhere else.
    control[:-1] |= (blob[:-1] == 0xC2) & (blob[1:] < 0xA0)
    if control.any():
        places = np.flatnonzero(control) + start
        bad[np.searchsorted(offsets, places, side="right") - 1] = True
    if bad.any():
        row = int(np.argmax(bad))
        place = f"{where}[{first + row}].id"
        validate_id(bytes(data[int(offsets[row]) : int(offsets[row + 1])]).decode(), place)
        raise InvalidArgument(f"{place}: not a valid id")


def compact_metadata(
    texts: Sequence[bytes | str | None], limits: Limits, where: str
) -> list[bytes] | None:
    """JSON texts as compact JSON bytes, b"" for none; None when no row has any.

    Duplicate keys collapse (the last wins), so that stored metadata can be spliced into answers.

    :raises InvalidArgument: not JSON, not an object, NaN, an integer beyond 64 bits, nested too
        deeply, over `metadata_bytes_max`; names the row.
    """
    if not any(texts):
        for row, text in enumerate(texts):
            if text is not None:
                raise InvalidArgument(f"{where}[{row}].metadata: not valid JSON (empty)")
        return None
    out = _compact_at_once(texts)
    if out is None:
        out = _compact_one_by_one(texts, where)
    check_metadata_size(out, limits, where)
    return out


def _compact_at_once(texts: Sequence[bytes | str | None]) -> list[bytes] | None:
    """What `compact_metadata` makes of texts that are all objects or None; None: it cannot say.

    No Python code runs per row, and only what the other parser takes as well is taken here.
    """
    given = [text for text in texts if text is not None]
    # Written in one go, since `dumps` of each would ask the C library for 1 KB a row.
    listed: list[object] = [_line_break] * (2 * len(given) - 1)
    try:
        listed[::2] = map(_objects.decode, given)
        compact = orjson.dumps(listed)[1:-1].split(b",\n,")
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError):
        return None
    if len(given) == len(texts):
        return compact
    following = iter(compact)
    return [b"" if text is None else next(following) for text in texts]


def _compact_one_by_one(texts: Sequence[bytes | str | None], where: str) -> list[bytes]:
    """The same row by row, so that the one at fault can be named."""
    parser = simdjson.Parser()
    out: list[bytes] = []
    for row, text in enumerate(texts):
        if text is None:
            out.append(b"")
            continue
        raw = text.encode() if isinstance(text, str) else text
        place = f"{where}[{row}].metadata"
        try:
            # `recursive`: plain values, so that the parser may be used again.
            value = parser.parse(raw, True)
        except (ValueError, RuntimeError) as error:
            raise InvalidArgument(f"{place}: not valid JSON ({_first_clause(error)})") from None
        out.append(dump_metadata(value, place))
    return out


def dump_metadata(value: object, place: str) -> bytes:
    """The compact JSON bytes of a decoded metadata object; b"" for None.

    :raises InvalidArgument: not an object, or nested deeper than 254 levels.
    """
    if value is None:
        return b""
    if not isinstance(value, dict):
        raise InvalidArgument(f"{place}: must be a JSON object or null")
    try:
        return orjson.dumps(value)
    except TypeError as error:
        raise InvalidArgument(f"{place}: not storable ({error})") from None


def check_metadata_size(metadata: Sequence[bytes], limits: Limits, where: str) -> None:
    """:raises InvalidArgument: a row's metadata is over `metadata_bytes_max`."""
    limit = limits.metadata_bytes_max
    if max(map(len, metadata), default=0) <= limit:
        return
    for row, text in enumerate(metadata):
        if len(text) > limit:
            raise InvalidArgument(
                f"{where}[{row}].metadata: {len(text)} bytes, the limit metadata_bytes_max is "
                f"{limit}"
            )


def _first_clause(error: Exception) -> str:
    return str(error).split(":", 1)[-1].split(".", 1)[0].strip()
