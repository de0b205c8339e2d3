"""Metadata filters: from decoded JSON to a frozen tree, and what that tree means.

Owns the semantics of filters: `matches` is the reference that every faster evaluation must agree
with. A field is reached by dots through nested objects (never through arrays). A missing field
equals nothing, so ``$ne``, ``$nin`` and ``$exists: false`` match it and ordering never does. Types
never match across: a bool is no number, ``1`` equals ``1.0``, null equals a present null only.
``$eq`` and ``$in`` match an array when they match one of its elements; ordering never matches one.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from vector_db.common.model.errors import InvalidArgument
from vector_db.common.model.limits import Limits

Scalar: TypeAlias = bool | int | float | str | None
Path: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class In:
    """The field, or an element of it when it is an array, equals one of `values`."""

    path: Path
    values: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Order:
    """The field compares to `bound` by `op` (``gt``, ``gte``, ``lt``, ``lte``), type for type."""

    path: Path
    op: str
    bound: int | float | str


@dataclass(frozen=True, slots=True)
class Exists:
    """The field is there, be it null."""

    path: Path


@dataclass(frozen=True, slots=True)
class Not:
    """What `part` does not match."""

    part: Filter


@dataclass(frozen=True, slots=True)
class And:
    """Every part matches; no parts match everything."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """Some part matches; no parts match nothing."""

    parts: tuple[Filter, ...]


Filter: TypeAlias = In | Order | Exists | Not | And | Or

_ORDER_OPS = {"$gt": "gt", "$gte": "gte", "$lt": "lt", "$lte": "lte"}
_FIELD_OPS = "$eq, $ne, $gt, $gte, $lt, $lte, $in, $nin, $exists, $not"
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}


def parse_filter(obj: object, limits: Limits) -> Filter:
    """The tree of a decoded JSON filter.

    :raises InvalidArgument: malformed, or over `filter_depth_max` nested operators or
    `filter_terms_max` comparisons (each value of ``$in`` is one); the message names the place.
    """
    return _Parser(limits).filter(obj, "filter", 0)


def paths(filter: Filter) -> set[Path]:
    """Every field path that the filter looks at."""
    match filter:
        case And(parts) | Or(parts):
            return set().union(*map(paths, parts))
        case Not(part):
            return paths(part)
        case _:
            return {filter.path}


def matches(filter: Filter, metadata: Mapping[str, Any] | None) -> bool:
    """Whether the filter matches a row's metadata (None = the row has none)."""
    match filter:
        case In(path, values):
            value = _lookup(metadata, path)
            candidates = value if isinstance(value, list) else [value]
            return any(scalars_equal(c, v) for c in candidates for v in values)
        case Order(path, op, bound):
            value = _lookup(metadata, path)
            same_type = _is_number(value) if _is_number(bound) else isinstance(value, str)
            return same_type and _COMPARE[op](value, bound)
        case Exists(path):
            return _lookup(metadata, path) is not _MISSING
        case Not(part):
            return not matches(part, metadata)
        case And(parts):
            return all(matches(p, metadata) for p in parts)
        case Or(parts):
            return any(matches(p, metadata) for p in parts)


def scalars_equal(a: object, b: object) -> bool:
    """Equality type for type; numbers compare exactly, beyond 2**53 too."""
    if a is None or b is None or isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, str) or isinstance(b, str):
        return isinstance(a, str) and isinstance(b, str) and a == b
    return _is_number(a) and _is_number(b) and a == b


_MISSING = object()


def _lookup(metadata: object, path: Path) -> object:
    value = metadata
    for key in path:
        if not isinstance(value, Mapping) or key not in value:
            return _MISSING
        value = value[key]
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class _Parser:
    """One parse: counts terms and depth against the limits as it descends."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._terms = 0

    def filter(self, obj: object, where: str, depth: int) -> Filter:
        if not isinstance(obj, dict):
            raise InvalidArgument(f"{where}: a filter is an object, not {_kind(obj)}")
        if depth > self._limits.filter_depth_max:
            raise InvalidArgument(
                f"{where}: nested deeper than filter_depth_max = {self._limits.filter_depth_max}"
            )
        parts: list[Filter] = []
        for key, operand in obj.items():
            at = f"{where}.{key}"
            if key in ("$and", "$or"):
                parts.append(self._list(key, operand, at, depth + 1))
            elif key == "$not":
                parts.append(Not(self.filter(operand, at, depth + 1)))
            elif not isinstance(key, str) or key.startswith("$"):
                raise InvalidArgument(f"{at}: unknown operator; here go fields, $and, $or and $not")
            else:
                parts.extend(self._field(tuple(key.split(".")), operand, at, depth))
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _list(self, key: str, operand: object, at: str, depth: int) -> Filter:
        if not isinstance(operand, list) or not operand:
            raise InvalidArgument(f"{at}: needs a list of one or more filters")
        parts = tuple(self.filter(o, f"{at}[{i}]", depth) for i, o in enumerate(operand))
        return And(parts) if key == "$and" else Or(parts)

    def _field(self, path: Path, operand: object, at: str, depth: int) -> list[Filter]:
        if not isinstance(operand, dict):
            return [In(path, (self._scalar(operand, at),))]
        if depth > self._limits.filter_depth_max:
            raise InvalidArgument(
                f"{at}: nested deeper than filter_depth_max = {self._limits.filter_depth_max}"
            )
        if not operand:
            raise InvalidArgument(f"{at}: needs a value or one of {_FIELD_OPS}")
        return [self._operator(path, op, x, f"{at}.{op}", depth) for op, x in operand.items()]

    def _operator(self, path: Path, op: object, x: object, at: str, depth: int) -> Filter:
        match op:
            case "$eq":
                return In(path, (self._scalar(x, at),))
            case "$ne":
                return Not(In(path, (self._scalar(x, at),)))
            case "$in":
                return In(path, self._values(x, at))
            case "$nin":
                return Not(In(path, self._values(x, at)))
            case "$gt" | "$gte" | "$lt" | "$lte":
                bound = self._scalar(x, at)
                if bound is None or isinstance(bound, bool):
                    raise InvalidArgument(f"{at}: needs a number or a string, not {_kind(x)}")
                return Order(path, _ORDER_OPS[op], bound)
            case "$exists":
                self._count(at)
                if not isinstance(x, bool):
                    raise InvalidArgument(f"{at}: needs true or false, not {_kind(x)}")
                return Exists(path) if x else Not(Exists(path))
            case "$not":
                if not isinstance(x, dict):
                    raise InvalidArgument(f"{at}: needs an object of operators, not {_kind(x)}")
                parts = self._field(path, x, at, depth + 1)
                return Not(parts[0] if len(parts) == 1 else And(tuple(parts)))
            case _:
                raise InvalidArgument(
                    f"{at}: unknown operator, use one of {_FIELD_OPS}; "
                    "a nested field is reached by a dot"
                )

    def _values(self, x: object, at: str) -> tuple[Scalar, ...]:
        if not isinstance(x, list):
            raise InvalidArgument(f"{at}: needs a list of values, not {_kind(x)}")
        if not x:
            self._count(at)
        return tuple(self._scalar(v, f"{at}[{i}]") for i, v in enumerate(x))

    def _scalar(self, x: object, at: str) -> Scalar:
        self._count(at)
        if x is None or isinstance(x, (bool, int, str)):
            return x
        if isinstance(x, float) and math.isfinite(x):
            return x
        raise InvalidArgument(
            f"{at}: needs a string, a number, true, false or null, not {_kind(x)}"
        )

    def _count(self, at: str) -> None:
        self._terms += 1
        if self._terms > self._limits.filter_terms_max:
            raise InvalidArgument(
                f"{at}: more comparisons than filter_terms_max = {self._limits.filter_terms_max}"
            )


def _kind(x: object) -> str:
    match x:
        case None:
            return "null"
        case bool():
            return "a bool"
        case float() if not math.isfinite(x):
            return "NaN or Infinity"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "a list"
        case dict():
            return "an object"
        case _:
            return type(x).__name__
