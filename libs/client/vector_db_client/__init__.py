"""Python SDK of vector-db, a transactional sharded vector database.

    from vector_db_client import VectorDatabaseClient

    with VectorDatabaseClient.connect("http://127.0.0.1:8080") as client:
        client.insert_vectors(["a", "b"], [[0.1, 0.2], [0.3, 0.4]], [{"n": 1}, {"n": 2}])
        for match in client.query_similar([0.1, 0.2], k=1):
            print(match.id, match.similarity, match.metadata)

`AsyncVectorDatabaseClient` has the same calls for asyncio. It speaks REST and imports nothing of
the server.
"""

from vector_db_client.aio import AsyncVectorDatabaseClient
from vector_db_client.aio_transaction import AsyncTransaction
from vector_db_client.errors import (
    Aborted,
    AlreadyCommitted,
    AlreadyExists,
    Conflict,
    DeadlineExceeded,
    IdempotencyMismatch,
    InternalError,
    InvalidArgument,
    NotFound,
    OutcomeUnknown,
    PreconditionFailed,
    SnapshotTooOld,
    StorageFull,
    TooLarge,
    TooManyRequests,
    TransactionEnded,
    TransactionExpired,
    Unauthenticated,
    Unavailable,
    VectorDatabaseError,
)
from vector_db_client.sync import VectorDatabaseClient
from vector_db_client.sync_transaction import Transaction
from vector_db_client.values import (
    AsOf,
    Collection,
    CollectionStats,
    Consistency,
    CountResult,
    Delete,
    Encoding,
    Filter,
    IdempotencyKey,
    IfVersion,
    Include,
    IncludeInRows,
    IndexKind,
    IndexOptions,
    IndexSettings,
    Isolation,
    Match,
    Metadata,
    Metric,
    Mode,
    Page,
    Progress,
    QueryOptions,
    QueryPage,
    Row,
    RowBatch,
    SearchOptions,
    Upsert,
    WriteResult,
)

__version__ = "0.1.0"

__all__ = [
    "Aborted",
    "AlreadyCommitted",
    "AlreadyExists",
    "AsOf",
    "AsyncTransaction",
    "AsyncVectorDatabaseClient",
    "Collection",
    "CollectionStats",
    "Conflict",
    "Consistency",
    "CountResult",
    "DeadlineExceeded",
    "Delete",
    "Encoding",
    "Filter",
    "IdempotencyKey",
    "IdempotencyMismatch",
    "IfVersion",
    "Include",
    "IncludeInRows",
    "IndexKind",
    "IndexOptions",
    "IndexSettings",
    "InternalError",
    "InvalidArgument",
    "Isolation",
    "Match",
    "Metadata",
    "Metric",
    "Mode",
    "NotFound",
    "OutcomeUnknown",
    "Page",
    "PreconditionFailed",
    "Progress",
    "QueryOptions",
    "QueryPage",
    "Row",
    "RowBatch",
    "SearchOptions",
    "SnapshotTooOld",
    "StorageFull",
    "TooLarge",
    "TooManyRequests",
    "Transaction",
    "TransactionEnded",
    "TransactionExpired",
    "Unauthenticated",
    "Unavailable",
    "Upsert",
    "VectorDatabaseClient",
    "VectorDatabaseError",
    "WriteResult",
    "__version__",
]
