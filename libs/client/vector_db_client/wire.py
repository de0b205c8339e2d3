"""The REST wire as bytes: rows into JSON or Arrow, answers into dataclasses.

Owns two invariants: rows are checked whole before anything of them is sent, and a float32 vector
survives both directions bit for bit (base64 or Arrow out, base64 or shortest decimals back).
"""

from __future__ import annotations

import base64
import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from vector_db_client.errors import InternalError, InvalidArgument
from vector_db_client.values import (
    Cluster,
    Collection,
    CollectionStats,
    IfVersion,
    IndexOptions,
    Match,
    Row,
    RowBatch,
    ShardCopy,
    Vector,
    VectorLike,
    Vectors,
    Worker,
)

ARROW_TYPE = "application/vnd.apache.arrow.stream"
JSON_TYPE = "application/json"

ARROW_BYTES_MIN = 64 * 1024
"""Batches with at least this many vector bytes go as Arrow when pyarrow is there: below it the
encoding costs more than it saves."""

BATCH_BYTES_MAX = 16 * 1024 * 1024
"""Most vector bytes in one request, whatever `batch_size` says: with base64 and metadata it stays
well below the server's 64 MB of body."""

_JSON_OPTIONS = orjson.OPT_SERIALIZE_NUMPY
_LINE_BREAK = orjson.Fragment(b"\n")
_CHECK_ROWS = 4096
_F4 = np.dtype("<f4")


def dumps(value: object, where: str = "request") -> bytes:
    """`value` as JSON.

    :raises InvalidArgument: it holds something that JSON does not have.
    """
    try:
        return orjson.dumps(value, option=_JSON_OPTIONS)
    except TypeError as error:
        raise InvalidArgument(f"{where}: not representable as JSON: {error}") from None


def as_vectors(value: VectorLike, where: str = "vectors") -> Vectors:
    """`value` as contiguous float32[n, dimension], little-endian; copied only where it is not so.

    :raises InvalidArgument: not two-dimensional, not numbers, or not finite in float32.
    """
    array = _as_array(value, where)
    if array.dtype.kind not in "fiu":
        raise InvalidArgument(f"{where}: not an array of real numbers but of {array.dtype}")
    with np.errstate(over="ignore"):
        vectors = np.ascontiguousarray(array, dtype=_F4)
    if array.ndim != 2 or array.shape[1] == 0:
        raise InvalidArgument(f"{where}: needs shape (n, dimension), has {array.shape}")
    for start in range(0, len(vectors), _CHECK_ROWS):
        finite = np.isfinite(vectors[start : start + _CHECK_ROWS]).all(axis=1)
        if not finite.all():
            row = start + int(np.argmin(finite))
            raise InvalidArgument(f"{where}[{row}]: has a value that is not finite in float32")
    return vectors


def as_vector(value: VectorLike, where: str = "vector") -> Vector:
    """`value` as float32[dimension].

    :raises InvalidArgument: not one-dimensional, not numbers, or not finite in float32.
    """
    array = _as_array(value, where)
    if array.ndim != 1:
        raise InvalidArgument(f"{where}: needs shape (dimension,), has {array.shape}")
    row: Vector = as_vectors(array.reshape(1, -1), where)[0]
    return row


def _as_array(value: VectorLike, where: str) -> npt.NDArray[Any]:
    try:
        return np.asarray(value)
    except ValueError as error:  # lists of different lengths
        raise InvalidArgument(f"{where}: not an array of numbers: {error}") from None


def checked(batch: RowBatch) -> RowBatch:
    """`batch` with lists of ids, metadata and versions and float32 vectors, all of one length.

    :raises InvalidArgument: lengths differ, an id comes twice or is no string, metadata is no
        mapping, a version is no integer, or the vectors do not fit.
    """
    ids = id_list(batch.ids)
    vectors = as_vectors(batch.vectors) if ids or np.size(batch.vectors) else np.empty((0, 1), _F4)
    metadata = None if batch.metadata is None else list(batch.metadata)
    if len(ids) != len(vectors):
        raise InvalidArgument(f"{len(ids)} ids but {len(vectors)} vectors")
    if metadata is not None and len(metadata) != len(ids):
        raise InvalidArgument(f"{len(ids)} ids but {len(metadata)} metadata objects")
    for row, value in enumerate(metadata or ()):
        # Nearly all are dicts, and asking an abstract class takes longer.
        if value is not None and type(value) is not dict and not isinstance(value, Mapping):
            raise InvalidArgument(f"metadata[{row}]: needs a mapping or None, is {type(value)}")
    _check_unique(ids)
    versions = None if batch.if_version is None else version_list(batch.if_version, len(ids))
    return RowBatch(ids, vectors, metadata, versions)


def id_list(ids: Sequence[str]) -> list[str]:
    """`ids` as a list.

    :raises InvalidArgument: one is no string, or `ids` is itself one.
    """
    if isinstance(ids, str):
        raise InvalidArgument(f"ids: needs a list of strings, is the string {ids!r}")
    listed = list(ids)
    for row, row_id in enumerate(listed):
        if not isinstance(row_id, str):
            raise InvalidArgument(f"ids[{row}]: needs a string, is {type(row_id).__name__}")
    return listed


def version_list(versions: IfVersion, count: int) -> list[int]:
    """`versions` as a list of `count`.

    :raises InvalidArgument: there are not so many, or one is no integer of at least 0.
    """
    listed = [versions] * count if isinstance(versions, int | np.integer) else list(versions)
    if len(listed) != count:
        raise InvalidArgument(f"if_version: {len(listed)} versions for {count} rows")
    for row, version in enumerate(listed):
        if isinstance(version, bool) or not isinstance(version, int | np.integer) or version < 0:
            raise InvalidArgument(f"if_version[{row}]: needs a version, is {version!r}")
    return [int(version) for version in listed]


def _check_unique(ids: list[str]) -> None:
    if len(set(ids)) != len(ids):
        seen: set[str] = set()
        for row, row_id in enumerate(ids):
            if row_id in seen:
                raise InvalidArgument(f"ids[{row}]: {row_id!r} comes twice")
            seen.add(row_id)


def split(batch: RowBatch, batch_size: int) -> Iterable[RowBatch]:
    """A checked batch in pieces of at most `batch_size` rows and `BATCH_BYTES_MAX`, in order."""
    vectors: Vectors = np.asarray(batch.vectors)
    step = max(1, min(batch_size, BATCH_BYTES_MAX // (4 * vectors.shape[1])))
    for start in range(0, len(batch.ids), step):
        rows = slice(start, start + step)
        yield RowBatch(
            batch.ids[rows],
            vectors[rows],
            None if batch.metadata is None else batch.metadata[rows],
            None
            if batch.if_version is None
            else version_list(batch.if_version, len(batch.ids))[rows],
        )


def rows_json(batch: RowBatch) -> list[dict[str, Any]]:
    """A checked batch as the objects of a JSON body; vectors as base64 of little-endian float32."""
    vectors: Vectors = np.asarray(batch.vectors)
    raw, stride = memoryview(vectors.tobytes()), 4 * vectors.shape[1]
    rows: list[dict[str, Any]] = [
        {
            "id": row_id,
            "dimensions": base64.b64encode(raw[at * stride : (at + 1) * stride]).decode("ascii"),
        }
        for at, row_id in enumerate(batch.ids)
    ]
    for row, metadata in zip(rows, batch.metadata or (), strict=False):
        if metadata is not None:
            row["metadata"] = metadata
    if batch.if_version is not None:
        for row, version in zip(rows, version_list(batch.if_version, len(rows)), strict=True):
            row["if_version"] = version
    return rows


def metadata_texts(metadata: Sequence[Mapping[str, Any] | None]) -> list[bytes | None]:
    """Each metadata object as compact JSON.

    :raises InvalidArgument: one holds something that JSON does not have; names the row.
    """
    given = [value for value in metadata if value is not None]
    if not given:
        return [None] * len(metadata)
    # At once: between two objects there is a line break, which compact JSON has nowhere else.
    listed: list[object] = [_LINE_BREAK] * (2 * len(given) - 1)
    listed[::2] = given
    try:
        texts = orjson.dumps(listed, option=_JSON_OPTIONS)[1:-1].split(b",\n,")
    except TypeError:
        texts = []
    if len(texts) != len(given):
        return [
            None if value is None else dumps(value, f"metadata[{row}]")
            for row, value in enumerate(metadata)
        ]
    following = iter(texts)
    return [None if value is None else next(following) for value in metadata]


def use_arrow(batch: RowBatch) -> bool:
    """Whether a checked batch goes as Arrow: it is large, and pyarrow is installed."""
    vectors: Vectors = np.asarray(batch.vectors)
    return vectors.nbytes >= ARROW_BYTES_MIN and importlib.util.find_spec("pyarrow") is not None


def rows_arrow(batch: RowBatch) -> bytes:
    """A checked batch as an Arrow IPC stream of one record batch: id, vector, and where they are
    given metadata (JSON) and if_version."""
    import pyarrow as pa

    vectors: Vectors = np.asarray(batch.vectors)
    dimension = vectors.shape[1]
    columns = {
        "id": pa.array(batch.ids, pa.string()),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), dimension),
    }
    if batch.metadata is not None:
        columns["metadata"] = pa.array(metadata_texts(batch.metadata), pa.string())
    if batch.if_version is not None:
        columns["if_version"] = pa.array(version_list(batch.if_version, len(batch.ids)), pa.int64())
    record_batch = pa.record_batch(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, record_batch.schema) as writer:
        writer.write_batch(record_batch)
    body: bytes = sink.getvalue().to_pybytes()
    return body


def vector_json(vector: Vector) -> str:
    """One vector as base64 of little-endian float32."""
    return base64.b64encode(vector.tobytes()).decode("ascii")


def _decode_vector(value: object) -> Vector | None:
    if value is None:
        return None
    if isinstance(value, str):
        return np.frombuffer(base64.b64decode(value), _F4)
    return np.array(value, _F4)


def decode_row(body: Mapping[str, Any]) -> Row:
    """A stored row of an answer."""
    return Row(
        body["id"],
        _decode_vector(body.get("dimensions")),
        body.get("metadata"),
        int(body["version"]),
    )


def decode_match(body: Mapping[str, Any]) -> Match:
    """A hit of an answer."""
    return Match(
        body["id"],
        float(body["similarity"]),
        body.get("metadata"),
        _decode_vector(body.get("dimensions")),
        body.get("distance"),
    )


def decode_collection(body: Mapping[str, Any]) -> Collection:
    """A catalog entry of an answer."""
    shards = body.get("shards", 0)
    return Collection(
        body["name"],
        int(body["dimension"]),
        str(body["metric"]),
        len(shards) if isinstance(shards, list) else int(shards),
        _decode_index(body.get("index", {})),
        float(body.get("recall_target", 0.95)),
        tuple(body.get("fields", ())),
        tuple(body.get("aliases", ())),
        None if (spreading := body.get("spreading")) is None else int(spreading["shards"]),
    )


def _decode_index(body: Mapping[str, Any]) -> IndexOptions:
    known = IndexOptions.__dataclass_fields__
    return IndexOptions(**{name: value for name, value in body.items() if name in known})


def decode_stats(body: Mapping[str, Any]) -> CollectionStats:
    """Collection statistics of an answer."""
    recall, building = body.get("recall", {}), body.get("building", {})
    return CollectionStats(
        rows=int(body["rows"]),
        rows_indexed=int(body["rows_indexed"]),
        segments=int(body["segments"]),
        bytes_memory=int(body["bytes_memory"]),
        bytes_disk=int(body["bytes_disk"]),
        rows_dead=int(body.get("rows_dead", 0)),
        kinds=dict(body.get("kinds", {})),
        recall_target=float(recall.get("target", 0.95)),
        recall_measured=recall.get("measured"),
        recall_samples=int(recall.get("samples", 0)),
        rows_building=int(building.get("rows", 0)),
        rows_built=int(building.get("done", 0)),
        bytes_predicted=int(body.get("bytes_predicted", 0)),
        bytes_resident=int(body.get("bytes_resident", 0)),
    )


def decode_cluster(body: Mapping[str, Any]) -> Cluster:
    """The cluster of an answer."""
    return Cluster(
        term=int(body.get("term", 0)),
        stable_ts=int(body.get("stable_ts", 0)),
        replication_factor=int(body.get("replication_factor", 0)),
        workers=tuple(map(_decode_worker, body["workers"])),
        shards={int(s): tuple(workers) for s, workers in body.get("shards", {}).items()},
        joining={int(s): str(worker) for s, worker in body.get("joining", {}).items()},
        leaving={int(s): tuple(workers) for s, workers in body.get("leaving", {}).items()},
        draining=tuple(body.get("draining", ())),
        answer=body,
    )


def _decode_worker(body: Mapping[str, Any]) -> Worker:
    copying = body.get("copying", {}).items()
    return Worker(
        id=str(body["id"]),
        zone=str(body.get("zone", "")),
        ready=bool(body["ready"]),
        draining=bool(body.get("draining")),
        cursor=int(body.get("cursor", 0)),
        shards=tuple(body.get("shards", ())),
        copying={int(s): ShardCopy(int(c["bytes_done"]), int(c["bytes_all"])) for s, c in copying},
        simd=str(body.get("simd", "")),
        native=str(body.get("native", "")),
    )


def loads(body: bytes) -> Any:
    """The JSON of an answer.

    :raises InternalError: it is none.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        excerpt = body[:200].decode("utf-8", "replace")
        raise InternalError(f"an answer that is not JSON: {excerpt}") from None
