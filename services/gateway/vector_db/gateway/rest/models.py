"""Request and answer bodies as pydantic models: what is accepted, and what OpenAPI says.

Owns the invariant that an unknown field, a wrong type or a number out of its limit is a 400 that
names the place. Requests are validated over lazily parsed JSON: the fields of vectors and rows have
validators that turn arrays into columns, so no model ever holds a Python list of floats. Answer
models are documentation only; `encode.py` writes the bytes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from vector_db.common.model.rows import F32, I64
from vector_db.common.model.times import TS_MAX
from vector_db.gateway.core import query_options, requests
from vector_db.gateway.rest import fields
from vector_db.gateway.rest.row_reader import GivenRows

_NUMBERS: dict[str, Any] = {"type": "array", "items": {"type": "number"}, "minItems": 1}
_VECTOR_SCHEMA: dict[str, Any] = {
    "oneOf": [
        _NUMBERS,
        {"type": "string", "contentEncoding": "base64", "description": "little-endian float32"},
    ]
}
_ID_SCHEMA: dict[str, Any] = {
    "type": "string",
    "minLength": 1,
    "description": "1 to 512 bytes of UTF-8 without control characters",
}
_FILTER_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "Fields to values or operators: $eq $ne $gt $gte $lt $lte $in $nin $exists, "
    "combined by $and $or $not; dots reach nested fields.",
    "examples": [{"year": {"$gte": 2020}, "lang": {"$in": ["en"]}}],
}
_VERSION_SCHEMA: dict[str, Any] = {"type": "integer", "minimum": 0, "maximum": TS_MAX}
_RECALL_SCHEMA: dict[str, Any] = {
    "oneOf": [
        {
            "type": "number",
            "minimum": query_options.RECALL_MIN,
            "maximum": query_options.RECALL_MAX,
        },
        {"const": 1},
    ]
}
_EFFORT_SCHEMA: dict[str, Any] = {
    "type": "integer",
    "minimum": 1,
    "maximum": query_options.EFFORT_MAX,
}
_AS_OF_SCHEMA: dict[str, Any] = {
    "oneOf": [
        {"type": "integer", "minimum": 1, "maximum": TS_MAX},
        {"type": "string", "format": "date-time"},
    ]
}
_CONFIG = ConfigDict(extra="forbid", strict=True, frozen=True, arbitrary_types_allowed=True)

Vector = Annotated[F32, PlainValidator(fields.vector), WithJsonSchema(_VECTOR_SCHEMA)]
Matrix = Annotated[
    F32,
    PlainValidator(fields.matrix),
    WithJsonSchema({"type": "array", "items": _VECTOR_SCHEMA, "minItems": 1}),
]
RowId = Annotated[bytes, PlainValidator(fields.row_id), WithJsonSchema(_ID_SCHEMA)]
RowIds = Annotated[
    list[bytes],
    PlainValidator(fields.row_ids),
    WithJsonSchema({"type": "array", "items": _ID_SCHEMA, "minItems": 1}),
]
Filter = Annotated[dict[str, Any], PlainValidator(fields.filter), WithJsonSchema(_FILTER_SCHEMA)]
JsonObject = Annotated[
    dict[str, Any], PlainValidator(fields.json_object), WithJsonSchema({"type": "object"})
]
Versions = Annotated[
    I64,
    PlainValidator(fields.versions),
    WithJsonSchema({"type": "array", "items": _VERSION_SCHEMA, "minItems": 1}),
]
AsOf = Annotated[requests.Consistency, PlainValidator(fields.as_of), WithJsonSchema(_AS_OF_SCHEMA)]
RowList = Annotated[
    GivenRows,
    PlainValidator(fields.rows),
    WithJsonSchema({"type": "array", "items": {"$ref": "#/components/schemas/Row"}, "minItems": 1}),
]
CollectionName = Annotated[
    str,
    PlainValidator(fields.collection_name),
    WithJsonSchema({"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"}),
]
Limited = fields.Limited
Included = Annotated[
    list[Literal["metadata", "dimensions", "distance"]], BeforeValidator(fields.small_list)
]
IncludedInRows = Annotated[
    list[Literal["metadata", "dimensions"]], BeforeValidator(fields.small_list)
]


def _metadata() -> list[Literal["metadata", "dimensions", "distance"]]:
    return ["metadata"]


def _metadata_and_dimensions() -> list[Literal["metadata", "dimensions"]]:
    return ["metadata", "dimensions"]


class Body(BaseModel):
    """What all bodies share."""

    model_config = _CONFIG


def _check_versions(versions: I64 | None, ids: list[bytes] | None, field: str) -> None:
    if versions is None:
        return
    if ids is None:
        raise PydanticCustomError(
            "versions", "if_versions goes with {field} only", {"field": field}
        )
    if len(versions) != len(ids):
        raise PydanticCustomError(
            "versions",
            "{given} if_versions for {n} ids",
            {"given": len(versions), "n": len(ids)},
        )


class Row(Body):
    """One row to write."""

    id: RowId
    dimensions: Vector
    metadata: JsonObject | None = None
    if_version: Annotated[int, WithJsonSchema(_VERSION_SCHEMA)] | None = Field(
        None, description="the version the row must have, else 412; every row of a write, or none"
    )


class Consistency(Body):
    """Which snapshot a read uses; without it, the newest stable one. Not in a transaction."""

    at_least: Annotated[int, Field(ge=0, le=TS_MAX)] | None = Field(
        None, description="the commit_ts of a write that must be seen"
    )
    strong: Annotated[bool, WithJsonSchema({"const": True})] | None = Field(
        None, description="everything acknowledged anywhere before this read began"
    )

    as_of: AsOf | None = Field(
        None, description="the past: a commit_ts, or a time as RFC 3339 with its offset"
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.at_least is None) + (self.strong is None) + (self.as_of is None) != 2:
            raise PydanticCustomError(
                "consistency", "give exactly one of at_least, strong and as_of"
            )
        if self.strong is False:
            raise PydanticCustomError("consistency", "strong must be true, or left out")
        return self


ConsistencyField = Annotated[Consistency, BeforeValidator(fields.lazy_object)]


class InsertRequest(Body):
    """Rows to write, all or none."""

    vectors: RowList
    mode: Literal["upsert", "insert", "update"] = Field(
        "upsert", description="insert: 409 if an id exists; update: 404 if one is absent"
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if self.vectors.if_version is not None and self.mode != "upsert":
            raise PydanticCustomError("insert", "give only one of mode and if_version")
        return self


class PutRequest(Body):
    """One row, whose id is in the path."""

    dimensions: Vector
    metadata: JsonObject | None = None


class QueryRequest(Body):
    """The k most similar rows; exactly one of `vector`, `id` and `vectors`."""

    vector: Vector | None = None
    id: RowId | None = Field(None, description="search by a stored row, which is left out")
    vectors: Matrix | None = Field(None, description="a batch of queries, answered as results")
    k: Annotated[int, Limited("k_max", at_least=1)] = Field(
        query_options.K_DEFAULT, description="with `radius` 1000 by default"
    )
    filter: Filter | None = None
    include: Included = Field(default_factory=_metadata)
    min_similarity: Annotated[float, Field(allow_inf_nan=False)] | None = None
    radius: Annotated[float, Field(allow_inf_nan=False)] | None = Field(
        None, description="the largest distance, in place of min_similarity"
    )
    recall: Annotated[float, WithJsonSchema(_RECALL_SCHEMA)] | None = Field(
        None, description="the share of the true best k wanted; by default the collection's target"
    )
    ef: Annotated[int, WithJsonSchema(_EFFORT_SCHEMA)] | None = Field(
        None, description="the beam of graph indexes, in place of what the recall needs"
    )
    nprobe: Annotated[int, WithJsonSchema(_EFFORT_SCHEMA)] | None = Field(
        None, description="the lists searched of list indexes, in place of what the recall needs"
    )
    exact: bool = Field(False, description="use no index; goes without recall, ef and nprobe")
    page: bool = Field(False, description="answer a `cursor` when more hits follow")
    after: str | None = Field(
        None, description="the `cursor` of the page before: it keeps its snapshot"
    )
    explain: bool = Field(False, description="tell how the query was carried out")
    consistency: ConsistencyField | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.vector is None) + (self.id is None) + (self.vectors is None) != 2:
            raise PydanticCustomError("query", "give exactly one of vector, id and vectors")
        return self


class FetchRequest(Body):
    """Rows by id."""

    ids: RowIds
    include: IncludedInRows = Field(default_factory=_metadata_and_dimensions)
    consistency: ConsistencyField | None = None


class DeleteRequest(Body):
    """Rows to delete: exactly one of `ids` and `filter`."""

    ids: RowIds | None = None
    filter: Filter | None = None
    if_versions: Versions | None = Field(
        None, description="the version that each row of `ids` must have, else 412"
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.ids is None) == (self.filter is None):
            raise PydanticCustomError("delete", "give exactly one of ids and filter")
        _check_versions(self.if_versions, self.ids, "ids")
        return self


class ScrollRequest(Body):
    """One page of rows in id order."""

    limit: Annotated[int, Limited("scroll_limit_max", at_least=1)] = 100
    filter: Filter | None = None
    cursor: Annotated[str, Field(min_length=1, max_length=8192)] | None = Field(
        None, description="of the page before; it keeps its snapshot"
    )
    include: IncludedInRows = Field(default_factory=_metadata_and_dimensions)
    consistency: ConsistencyField | None = None


class CountRequest(Body):
    """How many rows match."""

    filter: Filter | None = None
    consistency: ConsistencyField | None = None


class PatchRequest(Body):
    """A change of a row's metadata (RFC 7396: null removes a field); the vector stays."""

    metadata: JsonObject


class Operation(Body):
    """Part of a transaction: exactly one of `upsert` and `delete`."""

    collection: CollectionName
    upsert: RowList | None = None
    delete: RowIds | None = None
    if_versions: Versions | None = Field(
        None, description="the version that each row of `delete` must have, else 412"
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.upsert is None) == (self.delete is None):
            raise PydanticCustomError("operation", "give exactly one of upsert and delete")
        _check_versions(self.if_versions, self.delete, "delete")
        return self


class BeginRequest(Body):
    """A transaction to begin; the body may be empty."""

    isolation: Literal["snapshot", "serializable"] = Field(
        "snapshot",
        description="snapshot: 409 when a row it wrote was written by another since it began; "
        "serializable: also when something it read was",
    )
    timeout_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None, description="how long it may stay open; by default, as the server is configured"
    )


class EmptyRequest(Body):
    """No fields: the body is empty or `{}`."""


class CommitRequest(Body):
    """One atomic write over any collections and shards."""

    operations: Annotated[
        list[Annotated[Operation, BeforeValidator(fields.lazy_object)]],
        BeforeValidator(fields.operations),
        Field(min_length=1),
    ]

    @model_validator(mode="after")
    def _distinct(self, info: ValidationInfo) -> Self:
        fields.check_operations(self.operations, fields.context_of(info))
        return self
