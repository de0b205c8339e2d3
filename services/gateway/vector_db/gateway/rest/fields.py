"""Validators of single fields over lazily parsed JSON, used by the request models.

Each takes what simdjson hands out and the `ReadContext` of the request, and answers the plain value
that `core/requests.py` wants. Messages start with the place below the field (``[3].id: …`` or
``: …``); pydantic knows the field's own place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import simdjson
from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from vector_db.common.model.errors import InvalidArgument, TooLarge, VectorDBError
from vector_db.common.model.filters import parse_filter
from vector_db.common.model.ids import validate_collection_name, validate_id
from vector_db.common.model.limits import ALIASES_MAX, INDEXED_FIELDS_MAX, Limits
from vector_db.common.model.options import check_fields
from vector_db.common.model.rows import F32, I64
from vector_db.common.model.times import TS_MAX, parse_rfc3339
from vector_db.gateway.core.requests import Consistency
from vector_db.gateway.core.rows import (
    check_distinct,
    check_finite,
    check_ids,
    check_row_count,
)
from vector_db.gateway.rest.json_reader import (
    FILTER_BYTES_MAX,
    Lazy,
    bounded_plain,
    narrow,
    read_numbers,
    read_vector,
)
from vector_db.gateway.rest.row_reader import GivenRows, read_rows, read_version

_SMALL_ITEMS_MAX = 16
LIMIT_KEY = "x-limit"
"""In a JSON schema: the name of the `Limits` field that becomes ``maximum``."""


@dataclass(frozen=True, slots=True)
class ReadContext:
    """What field validators know of the request.

    `arrays`: how many ``[`` the body holds in all, those in strings too.
    """

    limits: Limits
    arrays: int


def context_of(info: ValidationInfo) -> ReadContext:
    """The context that the decoder validates every model with."""
    context = info.context
    if not isinstance(context, ReadContext):
        raise TypeError("request models are validated with a ReadContext")
    return context


@dataclass(frozen=True, slots=True)
class Limited:
    """An integer from `at_least` to the configured limit called `name`, which the error names."""

    name: str
    at_least: int

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.with_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"type": "integer", "minimum": self.at_least, LIMIT_KEY: self.name}

    def _check(self, value: int, info: ValidationInfo) -> int:
        context = context_of(info)
        limit: int = getattr(context.limits, self.name)
        if value < self.at_least or value > limit:
            raise PydanticCustomError(
                "limit",
                "must be from {least} to {limit} (the limit {name}), not {value}",
                {"least": self.at_least, "limit": limit, "name": self.name, "value": value},
            )
        return value


Check = Callable[[Lazy, ReadContext], Any]


def located(check: Check) -> Callable[[Lazy, ValidationInfo], Any]:
    """`check` as a pydantic validator: its error's message goes on from the field's place."""

    def validate(value: Lazy, info: ValidationInfo) -> Any:
        try:
            return check(value, context_of(info))
        except VectorDBError as error:
            raise PydanticCustomError(
                "located", "{text}", {"text": error.message, "error": error}
            ) from None

    return validate


@located
def vector(value: Lazy, context: ReadContext) -> F32:
    """float32[d], finite."""
    numbers = read_vector(value, "", context.limits, flat=context.arrays == 1)
    check_finite(numbers, "")
    return numbers


@located
def matrix(value: Lazy, context: ReadContext) -> F32:
    """float32[nq, d], finite, of one dimension, within `queries_per_batch_max`."""
    if not isinstance(value, simdjson.Array) or len(value) == 0:
        raise InvalidArgument(": must be a list of one or more vectors")
    limit = context.limits.queries_per_batch_max
    if len(value) > limit:
        raise TooLarge(f": {len(value)} queries, the limit queries_per_batch_max is {limit}")
    flat = context.arrays == 1 + len(value)
    parts = [read_numbers(item, f"[{i}]", context.limits, flat) for i, item in enumerate(value)]
    for i, part in enumerate(parts):
        if part.size != parts[0].size:
            raise InvalidArgument(f"[{i}]: {part.size} numbers, query 0 has {parts[0].size}")
    numbers = narrow(parts).reshape(len(parts), -1)
    check_finite(numbers, "")
    return numbers


@located
def rows(value: Lazy, context: ReadContext) -> GivenRows:
    """The rows of an insert or of one operation."""
    return read_rows(value, "", context.limits, context.arrays)


@located
def row_id(value: Lazy, context: ReadContext) -> bytes:
    """The UTF-8 bytes of one id."""
    if not isinstance(value, str):
        raise InvalidArgument(": must be a string")
    return validate_id(value, "")


@located
def row_ids(value: Lazy, context: ReadContext) -> list[bytes]:
    """Distinct ids, within `rows_per_batch_max`."""
    if not isinstance(value, simdjson.Array):
        raise InvalidArgument(": must be a list of ids")
    check_row_count(len(value), context.limits, "")
    plain: list[str] = []
    for i, item in enumerate(value):
        if not isinstance(item, str):
            raise InvalidArgument(f"[{i}]: must be a string")
        plain.append(item)
    ids = check_ids(plain, "")
    check_distinct(ids, "")
    return ids


@located
def versions(value: Lazy, context: ReadContext) -> I64:
    """int64[n] versions, within `rows_per_batch_max`."""
    if not isinstance(value, simdjson.Array):
        raise InvalidArgument(": must be a list of versions")
    check_row_count(len(value), context.limits, "")
    return np.array([read_version(one, f"[{i}]") for i, one in enumerate(value)], dtype=np.int64)


@located
def as_of(value: Lazy, context: ReadContext) -> Consistency:
    """A moment of the past: a commit_ts, or a time as RFC 3339."""
    if isinstance(value, str):
        return Consistency(as_of_ms=parse_rfc3339(value, ""))
    if type(value) is not int or not 1 <= value <= TS_MAX:
        raise InvalidArgument(f": must be a commit_ts from 1 to {TS_MAX}, or a time as RFC 3339")
    return Consistency(as_of=value)


@located
def filter(value: Lazy, context: ReadContext) -> dict[str, Any]:
    """The decoded filter, checked."""
    plain: dict[str, Any] = bounded_plain(value, "", FILTER_BYTES_MAX)
    try:
        parse_filter(plain, context.limits)
    except InvalidArgument as error:
        raise InvalidArgument(error.message.removeprefix("filter")) from None
    return plain


@located
def json_object(value: Lazy, context: ReadContext) -> dict[str, Any]:
    """Any JSON object of at most `metadata_bytes_max`."""
    if not isinstance(value, simdjson.Object):
        raise InvalidArgument(": must be a JSON object")
    plain: dict[str, Any] = bounded_plain(value, "", context.limits.metadata_bytes_max)
    return plain


@located
def collection_name(value: Lazy, context: ReadContext) -> str:
    """A valid collection name."""
    if not isinstance(value, str):
        raise InvalidArgument(": must be a string")
    return validate_collection_name(value, "")


@located
def field_paths(value: Lazy, context: ReadContext) -> tuple[str, ...]:
    """Distinct dotted paths, within `indexed_fields_max`."""
    if not isinstance(value, simdjson.Array):
        raise InvalidArgument(": must be a list of dotted paths")
    if len(value) > INDEXED_FIELDS_MAX:
        raise InvalidArgument(
            f": {len(value)} fields, the limit indexed_fields_max is {INDEXED_FIELDS_MAX}"
        )
    paths: list[str] = []
    for i, path in enumerate(value):
        if not isinstance(path, str):
            raise InvalidArgument(f"[{i}]: must be a string")
        paths.append(path)
    check_fields(paths, "")
    return tuple(paths)


@located
def alias_changes(value: Lazy, context: ReadContext) -> dict[str, str | None]:
    """Alias → collection or None, at least one, within `aliases_max`."""
    if not isinstance(value, simdjson.Object) or len(value) == 0:
        raise InvalidArgument(": must be an object of one or more aliases")
    if len(value) > ALIASES_MAX:
        raise TooLarge(f": {len(value)} aliases, the limit aliases_max is {ALIASES_MAX}")
    changes: dict[str, str | None] = {}
    for alias in value.keys():  # noqa: SIM118 (items() is not lazy)
        target = value[alias]
        validate_collection_name(alias, f".{alias[:40]}")
        if alias in changes:
            raise InvalidArgument(f".{alias}: is given twice")
        if target is not None and not isinstance(target, str):
            raise InvalidArgument(f".{alias}: must be the name of a collection, or null")
        changes[alias] = None if target is None else validate_collection_name(target, f".{alias}")
    return changes


@located
def small_list(value: Lazy, context: ReadContext) -> Any:
    """A short list as plain Python; anything else is left for the model to refuse."""
    if not isinstance(value, simdjson.Array):
        return value
    if len(value) > _SMALL_ITEMS_MAX:
        raise InvalidArgument(f": at most {_SMALL_ITEMS_MAX} items")
    return [None if is_nested(item) else item for item in value]


@located
def lazy_object(value: Lazy, context: ReadContext) -> Any:
    """The fields of an object, each still lazy; anything else is left for the model to refuse."""
    if not isinstance(value, simdjson.Object):
        return value
    if len(value) > _SMALL_ITEMS_MAX:
        raise InvalidArgument(f": an object of {len(value)} fields is not understood here")
    return {key: value[key] for key in value.keys()}  # noqa: SIM118 (items() is not lazy)


@located
def operations(value: Lazy, context: ReadContext) -> Any:
    """The operations of a transaction, each still lazy."""
    if not isinstance(value, simdjson.Array):
        return value
    limit = context.limits.rows_per_batch_max
    if len(value) > limit:
        raise TooLarge(f": {len(value)} operations, the limit rows_per_batch_max is {limit}")
    return list(value)


def is_nested(value: Lazy) -> bool:
    """Whether it is an array or object."""
    return isinstance(value, (simdjson.Object, simdjson.Array))


class OperationLike(Protocol):
    """The parts of an `Operation` model that are checked across operations."""

    collection: str
    upsert: GivenRows | None
    delete: list[bytes] | None


def check_operations(operations: Sequence[OperationLike], context: ReadContext) -> None:
    """Refuse a transaction that writes a row twice or is too large."""
    limit = context.limits.rows_per_batch_max
    total = 0
    places: dict[str, dict[bytes, int]] = {}
    for i, operation in enumerate(operations):
        ids = operation.upsert.rows.ids if operation.upsert is not None else operation.delete or []
        total += len(ids)
        seen = places.setdefault(operation.collection, {})
        for one in ids:
            if one in seen:
                raise InvalidArgument(
                    f"operations[{i}]: id {one.decode()!r} of {operation.collection!r} is written "
                    f"already by operations[{seen[one]}]"
                )
        seen.update(dict.fromkeys(ids, i))
    if total > limit:
        raise TooLarge(f"operations: {total} rows, the limit rows_per_batch_max is {limit}")
