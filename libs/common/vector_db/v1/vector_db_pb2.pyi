from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Mode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODE_UNSPECIFIED: _ClassVar[Mode]
    MODE_UPSERT: _ClassVar[Mode]
    MODE_INSERT: _ClassVar[Mode]
    MODE_UPDATE: _ClassVar[Mode]

class Isolation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ISOLATION_UNSPECIFIED: _ClassVar[Isolation]
    ISOLATION_SNAPSHOT: _ClassVar[Isolation]
    ISOLATION_SERIALIZABLE: _ClassVar[Isolation]

class Metric(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    METRIC_UNSPECIFIED: _ClassVar[Metric]
    METRIC_COSINE: _ClassVar[Metric]
    METRIC_DOT: _ClassVar[Metric]
    METRIC_EUCLIDEAN: _ClassVar[Metric]

class IndexKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    INDEX_KIND_UNSPECIFIED: _ClassVar[IndexKind]
    INDEX_KIND_AUTO: _ClassVar[IndexKind]
    INDEX_KIND_HNSW: _ClassVar[IndexKind]
    INDEX_KIND_IVF_PQ: _ClassVar[IndexKind]
    INDEX_KIND_EXACT: _ClassVar[IndexKind]

class Encoding(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ENCODING_UNSPECIFIED: _ClassVar[Encoding]
    ENCODING_AUTO: _ClassVar[Encoding]
    ENCODING_FLOAT32: _ClassVar[Encoding]
    ENCODING_FLOAT16: _ClassVar[Encoding]
    ENCODING_SQ8: _ClassVar[Encoding]
MODE_UNSPECIFIED: Mode
MODE_UPSERT: Mode
MODE_INSERT: Mode
MODE_UPDATE: Mode
ISOLATION_UNSPECIFIED: Isolation
ISOLATION_SNAPSHOT: Isolation
ISOLATION_SERIALIZABLE: Isolation
METRIC_UNSPECIFIED: Metric
METRIC_COSINE: Metric
METRIC_DOT: Metric
METRIC_EUCLIDEAN: Metric
INDEX_KIND_UNSPECIFIED: IndexKind
INDEX_KIND_AUTO: IndexKind
INDEX_KIND_HNSW: IndexKind
INDEX_KIND_IVF_PQ: IndexKind
INDEX_KIND_EXACT: IndexKind
ENCODING_UNSPECIFIED: Encoding
ENCODING_AUTO: Encoding
ENCODING_FLOAT32: Encoding
ENCODING_FLOAT16: Encoding
ENCODING_SQ8: Encoding

class Consistency(_message.Message):
    __slots__ = ("at_least", "strong", "as_of", "as_of_time")
    AT_LEAST_FIELD_NUMBER: _ClassVar[int]
    STRONG_FIELD_NUMBER: _ClassVar[int]
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    AS_OF_TIME_FIELD_NUMBER: _ClassVar[int]
    at_least: int
    strong: bool
    as_of: int
    as_of_time: str
    def __init__(self, at_least: _Optional[int] = ..., strong: _Optional[bool] = ..., as_of: _Optional[int] = ..., as_of_time: _Optional[str] = ...) -> None: ...

class Vector(_message.Message):
    __slots__ = ("id", "dimensions", "metadata", "if_version")
    ID_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    IF_VERSION_FIELD_NUMBER: _ClassVar[int]
    id: str
    dimensions: bytes
    metadata: str
    if_version: int
    def __init__(self, id: _Optional[str] = ..., dimensions: _Optional[bytes] = ..., metadata: _Optional[str] = ..., if_version: _Optional[int] = ...) -> None: ...

class InsertVectorsRequest(_message.Message):
    __slots__ = ("collection", "vectors", "mode", "transaction", "idempotency_key")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    collection: str
    vectors: _containers.RepeatedCompositeFieldContainer[Vector]
    mode: Mode
    transaction: str
    idempotency_key: str
    def __init__(self, collection: _Optional[str] = ..., vectors: _Optional[_Iterable[_Union[Vector, _Mapping]]] = ..., mode: _Optional[_Union[Mode, str]] = ..., transaction: _Optional[str] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class WriteResponse(_message.Message):
    __slots__ = ("count", "commit_ts", "replayed", "transaction")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    COMMIT_TS_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    count: int
    commit_ts: int
    replayed: bool
    transaction: str
    def __init__(self, count: _Optional[int] = ..., commit_ts: _Optional[int] = ..., replayed: _Optional[bool] = ..., transaction: _Optional[str] = ...) -> None: ...

class QuerySimilarRequest(_message.Message):
    __slots__ = ("collection", "vectors", "id", "k", "filter", "min_similarity", "omit_metadata", "include_dimensions", "consistency", "transaction", "recall", "ef", "nprobe", "exact", "radius", "page", "after", "explain")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    MIN_SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    OMIT_METADATA_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    RECALL_FIELD_NUMBER: _ClassVar[int]
    EF_FIELD_NUMBER: _ClassVar[int]
    NPROBE_FIELD_NUMBER: _ClassVar[int]
    EXACT_FIELD_NUMBER: _ClassVar[int]
    RADIUS_FIELD_NUMBER: _ClassVar[int]
    PAGE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_FIELD_NUMBER: _ClassVar[int]
    collection: str
    vectors: _containers.RepeatedScalarFieldContainer[bytes]
    id: str
    k: int
    filter: str
    min_similarity: float
    omit_metadata: bool
    include_dimensions: bool
    consistency: Consistency
    transaction: str
    recall: float
    ef: int
    nprobe: int
    exact: bool
    radius: float
    page: bool
    after: str
    explain: bool
    def __init__(self, collection: _Optional[str] = ..., vectors: _Optional[_Iterable[bytes]] = ..., id: _Optional[str] = ..., k: _Optional[int] = ..., filter: _Optional[str] = ..., min_similarity: _Optional[float] = ..., omit_metadata: _Optional[bool] = ..., include_dimensions: _Optional[bool] = ..., consistency: _Optional[_Union[Consistency, _Mapping]] = ..., transaction: _Optional[str] = ..., recall: _Optional[float] = ..., ef: _Optional[int] = ..., nprobe: _Optional[int] = ..., exact: _Optional[bool] = ..., radius: _Optional[float] = ..., page: _Optional[bool] = ..., after: _Optional[str] = ..., explain: _Optional[bool] = ...) -> None: ...

class Hit(_message.Message):
    __slots__ = ("id", "similarity", "distance", "metadata", "dimensions")
    ID_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    DISTANCE_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    id: str
    similarity: float
    distance: float
    metadata: str
    dimensions: bytes
    def __init__(self, id: _Optional[str] = ..., similarity: _Optional[float] = ..., distance: _Optional[float] = ..., metadata: _Optional[str] = ..., dimensions: _Optional[bytes] = ...) -> None: ...

class Hits(_message.Message):
    __slots__ = ("vectors",)
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    vectors: _containers.RepeatedCompositeFieldContainer[Hit]
    def __init__(self, vectors: _Optional[_Iterable[_Union[Hit, _Mapping]]] = ...) -> None: ...

class QuerySimilarResponse(_message.Message):
    __slots__ = ("results", "snapshot_ts", "transaction", "cursor", "explain")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_TS_FIELD_NUMBER: _ClassVar[int]
    TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[Hits]
    snapshot_ts: int
    transaction: str
    cursor: str
    explain: str
    def __init__(self, results: _Optional[_Iterable[_Union[Hits, _Mapping]]] = ..., snapshot_ts: _Optional[int] = ..., transaction: _Optional[str] = ..., cursor: _Optional[str] = ..., explain: _Optional[str] = ...) -> None: ...

class GetRequest(_message.Message):
    __slots__ = ("collection", "ids", "omit_dimensions", "consistency", "transaction")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    OMIT_DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    collection: str
    ids: _containers.RepeatedScalarFieldContainer[str]
    omit_dimensions: bool
    consistency: Consistency
    transaction: str
    def __init__(self, collection: _Optional[str] = ..., ids: _Optional[_Iterable[str]] = ..., omit_dimensions: _Optional[bool] = ..., consistency: _Optional[_Union[Consistency, _Mapping]] = ..., transaction: _Optional[str] = ...) -> None: ...

class StoredVector(_message.Message):
    __slots__ = ("id", "dimensions", "metadata", "version")
    ID_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    id: str
    dimensions: bytes
    metadata: str
    version: int
    def __init__(self, id: _Optional[str] = ..., dimensions: _Optional[bytes] = ..., metadata: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class GetResponse(_message.Message):
    __slots__ = ("vectors", "snapshot_ts", "transaction")
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_TS_FIELD_NUMBER: _ClassVar[int]
    TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    vectors: _containers.RepeatedCompositeFieldContainer[StoredVector]
    snapshot_ts: int
    transaction: str
    def __init__(self, vectors: _Optional[_Iterable[_Union[StoredVector, _Mapping]]] = ..., snapshot_ts: _Optional[int] = ..., transaction: _Optional[str] = ...) -> None: ...

class DeleteRequest(_message.Message):
    __slots__ = ("collection", "ids", "filter", "if_versions", "transaction", "idempotency_key")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    IF_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    collection: str
    ids: _containers.RepeatedScalarFieldContainer[str]
    filter: str
    if_versions: _containers.RepeatedScalarFieldContainer[int]
    transaction: str
    idempotency_key: str
    def __init__(self, collection: _Optional[str] = ..., ids: _Optional[_Iterable[str]] = ..., filter: _Optional[str] = ..., if_versions: _Optional[_Iterable[int]] = ..., transaction: _Optional[str] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class PatchMetadataRequest(_message.Message):
    __slots__ = ("collection", "id", "patch", "if_version", "transaction", "idempotency_key")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    PATCH_FIELD_NUMBER: _ClassVar[int]
    IF_VERSION_FIELD_NUMBER: _ClassVar[int]
    TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    collection: str
    id: str
    patch: str
    if_version: int
    transaction: str
    idempotency_key: str
    def __init__(self, collection: _Optional[str] = ..., id: _Optional[str] = ..., patch: _Optional[str] = ..., if_version: _Optional[int] = ..., transaction: _Optional[str] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class CountRequest(_message.Message):
    __slots__ = ("collection", "filter", "consistency", "transaction")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    collection: str
    filter: str
    consistency: Consistency
    transaction: str
    def __init__(self, collection: _Optional[str] = ..., filter: _Optional[str] = ..., consistency: _Optional[_Union[Consistency, _Mapping]] = ..., transaction: _Optional[str] = ...) -> None: ...

class CountResponse(_message.Message):
    __slots__ = ("count", "snapshot_ts", "transaction")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_TS_FIELD_NUMBER: _ClassVar[int]
    TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    count: int
    snapshot_ts: int
    transaction: str
    def __init__(self, count: _Optional[int] = ..., snapshot_ts: _Optional[int] = ..., transaction: _Optional[str] = ...) -> None: ...

class ScrollRequest(_message.Message):
    __slots__ = ("collection", "limit", "filter", "cursor", "omit_dimensions", "consistency", "transaction")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    OMIT_DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    collection: str
    limit: int
    filter: str
    cursor: str
    omit_dimensions: bool
    consistency: Consistency
    transaction: str
    def __init__(self, collection: _Optional[str] = ..., limit: _Optional[int] = ..., filter: _Optional[str] = ..., cursor: _Optional[str] = ..., omit_dimensions: _Optional[bool] = ..., consistency: _Optional[_Union[Consistency, _Mapping]] = ..., transaction: _Optional[str] = ...) -> None: ...

class ScrollResponse(_message.Message):
    __slots__ = ("vectors", "cursor", "snapshot_ts", "transaction")
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_TS_FIELD_NUMBER: _ClassVar[int]
    TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    vectors: _containers.RepeatedCompositeFieldContainer[StoredVector]
    cursor: str
    snapshot_ts: int
    transaction: str
    def __init__(self, vectors: _Optional[_Iterable[_Union[StoredVector, _Mapping]]] = ..., cursor: _Optional[str] = ..., snapshot_ts: _Optional[int] = ..., transaction: _Optional[str] = ...) -> None: ...

class Operation(_message.Message):
    __slots__ = ("collection", "upsert", "delete")
    class Upsert(_message.Message):
        __slots__ = ("vectors", "mode")
        VECTORS_FIELD_NUMBER: _ClassVar[int]
        MODE_FIELD_NUMBER: _ClassVar[int]
        vectors: _containers.RepeatedCompositeFieldContainer[Vector]
        mode: Mode
        def __init__(self, vectors: _Optional[_Iterable[_Union[Vector, _Mapping]]] = ..., mode: _Optional[_Union[Mode, str]] = ...) -> None: ...
    class Delete(_message.Message):
        __slots__ = ("ids", "if_versions")
        IDS_FIELD_NUMBER: _ClassVar[int]
        IF_VERSIONS_FIELD_NUMBER: _ClassVar[int]
        ids: _containers.RepeatedScalarFieldContainer[str]
        if_versions: _containers.RepeatedScalarFieldContainer[int]
        def __init__(self, ids: _Optional[_Iterable[str]] = ..., if_versions: _Optional[_Iterable[int]] = ...) -> None: ...
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    UPSERT_FIELD_NUMBER: _ClassVar[int]
    DELETE_FIELD_NUMBER: _ClassVar[int]
    collection: str
    upsert: Operation.Upsert
    delete: Operation.Delete
    def __init__(self, collection: _Optional[str] = ..., upsert: _Optional[_Union[Operation.Upsert, _Mapping]] = ..., delete: _Optional[_Union[Operation.Delete, _Mapping]] = ...) -> None: ...

class CommitRequest(_message.Message):
    __slots__ = ("operations", "idempotency_key")
    OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    operations: _containers.RepeatedCompositeFieldContainer[Operation]
    idempotency_key: str
    def __init__(self, operations: _Optional[_Iterable[_Union[Operation, _Mapping]]] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class BeginTransactionRequest(_message.Message):
    __slots__ = ("isolation", "timeout_s")
    ISOLATION_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    isolation: Isolation
    timeout_s: float
    def __init__(self, isolation: _Optional[_Union[Isolation, str]] = ..., timeout_s: _Optional[float] = ...) -> None: ...

class BeginTransactionResponse(_message.Message):
    __slots__ = ("id", "transaction", "isolation", "snapshot_ts", "expires_ms")
    ID_FIELD_NUMBER: _ClassVar[int]
    TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    ISOLATION_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_TS_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_MS_FIELD_NUMBER: _ClassVar[int]
    id: str
    transaction: str
    isolation: Isolation
    snapshot_ts: int
    expires_ms: int
    def __init__(self, id: _Optional[str] = ..., transaction: _Optional[str] = ..., isolation: _Optional[_Union[Isolation, str]] = ..., snapshot_ts: _Optional[int] = ..., expires_ms: _Optional[int] = ...) -> None: ...

class CommitTransactionRequest(_message.Message):
    __slots__ = ("transaction", "idempotency_key")
    TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    transaction: str
    idempotency_key: str
    def __init__(self, transaction: _Optional[str] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class AbortTransactionRequest(_message.Message):
    __slots__ = ("transaction",)
    TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    transaction: str
    def __init__(self, transaction: _Optional[str] = ...) -> None: ...

class AbortTransactionResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetTransactionRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class GetTransactionResponse(_message.Message):
    __slots__ = ("state", "commit_ts", "reason")
    STATE_FIELD_NUMBER: _ClassVar[int]
    COMMIT_TS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    state: str
    commit_ts: int
    reason: str
    def __init__(self, state: _Optional[str] = ..., commit_ts: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class IndexOptions(_message.Message):
    __slots__ = ("kind", "encoding", "m", "ef_construction", "lists")
    KIND_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    M_FIELD_NUMBER: _ClassVar[int]
    EF_CONSTRUCTION_FIELD_NUMBER: _ClassVar[int]
    LISTS_FIELD_NUMBER: _ClassVar[int]
    kind: IndexKind
    encoding: Encoding
    m: int
    ef_construction: int
    lists: int
    def __init__(self, kind: _Optional[_Union[IndexKind, str]] = ..., encoding: _Optional[_Union[Encoding, str]] = ..., m: _Optional[int] = ..., ef_construction: _Optional[int] = ..., lists: _Optional[int] = ...) -> None: ...

class Collection(_message.Message):
    __slots__ = ("name", "dimension", "metric", "shards", "created_ts", "index", "recall_target", "fields", "aliases", "spreading_shards")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIMENSION_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    CREATED_TS_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    RECALL_TARGET_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    SPREADING_SHARDS_FIELD_NUMBER: _ClassVar[int]
    name: str
    dimension: int
    metric: Metric
    shards: _containers.RepeatedScalarFieldContainer[int]
    created_ts: int
    index: IndexOptions
    recall_target: float
    fields: _containers.RepeatedScalarFieldContainer[str]
    aliases: _containers.RepeatedScalarFieldContainer[str]
    spreading_shards: int
    def __init__(self, name: _Optional[str] = ..., dimension: _Optional[int] = ..., metric: _Optional[_Union[Metric, str]] = ..., shards: _Optional[_Iterable[int]] = ..., created_ts: _Optional[int] = ..., index: _Optional[_Union[IndexOptions, _Mapping]] = ..., recall_target: _Optional[float] = ..., fields: _Optional[_Iterable[str]] = ..., aliases: _Optional[_Iterable[str]] = ..., spreading_shards: _Optional[int] = ...) -> None: ...

class CreateCollectionRequest(_message.Message):
    __slots__ = ("name", "dimension", "metric", "shards", "if_absent", "index", "recall_target", "fields")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIMENSION_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    IF_ABSENT_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    RECALL_TARGET_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    name: str
    dimension: int
    metric: Metric
    shards: int
    if_absent: bool
    index: IndexOptions
    recall_target: float
    fields: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., dimension: _Optional[int] = ..., metric: _Optional[_Union[Metric, str]] = ..., shards: _Optional[int] = ..., if_absent: _Optional[bool] = ..., index: _Optional[_Union[IndexOptions, _Mapping]] = ..., recall_target: _Optional[float] = ..., fields: _Optional[_Iterable[str]] = ...) -> None: ...

class FieldPaths(_message.Message):
    __slots__ = ("paths",)
    PATHS_FIELD_NUMBER: _ClassVar[int]
    paths: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, paths: _Optional[_Iterable[str]] = ...) -> None: ...

class AlterCollectionRequest(_message.Message):
    __slots__ = ("name", "index", "recall_target", "fields", "shards")
    NAME_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    RECALL_TARGET_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    name: str
    index: IndexOptions
    recall_target: float
    fields: FieldPaths
    shards: int
    def __init__(self, name: _Optional[str] = ..., index: _Optional[_Union[IndexOptions, _Mapping]] = ..., recall_target: _Optional[float] = ..., fields: _Optional[_Union[FieldPaths, _Mapping]] = ..., shards: _Optional[int] = ...) -> None: ...

class AliasChange(_message.Message):
    __slots__ = ("alias", "collection")
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    alias: str
    collection: str
    def __init__(self, alias: _Optional[str] = ..., collection: _Optional[str] = ...) -> None: ...

class UpdateAliasesRequest(_message.Message):
    __slots__ = ("changes",)
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    changes: _containers.RepeatedCompositeFieldContainer[AliasChange]
    def __init__(self, changes: _Optional[_Iterable[_Union[AliasChange, _Mapping]]] = ...) -> None: ...

class UpdateAliasesResponse(_message.Message):
    __slots__ = ("commit_ts",)
    COMMIT_TS_FIELD_NUMBER: _ClassVar[int]
    commit_ts: int
    def __init__(self, commit_ts: _Optional[int] = ...) -> None: ...

class ListAliasesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListAliasesResponse(_message.Message):
    __slots__ = ("aliases",)
    class AliasesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    aliases: _containers.ScalarMap[str, str]
    def __init__(self, aliases: _Optional[_Mapping[str, str]] = ...) -> None: ...

class ListCollectionsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListCollectionsResponse(_message.Message):
    __slots__ = ("collections",)
    COLLECTIONS_FIELD_NUMBER: _ClassVar[int]
    collections: _containers.RepeatedCompositeFieldContainer[Collection]
    def __init__(self, collections: _Optional[_Iterable[_Union[Collection, _Mapping]]] = ...) -> None: ...

class GetCollectionRequest(_message.Message):
    __slots__ = ("name", "include_stats")
    NAME_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_STATS_FIELD_NUMBER: _ClassVar[int]
    name: str
    include_stats: bool
    def __init__(self, name: _Optional[str] = ..., include_stats: _Optional[bool] = ...) -> None: ...

class CollectionStats(_message.Message):
    __slots__ = ("rows", "rows_indexed", "segments", "bytes_memory", "bytes_disk", "rows_dead", "kinds", "recall_target", "recall_measured", "recall_samples", "rows_building", "rows_built", "bytes_predicted", "bytes_resident")
    class KindsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    ROWS_FIELD_NUMBER: _ClassVar[int]
    ROWS_INDEXED_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    BYTES_MEMORY_FIELD_NUMBER: _ClassVar[int]
    BYTES_DISK_FIELD_NUMBER: _ClassVar[int]
    ROWS_DEAD_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    RECALL_TARGET_FIELD_NUMBER: _ClassVar[int]
    RECALL_MEASURED_FIELD_NUMBER: _ClassVar[int]
    RECALL_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    ROWS_BUILDING_FIELD_NUMBER: _ClassVar[int]
    ROWS_BUILT_FIELD_NUMBER: _ClassVar[int]
    BYTES_PREDICTED_FIELD_NUMBER: _ClassVar[int]
    BYTES_RESIDENT_FIELD_NUMBER: _ClassVar[int]
    rows: int
    rows_indexed: int
    segments: int
    bytes_memory: int
    bytes_disk: int
    rows_dead: int
    kinds: _containers.ScalarMap[str, int]
    recall_target: float
    recall_measured: float
    recall_samples: int
    rows_building: int
    rows_built: int
    bytes_predicted: int
    bytes_resident: int
    def __init__(self, rows: _Optional[int] = ..., rows_indexed: _Optional[int] = ..., segments: _Optional[int] = ..., bytes_memory: _Optional[int] = ..., bytes_disk: _Optional[int] = ..., rows_dead: _Optional[int] = ..., kinds: _Optional[_Mapping[str, int]] = ..., recall_target: _Optional[float] = ..., recall_measured: _Optional[float] = ..., recall_samples: _Optional[int] = ..., rows_building: _Optional[int] = ..., rows_built: _Optional[int] = ..., bytes_predicted: _Optional[int] = ..., bytes_resident: _Optional[int] = ...) -> None: ...

class GetCollectionResponse(_message.Message):
    __slots__ = ("collection", "stats")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    STATS_FIELD_NUMBER: _ClassVar[int]
    collection: Collection
    stats: CollectionStats
    def __init__(self, collection: _Optional[_Union[Collection, _Mapping]] = ..., stats: _Optional[_Union[CollectionStats, _Mapping]] = ...) -> None: ...

class DropCollectionRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DropCollectionResponse(_message.Message):
    __slots__ = ("commit_ts",)
    COMMIT_TS_FIELD_NUMBER: _ClassVar[int]
    commit_ts: int
    def __init__(self, commit_ts: _Optional[int] = ...) -> None: ...
