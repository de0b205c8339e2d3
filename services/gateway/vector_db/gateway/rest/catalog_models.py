"""Request bodies of the catalog and the cluster: collections, what they want, aliases, workers.

The rules of `rest/models.py` hold here; the bounds are those of `common/model/options.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PlainValidator, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from vector_db.common.model.collection import (
    RECALL_TARGET,
    Encoding,
    IndexChange,
    IndexKind,
    IndexOptions,
)
from vector_db.common.model.limits import ALIASES_MAX, INDEXED_FIELDS_MAX
from vector_db.common.model.options import (
    EF_CONSTRUCTION_MAX,
    EF_CONSTRUCTION_MIN,
    LISTS_MAX,
    M_MAX,
    M_MIN,
    RECALL_TARGET_MAX,
    RECALL_TARGET_MIN,
)
from vector_db.gateway.rest import fields
from vector_db.gateway.rest.models import Body, CollectionName, Limited

_CHANGES_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "alias to the collection that it shall stand for; null removes it",
    "additionalProperties": {"type": ["string", "null"]},
    "minProperties": 1,
    "maxProperties": ALIASES_MAX,
}

RecallTarget = Annotated[float, Field(ge=RECALL_TARGET_MIN, le=RECALL_TARGET_MAX)]
Shards = Annotated[int, Field(ge=1, le=65536)]
FieldPaths = Annotated[
    tuple[str, ...],
    PlainValidator(fields.field_paths),
    WithJsonSchema({"type": "array", "items": {"type": "string"}, "maxItems": INDEXED_FIELDS_MAX}),
]
AliasChanges = Annotated[
    dict[str, str | None],
    PlainValidator(fields.alias_changes),
    WithJsonSchema(_CHANGES_SCHEMA),
]


class Index(Body):
    """How sealed segments are indexed; what is left out stays as it is, or as by default."""

    kind: Literal["auto", "hnsw", "ivf_pq", "exact"] | None = Field(
        None, description="auto: chosen per segment from rows, dimension, memory and recall target"
    )
    encoding: Literal["auto", "float32", "float16", "sq8"] | None = Field(
        None, description="how an HNSW graph keeps its copies of the vectors"
    )
    m: Annotated[int, Field(ge=M_MIN, le=M_MAX)] | None = Field(
        None, description="links a node of an HNSW graph; 16 by default"
    )
    ef_construction: (
        Annotated[int, Field(ge=EF_CONSTRUCTION_MIN, le=EF_CONSTRUCTION_MAX)] | None
    ) = Field(None, description="beam while a graph is built; 128 by default")
    lists: Annotated[int, Field(ge=0, le=LISTS_MAX)] | None = Field(
        None, description="IVF lists of a segment; 0, the default: from its rows"
    )

    def change(self) -> IndexChange:
        """The plain value."""
        return IndexChange(
            None if self.kind is None else IndexKind(self.kind),
            None if self.encoding is None else Encoding(self.encoding),
            self.m,
            self.ef_construction,
            self.lists,
        )


IndexField = Annotated[Index, BeforeValidator(fields.lazy_object)]


class CreateCollectionRequest(Body):
    """A new collection."""

    name: CollectionName
    dimension: Annotated[int, Limited("dimension_max", at_least=1)]
    metric: Literal["cosine", "dot", "euclidean"] = "cosine"
    shards: Shards | None = Field(
        None, description="over how many shards it is spread; by default one per active worker"
    )
    index: IndexField | None = None
    recall_target: RecallTarget = Field(
        RECALL_TARGET, description="share of the true best k that answers hold on average"
    )
    fields: FieldPaths = Field((), description="metadata fields with an inverted index")

    def options(self) -> IndexOptions:
        """Its index options, whole."""
        return IndexOptions() if self.index is None else self.index.change().of(IndexOptions())


class AlterCollectionRequest(Body):
    """What is to be otherwise of a collection; what is left out stays as it is."""

    index: IndexField | None = None
    recall_target: RecallTarget | None = Field(
        None, description="share of the true best k that answers hold on average"
    )
    fields: FieldPaths | None = Field(
        None, description="metadata fields with an inverted index, all of them"
    )
    shards: Shards | None = Field(
        None,
        description="spread its rows over so many shards while reads and writes go on; the answer "
        "says `spreading` until that is done. As many as it has: give up what is under way",
    )

    @model_validator(mode="after")
    def _some(self) -> Self:
        if (self.index, self.recall_target, self.fields, self.shards) == (None,) * 4:
            raise PydanticCustomError(
                "alter", "give at least one of index, recall_target, fields and shards"
            )
        return self


class AliasRequest(Body):
    """What an alias shall stand for."""

    collection: CollectionName


class WorkerRequest(Body):
    """What is wanted of a shard worker."""

    draining: bool


class AliasesRequest(Body):
    """Changes of aliases that take effect at once."""

    changes: AliasChanges
