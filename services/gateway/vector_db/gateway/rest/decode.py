"""Bodies and query strings into the plain requests of `core/requests.py`.

Owns the invariant that an error names its place in the request (``operations[2].upsert[3].id: …``),
whoever found it: pydantic, a field validator or the JSON parser.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes

import numpy as np
import simdjson
from aiohttp import web
from pydantic import BaseModel, ValidationError

from vector_db.common.model.errors import InvalidArgument, VectorDBError
from vector_db.common.model.ids import validate_id
from vector_db.common.model.limits import Limits
from vector_db.common.model.rows import F32
from vector_db.common.model.times import TS_MAX, parse_rfc3339
from vector_db.gateway.core.query_options import (
    check_batch,
    check_cursor,
    check_radius,
    effort_of,
    k_of,
)
from vector_db.gateway.core.requests import Consistency, Delete, Mode, Query, Upsert
from vector_db.gateway.rest import models
from vector_db.gateway.rest.fields import ReadContext
from vector_db.gateway.rest.json_reader import JsonReader

Model = TypeVar("Model", bound=BaseModel)

CONSISTENCY_PARAMETERS = ("at_least", "strong", "as_of")

_FIELDS_MAX = 32
_MODES: tuple[Mode, ...] = ("upsert", "insert", "update")


_PLAIN_FIELDS = frozenset(("vector", "k"))
_PLAIN = models.QueryRequest.model_construct(include=["metadata"])
"""What the answer needs to know of a query with nothing but `vector` and `k`."""
_SAFE_SQUARES_MAX = 1e60


class Decoder:
    """Decodes the bodies of one server; not for use from several threads."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._reader = JsonReader()

    def body(self, model: type[Model], body: bytes) -> Model:
        """`body` as `model`.

        :raises InvalidArgument: not JSON, not an object, or refused by the model.
        :raises TooLarge: too many rows or queries.
        """
        return self._validated(model, self._reader.parse_object(body), body)

    def _validated(self, model: type[Model], document: Any, body: bytes) -> Model:
        if len(document) > _FIELDS_MAX:
            raise InvalidArgument(f"body: {len(document)} fields, no request has so many")
        context = ReadContext(self._limits, body.count(b"["))
        lazy = {key: document[key] for key in document.keys()}  # noqa: SIM118 (items() not lazy)
        try:
            return model.model_validate(lazy, context=context)
        except ValidationError as error:
            refusal = explain(error)
        # Raised out here, so that no traceback keeps the parser's values alive.
        raise refusal

    def query(self, collection: str, body: bytes) -> tuple[Query, models.QueryRequest]:
        """The query, and its model for what only the answer needs."""
        document = self._reader.parse_object(body)
        plain = self._plain_query(document, body)
        if plain is not None:
            return Query(collection=collection, vectors=plain[0], k=plain[1]), _PLAIN
        request = self._validated(models.QueryRequest, document, body)
        vectors = request.vectors
        if request.vector is not None:
            vectors = request.vector.reshape(1, -1)
        check_radius(request.radius, request.min_similarity)
        check_cursor(request.after)
        k = request.k if "k" in request.model_fields_set else None
        k = k_of(k, request.radius, self._limits)
        if request.vectors is not None:
            check_batch(len(request.vectors), k, request.page, request.after)
        query = Query(
            collection=collection,
            vectors=vectors,
            id=request.id,
            k=k,
            filter=request.filter,
            min_similarity=request.min_similarity,
            include_metadata="metadata" in request.include,
            include_vectors="dimensions" in request.include,
            consistency=consistency(request.consistency),
            effort=effort_of(request.recall, request.ef, request.nprobe, request.exact),
            radius=request.radius,
            page=request.page,
            after=request.after,
            explain=request.explain,
        )
        return query, request

    def _plain_query(self, document: Any, body: bytes) -> tuple[F32, int] | None:
        """(float32[1, d], k) of the commonest query: a list `vector`, and perhaps `k`.

        Anything else, and anything that could be wrong, is None: the model sees to it.
        """
        keys = set(document.keys())
        if "vector" not in keys or body.count(b"[") != 1 or not _PLAIN_FIELDS.issuperset(keys):
            return None
        k = document["k"] if "k" in keys else _PLAIN.k
        if type(k) is not int or not 1 <= k <= self._limits.k_max:
            return None
        value = document["vector"]
        if (
            not isinstance(value, simdjson.Array)
            or not 0 < len(value) <= self._limits.dimension_max
        ):
            return None
        try:
            numbers = np.frombuffer(value.as_buffer(of_type="d"), dtype=np.float64)
        except TypeError:
            return None
        # Far from what overflows float32; JSON has no NaN.
        if not float(np.dot(numbers, numbers)) < _SAFE_SQUARES_MAX:
            return None
        return numbers.astype(np.float32).reshape(1, -1), k


def operations(request: models.CommitRequest) -> list[Upsert | Delete]:
    """The writes of a transaction, in order."""
    return [
        Upsert(one.collection, one.upsert.rows, if_version=one.upsert.if_version)
        if one.upsert is not None
        else Delete(one.collection, one.delete or [], one.if_versions)
        for one in request.operations
    ]


def consistency(given: models.Consistency | None) -> Consistency:
    """The plain value; absent means the newest stable snapshot."""
    if given is None:
        return Consistency()
    if given.as_of is not None:
        return given.as_of
    return Consistency(at_least=given.at_least or 0, strong=given.strong is True)


def explain(error: ValidationError) -> VectorDBError:
    """The first problem that a model found, with its place."""
    first = error.errors(include_url=False)[0]
    place = _place(first["loc"])
    match first["type"]:
        case "located":
            cause: VectorDBError = first["ctx"]["error"]
            return type(cause)(_join(place, cause.message))
        case "extra_forbidden":
            return InvalidArgument(f"{place}: unknown field")
        case "missing":
            return InvalidArgument(f"{place}: the field is missing")
        case _:
            text = first["msg"]
            return InvalidArgument(_join(place, f": {text[:1].lower()}{text[1:]}"))


def _join(place: str, message: str) -> str:
    return f"{place}{message}" if place else message.removeprefix(": ")


def _place(loc: tuple[int | str, ...]) -> str:
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc]
    return "".join(parts).removeprefix(".")


def path_id(request: web.Request) -> bytes:
    """The id that ends ``/v1/collections/{collection}/vectors/{id}``; its slashes may stay bare.

    Read from the path as it was sent: the router's own decoding does not tell ``%252F`` from ``/``.

    :raises InvalidArgument: not UTF-8, or not a valid id.
    """
    raw = request.rel_url.raw_path.split("/", 5)[5]
    try:
        text = unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise InvalidArgument("id in the path: not valid UTF-8") from None
    return validate_id(text, "id in the path")


def query_string(params: Mapping[str, str], known: tuple[str, ...]) -> None:
    """:raises InvalidArgument: a parameter is unknown, or given twice."""
    for name in params:
        if name not in known:
            raise InvalidArgument(f"query string: unknown parameter {name!r}")
    if len(params) != len(set(params)):
        raise InvalidArgument("query string: a parameter is given twice")


def mode_parameter(params: Mapping[str, str]) -> Mode:
    """The write mode in a query string."""
    given = params.get("mode", "upsert")
    for mode in _MODES:
        if given == mode:
            return mode
    raise InvalidArgument(f"query string: mode must be one of {', '.join(_MODES)}")


def consistency_parameters(params: Mapping[str, str]) -> Consistency | None:
    """``at_least=<commit_ts>``, ``strong=true`` or ``as_of=<commit_ts or RFC 3339>`` of a GET; None
    without them."""
    if sum(name in params for name in CONSISTENCY_PARAMETERS) > 1:
        raise InvalidArgument("query string: give only one of at_least, strong and as_of")
    at_least, strong, as_of = (params.get(name) for name in CONSISTENCY_PARAMETERS)
    if strong is not None and strong != "true":
        raise InvalidArgument("query string: strong must be true, or left out")
    if at_least is not None:
        return Consistency(at_least=_timestamp(at_least, "at_least", 0))
    if as_of is None:
        return None if strong is None else Consistency(strong=True)
    if as_of.isdigit():
        return Consistency(as_of=_timestamp(as_of, "as_of", 1))
    return Consistency(as_of_ms=parse_rfc3339(as_of, "query string: as_of"))


def _timestamp(text: str, name: str, least: int) -> int:
    digits = text.isascii() and text.isdigit()
    if not digits or not least <= int(text[:17]) <= TS_MAX:
        raise InvalidArgument(f"query string: {name} must be from {least} to {TS_MAX}")
    return int(text)


def include_parameter(params: Mapping[str, str]) -> frozenset[str]:
    """``include=metadata,dimensions`` of a GET; both by default."""
    given = frozenset(params.get("include", "metadata,dimensions").split(","))
    if not given <= {"metadata", "dimensions"}:
        raise InvalidArgument("query string: include takes metadata and dimensions")
    return given
