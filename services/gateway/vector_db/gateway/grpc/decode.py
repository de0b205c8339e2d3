"""Protobuf messages to the values of `core/requests.py`.

Owns the invariant that what leaves here was checked as far as it can be without the catalog, by
the same functions as REST: byte lengths, ids, counts against the limits, JSON texts. All functions
raise `InvalidArgument` or `TooLarge`, whose messages name the field.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import orjson
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from vector_db.common.model.collection import Encoding, IndexChange, IndexKind
from vector_db.common.model.errors import InvalidArgument, TooLarge
from vector_db.common.model.filters import parse_filter
from vector_db.common.model.ids import validate_collection_name, validate_id
from vector_db.common.model.limits import ALIASES_MAX, Limits
from vector_db.common.model.rows import F32, I64
from vector_db.common.model.times import TS_MAX, parse_rfc3339
from vector_db.gateway.core.query_options import (
    check_batch,
    check_cursor,
    check_radius,
    effort_of,
    k_of,
)
from vector_db.gateway.core.requests import (
    CollectionChange,
    Consistency,
    Delete,
    Isolation,
    Mode,
    Query,
    RowsIn,
    Upsert,
)
from vector_db.gateway.core.rows import (
    check_dimension,
    check_distinct,
    check_ids,
    check_metadata_size,
    check_row_count,
    compact_metadata,
)
from vector_db.v1 import vector_db_pb2 as pb

DEFAULT_COLLECTION = "default"
SCROLL_LIMIT_DEFAULT = 100

FILTER_BYTES_MAX = 1 << 20
"""Largest filter, as JSON text, that becomes Python objects at all."""

M = TypeVar("M")

_MODES: dict[int, Mode] = {
    pb.MODE_UNSPECIFIED: "upsert",
    pb.MODE_UPSERT: "upsert",
    pb.MODE_INSERT: "insert",
    pb.MODE_UPDATE: "update",
}
_METRICS: dict[int, str] = {
    pb.METRIC_UNSPECIFIED: "cosine",
    pb.METRIC_COSINE: "cosine",
    pb.METRIC_DOT: "dot",
    pb.METRIC_EUCLIDEAN: "euclidean",
}


_KINDS: dict[int, IndexKind | None] = {
    pb.INDEX_KIND_UNSPECIFIED: None,
    pb.INDEX_KIND_AUTO: IndexKind.AUTO,
    pb.INDEX_KIND_HNSW: IndexKind.HNSW,
    pb.INDEX_KIND_IVF_PQ: IndexKind.IVF_PQ,
    pb.INDEX_KIND_EXACT: IndexKind.EXACT,
}
_ENCODINGS: dict[int, Encoding | None] = {
    pb.ENCODING_UNSPECIFIED: None,
    pb.ENCODING_AUTO: Encoding.AUTO,
    pb.ENCODING_FLOAT32: Encoding.FLOAT32,
    pb.ENCODING_FLOAT16: Encoding.FLOAT16,
    pb.ENCODING_SQ8: Encoding.SQ8,
}
_ISOLATIONS: dict[int, Isolation] = {
    pb.ISOLATION_UNSPECIFIED: "snapshot",
    pb.ISOLATION_SNAPSHOT: "snapshot",
    pb.ISOLATION_SERIALIZABLE: "serializable",
}


def decode_message(message_type: type[M], data: bytes) -> M:
    """The message in `data`; malformed protobuf (invalid UTF-8 included) is the client's error."""
    parser: Any = message_type
    try:
        message: M = parser.FromString(data)
    except DecodeError:
        raise InvalidArgument(f"the request is no valid {message_type.__name__}") from None
    return message


def decode_collection_name(name: str, where: str = "collection") -> str:
    """The collection that `name` means; empty is the default one."""
    return validate_collection_name(name, where) if name else DEFAULT_COLLECTION


def decode_metric(metric: int) -> str:
    """The metric's name."""
    name = _METRICS.get(metric)
    if name is None:
        raise InvalidArgument(f"metric: {metric} is no metric")
    return name


def decode_index(request: Any) -> IndexChange | None:
    """What is given of index options; the numbers are checked by the database."""
    if not request.HasField("index"):
        return None
    given = request.index
    if given.kind not in _KINDS:
        raise InvalidArgument(f"index.kind: {given.kind} is no kind of index")
    if given.encoding not in _ENCODINGS:
        raise InvalidArgument(f"index.encoding: {given.encoding} is no encoding")
    return IndexChange(
        _KINDS[given.kind],
        _ENCODINGS[given.encoding],
        given.m if given.HasField("m") else None,
        given.ef_construction if given.HasField("ef_construction") else None,
        given.lists if given.HasField("lists") else None,
    )


def decode_alter(request: Any) -> CollectionChange:
    """What is to be otherwise of a collection."""
    return CollectionChange(
        decode_index(request),
        request.recall_target if request.HasField("recall_target") else None,
        tuple(request.fields.paths) if request.HasField("fields") else None,
        request.shards if request.HasField("shards") else None,
    )


def decode_alias_changes(request: Any) -> dict[str, str | None]:
    """Alias → collection, None removes it; each alias once."""
    changes: dict[str, str | None] = {}
    for i, change in enumerate(request.changes):
        alias = validate_collection_name(change.alias, f"changes[{i}].alias")
        if alias in changes:
            raise InvalidArgument(f"changes[{i}].alias: {alias!r} is given twice")
        place = f"changes[{i}].collection"
        target = change.collection
        changes[alias] = validate_collection_name(target, place) if target else None
    if len(changes) > ALIASES_MAX:
        raise TooLarge(f"changes: {len(changes)}, the limit aliases_max is {ALIASES_MAX}")
    return changes


def decode_ids(ids: Sequence[str], where: str, limits: Limits) -> list[bytes]:
    """Valid, distinct ids as UTF-8, at least one."""
    check_row_count(len(ids), limits, where)
    encoded = check_ids(ids, where)
    check_distinct(encoded, where)
    return encoded


def decode_filter(text: str, limits: Limits, where: str = "filter") -> dict[str, Any] | None:
    """The filter as a JSON object that `parse_filter` accepts; None when `text` is empty."""
    if not text:
        return None
    if len(text) > FILTER_BYTES_MAX:
        raise InvalidArgument(f"{where}: over {FILTER_BYTES_MAX} bytes of JSON")
    decoded = _json_object(text, where)
    parse_filter(decoded, limits)
    return decoded


def decode_patch(text: str, limits: Limits) -> dict[str, Any]:
    """A metadata patch: a JSON object within the limit of metadata."""
    check_metadata_size([text.encode()], limits, "patch")
    return _json_object(text, "patch")


def decode_consistency(message: Any) -> Consistency:
    """The snapshot that a read may use; an absent message is the default."""
    level = message.WhichOneof("level")
    if level == "as_of_time":
        return Consistency(as_of_ms=parse_rfc3339(message.as_of_time, "consistency.as_of_time"))
    if level == "as_of":
        as_of = int(message.as_of)
        if not 1 <= as_of <= TS_MAX:
            raise InvalidArgument(f"consistency.as_of: {as_of} is no commit_ts")
        return Consistency(as_of=as_of)
    at_least = int(message.at_least)
    if not 0 <= at_least <= TS_MAX:
        raise InvalidArgument(f"consistency.at_least: {at_least} is no commit_ts")
    return Consistency(at_least=at_least, strong=bool(message.strong))


def decode_begin(request: Any) -> tuple[Isolation, float | None]:
    """Isolation and timeout in seconds (None: the configured one) of a transaction to begin."""
    isolation = _ISOLATIONS.get(request.isolation)
    if isolation is None:
        raise InvalidArgument(f"isolation: {request.isolation} is no isolation")
    if not request.HasField("timeout_s"):
        return isolation, None
    timeout_s = float(request.timeout_s)
    if not (math.isfinite(timeout_s) and timeout_s > 0):
        raise InvalidArgument("timeout_s: must be a number above 0")
    return isolation, timeout_s


def decode_upsert(
    collection: str, vectors: Sequence[Any], mode: int, limits: Limits, where: str = "vectors"
) -> Upsert:
    """Rows to write; all of one dimension, which the first row sets."""
    decoded_mode = _MODES.get(mode)
    if decoded_mode is None:
        raise InvalidArgument(f"mode: {mode} is no mode")
    check_row_count(len(vectors), limits, where)
    versions = _row_versions(vectors, where)
    if versions is not None and decoded_mode != "upsert":
        raise InvalidArgument(f"{where}[0].if_version: give only one of mode and if_version")
    return Upsert(
        collection=collection,
        rows=RowsIn(
            ids=check_ids([v.id for v in vectors], where, ".id"),
            vectors=_floats([v.dimensions for v in vectors], where, ".dimensions", limits),
            metadata=compact_metadata([v.metadata or None for v in vectors], limits, where),
        ),
        mode=decoded_mode,
        if_version=versions,
    )


def decode_operations(operations: Sequence[Any], limits: Limits) -> list[Upsert | Delete]:
    """The operations of a commit: at least one, no row written twice, together within the limit."""
    if not operations:
        raise InvalidArgument("operations: at least one operation is needed")
    decoded: list[Upsert | Delete] = []
    places: dict[str, dict[bytes, int]] = {}
    rows = 0
    for i, operation in enumerate(operations):
        one = _operation(operation, f"operations[{i}]", limits)
        ids = one.ids if isinstance(one, Delete) else one.rows.ids
        rows += len(ids)
        check_row_count(rows, limits, "operations")
        seen = places.setdefault(one.collection, {})
        for row_id in ids:
            if row_id in seen:
                raise InvalidArgument(
                    f"operations[{i}]: id {row_id.decode()!r} of {one.collection!r} is written "
                    f"already by operations[{seen[row_id]}]"
                )
            seen[row_id] = i
        decoded.append(one)
    return decoded


def _operation(operation: Any, where: str, limits: Limits) -> Upsert | Delete:
    collection = decode_collection_name(operation.collection, f"{where}.collection")
    action = operation.WhichOneof("action")
    if action == "upsert":
        upsert = operation.upsert
        place = f"{where}.upsert.vectors"
        return decode_upsert(collection, upsert.vectors, upsert.mode, limits, place)
    if action == "delete":
        ids = decode_ids(operation.delete.ids, f"{where}.delete.ids", limits)
        return decode_delete(collection, ids, operation.delete.if_versions, f"{where}.delete")
    raise InvalidArgument(f"{where}: an operation is either upsert or delete")


def decode_delete(
    collection: str, ids: list[bytes], versions: Sequence[int], where: str = ""
) -> Delete:
    """A delete by ids; no versions, or one an id."""
    if not versions:
        return Delete(collection, ids)
    place = f"{where}.if_versions" if where else "if_versions"
    if len(versions) != len(ids):
        raise InvalidArgument(f"{place}: {len(versions)} versions for {len(ids)} ids")
    for i, version in enumerate(versions):
        decode_version(version, f"{place}[{i}]")
    return Delete(collection, ids, np.array(versions, dtype=np.int64))


def decode_version(version: int, where: str) -> int:
    """A version that a row may have."""
    if not 0 <= version <= TS_MAX:
        raise InvalidArgument(f"{where}: {version} is no version")
    return version


def decode_query(request: Any, limits: Limits) -> Query:
    """A search by vectors or by the vector of a stored row."""
    if bool(request.vectors) == bool(request.id):
        raise InvalidArgument("a query has either vectors or id")
    radius = request.radius if request.HasField("radius") else None
    k = _bounded(request, "k", k_of(None, radius, limits), limits.k_max, "k_max")
    min_similarity: float | None = None
    if request.HasField("min_similarity"):
        min_similarity = request.min_similarity
        if not math.isfinite(request.min_similarity):
            raise InvalidArgument("min_similarity: must be a finite number")
    check_radius(radius, min_similarity)
    after = request.after or None
    check_cursor(after)
    vectors: F32 | None = None
    row_id: bytes | None = None
    if request.id:
        row_id = validate_id(request.id)
    else:
        count, maximum = len(request.vectors), limits.queries_per_batch_max
        if count > maximum:
            raise TooLarge(
                f"vectors: {count} queries, the limit queries_per_batch_max is {maximum}"
            )
        if count > 1:
            check_batch(count, k, request.page, after)
        vectors = _floats(request.vectors, "vectors", "", limits)
    return Query(
        collection=decode_collection_name(request.collection),
        vectors=vectors,
        id=row_id,
        k=k,
        filter=decode_filter(request.filter, limits),
        min_similarity=min_similarity,
        include_metadata=not request.omit_metadata,
        include_vectors=request.include_dimensions,
        consistency=decode_consistency(request.consistency),
        effort=effort_of(
            request.recall if request.HasField("recall") else None,
            request.ef if request.HasField("ef") else None,
            request.nprobe if request.HasField("nprobe") else None,
            request.exact,
        ),
        radius=radius,
        page=request.page,
        after=after,
        explain=request.explain,
    )


def decode_scroll_limit(request: Any, limits: Limits) -> int:
    """The rows that a scroll page may hold."""
    return _bounded(
        request, "limit", SCROLL_LIMIT_DEFAULT, limits.scroll_limit_max, "scroll_limit_max"
    )


def _bounded(request: Any, field: str, default: int, maximum: int, limit_name: str) -> int:
    if not request.HasField(field):
        return default
    value = int(getattr(request, field))
    if value < 1:
        raise InvalidArgument(f"{field}: must be at least 1")
    if value > maximum:
        raise InvalidArgument(f"{field}: {value}, the limit {limit_name} is {maximum}")
    return value


def _floats(items: Sequence[bytes], where: str, field: str, limits: Limits) -> F32:
    """float32[n, dimension] of `items`, each 4 × dimension bytes; `field` ends the place's name."""
    size = len(items[0])
    if size % 4:
        raise InvalidArgument(f"{where}[0]{field}: {size} bytes are no little-endian float32")
    check_dimension(size // 4, limits, f"{where}[0]{field}")
    for i, item in enumerate(items):
        if len(item) != size:
            raise InvalidArgument(
                f"{where}[{i}]{field}: {len(item)} bytes, but {where}[0]{field} has {size}"
            )
    data = items[0] if len(items) == 1 else b"".join(items)
    return np.frombuffer(data, dtype="<f4").reshape(len(items), size // 4)


def _row_versions(vectors: Sequence[Any], where: str) -> I64 | None:
    """int64[n] of `if_version`, or None when no row has one."""
    having = [v.HasField("if_version") for v in vectors]
    if not any(having):
        return None
    if not all(having):
        i = having.index(False)
        raise InvalidArgument(f"{where}[{i}].if_version: every row of a write has one, or none")
    versions = [
        decode_version(v.if_version, f"{where}[{i}].if_version") for i, v in enumerate(vectors)
    ]
    return np.array(versions, dtype=np.int64)


def _json_object(text: str, where: str) -> dict[str, Any]:
    try:
        decoded = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidArgument(f"{where}: no valid JSON: {error}") from None
    if not isinstance(decoded, dict):
        raise InvalidArgument(f"{where}: must be a JSON object")
    return decoded
